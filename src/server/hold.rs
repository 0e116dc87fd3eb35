//! Holding sources back: the next event stays in the channel while its log would forget what subscribers still need.
//!
//! Two kinds of subscribers are waited for. A walk in progress has not visited them yet; that takes milliseconds. Or they
//! are behind although they keep reading: a burst is larger than the log, and the network is the limit. Those are waited
//! for while they are most of the topic's subscribers, however long the burst is. Subscribers that stopped reading, or
//! read a byte now and then, count for nothing here, however many they are: eviction is for them.
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
/// How long a subscriber whose socket has just become full counts as reading: about a round trip round the world.
const FIRST_BLOCK_GRACE: Duration = Duration::from_millis(300);

/// What was found of a topic in this turn, so that it is looked at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    topic: TopicKey,
    holds: bool,
}

impl<I: Io> Server<I> {
    /// True while sources wait for subscribers that keep reading.
    pub fn is_holding(&self) -> bool {
        self.held.is_some() && !self.hub.is_walking()
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
        if let Some(verdict) = self.hold_verdict.filter(|verdict| verdict.topic == topic) {
            return verdict.holds;
        }
        let holds = self.are_most_reading_and_behind(topic);
        self.hold_verdict = Some(Verdict { topic, holds });
        holds
    }

    fn are_most_reading_and_behind(&self, topic: TopicKey) -> bool {
        let newest = self.hub.newest_of(topic);
        let (mut sampled, mut waiting) = (0, 0);
        for Subscriber(slot) in self.hub.sample(topic, SAMPLE_MAX) {
            sampled += 1;
            waiting += usize::from(self.is_reading_and_behind(slot, newest));
        }
        2 * waiting > sampled
    }

    fn is_reading_and_behind(&self, slot: u32, newest: Sequence) -> bool {
        let connection = &self.connections[slot as usize];
        let is_behind = matches!(connection.phase, Phase::Streaming) && connection.delivered_through < newest;
        // A paced subscriber is behind by its own wish.
        if !is_behind || connection.flags.has(Flags::PACED) {
            return false;
        }
        if !connection.flags.has(Flags::BLOCKED) {
            return true;
        }
        self.laggards.get(&slot).is_some_and(|laggard| match laggard.writable_at {
            Some(writable_at) => self.now.saturating_sub(writable_at) <= READING_WINDOW,
            None => self.now.saturating_sub(laggard.progress_at) <= FIRST_BLOCK_GRACE,
        })
    }
}
