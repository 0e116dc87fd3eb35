//! `POST /disconnect`: an operator ends streams, on this node and, over the bus, on all others. The answer waits for
//! the sweeps of all loops that end them here, and for the broker.

use std::sync::Arc;

use super::Api;
use super::context::{Outcome, RequestContext};
use super::waiting::ticket;
use crate::auth::denials::{DenialsFull, Term};
use crate::io::Io;
use crate::protocol::disconnect::Disconnect;
use crate::protocol::response::{self, Response};
use crate::server::node::Node;
use crate::server::node::log_entries::LogEntry;
use crate::server::node::refusal::Refusal;
use crate::server::streams::sweep::token_name;
use crate::sources::channel::PassedOn;

impl Api {
    pub(super) fn disconnect<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        body: &[u8],
        node: &mut Node,
    ) -> Result<Outcome, Response> {
        self.access.may_disconnect(asked, node)?;
        let now_s = asked.unix_time().as_secs();
        let disconnect = match Disconnect::parse(body, now_s) {
            Ok(disconnect) => Arc::new(disconnect),
            Err(error) => return Err(response::problem(400, "Bad disconnect body", &error.to_string())),
        };
        if disconnect.holder.is_some() && node.settings.jwt.is_none() {
            let detail = "no stream here has a subject or a token_id: they come with --jwt-key-file";
            return Err(response::problem(400, "No tokens here", detail));
        }
        // Before any stream ends, because its client may return at once.
        if self.deny_holder(&disconnect, now_s).is_err() {
            let refusal = Refusal::DeniedTokens;
            node.count_refusal(refusal);
            let problem = response::problem(refusal.status(), "Nothing disconnected", refusal.detail());
            return Err(problem.with_header("Retry-After", "60"));
        }
        let passed_on = match self.publisher.pass_on(&disconnect, ticket(asked.client.token)) {
            Ok(PassedOn::NoOtherNode) => Some(Ok(())),
            Ok(PassedOn::Later) => None,
            Err(refusal) => Some(Err(refusal)),
        };
        Ok(Outcome::Disconnect(disconnect, passed_on))
    }

    /// Denies the tokens that an operator disconnected on another node, or through another loop.
    pub(crate) fn deny_passed(&mut self, disconnect: &Disconnect, now_s: u64, node: &mut Node) {
        // Without a key no token opens a stream here, and none can be denied.
        if node.settings.jwt.is_some()
            && let Err(error) = self.deny_holder(disconnect, now_s)
        {
            node.count_refusal(Refusal::DeniedTokens);
            if node.may_log(LogEntry::DenialsFull) {
                let denied = self.access.denials.len();
                tracing::error!(%error, denied, "{}", LogEntry::DenialsFull.text());
            }
        }
    }

    /// Denies the tokens of a disconnect, if it denies any.
    fn deny_holder(&mut self, disconnect: &Disconnect, now_s: u64) -> Result<(), DenialsFull> {
        let Some(denied) = disconnect.denied().map(token_name) else { return Ok(()) };
        let asked_at_s = disconnect.asked_at_s;
        let until = |seconds: u64| Term::Until(asked_at_s.saturating_add(seconds));
        let term = disconnect.for_seconds.map_or(Term::Expiry, until);
        self.access.denials.deny(denied, term, asked_at_s, now_s)
    }
}
