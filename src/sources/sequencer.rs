//! The sequencer: the only place that gives an event its place in the order.
//!
//! It formats an event once, gives it an id (unless it was named elsewhere), numbers it and enqueues it to every loop. Numbering
//! and enqueuing happen under one lock, so that all loops agree on order and share frames. Formatting happens before, so that
//! no thread waits for the lock while a large event is formatted. The state under the lock ([`State`]) takes only [`Draft`]s,
//! which are already formatted.
//!
//! The policy for a full channel: a source waits while the loop makes progress, and for [`WAIT_MAX`] otherwise ([`Lanes`]).
//! Then the event, and all that follow until the loop goes on, are dropped for this loop, counted, and announced as a gap at the
//! place of the last one. A client's publish never
//! waits: the server refuses the whole of it and reports that to the client.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::{Broadcast, Event, Naming, RunName, Sequence, Topic, join};
use crate::protocol::encoder::Fields;
use crate::sources::channel::{
    Accepted, Control, Gap, GapReason, GapScope, LostTopics, Message, Outlet, Publish, PublishRefusal, Ticket,
};
use crate::sources::draft::Draft;
use crate::sources::lanes::Lanes;
#[cfg(doc)]
use crate::sources::lanes::WAIT_MAX;

/// How often it checks for room during the wait.
const WAIT_STEP: Duration = Duration::from_millis(1);

/// Formats, numbers and enqueues. Shared by all sources' threads and the loops.
pub struct Sequencer {
    run: RunName,
    dropped: AtomicU64,
    /// The last number, used to estimate a draft's number. Only [`State::last`] is exact.
    last_seen: AtomicU64,
    state: Mutex<State>,
}

/// Formatted events of one source that go under the lock together. When reused, it allocates only their frames.
#[derive(Debug, Default)]
pub struct Batch {
    drafts: VecDeque<Draft>,
    scratch: Vec<u8>,
}

struct State {
    run: RunName,
    /// Events are named here and numbered in the loops, where a bus gives out the order.
    is_local: bool,
    last: Sequence,
    lanes: Lanes,
    /// The announced gap for messages that were refused since the last event.
    open_gap: Option<Arc<LostTopics>>,
}

/// Why a draft can't be enqueued yet.
enum Obstacle {
    /// The next number has more digits than the draft has room for. Holds the number that the first draft gets.
    Digits(Sequence),
    /// A channel is full.
    NoRoom,
}

impl Batch {
    /// True when there is nothing to publish.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }
}

impl Sequencer {
    /// A sequencer for the loops behind `outlets`.
    pub fn new(run: RunName, outlets: Vec<Outlet>) -> Arc<Sequencer> {
        Sequencer::of(run, outlets, false)
    }

    /// A sequencer for events that don't pass through the bus whose order the loops follow. It names the events; the loop
    /// gives them a place.
    pub fn local(run: RunName, outlets: Vec<Outlet>) -> Arc<Sequencer> {
        Sequencer::of(run, outlets, true)
    }

    fn of(run: RunName, outlets: Vec<Outlet>, is_local: bool) -> Arc<Sequencer> {
        let state = State { run, is_local, last: Sequence::ZERO, lanes: Lanes::new(outlets), open_gap: None };
        Arc::new(Sequencer { run, dropped: AtomicU64::new(0), last_seen: AtomicU64::new(0), state: Mutex::new(state) })
    }

    /// Takes one event from a source's thread; waits for room if necessary. False: it was dropped and announced.
    pub fn publish(&self, event: &Event) -> bool {
        let mut batch = Batch::default();
        self.add_event(&mut batch, event);
        self.publish_all(&mut batch)
    }

    /// Formats an event and adds it to a batch.
    pub fn add(&self, batch: &mut Batch, topic: Topic, naming: Naming, fields: &Fields<'_>) {
        let expected = Sequence(self.last_seen.load(Ordering::Relaxed) + 1 + batch.drafts.len() as u64);
        let draft = Draft::new(self.run, expected, (topic, naming), fields, &mut batch.scratch);
        batch.drafts.push_back(draft);
    }

    /// Formats an event whose fields a publisher set, and adds it to a batch.
    pub fn add_event(&self, batch: &mut Batch, event: &Event) {
        self.add(batch, event.topic.clone(), Naming::Here(event.id.clone()), &event.into());
    }

    /// Formats an event that a node has passed on to all nodes, and adds it to a batch. Its id names no place in this
    /// order, whatever it says.
    pub fn add_passed_on(&self, batch: &mut Batch, event: &Event) {
        let naming = match &event.id {
            Some(id) if id.has_run() && self.run.position(id.as_str()).is_none() => Naming::Elsewhere(id.clone()),
            id => Naming::Here(id.clone()),
        };
        self.add(batch, event.topic.clone(), naming, &event.into());
    }

    /// Takes a source's batch, under one lock and with one wake, unless it must wait for room or the numbers get another
    /// digit. False: at least one event was dropped and announced.
    pub fn publish_all(&self, batch: &mut Batch) -> bool {
        let mut dropped = 0;
        loop {
            let mut state = self.lock();
            let (drops, obstacle) = state.take_while_possible(&mut batch.drafts);
            dropped += drops;
            match obstacle {
                None => {
                    self.last_seen.store(state.last.0, Ordering::Relaxed);
                    self.dropped.fetch_add(dropped, Ordering::Relaxed);
                    return dropped == 0;
                }
                Some(Obstacle::Digits(first)) => {
                    drop(state);
                    expect_from(first, &mut batch.drafts);
                }
                Some(Obstacle::NoRoom) => {
                    drop(state);
                    std::thread::sleep(WAIT_STEP);
                }
            }
        }
    }

    /// Announces that events of every topic may be missing here: a source was disconnected.
    pub fn announce_loss(&self) {
        self.lock().announce(GapReason::SourceLost, &GapScope::All);
    }

    /// Announces that a message of `topic` was refused because it can't be an event.
    pub fn announce_refused(&self, topic: &Topic) {
        self.lock().announce_refused(topic);
    }

    /// Passes an operator's request to every loop.
    pub fn control(&self, control: &Control) {
        let mut state = self.lock();
        state.lanes.send_to_all(&Message::Control(control.clone()));
        state.lanes.wake();
    }

    /// Events dropped since the start because the channel of a loop stayed full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Formats the events that a client publishes.
    fn draft(&self, events: &[Event]) -> Batch {
        let mut batch = Batch::default();
        batch.drafts.reserve(events.len());
        events.iter().for_each(|event| self.add_event(&mut batch, event));
        batch
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publish for Sequencer {
    fn publish(&self, events: Vec<Event>, _: Ticket) -> Result<Accepted, PublishRefusal> {
        let Batch { mut drafts, .. } = self.draft(&events);
        let first = loop {
            let mut state = self.lock();
            match state.take_all(&mut drafts) {
                Ok(first) => {
                    self.last_seen.store(state.last.0, Ordering::Relaxed);
                    break first;
                }
                Err(Obstacle::NoRoom) => return Err(PublishRefusal::Busy),
                Err(Obstacle::Digits(first)) => {
                    drop(state);
                    expect_from(first, &mut drafts);
                }
            }
        };
        let numbers = (first.0..).map(Sequence);
        let id = |(event, number): (Event, _)| join(self.run.id(number), event.id.as_ref());
        Ok(Accepted::Now(std::iter::zip(events, numbers).map(id).collect()))
    }
}

/// Makes drafts fit the numbers that start at `first`.
fn expect_from(first: Sequence, drafts: &mut VecDeque<Draft>) {
    for (number, draft) in std::iter::zip((first.0..).map(Sequence), drafts) {
        if !draft.fits(number) {
            draft.expect(number);
        }
    }
}

impl State {
    /// Enqueues drafts from the front up to the first that can't be enqueued. Returns how many a loop has dropped, and why
    /// one can't be enqueued.
    fn take_while_possible(&mut self, drafts: &mut VecDeque<Draft>) -> (u64, Option<Obstacle>) {
        let before = drafts.len();
        let outcome = self.push_while_possible(drafts);
        if drafts.len() < before {
            self.lanes.wake();
        }
        outcome
    }

    fn push_while_possible(&mut self, drafts: &mut VecDeque<Draft>) -> (u64, Option<Obstacle>) {
        let mut dropped = 0;
        while let Some(draft) = drafts.front() {
            let number = self.last.next();
            if !self.lanes.admits(1, draft.bytes()) {
                return (dropped, Some(Obstacle::NoRoom));
            }
            if !draft.fits(number) {
                return (dropped, Some(Obstacle::Digits(number)));
            }
            if let Some(draft) = drafts.pop_front() {
                dropped += u64::from(!self.push(draft));
            }
        }
        (dropped, None)
    }

    /// Enqueues all of the drafts or none. Returns the number of the first.
    fn take_all(&mut self, drafts: &mut VecDeque<Draft>) -> Result<Sequence, Obstacle> {
        let first = self.last.next();
        if !self.lanes.admits(drafts.len(), drafts.iter().map(Draft::bytes).sum()) || !self.lanes.has_taker() {
            return Err(Obstacle::NoRoom);
        }
        if !std::iter::zip(&*drafts, first.0..).all(|(draft, number)| draft.fits(Sequence(number))) {
            return Err(Obstacle::Digits(first));
        }
        drafts.drain(..).for_each(|draft| _ = self.push(draft));
        self.lanes.wake();
        Ok(first)
    }

    /// Numbers a draft and enqueues it; false if a loop has dropped it. The caller wakes the loops once for several pushes.
    fn push(&mut self, draft: Draft) -> bool {
        // A later loss comes after this event and needs an announcement of its own.
        self.open_gap = None;
        self.last = self.last.next();
        let mut broadcast: Broadcast = draft.number(self.last);
        let place_id = || self.run.id(self.last);
        if self.is_local {
            broadcast.naming = Naming::Elsewhere(broadcast.naming.whole_id(place_id));
            broadcast.sequence = Sequence::ZERO;
        }
        self.lanes.push(broadcast, place_id)
    }

    fn announce_refused(&mut self, topic: &Topic) {
        if self.open_gap.as_ref().is_some_and(|lost| lost.add(topic)) {
            return;
        }
        let lost = Arc::new(LostTopics::default());
        let added = lost.add(topic);
        debug_assert!(added, "no reader can have closed a set that is not announced yet");
        self.announce(GapReason::Refused, &GapScope::Topics(Arc::clone(&lost)));
        self.open_gap = Some(lost);
    }

    fn announce(&mut self, reason: GapReason, scope: &GapScope) {
        self.open_gap = None;
        self.last = self.last.next();
        let sequence = if self.is_local { Sequence::ZERO } else { self.last };
        self.lanes.announce(&Gap { sequence, id: self.run.id(self.last), reason, scope: scope.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;
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
            Message::Gap(mut gap) => {
                let topics: Vec<_> = gap.settle().iter().flatten().map(Topic::to_string).collect();
                format!("{} {} {}", gap.sequence, gap.reason.as_str(), topics.join("+"))
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
        assert_eq!(drain(&inbox), ["1 a", "2 a", "5 channel_full b+c"]);
        assert!(sequencer.publish(&event("b")));
        assert_eq!(drain(&inbox), ["6 b"]);
    }

    #[test]
    fn a_loop_that_stands_gets_a_gap_and_the_other_gets_the_events() {
        let limits = ChannelLimits { messages_max: 2, bytes_max: 1 << 20 };
        let (one, standing) = channel(limits, || ());
        let (other, turning) = channel(limits, || ());
        let sequencer = Sequencer::new(RunName::from_bits(7), vec![one, other]);
        let mut read = Vec::new();
        for number in 1..=6 {
            assert_eq!(sequencer.publish(&event("t")), number <= 2, "{number}");
            read.extend(drain(&turning));
        }
        assert!(Publish::publish(&*sequencer, vec![event("u")], Ticket(0)).is_ok(), "one loop takes it");
        read.extend(drain(&turning));
        assert_eq!(read, ["1 t", "2 t", "3 t", "4 t", "5 t", "6 t", "7 u"]);
        assert_eq!((turning.issued(), standing.issued()), (Sequence(7), Sequence(7)));
        assert_eq!(drain(&standing), ["1 t", "2 t", "7 channel_full t+u"]);
        assert!(sequencer.publish(&event("t")), "it turns again");
        assert_eq!((drain(&standing), drain(&turning)), (vec!["8 t".to_owned()], vec!["8 t".to_owned()]));
        assert_eq!(sequencer.dropped(), 4);
    }

    /// What is small enough for the room that is left must not have the sender wait again for the next large one.
    #[test]
    fn a_loop_that_stands_gets_nothing_more_until_it_goes_on() {
        let (outlet, standing) = channel(ChannelLimits { messages_max: 100, bytes_max: 1000 }, || ());
        let sequencer = Sequencer::new(RunName::from_bits(7), vec![outlet]);
        let large = Event::message(Topic::new("large").unwrap(), "x".repeat(600));
        assert!(sequencer.publish(&large));
        for event in [&large, &event("small"), &large] {
            assert!(!sequencer.publish(event));
        }
        assert_eq!(drain(&standing), ["1 large", "4 channel_full large+small"]);
        assert!(sequencer.publish(&event("small")), "it goes on");
        assert_eq!(drain(&standing), ["5 small"]);
    }

    #[test]
    fn a_loop_that_stood_goes_on_also_if_it_reads_only_gaps() {
        let (outlet, standing) = channel(ChannelLimits { messages_max: 1, bytes_max: 1000 }, || ());
        let mut lanes = Lanes::new(vec![outlet]);
        let gap = |at| Gap {
            sequence: Sequence(at),
            id: EventId::new("x").unwrap(),
            reason: GapReason::SourceLost,
            scope: GapScope::All,
        };
        assert!(lanes.admits_gap());
        lanes.push_gap(&gap(1));
        while !lanes.admits_gap() {
            std::thread::sleep(WAIT_STEP);
        }
        lanes.push_gap(&gap(2));
        assert_eq!(drain(&standing).len(), 2);
        assert!(lanes.admits_gap());
        lanes.push_gap(&gap(3));
        assert_eq!(drain(&standing), ["3 gap everywhere"]);
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

    /// The frames that a loop reads.
    fn frames(inbox: &Inbox) -> Vec<String> {
        let describe = |message| match message {
            Message::Broadcast(broadcast) => String::from_utf8(broadcast.frame.bytes().to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| inbox.next()).map(describe).collect()
    }

    #[test]
    fn a_batch_wakes_the_loop_once() {
        let wakes = Arc::new(AtomicU64::new(0));
        let inboxes = Arc::new(Mutex::new(Vec::<Inbox>::new()));
        let (outlet, inbox) = {
            let (wakes, inboxes) = (Arc::clone(&wakes), Arc::clone(&inboxes));
            // A loop that wakes at once and reads all that is there.
            channel(ChannelLimits::default(), move || {
                wakes.fetch_add(1, Ordering::Relaxed);
                for inbox in &*inboxes.lock().unwrap() {
                    inbox.rearm();
                    while inbox.next().is_some() {}
                }
            })
        };
        inboxes.lock().unwrap().push(inbox);
        let sequencer = Sequencer::new(RunName::from_bits(7), vec![outlet]);
        let events = vec![event("t"); 100];
        assert!(sequencer.publish_all(&mut sequencer.draft(&events)));
        assert!(Publish::publish(&*sequencer, events, Ticket(0)).is_ok());
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_goes_under_the_lock_is_formatted_already() {
        let (sequencer, inbox) = sequencer(10);
        let lock = sequencer.lock();
        // Would block forever if it needed the lock.
        let batch = sequencer.draft(&[event("a"), event("b")]);
        drop(lock);
        let formatted: Vec<_> = batch.drafts.iter().map(Draft::bytes_at).collect();
        let Batch { mut drafts, .. } = batch;
        assert!(sequencer.lock().take_all(&mut drafts).is_ok());
        let sent = std::iter::from_fn(|| inbox.next()).map(|message| match message {
            Message::Broadcast(broadcast) => broadcast.frame.bytes().as_ptr(),
            other => panic!("{other:?}"),
        });
        assert_eq!(sent.collect::<Vec<_>>(), formatted, "the same bytes at the same place");
    }

    #[test]
    fn ids_are_the_numbers_also_where_these_grow_by_a_digit() {
        let (sequencer, inbox) = sequencer(10_000);
        let run = RunName::from_bits(7);
        let expected = |numbers: std::ops::RangeInclusive<u64>| {
            numbers.map(|n| format!("id: {}\ndata: x\n\n", run.id(Sequence(n)))).collect::<Vec<_>>()
        };
        // Formatted long before its number is known.
        let mut early = sequencer.draft(&vec![event("t"); 200]);
        for number in 1..=95 {
            let ids = Ok(Accepted::Now(vec![run.id(Sequence(number))]));
            assert_eq!(Publish::publish(&*sequencer, vec![event("t")], Ticket(0)), ids);
        }
        assert_eq!(frames(&inbox), expected(1..=95));
        let ids = (96..=1005).map(|n| run.id(Sequence(n))).collect();
        assert_eq!(Publish::publish(&*sequencer, vec![event("t"); 910], Ticket(0)), Ok(Accepted::Now(ids)));
        assert!(sequencer.publish_all(&mut early) && early.is_empty());
        assert_eq!(frames(&inbox), expected(96..=1205));
    }

    #[test]
    fn a_batch_of_a_source_goes_as_far_as_there_is_room() {
        let (sequencer, inbox) = sequencer(2);
        let mut batch = sequencer.draft(&["a", "b", "c", "d"].map(event));
        assert!(!sequencer.publish_all(&mut batch) && batch.is_empty());
        assert_eq!(sequencer.dropped(), 2);
        assert_eq!(drain(&inbox), ["1 a", "2 b", "4 channel_full c+d"]);
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
    fn an_event_that_was_named_elsewhere_keeps_its_id() {
        let (sequencer, inbox) = sequencer(4);
        let mut batch = Batch::default();
        let with_id = |id: &str| Event { id: EventId::new(id).ok(), ..event("t") };
        let places = [2, 3, 4].map(|n| RunName::from_bits(7).id(Sequence(n)));
        let [second, third, fourth] = &places;
        sequencer.add_passed_on(&mut batch, &with_id("aaaaaaaaaaaa-7~own"));
        // Applications may write to the bus's channel, too.
        sequencer.add_passed_on(&mut batch, &with_id("own"));
        sequencer.add_passed_on(&mut batch, &with_id(fourth.as_str()));
        sequencer.add_event(&mut batch, &with_id("aaaaaaaaaaaa-7"));
        assert!(sequencer.publish_all(&mut batch));
        let [second, third] = [format!("{second}~own"), format!("{third}~{fourth}")];
        let ids = ["aaaaaaaaaaaa-7~own", &second, &third, &format!("{fourth}~aaaaaaaaaaaa-7")];
        assert_eq!(frames(&inbox), ids.map(|id| format!("id: {id}\ndata: x\n\n")));
    }
}
