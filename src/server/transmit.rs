//! Sending to one connection: what is half written first, then what its subscriber gets next, in one run.
//!
//! Every byte goes through here or through a walk (`deliver`); both settle what the kernel took the same way.

use std::time::Duration;

use super::connection::{Flags, Phase};
use super::settings::SlowPolicy;
use super::wheel::Tick;
use super::{CloseReason, Server};
use crate::event::{EventId, Frame, Sequence, Topic};
use crate::hub::{MissedGap, MissedReason, Run, RunLimits, Subscriber};
use crate::io::{FRAMES_PER_SEND_MAX, Io, Sent};
use crate::protocol::encoder;

/// What one connection is sent at once: about what its send buffer takes.
pub(super) const RUN_LIMITS: RunLimits = RunLimits { frames_max: FRAMES_PER_SEND_MAX / 2, bytes_max: 64 << 10 };

/// What a transmission may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Only what no log will supply again.
    Unsent,
    /// Also what the subscriber gets next from its topics' logs.
    Logs,
}

/// What a connection needs that has something half written, or a gap coming.
#[derive(Debug)]
pub(super) struct Laggard {
    /// Frames that no log will supply again; the first one from `offset` on.
    unsent: Vec<Frame>,
    offset: usize,
    /// That first one is an event from a log: it counts as delivered once it is through.
    has_begun_event: bool,
    /// When the kernel last took a byte.
    pub(super) progress_at: Duration,
    pub(super) gap: Option<DueGap>,
}

/// A gap that is told once everything remembered from before it is sent.
#[derive(Debug)]
pub(super) struct DueGap {
    at: Sequence,
    /// None: nothing is told, but what is evicted through `at` is no surprise.
    told: Option<(MissedGap, Frame)>,
}

impl Laggard {
    pub(super) fn new(unsent: Vec<Frame>, now: Duration) -> Laggard {
        Laggard { unsent, offset: 0, has_begun_event: false, progress_at: now, gap: None }
    }

    /// Queues a frame that no log will supply again.
    pub(super) fn push(&mut self, frame: Frame) {
        self.unsent.push(frame);
    }

    /// True while a gap is to be told.
    pub(super) fn owes_gap(&self) -> bool {
        self.gap.as_ref().is_some_and(|gap| gap.told.is_some())
    }

    /// Bytes that it holds back from being forgotten.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent.iter().map(Frame::len).sum::<usize>() - self.offset
    }

    /// The frames that it holds back from being forgotten.
    pub(super) fn unsent(&self) -> &[Frame] {
        &self.unsent
    }
}

impl DueGap {
    /// Nothing to be told: the past before `at` was not asked for, or is known to be incomplete.
    pub(super) fn silent(at: Sequence) -> DueGap {
        DueGap { at, told: None }
    }
}

impl<I: Io> Server<I> {
    /// The gap as an event of its own.
    pub(super) fn due_gap(&mut self, missed: MissedGap) -> DueGap {
        self.counters.gaps.count(missed.reason.as_str());
        self.gap_of(missed)
    }

    fn gap_of(&self, missed: MissedGap) -> DueGap {
        let topics: Vec<_> = missed.topics.iter().map(Topic::as_str).collect();
        let id = self.hub.run().id(missed.at);
        let last_id = missed.last_id.as_ref().map(EventId::as_str);
        let frame = encoder::gap(&id, missed.reason.as_str(), &topics, last_id);
        DueGap { at: missed.at, told: Some((missed, frame)) }
    }

    /// Queues a frame behind whatever is half written, and sends what can be sent.
    pub(super) fn say(&mut self, slot: u32, frame: Frame) {
        let mut laggard = self.laggards.remove(&slot).unwrap_or_else(|| Laggard::new(Vec::new(), self.now));
        laggard.push(frame);
        self.transmit_with(slot, laggard, Reach::Unsent);
    }

    /// Sends what a connection is behind with; its laggard, if it has one, tells what.
    pub(super) fn transmit(&mut self, slot: u32) -> bool {
        let laggard = self.laggards.remove(&slot).unwrap_or_else(|| Laggard::new(Vec::new(), self.now));
        self.transmit_with(slot, laggard, Reach::Logs)
    }

    /// Sends as much as fits one run. True: nothing more waits, neither here nor for the socket.
    pub(super) fn transmit_with(&mut self, slot: u32, mut laggard: Laggard, reach: Reach) -> bool {
        let connection = &self.connections[slot as usize];
        if connection.flags.has(Flags::BLOCKED) {
            self.counters.skipped_blocked += 1;
            self.laggards.insert(slot, laggard);
            return false;
        }
        let streaming = reach == Reach::Logs && matches!(connection.phase, Phase::Streaming);
        if streaming && !self.excuse_eviction(slot, &mut laggard) {
            self.close(slot, CloseReason::Evicted);
            return true;
        }
        let mut run = std::mem::take(&mut self.scratch.run);
        let gap_index = self.build(slot, &laggard, streaming, &mut run);
        if run.is_empty() {
            self.connections[slot as usize].delivered_through = run.through();
            self.scratch.run = run;
            return true;
        }
        let socket = self.connections[slot as usize].socket;
        let mut outcomes = std::mem::take(&mut self.scratch.outcomes);
        self.io.send(run.frames(), laggard.offset, &[socket], &mut outcomes);
        let sent = outcomes.pop().expect("one outcome for one target");
        self.scratch.outcomes = outcomes;
        let done = self.settle(slot, laggard, &run, gap_index, sent);
        run.clear();
        self.scratch.run = run;
        done
    }

    /// Puts together what goes out now; tells where in it the gap stands, if it is due within it.
    fn build(&self, slot: u32, laggard: &Laggard, streaming: bool, run: &mut Run) -> Option<usize> {
        let (connection, subscriber) = (&self.connections[slot as usize], Subscriber(slot));
        let (after, head) = (connection.delivered_through, self.hub.head());
        run.clear();
        laggard.unsent.iter().for_each(|frame| run.push_unlogged(frame.clone(), after));
        if !streaming {
            run.end_at(after);
            return None;
        }
        if connection.flags.has(Flags::LATEST) {
            self.hub.latest_run_for(subscriber, after, RUN_LIMITS, run);
            return None;
        }
        let Some(gap) = &laggard.gap else {
            self.hub.run_for(subscriber, after, head, RUN_LIMITS, run);
            return None;
        };
        self.hub.run_for(subscriber, after, gap.at.max(after), RUN_LIMITS, run);
        if !run.is_complete() {
            return None;
        }
        let gap_index = run.frames().len();
        if let Some((_, frame)) = &gap.told {
            run.push_unlogged(frame.clone(), gap.at.max(after));
        }
        self.hub.run_for(subscriber, gap.at.max(after), head, RUN_LIMITS, run);
        Some(gap_index)
    }

    /// Notes what the kernel took. True: all of it, and nothing more waits.
    pub(super) fn settle(
        &mut self,
        slot: u32,
        mut laggard: Laggard,
        run: &Run,
        gap_index: Option<usize>,
        sent: Sent,
    ) -> bool {
        let unlogged = laggard.unsent.len();
        let skipped = laggard.offset;
        let taken = match sent {
            Sent::Bytes(taken) => taken,
            Sent::WouldBlock => 0,
            Sent::Gone(gone) => {
                self.close(slot, gone.into());
                return true;
            }
        };
        self.counters.sends += 1;
        self.counters.sent_bytes += taken as u64;
        let begun = begun(run.frames(), skipped + taken);
        let connection = &mut self.connections[slot as usize];
        if taken > 0 {
            laggard.progress_at = self.now;
            if matches!(connection.phase, Phase::Streaming) {
                connection.since = Tick::of(self.now);
            }
        }
        if begun.all {
            connection.delivered_through = run.through();
        } else if begun.count > unlogged {
            connection.delivered_through = run.position(begun.count - 1);
        }
        if gap_index.is_some_and(|index| begun.all || begun.count > index) {
            laggard.gap = None;
        }
        let finished = usize::from(laggard.has_begun_event && begun.whole > 0);
        laggard.has_begun_event &= finished == 0;
        self.counters.delivered_events += (begun.whole.saturating_sub(unlogged) + finished) as u64;
        laggard.unsent.drain(..begun.whole.min(unlogged));
        if begun.whole >= unlogged && begun.offset > 0 {
            laggard.unsent.push(run.frames()[begun.whole].clone());
            laggard.has_begun_event = true;
        }
        laggard.offset = begun.offset;
        if begun.all {
            if laggard.gap.is_some() {
                self.laggards.insert(slot, laggard);
            }
            return run.is_complete();
        }
        connection.flags.set(Flags::BLOCKED);
        self.counters.short_sends += 1;
        self.laggards.insert(slot, laggard);
        false
    }

    /// A subscriber whose next event is forgotten is moved on, with a gap; false when the policy is to close it.
    fn excuse_eviction(&mut self, slot: u32, laggard: &mut Laggard) -> bool {
        let (subscriber, flags) = (Subscriber(slot), self.connections[slot as usize].flags);
        let position = self.connections[slot as usize].delivered_through;
        let excused = laggard.gap.as_ref().map_or(position, |gap| gap.at.max(position));
        if flags.has(Flags::LATEST) || !self.hub.is_evicted(subscriber, excused) {
            self.widen_gap(subscriber, position, laggard);
            return true;
        }
        let pending = laggard.gap.take();
        // Whoever was skipped to the newest, and has not even heard so, is skipped again: what is between is not sent.
        let was_skipped = |(missed, _): &(MissedGap, Frame)| missed.reason == MissedReason::TooSlow;
        let may_skip = pending.as_ref().is_none_or(|gap| gap.told.as_ref().is_some_and(was_skipped));
        let missed = if self.settings.delivery.slow_policy == SlowPolicy::Skip && !flags.has(Flags::PACED) && may_skip {
            let missed = self.hub.missed_through_head(subscriber);
            self.connections[slot as usize].delivered_through = missed.at;
            Some(missed)
        } else if flags.has(Flags::PACED) || pending.is_some() {
            // Behind by consent, or still waiting to hear of an older loss: one gap at the newer place says both.
            self.hub.missed_since(subscriber, position, MissedReason::Evicted, None)
        } else {
            return false;
        };
        let told = pending.and_then(|gap| gap.told);
        laggard.gap = missed.map(|missed| match told {
            None => self.due_gap(missed),
            Some((older, _)) => self.gap_of(missed.with(older)),
        });
        true
    }

    /// What is forgotten in front of a gap that is still to be told is missing with it: it names those topics, too.
    fn widen_gap(&self, subscriber: Subscriber, position: Sequence, laggard: &mut Laggard) {
        let Some(DueGap { at, told: Some((told, _)) }) = &laggard.gap else { return };
        let Some(missed) = self.hub.missed_since(subscriber, position, told.reason, None) else { return };
        if missed.topics.iter().any(|topic| !told.topics.contains(topic)) {
            laggard.gap = Some(self.gap_of(MissedGap { at: *at, ..missed }.with(told.clone())));
        }
    }
}

/// How far into some frames a number of bytes reaches.
#[derive(Debug, PartialEq, Eq)]
struct Begun {
    /// Frames that are through.
    whole: usize,
    /// Frames of which at least a byte is through.
    count: usize,
    /// Bytes through of the one that is not whole.
    offset: usize,
    all: bool,
}

fn begun(frames: &[Frame], bytes: usize) -> Begun {
    let mut rest = bytes;
    let mut whole = 0;
    while let Some(frame) = frames.get(whole)
        && frame.len() <= rest
    {
        rest -= frame.len();
        whole += 1;
    }
    Begun { whole, count: whole + usize::from(rest > 0), offset: rest, all: whole == frames.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begun_tells_whole_frames_from_the_one_in_progress() {
        let frames = ["ab", "c", "def"].map(|text| Frame::from(text.as_bytes()));
        let check = |bytes, whole, count, offset| {
            assert_eq!(begun(&frames, bytes), Begun { whole, count, offset, all: bytes == 6 }, "{bytes}");
        };
        check(0, 0, 0, 0);
        check(1, 0, 1, 1);
        check(2, 1, 1, 0);
        check(3, 2, 2, 0);
        check(5, 2, 3, 2);
        check(6, 3, 3, 0);
    }
}
