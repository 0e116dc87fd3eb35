//! Routes: what each path means, and which clients may request it through which listener.

use super::context::{Outcome, RequestContext};
use super::origins::{check_host, preflight};
use super::redirect::to_https;
use super::{Api, page};
use crate::config::EndpointPath;
use crate::event::STATISTICS_TOPIC;
use crate::io::Io;
use crate::observe::clip::clip;
use crate::protocol::body::BodyFraming;
use crate::protocol::head::{Method, RequestHead};
use crate::protocol::response::{self, Response};
use crate::protocol::target::decode_path;
use crate::server::grant::PublishGrant;
use crate::server::node::Node;
use crate::server::node::letter::Report;
use crate::server::settings::Settings;
use crate::server::transport::clients::Client;

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The page for browsers, the list of endpoints for others.
    Index,
    /// A stream of the topics that the query names.
    Stream,
    /// A stream of `--dashboard-topic`.
    DashboardStream,
    /// The endpoint for events.
    Publish,
    /// The endpoint where operators end streams.
    Disconnect,
    /// A health check.
    Health(Probe),
    /// The view for debugging a server.
    Debug,
    /// The snapshot.
    Data,
    /// The list of topics.
    Topics,
    /// One topic.
    Topic(String),
    /// The statistics of the last minutes.
    History,
    /// What is done with Kafka.
    KafkaStatus,
    /// The Prometheus page.
    Metrics,
    /// A file of the live page.
    File(&'static page::File),
}

/// What a health check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Everything.
    Whole,
    /// Whether the loop turns.
    Live,
    /// Whether requests should be sent here.
    Ready,
}

/// The paths that are whole; a file of the page has its own, and a topic is behind [`TOPIC_PREFIX`].
static PATHS: [(&str, Route); 14] = [
    ("/events", Route::Stream),
    ("/dashboard/stream", Route::DashboardStream),
    ("/publish", Route::Publish),
    ("/health", Route::Health(Probe::Whole)),
    ("/health/live", Route::Health(Probe::Live)),
    ("/health/ready", Route::Health(Probe::Ready)),
    ("/dashboard/data", Route::Data),
    ("/metrics", Route::Metrics),
    ("/topics", Route::Topics),
    ("/disconnect", Route::Disconnect),
    ("/dashboard/debug", Route::Debug),
    ("/dashboard/history", Route::History),
    ("/kafka/status", Route::KafkaStatus),
    ("/", Route::Index),
];
/// What a topic's name follows.
const TOPIC_PREFIX: &str = "/topics/";

impl Route {
    /// The route of `path`, as it was sent; `stream_endpoint` is another path for the default stream. Only the name of
    /// a topic is decoded: a proxy's rules apply to the path as it was sent, too.
    pub fn of(path: &str, stream_endpoint: Option<&str>) -> Option<Route> {
        if stream_endpoint == Some(path) {
            return Some(Route::Stream);
        }
        let whole = PATHS.iter().find(|(known, _)| *known == path).map(|(_, route)| route.clone());
        let file = || page::find(path).map(Route::File);
        let topic =
            || Some(Route::Topic(decode_path(path.strip_prefix(TOPIC_PREFIX).filter(|name| !name.is_empty())?)?));
        whole.or_else(file).or_else(topic)
    }

    /// The paths of all routes, as OpenAPI writes them, but for `--stream-endpoint`.
    #[cfg(test)]
    pub(super) fn paths() -> impl Iterator<Item = (String, Route)> {
        let whole = PATHS.iter().map(|(path, route)| (path.to_string(), route.clone()));
        let files = page::files().map(|file| (file.path().to_owned(), Route::File(file)));
        whole.chain(files).chain([(format!("{TOPIC_PREFIX}{{topic}}"), Route::Topic(String::new()))])
    }

    /// True for what operators use to watch a server: the admin listener serves only these routes. Its only stream is
    /// that of the statistics, which is checked where topics are read.
    pub(super) fn is_admin(&self) -> bool {
        self.is_for_operators()
            || matches!(self, Route::Index | Route::Health(_) | Route::File(_) | Route::Stream | Route::Disconnect)
    }

    /// True for routes that reveal who uses a server and for what.
    fn is_for_operators(&self) -> bool {
        matches!(
            self,
            Route::Metrics | Route::Debug | Route::History | Route::Topics | Route::Topic(_) | Route::KafkaStatus
        )
    }

    pub(super) fn methods(&self) -> &'static str {
        match self {
            Route::Publish | Route::Disconnect => "POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    fn takes(&self, method: &Method) -> bool {
        match self {
            Route::Publish | Route::Disconnect => matches!(method, Method::Post | Method::Options),
            _ => matches!(method, Method::Get | Method::Head | Method::Options),
        }
    }
}

impl Api {
    /// Decides on one request. A publish with a body has its grant already.
    pub(crate) fn answer<I: Io>(
        &mut self,
        asked: &mut RequestContext<'_, I>,
        body: &[u8],
        grant: Option<PublishGrant>,
        node: &mut Node,
    ) -> Outcome {
        let head = asked.head;
        tracing::trace!(peer = %asked.client.address, method = head.method.as_str(), path = &*clip(&head.target.path),
            "request");
        if asked.client.is_redirected {
            return to_https(head, node.settings.https_port).into();
        }
        // What has a grant was found to be a publish before its body was read.
        let route = match grant {
            Some(_) => Ok(Route::Publish),
            None => route(&asked.client, head, &node.settings),
        };
        if head.method == Method::Options {
            let methods = route.map_or("GET, HEAD, POST, OPTIONS", |route| route.methods());
            return preflight(head, methods, &node.settings).into();
        }
        let route = match route {
            Ok(route) => route,
            Err(refusal) => return refusal.into(),
        };
        match self.answer_route(route, asked, body, grant, node) {
            Ok(outcome) => outcome,
            Err(refusal) => refusal.into(),
        }
    }

    fn answer_route<I: Io>(
        &mut self,
        route: Route,
        asked: &mut RequestContext<'_, I>,
        body: &[u8],
        grant: Option<PublishGrant>,
        node: &mut Node,
    ) -> Result<Outcome, Response> {
        match &route {
            _ if asked.client.is_admin => {}
            Route::Topic(name) => self.access.may_see_topic(asked, name, node)?,
            route if route.is_for_operators() => self.access.may_operate(asked, node)?,
            _ => {}
        }
        Ok(match route {
            Route::Stream => self.subscribe(asked, None, node)?,
            Route::DashboardStream => {
                let topic = node.settings.delivery.dashboard_topic.clone();
                self.subscribe(asked, Some(topic), node)?
            }
            Route::Publish => self.publish(asked, body, grant, node)?,
            Route::Disconnect => self.disconnect(asked, body, node)?,
            Route::Index => {
                let endpoints = endpoints(&node.settings, asked.client.is_admin, self.kafka.is_some());
                page::index(asked.head, &endpoints).into()
            }
            Route::Health(probe) => self.health(probe, node).into(),
            Route::Debug => self.admit_report(Report::Debug, asked, node)?,
            Route::Data => self.snapshot(asked, node)?,
            Route::Topics => self.topic_list(asked, node)?,
            Route::Topic(name) => self.topic_view(&name),
            Route::History => self.history(asked, node)?.into(),
            Route::KafkaStatus => self.kafka_status(asked, node)?.into(),
            Route::Metrics => self.admit_report(Report::Metrics, asked, node)?,
            Route::File(file) => file.response(asked.head).into(),
        })
    }

    /// Whether a request's body is read: only two routes take one, and only from clients that may send it.
    pub(crate) fn admit_body<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Option<PublishGrant>, Response> {
        let head = asked.head;
        // Many clients send a length of zero with every method: that is no body, and answered as any request.
        if head.framing == BodyFraming::Length(0) {
            return Ok(None);
        }
        if asked.client.is_redirected {
            return Err(to_https(head, node.settings.https_port));
        }
        match route(&asked.client, head, &node.settings)? {
            Route::Publish if head.method == Method::Post => self.access.may_publish(asked, node).map(Some),
            Route::Disconnect if head.method == Method::Post => self.access.may_disconnect(asked, node).map(|()| None),
            _ => Err(response::problem(413, "Unexpected body", "only POST /publish and POST /disconnect take a body")),
        }
    }
}

/// The route of a request, if it exists for its listener and its method.
fn route(client: &Client, head: &RequestHead, settings: &Settings) -> Result<Route, Response> {
    check_host(client, head, settings)?;
    let (path, method) = (&head.target.path, &head.method);
    let stream_endpoint = settings.delivery.stream_endpoint.as_ref().map(EndpointPath::as_str);
    let route = Route::of(path, stream_endpoint);
    if client.is_admin && matches!(route, Some(Route::Publish)) {
        return Err(response::problem(
            404,
            "Not found",
            "this is an address of --admin-listen: publish to one of --listen",
        ));
    }
    let route = route.filter(|route| !client.is_admin || route.is_admin());
    let Some(route) = route else { return Err(page::not_found(path)) };
    if !route.takes(method) {
        let detail = format!("{path:?} is not for {}", method.as_str());
        let problem = response::problem(405, "Method not allowed", &detail);
        return Err(problem.with_header("Allow", route.methods()));
    }
    Ok(route)
}

/// The list of a listener's endpoints, for requests without a path.
fn endpoints(settings: &Settings, is_admin: bool, has_kafka: bool) -> serde_json::Value {
    let statistics = format!("/events?topic={STATISTICS_TOPIC}");
    let mut streams = vec!["/events?topic=NAME", "/dashboard/stream"];
    streams.extend(settings.delivery.stream_endpoint.as_ref().map(EndpointPath::as_str));
    serde_json::json!({
        "server": "fanfare",
        "version": env!("CARGO_PKG_VERSION"),
        "page": "/dashboard",
        "streams": if is_admin { vec![&*statistics] } else { streams },
        "publish": (!is_admin).then_some("/publish"),
        "disconnect": "/disconnect",
        "snapshot": (!is_admin).then_some("/dashboard/data"),
        "topics": ["/topics", "/topics/NAME"],
        "health": ["/health", "/health/live", "/health/ready"],
        "metrics": "/metrics",
        "kafka": has_kafka.then_some("/kafka/status"),
        "debug": "/dashboard/debug",
        "history": "/dashboard/history",
        "client": ["/fanfare.js", page::VERSIONED_CLIENT, "/fanfare.d.ts"],
        "client_integrity": &*page::CLIENT_INTEGRITY,
        "openapi": "/openapi.json",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_its_path_as_sent_and_only_a_topics_name_is_decoded() {
        let check = |path: &str, expected: Option<Route>| {
            assert_eq!(Route::of(path, Some("/sse")), expected, "{path}");
        };
        check("/metrics", Some(Route::Metrics));
        check("/sse", Some(Route::Stream));
        check("/topics/a%2Fb", Some(Route::Topic("a/b".into())));
        check("/topics/caf%c3%a9", Some(Route::Topic("café".into())));
        for alias in [
            "/%6detrics",
            "/m%65trics",
            "/dashboard%2fdebug",
            "/dashboard/%64ebug",
            "/%74opics",
            "/%74opics/a",
            "/topics%2fa",
            "/%70ublish",
            "/events%2f",
            "/ss%65",
            "/%66anfare.js",
            "/fanfare-0.0.7.js",
            "//metrics",
            "/metrics/",
            "/METRICS",
        ] {
            check(alias, None);
        }
    }
}
