//! `POST /publish`: checks the publisher and the events, and answers once the events are accepted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Api;
use super::access::deny_topic;
use super::context::{Outcome, RequestContext};
use super::subscribe::check_exact;
use super::waiting::{accept, refused, ticket};
use crate::auth;
use crate::event::{Event, EventId};
use crate::hub::Hub;
use crate::io::Io;
use crate::protocol::head::RequestHead;
use crate::protocol::publish::{self, PublishError};
use crate::protocol::response::{self, Response};
use crate::server::grant::PublishGrant;
use crate::server::node::Node;
use crate::server::node::publish_rates::OverRate;
use crate::server::node::refusal::Refusal;
use crate::server::settings::Settings;
use crate::server::transport::connection::{Awaited, PublishAnswer};
use crate::sources::channel::Accepted;

impl Api {
    pub(super) fn publish<I: Io>(
        &mut self,
        asked: &mut RequestContext<'_, I>,
        body: &[u8],
        grant: Option<PublishGrant>,
        node: &mut Node,
    ) -> Result<Outcome, Response> {
        let grant = match grant {
            Some(grant) => grant,
            // A request without a body was not checked before.
            None => self.access.may_publish(asked, node)?,
        };
        let events = match publish::parse(body, &node.settings.limits.publish()) {
            Ok(events) => events,
            Err(error) => {
                error.reason().into_iter().for_each(|reason| node.counters.refused.count(reason));
                return Err(response::problem(error.status(), "Bad publish body", &explain(&error, asked.head)));
            }
        };
        if let Some(detail) = events.iter().find_map(|event| check_exact(event.topic.as_str()).err()) {
            return Err(response::problem(400, "Bad publish body", &detail));
        }
        if let Some(outside) = events.iter().find(|event| !grant.covers(&event.topic)) {
            return Err(deny_topic(asked.client.peer, outside.topic.as_str(), "publish", node));
        }
        if events.iter().any(|event| !asked.hub.has_room_for(event.topic.as_str())) {
            let refusal = Refusal::TopicLimit;
            node.count_refusal(refusal);
            let problem = response::problem(refusal.status(), "Too many topics", refusal.detail());
            return Err(problem.with_header("Retry-After", "1"));
        }
        let publisher = publisher_of(asked.head, &node.settings);
        let rate_max = node.settings.limits.publishes_per_second_max;
        if let Err(over) = node.common.publish_rates.take(publisher, events.len(), rate_max, node.now) {
            node.count_refusal(Refusal::PublishRate);
            return Err(refuse_rate(over));
        }
        let batch = body.trim_ascii_start().starts_with(b"[");
        // With a durable bus, its engine finds the duplicates, for all nodes.
        let (fresh, duplicates) = match asked.hub.follows_bus() {
            true => (events, Vec::new()),
            false => split_duplicates(events, asked.hub),
        };
        let answer = |ids: Vec<EventId>| {
            let id_of = |duplicate| match duplicate {
                Duplicate::OfRemembered(id) => id,
                Duplicate::OfFresh(index) => ids[index].clone(),
            };
            let duplicates = duplicates.into_iter().map(id_of).collect();
            PublishAnswer { ids, duplicates, batch }
        };
        if fresh.is_empty() {
            return Ok(accept(&answer(Vec::new()), node).into());
        }
        Ok(match self.publisher.publish(fresh, ticket(asked.client.token)) {
            Ok(Accepted::Now(ids)) => accept(&answer(ids), node).into(),
            Ok(Accepted::Later(ids)) => Outcome::Await(Awaited::Publish(answer(ids))),
            Err(refusal) => refused(refusal, self.publisher.fault()).into(),
        })
    }
}

/// The error's text, and for a form that it is one: a form's fields are not read.
fn explain(error: &PublishError, head: &RequestHead) -> String {
    const FORM: &str = "application/x-www-form-urlencoded";
    let sends_form = head.content_type.as_deref().is_some_and(|sent| sent.starts_with(FORM));
    match error {
        PublishError::NotJson(_) if sends_form => format!("{error} (the request's Content-Type is {FORM})"),
        _ => error.to_string(),
    }
}

/// Whose rate counts: the token's; clients that need no token share one.
fn publisher_of<'a>(head: &'a RequestHead, settings: &Settings) -> &'a str {
    let token = head.authorization.as_deref().and_then(auth::bearer);
    token.filter(|_| !settings.is_open_to(head)).unwrap_or_default()
}

fn refuse_rate(over: OverRate) -> Response {
    match over {
        OverRate::For(wait) => {
            let seconds = wait.as_secs_f64().ceil().max(1.0).to_string();
            let refusal = Refusal::PublishRate;
            let problem = response::problem(refusal.status(), "Too many events", refusal.detail());
            problem.with_header("Retry-After", seconds)
        }
        OverRate::Always { events_max } => {
            let detail = format!("one token may publish {events_max} events in a second: this array has more");
            response::problem(413, "Too many events", &detail)
        }
    }
}

/// An event that was published before.
enum Duplicate {
    /// Its topic remembers it.
    OfRemembered(EventId),
    /// It is in the same array; holds its place among the events that are new.
    OfFresh(usize),
}

/// Separates the events that are duplicates by their ids: their topic still remembers one, or the same array has one.
fn split_duplicates(events: Vec<Event>, hub: &Hub) -> (Vec<Event>, Vec<Duplicate>) {
    let (mut fresh, mut duplicates) = (Vec::<Event>::with_capacity(events.len()), Vec::new());
    let mut seen = HashMap::new();
    for event in events {
        let Some(id) = &event.id else {
            fresh.push(event);
            continue;
        };
        if let Some(id) = hub.remembered(event.topic.as_str(), id) {
            duplicates.push(Duplicate::OfRemembered(id));
            continue;
        }
        match seen.entry((event.topic.clone(), id.clone())) {
            Entry::Occupied(earlier) => duplicates.push(Duplicate::OfFresh(*earlier.get())),
            Entry::Vacant(first) => {
                first.insert(fresh.len());
                fresh.push(event);
            }
        }
    }
    (fresh, duplicates)
}
