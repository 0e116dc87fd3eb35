//! The sequencer: the one place that gives an event its place in the order.
//!
//! It numbers, names (where the source has no id), formats once and enqueues to every loop, all under one lock, so
//! that all loops agree on order and share frames. A full channel is a policy here, not an accident: a source
//! waits [`WAIT_MAX`] for room, then the event is dropped, counted, and announced as a gap at its place in the
//! order. A client's publish never waits: it is refused whole and the client told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Broadcast, Event, Frame, RunName, Sequence, Topic};
use crate::protocol::encoder;
use crate::sources::channel::{
    Accepted, Control, Gap, GapReason, GapScope, LostTopics, Message, Outlet, Publish, PublishRefusal, Ticket,
};

/// How long a source's thread waits for room before it drops.
pub const WAIT_MAX: Duration = Duration::from_millis(500);
/// How often it looks meanwhile.
const WAIT_STEP: Duration = Duration::from_millis(1);

/// Numbers, formats and enqueues. Shared by all sources' threads and the loops.
pub struct Sequencer {
    run: RunName,
    dropped: AtomicU64,
    state: Mutex<State>,
}

struct State {
    last: Sequence,
    outlets: Vec<Outlet>,
    /// The announcement of the losses since the last event that got through, and their reason.
    open_gap: Option<(GapReason, Arc<LostTopics>)>,
}

impl Sequencer {
    /// A sequencer for the loops behind `outlets`.
    pub fn new(run: RunName, outlets: Vec<Outlet>) -> Arc<Sequencer> {
        let state = State { last: Sequence::ZERO, outlets, open_gap: None };
        Arc::new(Sequencer { run, dropped: AtomicU64::new(0), state: Mutex::new(state) })
    }

    /// Takes one event from a source's thread; waits for room if it must. False: it was dropped and announced.
    pub fn publish(&self, event: &Event) -> bool {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let mut state = self.lock();
            if state.has_room(1, event.data.len()) {
                let broadcast = state.number(self.run, event);
                state.send(broadcast);
                return true;
            }
            // Who has just waited in vain need not wait again: only the first of a run of drops costs time.
            if state.is_dropping() || Instant::now() >= deadline {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                state.announce_drop(self.run, &event.topic, GapReason::ChannelFull);
                return false;
            }
            drop(state);
            std::thread::sleep(WAIT_STEP);
        }
    }

    /// Announces that events of every topic may be missing here: a source was away.
    pub fn announce_loss(&self) {
        self.lock().announce(self.run, GapReason::SourceLost, &GapScope::All);
    }

    /// Announces that a message of `topic` was refused and can't be an event.
    pub fn announce_refused(&self, topic: &Topic) {
        self.lock().announce_drop(self.run, topic, GapReason::Refused);
    }

    /// Passes on what an operator asks.
    pub fn control(&self, control: &Control) {
        self.lock().outlets.iter().for_each(|outlet| outlet.send(Message::Control(control.clone())));
    }

    /// Events dropped since the start because the channel stayed full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publish for Sequencer {
    fn publish(&self, events: Vec<Event>, _: Ticket) -> Result<Accepted, PublishRefusal> {
        let mut state = self.lock();
        if !state.has_room(events.len(), events.iter().map(|event| event.data.len()).sum()) {
            return Err(PublishRefusal::Busy);
        }
        let send = |event| {
            let broadcast = state.number(self.run, event);
            let id = broadcast.id.clone();
            state.send(broadcast);
            id
        };
        Ok(Accepted::Now(events.iter().map(send).collect()))
    }
}

impl State {
    fn has_room(&self, messages: usize, bytes: usize) -> bool {
        self.outlets.iter().all(|outlet| outlet.has_room(messages, bytes))
    }

    fn is_dropping(&self) -> bool {
        matches!(self.open_gap, Some((GapReason::ChannelFull, _)))
    }

    fn number(&mut self, run: RunName, event: &Event) -> Broadcast {
        self.last = self.last.next();
        // Ids of this run's own form would be read as positions when a client sends them back.
        let foreign = event.id.clone().filter(|id| run.position(id.as_str()).is_none());
        let id = foreign.unwrap_or_else(|| run.id(self.last));
        let frame: Frame = encoder::event(event, &id);
        Broadcast { sequence: self.last, topic: event.topic.clone(), id, frame }
    }

    fn send(&mut self, broadcast: Broadcast) {
        // What is lost from here on stands behind this event and needs an announcement of its own.
        self.open_gap = None;
        if let [others @ .., last] = &self.outlets[..] {
            others.iter().for_each(|outlet| outlet.send(Message::Broadcast(broadcast.clone())));
            last.send(Message::Broadcast(broadcast));
        }
    }

    fn announce_drop(&mut self, run: RunName, topic: &Topic, reason: GapReason) {
        if self.open_gap.as_ref().is_some_and(|(open, lost)| *open == reason && lost.add(topic)) {
            return;
        }
        let lost = Arc::new(LostTopics::default());
        let added = lost.add(topic);
        debug_assert!(added, "nobody has read a set that nobody has yet");
        self.announce(run, reason, &GapScope::Topics(Arc::clone(&lost)));
        self.open_gap = Some((reason, lost));
    }

    fn announce(&mut self, run: RunName, reason: GapReason, scope: &GapScope) {
        self.open_gap = None;
        self.last = self.last.next();
        let id = run.id(self.last);
        for outlet in &self.outlets {
            outlet.send(Message::Gap(Gap { sequence: self.last, id: id.clone(), reason, scope: scope.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::channel::{ChannelLimits, Inbox, channel};

    fn sequencer(messages_max: usize) -> (Arc<Sequencer>, Inbox) {
        let (outlet, inbox) = channel(ChannelLimits { messages_max, bytes_max: 1 << 20 }, || ());
        (Sequencer::new(RunName::from_bits(7), vec![outlet]), inbox)
    }

    fn event(topic: &str) -> Event {
        Event::message(Topic::new(topic).unwrap(), "x")
    }

    fn drain(inbox: &Inbox) -> Vec<String> {
        let describe = |message| match message {
            Message::Broadcast(broadcast) => format!("{} {}", broadcast.sequence, broadcast.topic),
            Message::Gap(Gap { sequence, scope: GapScope::All, .. }) => format!("{sequence} gap everywhere"),
            Message::Gap(Gap { sequence, scope: GapScope::Topics(lost), reason, .. }) => {
                let topics: Vec<_> = lost.seal().iter().flatten().map(Topic::to_string).collect();
                format!("{sequence} {} {}", reason.as_str(), topics.join("+"))
            }
            other => format!("{other:?}"),
        };
        std::iter::from_fn(|| inbox.next()).map(describe).collect()
    }

    #[test]
    fn drops_are_announced_once_where_they_happened() {
        let (sequencer, inbox) = sequencer(2);
        for topic in ["a", "a", "b", "c", "b"] {
            sequencer.publish(&event(topic));
        }
        assert_eq!(sequencer.dropped(), 3);
        assert_eq!(drain(&inbox), ["1 a", "2 a", "3 channel_full b+c"]);
        assert!(sequencer.publish(&event("b")));
        assert_eq!(drain(&inbox), ["4 b"]);
    }

    #[test]
    fn a_loss_behind_a_gap_that_was_read_has_a_gap_of_its_own() {
        let (sequencer, inbox) = sequencer(1);
        sequencer.announce_refused(&Topic::new("a").unwrap());
        assert_eq!(drain(&inbox), ["1 event_refused a"]);
        sequencer.announce_refused(&Topic::new("a").unwrap());
        sequencer.publish(&event("b"));
        sequencer.announce_refused(&Topic::new("a").unwrap());
        sequencer.announce_loss();
        assert_eq!(drain(&inbox), ["2 event_refused a", "3 b", "4 event_refused a", "5 gap everywhere"]);
    }

    #[test]
    fn a_batch_is_taken_whole_or_not_at_all() {
        let (sequencer, inbox) = sequencer(2);
        let batch = |n| vec![event("t"); n];
        assert_eq!(Publish::publish(&*sequencer, batch(3), Ticket(0)), Err(PublishRefusal::Busy));
        let run = RunName::from_bits(7);
        let ids = [1, 2].map(|n| run.id(Sequence(n))).to_vec();
        assert_eq!(Publish::publish(&*sequencer, batch(2), Ticket(0)), Ok(Accepted::Now(ids)));
        assert_eq!(drain(&inbox).len(), 2);
    }

    #[test]
    fn an_id_of_this_runs_own_form_is_replaced() {
        let (sequencer, inbox) = sequencer(2);
        let run = RunName::from_bits(7);
        sequencer.publish(&Event { id: Some(run.id(Sequence(99))), ..event("t") });
        let Some(Message::Broadcast(broadcast)) = inbox.next() else { panic!("one broadcast") };
        assert_eq!(broadcast.id, run.id(Sequence(1)));
    }
}
