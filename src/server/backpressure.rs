//! Backpressure on sources: the next event stays in the channel while its log would evict what subscribers still need.
//!
//! The server waits for two kinds of subscribers. A walk in progress has not visited the first kind yet; that takes
//! milliseconds. The second kind is behind although it keeps reading: a burst is larger than the log, and the network
//! is the limit. The server waits for these while they are most of the topic's subscribers, however long the burst is,
//! and a moment longer for the last of them. Subscribers that stopped reading, or read a byte now and then, do not
//! count, however many they are: eviction handles them. Streams that have not caught up since they began do not count
//! either: a replay delays no live event.
//!
//! Every wait has a bound. A subscriber counts as reading only while its socket was writable again a moment ago, so the
//! wait ends when there is no progress. A source that sees no progress drops its event and leaves a gap in its place.

use std::collections::HashMap;
use std::time::Duration;

use super::transport::Transport;
use super::transport::connection::{Flags, StreamMode};
use crate::event::Sequence;
use crate::hub::{Hub, Subscriber, TopicKey};
use crate::io::Io;

/// Subscribers of a topic that are examined: enough to tell most from few, in about 50 us.
const SAMPLE_MAX: usize = 1024;
/// A subscriber whose full socket was writable again within this time keeps reading.
const READING_WINDOW: Duration = Duration::from_secs(2);
/// How long a subscriber whose socket has just become full counts as reading: until then it had taken everything.
const FIRST_BLOCK_GRACE: Duration = Duration::from_secs(1);
/// How long the server waits for the last ones after most have caught up.
const PATIENCE: Duration = Duration::from_secs(2);
/// Once at most one in this number is behind, the server stops waiting.
const LAST_ONES: usize = 20;

/// Whether sources wait for subscribers.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    /// This turn's results, so that each topic is examined once.
    verdicts: HashMap<TopicKey, bool>,
    /// Until then the server also waits for the last ones. One time for all topics: while events of one topic wait, those
    /// of the others wait behind them, and their subscribers are not examined.
    patient_until: Duration,
    /// True if the last event that was examined waits for subscribers that keep reading, and not only for a walk.
    waits_for_readers: bool,
}

impl Backpressure {
    /// Starts a new turn: the last results may be out of date.
    pub(super) fn look_again(&mut self) {
        self.verdicts.clear();
        self.waits_for_readers = false;
    }

    pub(super) fn waits_for_readers(&self) -> bool {
        self.waits_for_readers
    }

    /// True when an event of `frame_bytes` has to wait before it is appended to the log of `topic`.
    pub(super) fn must_wait<I: Io>(
        &mut self,
        topic: Option<TopicKey>,
        frame_bytes: usize,
        transport: &Transport<I>,
        hub: &Hub,
        now: Duration,
    ) -> bool {
        let on_topic = topic.and_then(|topic| hub.pressure_on_topic(topic, frame_bytes));
        let on_all = hub.pressures_on_all(frame_bytes);
        on_topic.into_iter().chain(on_all).any(|pressure| {
            hub.is_walk_behind(pressure) || self.must_wait_for_readers(pressure.topic, transport, hub, now)
        })
    }

    fn must_wait_for_readers<I: Io>(
        &mut self,
        topic: TopicKey,
        transport: &Transport<I>,
        hub: &Hub,
        now: Duration,
    ) -> bool {
        if !transport.is_any_behind() {
            return false;
        }
        self.waits_for_readers = *self.verdicts.entry(topic).or_insert_with(|| {
            let (established, waiting) = count_waiting(topic, transport, hub, now);
            let are_most = 2 * waiting > established;
            if are_most {
                self.patient_until = now + PATIENCE;
            }
            let are_last_ones = LAST_ONES * waiting > established && now < self.patient_until;
            are_most || are_last_ones
        });
        self.waits_for_readers
    }
}

/// In a sample of the topic's subscribers: how many have caught up since they began, and how many of these are behind
/// although they keep reading.
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
    // A paced subscriber is behind on purpose.
    if stream.delivered_through >= newest || stream.mode.has(StreamMode::PACED) {
        return false;
    }
    let flags = transport.at(slot).flags;
    if !flags.has(Flags::BLOCKED) {
        // Its socket has room. Outside the queue a walk visits it, and the server waits for walks anyway.
        return flags.has(Flags::CATCHING_UP);
    }
    transport.outbox(slot).is_some_and(|outbox| match outbox.writable_at {
        Some(writable_at) => now.saturating_sub(writable_at) <= READING_WINDOW,
        None => now.saturating_sub(outbox.progress_at) <= FIRST_BLOCK_GRACE,
    })
}
