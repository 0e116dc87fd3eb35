//! Access control: which token a request shows, and what it permits on which route.
//!
//! ```text
//!  subscribe, look at topics   every client; with a key, the token's `subscribe` (and public topics without a token)
//!  debug, metrics, topics      this host, if only it reaches the server; with operators' tokens or a key, one of those
//!                              or the token's `operator`; with --open-reports, every client
//!  statistics                  this host with --dev; an operator's token, or the token's `operator`
//!  disconnect                  as for statistics
//!  publish                     a publisher's token, or the token's `publish`; with --dev, this host
//! ```
//!
//! Most requests through the admin listener skip these checks: the address that it listens on protects it.

use std::sync::Arc;

use super::context::RequestContext;
use crate::auth::denials::Denials;
use crate::auth::{Denied, Digest, Verified, bearer};
use crate::event::{RESERVED_TOPIC_PREFIX, Topic};
use crate::io::Io;
use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};
use crate::server::grant::{PublishGrant, ReadGrant};
use crate::server::node::Node;
use crate::server::settings::{Jwt, Publishing};
use crate::server::streams::credentials::{Credential, Shown};
use crate::server::transport::peer::CompactPeer;
use crate::server::wheel::Tick;

/// The query parameter for clients that can't send a header, as RFC 6750, 2.3 names it.
const QUERY_PARAMETER: &str = "access_token";

/// Where a request's token may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenPlaces {
    /// Only in a header, where a page of another site cannot put it.
    Header,
    /// Also in a cookie.
    Cookie,
    /// Also in the query: EventSource sends no headers.
    Query,
}

/// Decides what each client may do. Holds the tokens that were revoked.
pub(crate) struct Access {
    pub(crate) denials: Denials,
}

impl Access {
    /// Checks the token of a request for a stream, before its topics are read, if every stream needs a token.
    pub(crate) fn holder_of_stream<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Option<Verified>, Response> {
        let needs_token = node.settings.jwt.as_ref().is_some_and(|jwt| jwt.public_topics.is_empty());
        // The statistics are for operators, whose token may be of another kind, or who need no token.
        let is_for_operators =
            || asked.head.target.get_all("topic").any(|name| name.starts_with(RESERVED_TOPIC_PREFIX));
        let is_admin = asked.client.is_admin;
        if !needs_token || is_admin || is_for_operators() {
            return Ok(None);
        }
        self.subscriber(asked, node).map(Some)
    }

    /// Admits a subscriber of these topics, whose token may be checked already; returns its credential, if any.
    pub(crate) fn may_subscribe<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        holder: Option<Verified>,
        topics: &[Topic],
        node: &mut Node,
    ) -> Result<Option<Credential>, Response> {
        let mut operator = None;
        if topics.iter().any(Topic::is_reserved) {
            operator = self.may_watch(asked, node)?;
        }
        // No token names the server's own topics: these depend only on the operator's rights.
        let without = |named: &dyn Fn(&str) -> bool| {
            let is_without = |topic: &&Topic| !topic.is_reserved() && !named(topic.as_str());
            topics.iter().filter(is_without).cloned().collect::<Vec<_>>()
        };
        let public = node.settings.jwt.as_ref().map(|jwt| &jwt.public_topics);
        let takes_token = |topic: &&Topic| !topic.is_reserved() && public.is_some_and(|of| !of.cover(topic.as_str()));
        let guarded: Vec<_> = topics.iter().filter(takes_token).collect();
        if guarded.is_empty() {
            return Ok(operator.map(|(shown, expires_at)| Credential::new(shown, expires_at, without(&|_| false))));
        }
        let verified = holder.map_or_else(|| self.subscriber(asked, node), Ok)?;
        if let Some(outside) = guarded.iter().find(|topic| !verified.grants.subscribe.cover(topic.as_str())) {
            return Err(deny_topic(asked.client.peer, outside.as_str(), "subscribe", node));
        }
        let expires_at = asked.tick_of_unix(verified.expires_at, node);
        let unnamed = without(&|topic| verified.grants.subscribe.cover(topic));
        Ok(Some(Credential::new(Shown::Jwt(Arc::new(verified.identity)), expires_at, unnamed)))
    }

    /// The topics that a client may look at without subscribing.
    pub(crate) fn may_read<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<ReadGrant, Response> {
        let Some(jwt) = &node.settings.jwt else { return Ok(ReadGrant::Everything) };
        let public = jwt.public_topics.clone();
        match self.holder(asked, TokenPlaces::Cookie, node) {
            Ok(verified) => Ok(ReadGrant::Named(public, verified.grants.subscribe)),
            Err(Denied::Missing) if !public.is_empty() => Ok(ReadGrant::Public(public)),
            Err(denied) => Err(deny(asked.client.peer, denied, "subscribe", TokenPlaces::Cookie, node)),
        }
    }

    fn subscriber<I: Io>(&mut self, asked: &RequestContext<'_, I>, node: &mut Node) -> Result<Verified, Response> {
        let holder = self.holder(asked, TokenPlaces::Query, node);
        holder.map_err(|denied| deny(asked.client.peer, denied, "subscribe", TokenPlaces::Query, node))
    }

    /// Admits a request to look at one topic: from an operator, or from a client that may subscribe to it.
    pub(crate) fn may_see_topic<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        name: &str,
        node: &mut Node,
    ) -> Result<(), Response> {
        if node.settings.open_reports {
            return Ok(());
        }
        let is_operator = node.settings.operators.check(asked.head.authorization.as_deref()).is_ok();
        // No pattern covers the server's own topics.
        let is_for_operators = is_operator || name.starts_with(RESERVED_TOPIC_PREFIX);
        let Some(jwt) = node.settings.jwt.as_ref().filter(|_| !is_for_operators) else {
            return self.may_operate(asked, node);
        };
        if jwt.public_topics.cover(name) {
            return Ok(());
        }
        let holder = self.holder(asked, TokenPlaces::Cookie, node);
        let verified =
            holder.map_err(|denied| deny(asked.client.peer, denied, "subscribe", TokenPlaces::Cookie, node))?;
        match verified.grants.operator || verified.grants.subscribe.cover(name) {
            true => Ok(()),
            false => Err(deny_topic(asked.client.peer, name, "subscribe", node)),
        }
    }

    /// Admits a request that is reserved for operators. If no token identifies operators, every client on this host
    /// may, unless other hosts reach the server: their requests may look like local ones.
    pub(crate) fn may_operate<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<(), Response> {
        let has_tokens = !node.settings.operators.is_empty() || node.settings.jwt.is_some();
        match has_tokens {
            _ if node.settings.open_reports => Ok(()),
            true => self.operator(asked, TokenPlaces::Header, node).map(drop),
            false if is_from_this_host(asked, node) => Ok(()),
            false => Err(deny_report(asked.client.peer, node)),
        }
    }

    /// Admits a request to end others' streams: through the admin listener, on this host with `--dev`, or from an
    /// operator. A page of another origin, which can make a browser post anything, needs a token on the admin listener
    /// too.
    pub(crate) fn may_disconnect<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<(), Response> {
        let is_admin = asked.client.is_admin;
        if (is_admin && asked.head.origin.is_none()) || node.settings.is_open_to(asked.head) {
            return Ok(());
        }
        if node.settings.operators.is_empty() && node.settings.jwt.is_none() {
            let detail = "disconnecting is for operators, and no operator's token is configured: start the server with \
                          --operator-token-file, or ask the admin listener, from no page of a browser";
            return Err(response::problem(403, "Operators only", detail));
        }
        self.operator(asked, TokenPlaces::Header, node).map(drop)
    }

    /// Admits a request for the statistics: on this host with `--dev`, through the admin listener, or from an operator.
    /// Returns the token shown and when it expires, if one was needed.
    fn may_watch<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Option<(Shown, Tick)>, Response> {
        let is_admin = asked.client.is_admin;
        if is_admin || node.settings.is_open_to(asked.head) {
            return Ok(None);
        }
        if node.settings.operators.is_empty() && node.settings.jwt.is_none() {
            let detail = "the server's statistics are for operators, and no operator's token is configured: start the \
                          server with --operator-token-file or --dev, or ask the admin listener";
            return Err(response::problem(403, "Operators only", detail));
        }
        self.operator(asked, TokenPlaces::Query, node).map(Some)
    }

    fn operator<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        places: TokenPlaces,
        node: &mut Node,
    ) -> Result<(Shown, Tick), Response> {
        let denied = match node.settings.operators.check(asked.head.authorization.as_deref()) {
            Ok(()) => {
                let token = asked.head.authorization.as_deref().and_then(bearer).unwrap_or_default();
                return Ok((Shown::Operator(Digest::of(token).into()), Tick::NEVER));
            }
            Err(denied) => denied,
        };
        let denied = match node.settings.jwt.is_some().then(|| self.holder(asked, places, node)) {
            Some(Ok(verified)) if verified.grants.operator => {
                let expires_at = asked.tick_of_unix(verified.expires_at, node);
                return Ok((Shown::Jwt(Arc::new(verified.identity)), expires_at));
            }
            Some(Ok(_)) => Denied::Insufficient("the token is not an operator's"),
            Some(Err(denied)) => denied,
            None => denied,
        };
        Err(deny(asked.client.peer, denied, "operator", places, node))
    }

    /// Admits a publisher; the topics are checked once they are known.
    pub(crate) fn may_publish<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<PublishGrant, Response> {
        if node.settings.is_open_to(asked.head) {
            return Ok(PublishGrant::Everything);
        }
        let denied = match &node.settings.publishing {
            Publishing::Refused if node.settings.jwt.is_none() => {
                let detail = "publishing over HTTP is off: start the server with --publish-token-file, with \
                              --jwt-key-file, or with --dev";
                return Err(response::problem(403, "Publishing is off", detail));
            }
            Publishing::Refused => Denied::Missing,
            Publishing::Tokens(tokens) | Publishing::Loopback(tokens) => {
                match tokens.check(asked.head.authorization.as_deref()) {
                    Ok(()) => return Ok(PublishGrant::Everything),
                    Err(denied) => denied,
                }
            }
        };
        // A browser adds cookies to any page's requests: a cookie permits subscribing, never publishing.
        let denied = match node.settings.jwt.is_some().then(|| self.holder(asked, TokenPlaces::Header, node)) {
            Some(Ok(verified)) if !verified.grants.publish.is_empty() => {
                return Ok(PublishGrant::Topics(verified.grants.publish));
            }
            Some(Ok(_)) => Denied::Insufficient("the token is not for publishing"),
            Some(Err(denied)) => denied,
            None => denied,
        };
        Err(deny(asked.client.peer, denied, "publish", TokenPlaces::Header, node))
    }

    // ---- the token ----

    /// Checks the token that a request shows.
    fn holder<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        places: TokenPlaces,
        node: &Node,
    ) -> Result<Verified, Denied> {
        let Some(jwt) = &node.settings.jwt else { return Err(Denied::Missing) };
        let token = shown(asked.head, places, jwt, node.settings.trusts_cookies(asked.head)).ok_or(Denied::Missing)?;
        let now = asked.unix_time();
        let verified = jwt.verifier.verify(token, now)?;
        match self.denials.deny_shown(&verified.identity, now.as_secs()) {
            false => Ok(verified),
            true => Err(Denied::Invalid("the token was taken back")),
        }
    }
}

/// The answer to a request to look at a topic that is not granted.
pub(crate) fn deny_reading(peer: CompactPeer, grant: &ReadGrant, topic: &str, node: &mut Node) -> Response {
    match grant {
        ReadGrant::Public(_) => deny(peer, Denied::Missing, "subscribe", TokenPlaces::Cookie, node),
        ReadGrant::Everything | ReadGrant::Named(..) => deny_topic(peer, topic, "subscribe", node),
    }
}

/// The answer to a request that is denied (RFC 6750, 3), with each place where a token is looked for.
fn deny(peer: CompactPeer, denied: Denied, realm: &str, places: TokenPlaces, node: &mut Node) -> Response {
    let missing = where_to_put(places, node);
    let (status, title, reason, detail) = match denied {
        Denied::Missing => (401, "Not authorized", "missing_token", &*missing),
        Denied::Invalid(detail) => (401, "Not authorized", "invalid_token", detail),
        Denied::Insufficient(detail) => (403, "Not permitted", "insufficient_scope", detail),
    };
    node.counters.denied.count(reason);
    tracing::debug!(peer = %peer, reason, realm, detail, "denied");
    let mut challenge = format!("Bearer realm=\"{realm}\"");
    // RFC 6750, 3.1: a client that showed no token only learns that one is needed.
    if denied != Denied::Missing {
        challenge.push_str(&format!(", error=\"{reason}\", error_description=\"{detail}\""));
    }
    response::problem(status, title, detail).with_header("WWW-Authenticate", challenge)
}

fn where_to_put(places: TokenPlaces, node: &Node) -> String {
    let header = "this needs a token: in the header Authorization: Bearer";
    match (places, &node.settings.jwt) {
        (TokenPlaces::Header, _) | (_, None) => header.to_owned(),
        (TokenPlaces::Cookie, Some(jwt)) => format!("{header}, or in the cookie {}", jwt.cookie),
        (TokenPlaces::Query, Some(jwt)) => {
            let cookie = &jwt.cookie;
            format!("{header}, in the cookie {cookie}, or in the query as {QUERY_PARAMETER}=TOKEN")
        }
    }
}

/// The answer if the token does not name a topic. Only the body names the topic: a header's grammar is narrower.
pub(crate) fn deny_topic(peer: CompactPeer, topic: &str, realm: &str, node: &mut Node) -> Response {
    let denied = Denied::Insufficient("the token does not name this topic");
    let unauthorized = deny(peer, denied, realm, TokenPlaces::Header, node);
    let detail = format!("the token does not name the topic {topic} to {realm} to");
    Response { headers: unauthorized.headers, ..response::problem(403, "Not permitted", &detail) }
}
fn is_from_this_host<I: Io>(asked: &RequestContext<'_, I>, node: &Node) -> bool {
    let is_exposed = asked.transport.is_exposed() || node.settings.proxies.are_configured();
    !asked.head.forwarded && (node.settings.is_dev() || !is_exposed)
}

fn deny_report(peer: CompactPeer, node: &mut Node) -> Response {
    node.counters.denied.count("closed_report");
    tracing::debug!(peer = %peer, reason = "closed_report", "denied");
    let detail = "metrics, debug view and topics are for operators: show an operator's token \
                  (--operator-token-file), ask the admin listener (--admin-listen), or open them to every client with \
                  --open-reports; a snapshot of topics that it names (?topic=) is open";
    response::problem(403, "Operators only", detail)
}

/// The token of a request, from the first place that has one: deliberately sent ones before those that browsers add.
fn shown<'a>(head: &'a RequestHead, places: TokenPlaces, jwt: &Jwt, trusts_cookies: bool) -> Option<&'a str> {
    let in_header = head.authorization.as_deref().and_then(bearer);
    let in_query = || head.target.get(QUERY_PARAMETER).filter(|_| places == TokenPlaces::Query);
    let may_be_cookie = places != TokenPlaces::Header && trusts_cookies;
    let in_cookie = || cookie(head.cookie.as_deref().filter(|_| may_be_cookie)?, &jwt.cookie);
    in_header.or_else(in_query).or_else(in_cookie)
}

/// The value of a cookie, without surrounding quotes (RFC 6265, 4.1.1).
fn cookie<'a>(cookies: &'a str, name: &str) -> Option<&'a str> {
    let pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let check = |cookies: &str, expected: Option<&str>| assert_eq!(cookie(cookies, "t"), expected, "{cookies:?}");
        check("t=a", Some("a"));
        check("x=1; t=a; y=2", Some("a"));
        check("x=1;t=a.b=;", Some("a.b="));
        check("t=\"a\"", Some("a"));
        check("t=a; t=b", Some("a"));
        check("tt=a; T=b; xt=c; t", None);
        check("x=t=a", None);
        check("", None);
    }
}
