//! `POST /disconnect`: an operator ends streams, on this node and, over the bus, on all others. The answer waits for both:
//! for the sweep that ends them here, and for the broker.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::Server;
use super::connection::{Awaited, DisconnectAnswer, Phase};
use super::publish::ticket;
use super::refusal::Refusal;
use super::respond::json;
use crate::auth::denials::{DenialsFull, Term};
use crate::auth::{Digest, TokenName};
use crate::io::{Io, Token};
use crate::protocol::disconnect::{Disconnect, Holder};
use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};
use crate::sources::channel::{PassedOn, PublishRefusal};

impl<I: Io> Server<I> {
    pub(super) fn disconnect(&mut self, slot: u32, head: &RequestHead, body: &[u8]) {
        if let Err(response) = self.may_disconnect(slot, head) {
            return self.respond(slot, head, response);
        }
        let disconnect = match Disconnect::parse(body, self.unix_seconds()) {
            Ok(disconnect) => Arc::new(disconnect),
            Err(error) => return self.respond_problem(slot, head, 400, "Bad disconnect body", &error.to_string()),
        };
        if disconnect.holder.is_some() && self.settings.jwt.is_none() {
            let detail = "no stream here has a subject or a token_id: they come with --jwt-key-file";
            return self.respond_problem(slot, head, 400, "No tokens here", detail);
        }
        // Before any stream ends: its client may be back at once.
        if self.deny_holder(&disconnect).is_err() {
            return self.refuse_denial(slot, head);
        }
        let passed_on = match self.publisher.pass_on(&disconnect, ticket(self.token(slot))) {
            Ok(PassedOn::NoOtherNode) => Some(Ok(())),
            Ok(PassedOn::Later) => None,
            Err(refusal) => Some(Err(refusal)),
        };
        self.await_answer(slot, head, Awaited::Disconnect(DisconnectAnswer { disconnected: None, passed_on }));
        self.sweeps.disconnect(disconnect, Some(self.token(slot)));
    }

    /// Does what another node was asked to.
    pub(super) fn disconnect_passed(&mut self, disconnect: Arc<Disconnect>) {
        // Without a key no token opens a stream here, and none can be denied.
        if self.settings.jwt.is_some()
            && let Err(error) = self.deny_holder(&disconnect)
        {
            self.count_refusal(Refusal::DeniedTokens);
            tracing::error!(%error, denied = self.denials.len(), "disconnected tokens may return: raise --max-denied-tokens");
        }
        self.sweeps.disconnect(disconnect, None);
    }

    /// Keeps the tokens out that are to be taken back, if any are.
    fn deny_holder(&mut self, disconnect: &Disconnect) -> Result<(), DenialsFull> {
        let Some(denied) = disconnect.denied().map(token_name) else { return Ok(()) };
        let asked_at_s = disconnect.asked_at_s;
        let until = |seconds: u64| Term::Until(asked_at_s.saturating_add(seconds));
        let term = disconnect.for_seconds.map_or(Term::Expiry, until);
        self.denials.deny(denied, term, asked_at_s, self.unix_seconds())
    }

    fn refuse_denial(&mut self, slot: u32, head: &RequestHead) {
        let refusal = Refusal::DeniedTokens;
        self.count_refusal(refusal);
        let problem = response::problem(refusal.status(), "Nothing disconnected", refusal.detail());
        self.respond(slot, head, problem.with_header("Retry-After", "60"));
    }

    /// The streams of this node have ended: `count` of them.
    pub(super) fn note_disconnected(&mut self, token: Token, count: usize) {
        if let Some(answer) = self.disconnect_answer(token) {
            answer.disconnected = Some(count);
            self.finish_disconnect(token);
        }
    }

    /// The broker has answered.
    pub(super) fn note_passed_on(&mut self, token: Token, outcome: Result<(), PublishRefusal>) {
        if let Some(answer) = self.disconnect_answer(token) {
            answer.passed_on = Some(outcome);
            self.finish_disconnect(token);
        }
    }

    /// The answer that a connection still waits for; none: it has left, or was told already.
    fn disconnect_answer(&mut self, token: Token) -> Option<&mut DisconnectAnswer> {
        match &mut self.connection(token)?.phase {
            Phase::Publishing(publishing) => match &mut publishing.answer {
                Awaited::Disconnect(answer) => Some(answer),
                Awaited::Publish(_) => None,
            },
            _ => None,
        }
    }

    fn finish_disconnect(&mut self, token: Token) {
        let Some(DisconnectAnswer { disconnected: Some(count), passed_on: Some(outcome) }) =
            self.disconnect_answer(token).copied()
        else {
            return;
        };
        let Phase::Publishing(publishing) = &self.connections[token.slot as usize].phase else { return };
        let head = publishing.head.clone();
        self.respond(token.slot, &head, answer(count, outcome));
        self.after_publish(token);
    }

    fn unix_seconds(&self) -> u64 {
        self.io.unix_time().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// A holder's name, as streams know it.
pub(super) fn token_name(holder: &Holder) -> TokenName {
    match holder {
        Holder::Subject(name) => TokenName::Subject(Digest::of(name)),
        Holder::TokenId(id) => TokenName::Id(Digest::of(id)),
    }
}

fn answer(count: usize, passed_on: Result<(), PublishRefusal>) -> Response {
    match passed_on {
        Ok(()) => json(202, &serde_json::json!({ "disconnected": count })),
        Err(refusal) => not_passed_on(Some(count), refusal),
    }
}

/// This node did it, and the others may not have heard.
pub(super) fn not_passed_on(count: Option<usize>, refusal: PublishRefusal) -> Response {
    let here = count.map_or("this node disconnects them".to_owned(), |count| format!("this node disconnected {count}"));
    let detail = format!("{here}, but other nodes may not know: {refusal}; ask again");
    response::problem(503, "Disconnected here alone", &detail).with_header("Retry-After", "1")
}
