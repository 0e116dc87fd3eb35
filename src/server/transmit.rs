//! Sending to one connection: what is half written first, then what its subscriber gets next, in one run.
//!
//! Every byte goes through here or through a walk (`deliver`); both record what the kernel took the same way.

use std::time::Duration;

use super::Server;
use super::connection::{Flags, Phase};
use super::slow::{self, Fate, Lag};
use super::wheel::Tick;
use crate::event::{EventId, Frame, Topic};
use crate::hub::{Hub, MissedGap, Owed, Run, RunLimits, Subscriber};
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
    /// When its socket was last writable after it had been full; none: it has not been since.
    pub(super) writable_at: Option<Duration>,
    /// What its topics had forgotten before it could be sent.
    pub(super) owed: Option<Owed>,
}

impl Laggard {
    pub(super) fn new(unsent: Vec<Frame>, now: Duration) -> Laggard {
        Laggard { unsent, offset: 0, has_begun_event: false, progress_at: now, writable_at: None, owed: None }
    }

    /// Queues a frame that no log will supply again.
    pub(super) fn push(&mut self, frame: Frame) {
        self.unsent.push(frame);
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

impl<I: Io> Server<I> {
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
        let fate = match reach == Reach::Logs && matches!(connection.phase, Phase::Streaming) {
            true => Some(self.fate(slot, &laggard)),
            false => None,
        };
        match fate {
            Some(Fate::Close(reason)) => {
                self.close(slot, reason);
                return true;
            }
            Some(Fate::Gap) => {
                laggard.owed.get_or_insert_default().through = self.hub.lost_through(Subscriber(slot));
            }
            Some(Fate::Keep | Fate::Skip) | None => {}
        }
        let mut run = std::mem::take(&mut self.scratch.run);
        self.build(slot, &laggard, fate, &mut run);
        if run.is_empty() {
            self.connections[slot as usize].delivered_through = run.through();
            self.scratch.run = run;
            return true;
        }
        let socket = self.connections[slot as usize].socket;
        let mut outcomes = std::mem::take(&mut self.scratch.outcomes);
        self.io.send(run.frames(), laggard.offset, [socket].into_iter(), &mut outcomes);
        let sent = outcomes.pop().expect("one outcome for one target");
        self.scratch.outcomes = outcomes;
        let done = self.record_send_result(slot, laggard, &run, sent);
        run.clear();
        self.scratch.run = run;
        done
    }

    /// What becomes of a subscriber before it is sent anything.
    fn fate(&self, slot: u32, laggard: &Laggard) -> Fate {
        slow::fate(self.settings.delivery.slow_policy, Lag { is_stalled: false, ..self.lag(slot, laggard) })
    }

    /// How a subscriber is behind.
    pub(super) fn lag(&self, slot: u32, laggard: &Laggard) -> Lag {
        let connection = &self.connections[slot as usize];
        let position = connection.delivered_through;
        let owed_through = laggard.owed.as_ref().map_or(position, |owed| owed.through);
        Lag {
            is_stalled: self.now.saturating_sub(laggard.progress_at) >= self.settings.delivery.stall_timeout,
            is_evicted: self.hub.is_evicted(Subscriber(slot), position.max(owed_through)),
            is_owed: position < owed_through,
            is_by_consent: connection.flags.has(Flags::PACED),
        }
    }

    /// Puts together what goes out now; of a subscriber, `fate` says how it goes on.
    fn build(&self, slot: u32, laggard: &Laggard, fate: Option<Fate>, run: &mut Run) {
        let (connection, subscriber) = (&self.connections[slot as usize], Subscriber(slot));
        let after = connection.delivered_through;
        let format = |gap: &MissedGap| gap_frame(&self.hub, gap);
        run.clear();
        laggard.unsent.iter().for_each(|frame| run.push_unlogged(frame.clone(), after));
        match (fate, &laggard.owed) {
            (None, _) => run.end_at(after),
            (Some(Fate::Skip), _) => self.hub.run_of_skip(subscriber, after, format, run),
            (_, owed) if connection.flags.has(Flags::LATEST) => {
                let owed = owed.clone().unwrap_or_default();
                self.hub.latest_run_for(subscriber, after, &owed, format, RUN_LIMITS, run);
            }
            (_, Some(owed)) => self.hub.run_with_gaps(subscriber, after, owed, format, RUN_LIMITS, run),
            (_, None) => self.hub.run_for(subscriber, after, self.hub.head(), RUN_LIMITS, run),
        }
    }

    /// Records what the kernel took. True: all of it, and nothing more waits.
    pub(super) fn record_send_result(&mut self, slot: u32, mut laggard: Laggard, run: &Run, sent: Sent) -> bool {
        let unlogged = laggard.unsent.len();
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
        let begun = begun(run.frames(), laggard.offset + taken);
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
        let position = connection.delivered_through;
        laggard.owed.take_if(|owed| owed.through <= position);
        self.count_delivered(&mut laggard, run, &begun);
        laggard.unsent.drain(..begun.whole.min(unlogged));
        if begun.whole >= unlogged && begun.offset > 0 {
            laggard.unsent.push(run.frames()[begun.whole].clone());
            laggard.has_begun_event = run.gaps_among(begun.whole..begun.count).next().is_none();
        }
        laggard.offset = begun.offset;
        if begun.all {
            if laggard.owed.is_some() {
                self.laggards.insert(slot, laggard);
            }
            return run.is_complete();
        }
        self.connections[slot as usize].flags.set(Flags::BLOCKED);
        self.counters.short_sends += 1;
        self.laggards.insert(slot, laggard);
        false
    }

    /// Counts the events that are through, and the gaps that are begun.
    fn count_delivered(&mut self, laggard: &mut Laggard, run: &Run, begun: &Begun) {
        let unlogged = laggard.unsent.len();
        run.gaps_among(unlogged..begun.count).for_each(|reason| self.counters.gaps.count(reason.as_str()));
        let finished = usize::from(laggard.has_begun_event && begun.whole > 0);
        laggard.has_begun_event &= finished == 0;
        let whole = begun.whole.saturating_sub(unlogged) - run.gaps_among(unlogged..begun.whole).count();
        self.counters.delivered_events += (whole + finished) as u64;
    }
}

/// A gap as an event of its own.
pub(super) fn gap_frame(hub: &Hub, gap: &MissedGap) -> Frame {
    let topics: Vec<_> = gap.topics.iter().map(Topic::as_str).collect();
    let id = hub.run().id(gap.at);
    encoder::gap(&id, gap.reason.as_str(), &topics, gap.last_id.as_ref().map(EventId::as_str))
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
