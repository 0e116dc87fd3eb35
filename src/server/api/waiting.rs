//! Requests that are answered later: when a broker has answered, or when streams have ended.

use serde::Serialize;

use super::json;
use crate::event::EventId;
use crate::io::Token;
use crate::protocol::response::{self, Response};
use crate::server::node::Node;
use crate::server::transport::connection::{Awaited, DisconnectAnswer, PublishAnswer};
use crate::sources::channel::{PublishRefusal, Published, Ticket};

/// A publish's ticket is the connection that waits for its answer.
pub(crate) fn ticket(token: Token) -> Ticket {
    Ticket(u64::from(token.slot) | u64::from(token.generation) << 32)
}

pub(crate) fn ticket_token(Ticket(ticket): Ticket) -> Token {
    Token { slot: ticket as u32, generation: (ticket >> 32) as u32 }
}

/// The answer after a broker has accepted or refused. None: the request waits for more than the broker.
pub(crate) fn answer_of_broker(
    awaited: &mut Awaited,
    outcome: Result<Published, PublishRefusal>,
    node: &mut Node,
) -> Option<Response> {
    match awaited {
        Awaited::Publish(answer) => Some(match outcome {
            Ok(Published { ids, duplicates }) => {
                let mut answer = std::mem::take(answer);
                answer.ids.extend(ids);
                answer.duplicates.extend(duplicates);
                accept(&answer, node)
            }
            Err(refusal) => refused(refusal, None),
        }),
        Awaited::Disconnect(answer) => {
            answer.passed_on = Some(outcome.map(drop));
            answer_if_complete(answer)
        }
        Awaited::Inquiry(_) | Awaited::Stream => None,
    }
}

/// The answer when the broker, or a sweep, has not answered in time.
pub(crate) fn answer_of_silence(awaited: &Awaited) -> Response {
    let response = match awaited {
        Awaited::Publish(_) => refused(PublishRefusal::BrokerDown, None),
        Awaited::Disconnect(DisconnectAnswer { ended, sweeping, .. }) => {
            not_passed_on(sweeping.is_empty().then_some(*ended), PublishRefusal::BrokerDown)
        }
        Awaited::Inquiry(_) | Awaited::Stream => unreachable!("these wait for no broker"),
    };
    response.closing()
}

/// The answer once the streams of all loops have ended; those of loop `from`: `count`, none if it has ended itself. None: it
/// waits for more.
pub(crate) fn answer_of_sweep(awaited: &mut Awaited, from: usize, count: usize) -> Option<Response> {
    let Awaited::Disconnect(answer) = awaited else { return None };
    if !answer.sweeping.contains(&from) {
        return None;
    }
    answer.sweeping.retain(|index| *index != from);
    answer.ended += count;
    answer_if_complete(answer)
}

/// The answer once the streams of this node have ended and the broker has answered for the other nodes.
fn answer_if_complete(answer: &DisconnectAnswer) -> Option<Response> {
    let DisconnectAnswer { ended, sweeping, passed_on: Some(outcome) } = answer else { return None };
    sweeping.is_empty().then(|| match outcome {
        Ok(()) => json(202, &serde_json::json!({ "disconnected": ended })),
        Err(refusal) => not_passed_on(Some(*ended), *refusal),
    })
}

/// The streams of this node end, but the other nodes may not have received the request.
fn not_passed_on(count: Option<usize>, refusal: PublishRefusal) -> Response {
    let here = count.map_or("this node disconnects them".to_owned(), |count| format!("this node disconnected {count}"));
    let detail = format!("{here}, but other nodes may not know: {refusal}; ask again");
    response::problem(503, "Disconnected here alone", &detail).with_header("Retry-After", "1")
}

pub(super) fn accept(answer: &PublishAnswer, node: &mut Node) -> Response {
    node.counters.published_http += answer.ids.len() as u64;
    accepted(answer)
}

fn accepted(answer: &PublishAnswer) -> Response {
    let PublishAnswer { ids, duplicates, batch } = answer;
    match (batch, &ids[..], &duplicates[..]) {
        (false, [id], _) => json(202, &OneAccepted { id: id.as_str(), duplicate: false }),
        (false, _, [id, ..]) => json(202, &OneAccepted { id: id.as_str(), duplicate: true }),
        _ => json(202, &Accepted { ids: texts(ids), duplicates: texts(duplicates) }),
    }
}

/// The answer to a publish of one event.
#[derive(Serialize)]
struct OneAccepted<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// The answer to a publish of several events.
#[derive(Serialize)]
struct Accepted<'a> {
    ids: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<&'a str>,
}

fn texts(ids: &[EventId]) -> Vec<&str> {
    ids.iter().map(EventId::as_str).collect()
}

/// The answer to a publish that was refused. `fault` is why nothing can be published now, if that is known.
pub(super) fn refused(refusal: PublishRefusal, fault: Option<String>) -> Response {
    let fault = fault.filter(|_| refusal == PublishRefusal::BrokerDown);
    let text = fault.unwrap_or_else(|| refusal.to_string());
    match refusal {
        PublishRefusal::TooLarge(..) => response::problem(413, "Event too large", &text),
        PublishRefusal::Busy | PublishRefusal::BrokerDown => {
            response::problem(503, "Not published", &text).with_header("Retry-After", "1")
        }
    }
}
