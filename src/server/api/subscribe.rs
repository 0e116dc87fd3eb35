//! A client's request for a stream: its topics, where it starts, and how fast it goes.

use std::collections::HashSet;
use std::time::Duration;

use super::Api;
use super::context::{Outcome, RequestContext};
use crate::event::{STATISTICS_TOPIC, Topic};
use crate::hub::Replay;
use crate::io::Io;
use crate::protocol::head::{Method, RequestHead};
use crate::protocol::response::{self, Response};
use crate::protocol::target::Target;
use crate::server::node::Node;
use crate::server::node::refusal::Refusal;
use crate::server::streams::open::StreamParams;

/// The longest `interval_ms` that a client may request.
pub(super) const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// The query's parameters other than topics.
#[derive(Debug)]
struct Query {
    replay: Replay,
    interval: Duration,
    latest: bool,
    position_heartbeats: bool,
}

impl Query {
    fn read(target: &Target, interval_floor: Duration) -> Result<Query, String> {
        let replay = match target.get("replay") {
            None | Some("missed") => Replay::Missed,
            Some("all") => Replay::All,
            Some("latest") => Replay::Latest,
            Some("none") => Replay::None,
            Some(other) => return Err(format!("replay={other:?}: allowed are all, latest, none and missed")),
        };
        let interval = match target.get("interval_ms").map(|text| (text, text.parse().map(Duration::from_millis))) {
            None => Duration::ZERO,
            Some((_, Ok(interval))) if interval <= INTERVAL_MAX => interval,
            Some((text, _)) => {
                return Err(format!("interval_ms={text:?}: allowed are 0 to {}", INTERVAL_MAX.as_millis()));
            }
        };
        let latest = match target.get("latest") {
            None | Some("0" | "false") => false,
            Some("1" | "true" | "") => true,
            Some(other) => return Err(format!("latest={other:?}: allowed are 0 and 1")),
        };
        let position_heartbeats = match target.get("heartbeat") {
            None | Some("comment") => false,
            Some("position") => true,
            Some(other) => return Err(format!("heartbeat={other:?}: allowed are comment and position")),
        };
        Ok(Query { replay, interval: interval.max(interval_floor), latest, position_heartbeats })
    }
}

impl Api {
    /// A stream of `topic`, or of the topics that the query names.
    pub(super) fn subscribe<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        topic: Option<Topic>,
        node: &mut Node,
    ) -> Result<Outcome, Response> {
        // A missing token is refused before any of the topics is looked at.
        let holder = self.access.holder_of_stream(asked, node)?;
        let topics = match topic {
            Some(topic) => vec![topic],
            None => named_topics(asked, node)?,
        };
        let bad = |detail: String| response::problem(400, "Bad parameter", &detail);
        let Query { replay, interval, latest, position_heartbeats } =
            Query::read(&asked.head.target, node.settings.delivery.interval_floor).map_err(bad)?;
        let credential = self.access.may_subscribe(asked, holder, &topics, node)?;
        if asked.head.method == Method::Head {
            return Ok(Outcome::StreamHead);
        }
        let last_event_id = last_event_id(asked.head).to_vec();
        let is_compressed = node.settings.compresses_for(asked.head);
        let params = StreamParams {
            topics,
            last_event_id,
            replay,
            interval,
            latest,
            position_heartbeats,
            is_compressed,
            credential,
        };
        Ok(Outcome::OpenStream(Box::new(params)))
    }
}

fn named_topics<I: Io>(asked: &RequestContext<'_, I>, node: &mut Node) -> Result<Vec<Topic>, Response> {
    let (mut topics, mut known) = (Vec::new(), HashSet::new());
    for name in asked.head.target.get_all("topic") {
        if !known.insert(name) {
            continue;
        }
        check_topic_count(known.len(), node)?;
        topics.push(named_topic(name, node)?);
    }
    if topics.is_empty() {
        topics.push(node.settings.delivery.default_topic.clone());
    }
    if asked.client.is_admin && !topics.iter().all(Topic::is_reserved) {
        let detail = format!("of streams, the admin listener has only that of {STATISTICS_TOPIC}");
        return Err(response::problem(403, "Not here", &detail));
    }
    Ok(topics)
}

/// The topic that a query names, which may be the server's statistics.
pub(super) fn named_topic(name: &str, node: &mut Node) -> Result<Topic, Response> {
    match name {
        STATISTICS_TOPIC => Ok(Topic::statistics()),
        name => check_topic(name, node).map_err(|detail| response::problem(400, "Bad topic", &detail)),
    }
}

/// Refuses more topics than one stream may have.
pub(super) fn check_topic_count(count: usize, node: &mut Node) -> Result<(), Response> {
    let topics_max = node.settings.limits.topics_per_subscriber_max as usize;
    if count <= topics_max {
        return Ok(());
    }
    let refusal = Refusal::TopicsPerSubscriber;
    node.count_refusal(refusal);
    let detail = format!("{}: at most {topics_max}", refusal.detail());
    Err(response::problem(refusal.status(), "Too many topics", &detail))
}

fn check_topic(name: &str, node: &mut Node) -> Result<Topic, String> {
    let bytes_max = node.settings.limits.topic_bytes_max;
    if name.len() > bytes_max {
        node.count_refusal(Refusal::TopicBytes);
        return Err(format!("{}: at most {bytes_max} bytes", Refusal::TopicBytes.detail()));
    }
    check_exact(name)?;
    Topic::new(name).map_err(|error| format!("the topic's name {error}"))
}

/// Refuses a name that looks like a pattern.
pub(super) fn check_exact(name: &str) -> Result<(), String> {
    match Topic::looks_like_pattern(name) {
        true => {
            Err(format!("the topic {name:?} has a *: names are exact, there are no patterns here; name each topic"))
        }
        false => Ok(()),
    }
}

/// The header, else the query's parameter under any of the names in use; empty if there is neither.
fn last_event_id(head: &RequestHead) -> &[u8] {
    let in_query = || ["last_event_id", "lastEventId", "lastEventID"].iter().find_map(|name| head.target.get(name));
    head.last_event_id.as_deref().or_else(|| in_query().map(str::as_bytes)).unwrap_or_default()
}
