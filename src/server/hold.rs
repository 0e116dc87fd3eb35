//! Holding sources back: the next event stays in the channel while its log would forget what subscribers still need.
//!
//! Two kinds of subscribers are waited for. A walk in progress has not visited them yet; that takes milliseconds. Or they
//! are behind although they keep reading: a burst is larger than the log, and the network is the limit. Those are waited
//! for while they are most of the topic's subscribers, however long the burst is, and a moment longer for the last of
//! them. Subscribers that stopped reading, or read a byte now and then, count for nothing here, however many they are:
//! eviction is for them. So do streams that have not caught up since they began: a replay holds up no live event.
//!
//! Nothing waits without a bound. A subscriber counts as reading only while its socket was writable again a moment ago, so
//! the wait ends when there is no progress; and a source that sees none drops its event, with a gap at its place.

use std::time::Duration;

use super::Server;
use super::connection::{Flags, Phase};
use crate::event::Sequence;
use crate::hub::{Pressure, Subscriber, TopicKey};
use crate::io::Io;

/// Subscribers of a topic that are looked at: enough to tell most from few, in about 50 us.
const SAMPLE_MAX: usize = 1024;
/// A subscriber whose full socket was writable again within this time keeps reading.
const READING_WINDOW: Duration = Duration::from_secs(2);
/// How long a subscriber whose socket has just become full counts as reading: until then it had taken everything.
const FIRST_BLOCK_GRACE: Duration = Duration::from_secs(1);
/// How long the last ones are waited for after most have caught up.
const PATIENCE: Duration = Duration::from_secs(2);
/// So few, one in so many, are not waited for any more.
const LAST_ONES: usize = 20;

/// A topic for which sources are held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    topic: TopicKey,
    /// What was found in this turn, so that a topic is looked at once.
    verdict: Option<bool>,
    /// Until then also the last ones are waited for.
    patient_until: Duration,
}

impl Hold {
    /// A new turn: what was found in the last one may have changed.
    pub(super) fn look_again(&mut self) {
        self.verdict = None;
    }
}

impl<I: Io> Server<I> {
    /// True while an event waits for subscribers that keep reading, and not only for a walk.
    pub fn is_holding(&self) -> bool {
        self.held.is_some() && self.hold.is_some_and(|hold| hold.verdict == Some(true))
    }

    /// True when an event of so many bytes has to wait before it is appended to the log of `topic`.
    pub(super) fn must_hold(&mut self, topic: Option<TopicKey>, frame_bytes: usize) -> bool {
        let on_topic = topic.and_then(|topic| self.hub.pressure_on_topic(topic, frame_bytes));
        let on_all = self.hub.pressure_on_all(frame_bytes);
        on_topic.into_iter().chain(on_all).any(|pressure| self.holds(pressure))
    }

    fn holds(&mut self, pressure: Pressure) -> bool {
        if self.hub.is_walk_behind(pressure) {
            return true;
        }
        let is_anybody_behind = !self.laggards.is_empty() || !self.catching_up.is_empty();
        if !is_anybody_behind {
            return false;
        }
        let topic = pressure.topic;
        let hold = self.hold.filter(|hold| hold.topic == topic);
        if let Some(verdict) = hold.and_then(|hold| hold.verdict) {
            return verdict;
        }
        let (established, waiting) = self.count_waiting(topic);
        let are_most = 2 * waiting > established;
        let patient_until = match hold {
            _ if are_most => self.now + PATIENCE,
            Some(hold) => hold.patient_until,
            None => Duration::ZERO,
        };
        let are_last_ones = LAST_ONES * waiting > established && self.now < patient_until;
        let verdict = are_most || are_last_ones;
        self.hold = Some(Hold { topic, verdict: Some(verdict), patient_until });
        verdict
    }

    /// Of a sample of the topic's subscribers: how many have caught up since they began, and how many of those are
    /// behind though they keep reading.
    fn count_waiting(&self, topic: TopicKey) -> (usize, usize) {
        let newest = self.hub.newest_of(topic);
        let (mut established, mut waiting) = (0, 0);
        for Subscriber(slot) in self.hub.sample(topic, SAMPLE_MAX) {
            if !self.connections[slot as usize].flags.has(Flags::REPLAYING) {
                established += 1;
                waiting += usize::from(self.is_reading_and_behind(slot, newest));
            }
        }
        (established, waiting)
    }

    fn is_reading_and_behind(&self, slot: u32, newest: Sequence) -> bool {
        let connection = &self.connections[slot as usize];
        let is_behind = matches!(connection.phase, Phase::Streaming) && connection.delivered_through < newest;
        // A paced subscriber is behind by its own wish.
        if !is_behind || connection.flags.has(Flags::PACED) {
            return false;
        }
        if !connection.flags.has(Flags::BLOCKED) {
            // Its socket has room. Without a place in the queue a walk will come by, and that is waited for anyway.
            return connection.flags.has(Flags::CATCHING_UP);
        }
        self.laggards.get(&slot).is_some_and(|laggard| match laggard.writable_at {
            Some(writable_at) => self.now.saturating_sub(writable_at) <= READING_WINDOW,
            None => self.now.saturating_sub(laggard.progress_at) <= FIRST_BLOCK_GRACE,
        })
    }
}
