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

use super::transport::Transport;
use super::transport::connection::{Flags, StreamMode};
use crate::event::Sequence;
use crate::hub::{Hub, Pressure, Subscriber, TopicKey};
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

    /// True if subscribers that keep reading were found to be waited for.
    pub(super) fn is_holding(&self) -> bool {
        self.verdict == Some(true)
    }

    /// True when an event of `frame_bytes` has to wait before it is appended to the log of `topic`.
    pub(super) fn must_hold<I: Io>(
        hold: &mut Option<Hold>,
        topic: Option<TopicKey>,
        frame_bytes: usize,
        transport: &Transport<I>,
        hub: &Hub,
        now: Duration,
    ) -> bool {
        let on_topic = topic.and_then(|topic| hub.pressure_on_topic(topic, frame_bytes));
        let on_all = hub.pressure_on_all(frame_bytes);
        on_topic.into_iter().chain(on_all).any(|pressure| Hold::holds(hold, pressure, transport, hub, now))
    }

    fn holds<I: Io>(
        held: &mut Option<Hold>,
        pressure: Pressure,
        transport: &Transport<I>,
        hub: &Hub,
        now: Duration,
    ) -> bool {
        if hub.is_walk_behind(pressure) {
            return true;
        }
        if !transport.is_any_behind() {
            return false;
        }
        let topic = pressure.topic;
        let hold = held.filter(|hold| hold.topic == topic);
        if let Some(verdict) = hold.and_then(|hold| hold.verdict) {
            return verdict;
        }
        let (established, waiting) = count_waiting(topic, transport, hub, now);
        let are_most = 2 * waiting > established;
        let patient_until = match hold {
            _ if are_most => now + PATIENCE,
            Some(hold) => hold.patient_until,
            None => Duration::ZERO,
        };
        let are_last_ones = LAST_ONES * waiting > established && now < patient_until;
        let verdict = are_most || are_last_ones;
        *held = Some(Hold { topic, verdict: Some(verdict), patient_until });
        verdict
    }
}

/// Of a sample of the topic's subscribers: how many have caught up since they began, and how many of those are behind
/// though they keep reading.
fn count_waiting<I: Io>(topic: TopicKey, transport: &Transport<I>, hub: &Hub, now: Duration) -> (usize, usize) {
    let newest = hub.newest_of(topic);
    let (mut established, mut waiting) = (0, 0);
    for Subscriber(slot) in hub.sample(topic, SAMPLE_MAX) {
        if transport.stream(slot).is_none_or(|stream| !stream.mode.has(StreamMode::REPLAYING)) {
            established += 1;
            waiting += usize::from(is_reading_and_behind(slot, newest, transport, now));
        }
    }
    (established, waiting)
}

fn is_reading_and_behind<I: Io>(slot: u32, newest: Sequence, transport: &Transport<I>, now: Duration) -> bool {
    let Some(stream) = transport.stream(slot) else { return false };
    // A paced subscriber is behind by its own wish.
    if stream.delivered_through >= newest || stream.mode.has(StreamMode::PACED) {
        return false;
    }
    let flags = transport.at(slot).flags;
    if !flags.has(Flags::BLOCKED) {
        // Its socket has room. Without a place in the queue a walk will come by, and that is waited for anyway.
        return flags.has(Flags::CATCHING_UP);
    }
    transport.outbox(slot).is_some_and(|outbox| match outbox.writable_at {
        Some(writable_at) => now.saturating_sub(writable_at) <= READING_WINDOW,
        None => now.saturating_sub(outbox.progress_at) <= FIRST_BLOCK_GRACE,
    })
}
