//! Deadlines: one for each connection, whatever it waits for. Heartbeats are spread, so that a broadcast to all is not
//! followed by a heartbeat to all half a minute later.

use std::time::Duration;

use super::Transport;
use super::connection::{Awaited, CloseReason, Connection, Flags, Phase};
use super::respond::Answer;
use crate::io::Io;
use crate::protocol::response;
use crate::server::node::Node;
use crate::server::node::refusal::Refusal;
use crate::server::settings::Settings;
use crate::server::wheel::Tick;

/// How long a peer may take to close after all was sent.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a broker may take to answer a publish.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long other loops may take to reply. What they left last counts then.
const INQUIRY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request on the spare descriptor may take: others wait for it.
const SPARE_TIMEOUT: Duration = Duration::from_secs(1);

/// A deadline that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// No more is to be done.
    Handled,
    /// A stream ends or is due a heartbeat.
    Stream(u32),
    /// What an answer waits for is missing.
    Answer(u32),
}

impl<I: Io> Transport<I> {
    /// Takes the earliest deadline that has passed, and acts on it if it only concerns the connection.
    pub(crate) fn fire_deadline(&mut self, node: &mut Node) -> Option<Due> {
        let now = Tick::of(node.now);
        let (slot, tick) = self.deadlines.fire(now)?;
        let is_armed = |connection: &&mut Connection| connection.armed_for == tick;
        let Some(connection) = self.connections.get_mut(slot as usize).filter(is_armed) else {
            return Some(Due::Handled);
        };
        connection.armed_for = Tick::NEVER;
        if self.deadline(slot, &node.settings).is_none_or(|deadline| deadline > now) {
            self.arm_deadline(slot, node);
            return Some(Due::Handled);
        }
        let connection = &self.connections[slot as usize];
        match connection.phase {
            Phase::Dead => {}
            Phase::Idle | Phase::Requesting(_) if connection.flags.has(Flags::AWAITS_PROXY_HEADER) => {
                self.close(slot, CloseReason::ProxyHeader, node);
            }
            Phase::Idle if connection.flags.has(Flags::AWAITS_HANDSHAKE) => self.time_out_handshake(slot, node),
            Phase::Securing => self.time_out_handshake(slot, node),
            Phase::Streaming(_) => return Some(Due::Stream(slot)),
            Phase::Publishing(_) => return Some(Due::Answer(slot)),
            Phase::Idle => self.close(slot, CloseReason::IdleTimeout, node),
            Phase::Requesting(_) => self.time_out_request(slot, node),
            Phase::Responding(_) => self.close(slot, CloseReason::AnswerTimeout, node),
            Phase::Lingering(reason) => self.close(slot, reason, node),
        }
        self.arm_deadline(slot, node);
        Some(Due::Handled)
    }

    /// Arms the wheel for a connection's deadline, unless it is already armed for an earlier tick.
    pub(crate) fn arm_deadline(&mut self, slot: u32, node: &Node) {
        let Some(deadline) = self.deadline(slot, &node.settings) else { return };
        if deadline < self.connections[slot as usize].armed_for {
            self.connections[slot as usize].armed_for = self.deadlines.arm(slot, deadline);
        }
    }

    fn deadline(&self, slot: u32, settings: &Settings) -> Option<Tick> {
        let connection = &self.connections[slot as usize];
        let limits = &settings.limits;
        let on_spare = connection.flags.has(Flags::ON_SPARE);
        let wait = match &connection.phase {
            Phase::Dead => return None,
            Phase::Securing | Phase::Idle | Phase::Requesting(_) | Phase::Responding(_) | Phase::Lingering(_)
                if on_spare =>
            {
                SPARE_TIMEOUT
            }
            Phase::Securing => limits.head_timeout,
            Phase::Idle if connection.flags.has(Flags::FRESH) => limits.head_timeout,
            Phase::Idle => limits.idle_timeout,
            Phase::Requesting(request) if request.is_in_body() => limits.body_timeout,
            Phase::Requesting(_) => limits.head_timeout,
            Phase::Responding(_) => {
                // Not the time in all: a client that steadily reads a large answer gets all of it.
                let progress_at = self.outboxes.get(&slot).map_or(connection.since, |it| Tick::of(it.progress_at));
                return Some(progress_at.after(settings.delivery.stall_timeout));
            }
            Phase::Publishing(publishing) => match publishing.answer {
                Awaited::Publish(_) | Awaited::Disconnect(_) | Awaited::Stream => PUBLISH_TIMEOUT,
                Awaited::Inquiry(_) => INQUIRY_TIMEOUT,
            },
            Phase::Lingering(_) => LINGER_TIMEOUT,
            Phase::Streaming(stream) => {
                let heartbeat = connection.since.after(heartbeat_wait(slot, settings));
                return Some(heartbeat.min(stream.ends_at));
            }
        };
        Some(connection.since.after(wait))
    }

    fn time_out_request(&mut self, slot: u32, node: &mut Node) {
        let is_in_body =
            matches!(&self.connections[slot as usize].phase, Phase::Requesting(request) if request.is_in_body());
        let refusal = if is_in_body { Refusal::BodyTimeout } else { Refusal::HeadTimeout };
        node.count_refusal(refusal);
        let problem = response::problem(refusal.status(), "Request timeout", refusal.detail());
        // `head_only` is false: an incomplete head has no known method, and the server only waits for a POST's body.
        self.respond_last(slot, Answer::from(problem), false, CloseReason::RequestTimeout, node);
    }
}

/// The heartbeat interval minus up to a fifth, different for each slot.
pub(crate) fn heartbeat_wait(slot: u32, settings: &Settings) -> Duration {
    let spread = slot.wrapping_mul(0x9e37_79b9) >> 22; // 10 well mixed bits
    settings.delivery.heartbeat_interval * (5120 - spread) / 5120
}
