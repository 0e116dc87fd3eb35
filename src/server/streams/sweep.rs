//! Sweeps: passes over all streams that end some of them, because a reload took away their access, or because an
//! operator disconnects them. A sweep takes its share of a turn and continues in the next turn.
//!
//! A stream that begins behind a sweep needs no visit: the settings and denials in force admitted it. One that was admitted
//! before and waits to start (`late`) is refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Streams;
use super::credentials::{Credential, Shown};
use crate::auth::denials::Denials;
use crate::auth::{Digest, TokenName};
use crate::event::{Frame, Topic};
use crate::hub::{Hub, Subscriber};
use crate::io::Io;
use crate::observe::clip::clip;
use crate::protocol::disconnect::{Disconnect, Holder};
use crate::protocol::encoder;
use crate::server::node::Node;
use crate::server::node::letter::Asker;
use crate::server::settings::Settings;
use crate::server::transport::Transport;
use crate::server::transport::connection::{CloseReason, Flags};
use crate::server::transport::peer::CompactPeer;

/// The time that sweeps may take of one turn.
const SWEEPING_PER_TURN_MAX: Duration = Duration::from_millis(2);
/// Slots visited in one turn, and streams ended: about what the time allows, for simulations where time stands still.
const LOOKS_PER_TURN_MAX: usize = 8192;
const ENDS_PER_TURN_MAX: usize = 256;
/// Slots between two readings of the clock.
const LOOKS_PER_CLOCK: usize = 64;
/// Sweeps that may wait. Beyond that the oldest is completed in one turn, however long it takes: no sweep is dropped.
const SWEEPS_MAX: usize = 1024;

/// The sweeps that are not finished.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    waiting: VecDeque<Sweep>,
    has_begun: bool,
}

#[derive(Debug)]
struct Sweep {
    purpose: Purpose,
    next_slot: usize,
    ended: usize,
}

#[derive(Debug)]
enum Purpose {
    /// Ends the streams that would no longer be admitted.
    Review,
    /// Ends the streams that an operator names.
    Disconnect {
        disconnect: Arc<Disconnect>,
        /// Its holder's name, in the form that streams store.
        holder: Option<TokenName>,
        /// The request that waits for the number of ended streams.
        asked_by: Option<Asker>,
    },
}

/// What one turn may still do.
struct Budget {
    looks: usize,
    ends: usize,
    until: Duration,
}

impl Sweeps {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True if a sweep has begun since the last call.
    pub(crate) fn take_has_begun(&mut self) -> bool {
        std::mem::take(&mut self.has_begun)
    }

    /// Reviews all streams under the new settings, before any other sweep.
    pub(crate) fn review(&mut self) {
        self.waiting.retain(|sweep| !matches!(sweep.purpose, Purpose::Review));
        self.waiting.push_front(Sweep { purpose: Purpose::Review, next_slot: 0, ended: 0 });
        self.has_begun = true;
    }

    pub(crate) fn disconnect(&mut self, disconnect: Arc<Disconnect>, asked_by: Option<Asker>) {
        let holder = disconnect.holder.as_ref().map(token_name);
        self.waiting.push_back(Sweep {
            purpose: Purpose::Disconnect { disconnect, holder, asked_by },
            next_slot: 0,
            ended: 0,
        });
        self.has_begun = true;
    }
}

impl Budget {
    fn is_spent(&self, now: impl Fn() -> Duration) -> bool {
        let is_time_to_look = self.looks.is_multiple_of(LOOKS_PER_CLOCK) && self.looks < LOOKS_PER_TURN_MAX;
        self.looks == 0 || self.ends == 0 || (is_time_to_look && now() >= self.until)
    }
}

/// What a sweep works on.
pub(crate) struct Swept<'a, I: Io> {
    pub(crate) streams: &'a mut Streams,
    pub(crate) denials: &'a mut Denials,
    pub(crate) transport: &'a mut Transport<I>,
    pub(crate) hub: &'a mut Hub,
    pub(crate) node: &'a mut Node,
}

impl Sweeps {
    /// Continues the sweeps within a turn's budget. Returns the requests whose sweeps are finished, and how many
    /// streams each has ended.
    pub(crate) fn sweep<I: Io>(&mut self, mut swept: Swept<'_, I>) -> Vec<(Asker, usize)> {
        let mut finished = Vec::new();
        if self.is_empty() {
            return finished;
        }
        let until = swept.transport.now() + SWEEPING_PER_TURN_MAX;
        let mut budget = Budget { looks: LOOKS_PER_TURN_MAX, ends: ENDS_PER_TURN_MAX, until };
        while let Some(mut sweep) = self.waiting.pop_front() {
            let is_crowded = self.waiting.len() >= SWEEPS_MAX;
            while sweep.next_slot < swept.transport.slots_end() {
                if !is_crowded && budget.is_spent(|| swept.transport.now()) {
                    self.waiting.push_front(sweep);
                    return finished;
                }
                budget.looks = budget.looks.saturating_sub(1);
                let ends = swept.look_at(sweep.next_slot as u32, &sweep.purpose);
                budget.ends = budget.ends.saturating_sub(usize::from(ends));
                sweep.ended += usize::from(ends);
                sweep.next_slot += 1;
            }
            finished.extend(sweep.finish(swept.node));
        }
        finished
    }
}

impl<I: Io> Swept<'_, I> {
    /// Ends the stream of this slot if that is the sweep's purpose; true if it did.
    fn look_at(&mut self, slot: u32, purpose: &Purpose) -> bool {
        if self.transport.stream(slot).is_none() {
            return false;
        }
        match purpose {
            Purpose::Review if self.may_stay(slot) => return false,
            Purpose::Review => self.end(slot, encoder::REVOKED, CloseReason::Revoked),
            Purpose::Disconnect { disconnect, holder, .. } => {
                if !self.is_meant(slot, disconnect, *holder) {
                    return false;
                }
                let identity = self.streams.credentials.get(slot).and_then(Credential::identity);
                if let (Some(name), Some(identity), Some(_)) = (*holder, identity, disconnect.denied()) {
                    self.denials.note_ended(name, identity, disconnect.asked_at_s);
                }
                self.end(slot, encoder::DISCONNECTED, CloseReason::Disconnected);
            }
        }
        true
    }

    fn end(&mut self, slot: u32, last_frame: &'static [u8], reason: CloseReason) {
        self.streams.end_stream(slot, Frame::from(last_frame), reason, self.transport, self.hub, self.node);
    }

    /// True if this stream would be admitted under the settings in force.
    fn may_stay(&self, slot: u32) -> bool {
        let Settings { jwt, operators, .. } = &self.node.settings;
        let takes_no_token = |topic: &Topic| {
            topic.is_reserved() || jwt.as_ref().is_none_or(|jwt| jwt.public_topics.cover(topic.as_str()))
        };
        let Some(credential) = self.streams.credentials.get(slot) else {
            let is_admin = self.transport.at(slot).flags.has(Flags::ADMIN);
            return is_admin || self.hub.topics_of(Subscriber(slot)).all(takes_no_token);
        };
        let is_accepted = match &credential.shown {
            Shown::Operator(digest) => operators.holds(**digest),
            Shown::Jwt(identity) => jwt.as_ref().is_some_and(|jwt| jwt.verifier.accepts(identity)),
        };
        is_accepted && credential.unnamed().iter().all(takes_no_token)
    }

    /// True if every field that an operator gave matches this stream.
    fn is_meant(&self, slot: u32, disconnect: &Disconnect, holder: Option<TokenName>) -> bool {
        let identity = || self.streams.credentials.get(slot).and_then(Credential::identity);
        let is_holders = |name: TokenName| identity().is_some_and(|identity| identity.is_called(name));
        let peer: CompactPeer = self.transport.at(slot).peer;
        let is_from = |network: &ipnet::IpNet| peer.ip().is_some_and(|ip| network.contains(&ip));
        let has_topic = |topic: &Topic| self.hub.topics_of(Subscriber(slot)).any(|other| other == topic);
        holder.is_none_or(is_holders)
            && disconnect.network.as_ref().is_none_or(is_from)
            && disconnect.topic.as_ref().is_none_or(has_topic)
    }
}

impl Sweep {
    /// Logs its result. Returns the request it belongs to, with how many streams it ended.
    fn finish(self, node: &Node) -> Option<(Asker, usize)> {
        let index = (node.member.loop_count() > 1).then(|| node.member.index());
        let Sweep { purpose, ended, .. } = self;
        match purpose {
            Purpose::Review => {
                tracing::info!(ended, r#loop = index, "reviewed all streams under the new settings");
                None
            }
            Purpose::Disconnect { disconnect, asked_by, .. } => {
                let topic = disconnect.topic.as_ref().map(|topic| clip(topic.as_str()));
                let network = disconnect.network.map(tracing::field::display);
                let by = disconnect.holder.as_ref().map(|holder| match holder {
                    Holder::Subject(_) => "subject",
                    Holder::TokenId(_) => "token_id",
                });
                let topic = topic.as_deref();
                tracing::info!(ended, by, topic, network, r#loop = index, "disconnected streams for an operator");
                asked_by.map(|asker| (asker, ended))
            }
        }
    }
}

/// A holder's name, in the form that streams store.
pub(crate) fn token_name(holder: &Holder) -> TokenName {
    match holder {
        Holder::Subject(name) => TokenName::Subject(Digest::of(name)),
        Holder::TokenId(id) => TokenName::Id(Digest::of(id)),
    }
}
