//! The lanes: the ways from a sender of events into the channels of all loops.
//!
//! A sender waits while a loop has no room, as long as that loop makes progress. A loop that stands for longer than
//! [`WAIT_MAX`] is given up until it goes on and has room: what is sent meanwhile reaches the others, and its own subscribers get a
//! gap in its place.
//!
//! Invariants: each lane keeps the order. A gap for what a lane lacks stands at the place of the last event that it lacks,
//! so that a client is due it wherever it resumed before. Absent: who numbers and formats, and who may not wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{Broadcast, EventId, Sequence, Topic};
use crate::sources::channel::{Gap, GapReason, GapScope, LostTopics, Message, Outlet};

/// How long a sender waits for room in a loop that makes no progress. Longer than a loop waits for subscribers that no longer
/// read, and than any of its turns.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(8);

/// The lanes into all loops.
pub(super) struct Lanes(Vec<Lane>);

struct Lane {
    outlet: Outlet,
    /// Set when it had no room for something, until its loop makes progress.
    full: Option<Full>,
    is_given_up: bool,
    /// What it lacks since the last message that it got, if its loop has not read the gap for that.
    lost: Option<Arc<LostTopics>>,
}

/// A lane that had no room.
struct Full {
    /// When its loop was last seen to make progress.
    since: Instant,
    /// The loop's progress at that time.
    progress: u64,
}

impl Lanes {
    pub(super) fn new(outlets: Vec<Outlet>) -> Lanes {
        let lane = |outlet| Lane { outlet, full: None, is_given_up: false, lost: None };
        Lanes(outlets.into_iter().map(lane).collect())
    }

    pub(super) fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.0.iter().map(|lane| &lane.outlet)
    }

    /// True when these broadcasts may be pushed now: every loop has room for them, or is given up.
    pub(super) fn admits(&mut self, messages: usize, bytes: usize) -> bool {
        self.all(|outlet| outlet.has_room(messages, bytes))
    }

    /// True when at least one loop gets what was admitted.
    pub(super) fn has_taker(&self) -> bool {
        self.0.iter().any(|lane| !lane.is_given_up)
    }

    /// The same as [`Lanes::admits`] for a gap, of a sender that may wait.
    pub(super) fn admits_gap(&mut self) -> bool {
        self.all(Outlet::has_room_for_gap)
    }

    /// Looks at every lane, so that each has its own time.
    fn all(&mut self, has_room: impl Fn(&Outlet) -> bool) -> bool {
        let waiting = self.0.iter_mut().filter_map(|lane| (!lane.check(&has_room)).then_some(()));
        waiting.count() == 0
    }

    /// Enqueues a broadcast that was admitted; `id` is that of its place. False: a loop has dropped it. Call
    /// [`Lanes::wake`] after the last one.
    pub(super) fn push(&mut self, broadcast: Broadcast, id: impl Fn() -> EventId) -> bool {
        // Before any loop can read it.
        self.0.iter().for_each(|lane| lane.outlet.note_issued(broadcast.sequence));
        let mut is_in_all = true;
        if let [others @ .., last] = &mut self.0[..] {
            for lane in others {
                is_in_all &= lane.push(broadcast.clone(), &id);
            }
            is_in_all &= last.push(broadcast, &id);
        }
        is_in_all
    }

    /// Enqueues a gap that was admitted.
    pub(super) fn push_gap(&mut self, gap: &Gap) {
        self.note_issued(gap.sequence);
        for lane in &mut self.0 {
            match lane.is_given_up {
                true => lane.lose(None, gap.sequence, || gap.id.clone()),
                false => lane.send(Message::Gap(gap.clone())),
            }
        }
    }

    /// Enqueues a gap, whatever there is room for.
    pub(super) fn announce(&mut self, gap: &Gap) {
        self.note_issued(gap.sequence);
        self.send_to_all(&Message::Gap(gap.clone()));
        self.wake();
    }

    /// Enqueues a message for which there is always room.
    pub(super) fn send_to_all(&mut self, message: &Message) {
        self.0.iter_mut().for_each(|lane| lane.send(message.clone()));
    }

    /// Wakes all loops.
    pub(super) fn wake(&self) {
        self.outlets().for_each(Outlet::wake);
    }

    fn note_issued(&self, sequence: Sequence) {
        self.outlets().for_each(|outlet| outlet.note_issued(sequence));
    }
}

impl Lane {
    /// True when a sender need not wait for this lane.
    fn check(&mut self, has_room: impl Fn(&Outlet) -> bool) -> bool {
        // First: if the loop reads on between the two, the lane has room and is forgotten to have had none.
        let progress = self.outlet.progress();
        self.full.take_if(|full| full.progress != progress);
        self.is_given_up &= self.full.is_some();
        if self.is_given_up || has_room(&self.outlet) {
            return true;
        }
        let full = self.full.get_or_insert_with(|| Full { since: Instant::now(), progress });
        self.is_given_up = full.since.elapsed() >= WAIT_MAX;
        self.is_given_up
    }

    fn push(&mut self, broadcast: Broadcast, id: impl Fn() -> EventId) -> bool {
        if self.is_given_up {
            self.lose(Some(&broadcast.topic), broadcast.sequence, id);
            return false;
        }
        self.send(Message::Broadcast(broadcast));
        true
    }

    fn send(&mut self, message: Message) {
        // What is lost later comes after this message and needs a gap of its own.
        self.lost = None;
        self.outlet.push(message);
    }

    /// Records a loss at its place; the first one sends the gap for it and those that follow.
    fn lose(&mut self, topic: Option<&Topic>, sequence: Sequence, id: impl Fn() -> EventId) {
        if self.lost.as_ref().is_some_and(|lost| lost.add_at(topic, sequence, id())) {
            return;
        }
        let lost = Arc::new(LostTopics::default());
        let is_open = lost.add_at(topic, sequence, id());
        debug_assert!(is_open, "no loop can have read a gap that is not announced yet");
        let scope = GapScope::Topics(Arc::clone(&lost));
        self.send(Message::Gap(Gap { sequence, id: id(), reason: GapReason::ChannelFull, scope }));
        self.lost = Some(lost);
    }
}
