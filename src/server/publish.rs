//! `POST /publish`: who may, what it says, and the answer once the events are on their way.

use super::Server;
use super::access::PublishGrant;
use super::connection::{Awaited, Phase, PublishAnswer, Publishing};
use super::disconnect::not_passed_on;
use super::publish_rate::OverRate;
use super::refusal::Refusal;
use super::respond::json;
use super::stream::check_exact;
use super::wheel::Tick;
use crate::auth;
use crate::event::{Event, EventId};
use crate::io::{Io, Token};
use crate::protocol::head::RequestHead;
use crate::protocol::publish;
use crate::protocol::response::{self, Response};
use crate::sources::channel::{Accepted, PublishRefusal, Ticket};

/// A publish's ticket is the connection that waits for its answer.
pub(super) fn ticket(token: Token) -> Ticket {
    Ticket(u64::from(token.slot) | u64::from(token.generation) << 32)
}

pub(super) fn ticket_token(Ticket(ticket): Ticket) -> Token {
    Token { slot: ticket as u32, generation: (ticket >> 32) as u32 }
}

impl<I: Io> Server<I> {
    pub(super) fn publish(&mut self, slot: u32, head: &RequestHead, body: &[u8], grant: Option<PublishGrant>) {
        // Without a body nobody has asked yet.
        let grant = match grant.map_or_else(|| self.may_publish(slot, head), Ok) {
            Ok(grant) => grant,
            Err(response) => return self.respond(slot, head, response),
        };
        let events = match publish::parse(body, &self.settings.limits.publish) {
            Ok(events) => events,
            Err(error) => {
                error.reason().into_iter().for_each(|reason| self.counters.refused.count(reason));
                return self.respond_problem(slot, head, error.status(), "Bad publish body", &error.to_string());
            }
        };
        if let Some(detail) = events.iter().find_map(|event| check_exact(event.topic.as_str()).err()) {
            return self.respond_problem(slot, head, 400, "Bad publish body", &detail);
        }
        if let Some(outside) = events.iter().find(|event| !grant.covers(&event.topic)) {
            let response = self.deny_topic(slot, outside.topic.as_str(), "publish");
            return self.respond(slot, head, response);
        }
        if events.iter().any(|event| !self.hub.has_room_for(event.topic.as_str())) {
            self.count_refusal(Refusal::TopicLimit);
            let (status, detail) = (Refusal::TopicLimit.status(), Refusal::TopicLimit.detail());
            return self.respond_problem(slot, head, status, "Too many topics", detail);
        }
        if let Err(over) = self.publish_rates.take(self.publisher_of(head), events.len(), self.now) {
            return self.refuse_rate(slot, head, over);
        }
        let batch = body.trim_ascii_start().starts_with(b"[");
        let (fresh, duplicates) = self.split_duplicates(events);
        let answer = |ids| PublishAnswer { ids, duplicates, batch };
        if fresh.is_empty() {
            return self.accept_publish(slot, head, &answer(Vec::new()));
        }
        match self.publisher.publish(fresh, ticket(self.token(slot))) {
            Ok(Accepted::Now(ids)) => self.accept_publish(slot, head, &answer(ids)),
            Ok(Accepted::Later(ids)) => self.await_answer(slot, head, Awaited::Publish(answer(ids))),
            Err(refusal) => self.respond(slot, head, refused(refusal)),
        }
    }

    /// Whose rate counts: the token's; of those who need none, one for all.
    fn publisher_of<'a>(&self, head: &'a RequestHead) -> &'a str {
        let token = head.authorization.as_deref().and_then(auth::bearer);
        token.filter(|_| !self.settings.is_open_to(head)).unwrap_or_default()
    }

    fn refuse_rate(&mut self, slot: u32, head: &RequestHead, over: OverRate) {
        self.count_refusal(Refusal::PublishRate);
        let response = match over {
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
        };
        self.respond(slot, head, response);
    }

    /// Leaves out the events whose id their topic still remembers, or that stands in the same array before.
    fn split_duplicates(&self, events: Vec<Event>) -> (Vec<Event>, Vec<EventId>) {
        let (mut fresh, mut duplicates) = (Vec::<Event>::with_capacity(events.len()), Vec::new());
        let mut seen = std::collections::HashSet::new();
        for event in events {
            match &event.id {
                Some(id)
                    if self.hub.remembers(event.topic.as_str(), id)
                        || !seen.insert((event.topic.clone(), id.clone())) =>
                {
                    duplicates.push(id.clone());
                }
                _ => fresh.push(event),
            }
        }
        (fresh, duplicates)
    }

    fn accept_publish(&mut self, slot: u32, head: &RequestHead, answer: &PublishAnswer) {
        self.counters.published_http += answer.ids.len() as u64;
        self.respond(slot, head, accepted(answer));
    }

    /// Leaves a request without its answer for now.
    pub(super) fn await_answer(&mut self, slot: u32, head: &RequestHead, answer: Awaited) {
        let connection = &mut self.connections[slot as usize];
        let publishing = Publishing { answer, head: head.clone(), request: connection.take_request() };
        connection.phase = Phase::Publishing(Box::new(publishing));
        connection.since = Tick::of(self.now);
        self.arm_deadline(slot);
    }

    /// The broker has answered; whoever left meanwhile, or was told that it had not, is not told.
    pub(super) fn finish_publish(&mut self, token: Token, outcome: Result<(), PublishRefusal>) {
        let Some(connection) = self.connection(token) else { return };
        let Phase::Publishing(publishing) = &mut connection.phase else { return };
        let (slot, head) = (token.slot, publishing.head.clone());
        let answer = match &mut publishing.answer {
            Awaited::Publish(answer) => std::mem::take(answer),
            Awaited::Disconnect(_) => return self.note_passed_on(token, outcome),
        };
        match outcome {
            Ok(()) => self.accept_publish(slot, &head, &answer),
            Err(refusal) => self.respond(slot, &head, refused(refusal)),
        }
        self.after_publish(token);
    }

    /// The broker has not answered. It still may, under this connection's ticket: no other publish may wait on it.
    pub(super) fn time_out_publish(&mut self, slot: u32) {
        let Phase::Publishing(publishing) = &self.connections[slot as usize].phase else { return };
        let head = publishing.head.clone();
        let response = match &publishing.answer {
            Awaited::Publish(_) => refused(PublishRefusal::BrokerDown),
            Awaited::Disconnect(answer) => not_passed_on(answer.disconnected, PublishRefusal::BrokerDown),
        };
        self.respond(slot, &head, response.closing());
    }

    pub(super) fn after_publish(&mut self, token: Token) {
        if self.connection(token).is_some_and(|connection| matches!(connection.phase, Phase::Requesting(_))) {
            self.resume_reading(token.slot);
        }
    }
}

fn accepted(answer: &PublishAnswer) -> Response {
    let texts = |ids: &[EventId]| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
    let (ids, duplicates) = (texts(&answer.ids), texts(&answer.duplicates));
    let body = match (answer.batch, &ids[..], &duplicates[..]) {
        (false, [id], _) => serde_json::json!({ "id": id }),
        (false, _, [id, ..]) => serde_json::json!({ "id": id, "duplicate": true }),
        _ if duplicates.is_empty() => serde_json::json!({ "ids": ids }),
        _ => serde_json::json!({ "ids": ids, "duplicates": duplicates }),
    };
    json(202, &body)
}

fn refused(refusal: PublishRefusal) -> Response {
    response::problem(503, "Not published", &refusal.to_string()).with_header("Retry-After", "1")
}
