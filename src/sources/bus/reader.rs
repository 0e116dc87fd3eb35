//! The reader: loads the newest part of the bus, then follows it, one page in each turn, and passes on what the loops
//! have room for. While the engine is away, it waits: nothing is lost meanwhile, because the bus keeps it.
//!
//! Invariants: a page is read once all of the last one is passed on. What is loaded is passed on only when it was read
//! without an error in between. Absent: threads, pauses, and time, except for the limit of a log entry.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::event::timeline::Position;
use crate::event::{Broadcast, Event, Naming, Sequence, Topic};
use crate::observe::clip::clip;
use crate::sources::bus::follower::{Follower, Loss, Step};
use crate::sources::bus::{BusSettings, Content, Engine, EngineError, Entry, Page, event_frame};
use crate::sources::channel::{Control, Gap, GapReason, GapScope, LostTopics, Message, Outlet, Refusal, SourceStatus};
use crate::sources::lanes::Lanes;
use crate::sources::refused_log::RefusedLog;

/// The log message for an entry that is not an event.
const REFUSED: &str = "an entry of the bus was refused";
/// Entries of one page.
const ENTRIES_MAX: usize = 64;
/// How often, at most, the loop learns that the end of the bus is reached.
const END_INTERVAL: Duration = Duration::from_millis(200);

/// What a turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It read a page of what a node remembers of the bus.
    Loaded,
    /// It read what follows, if there is anything.
    Read,
    /// A loop has no room for the rest of what was read.
    Full,
}

/// Reads a bus for all loops.
pub struct Reader {
    engine: Box<dyn Engine>,
    settings: Arc<BusSettings>,
    lanes: Lanes,
    status: Arc<SourceStatus>,
    follower: Follower,
    /// What is being loaded.
    staged: Staged,
    /// What was read and is not passed on yet: this message first, then the steps, then the announcement.
    waiting: Option<Outgoing>,
    steps: VecDeque<Step>,
    announcement: Option<Announcement>,
    end_reported_at: Option<Duration>,
    refused_log: RefusedLog,
    scratch: Vec<u8>,
}

/// A message for all loops, and its position on the bus.
struct Outgoing {
    message: Message,
    position: Position,
}

/// What all loops learn once they have what was read before.
enum Announcement {
    Loaded,
    /// The end of the bus was reached, by a read that began after these asks of each loop.
    End(Vec<u64>),
}

/// The newest part of the bus, as far as it is loaded.
#[derive(Default)]
struct Staged {
    /// From the oldest to the newest.
    pages: VecDeque<Vec<Entry>>,
    bytes: usize,
    /// The engine's newest entry when the first of them was read.
    last: Position,
}

impl Reader {
    /// A reader that has read nothing.
    pub fn new(
        engine: Box<dyn Engine>,
        settings: Arc<BusSettings>,
        outlets: Vec<Outlet>,
        status: Arc<SourceStatus>,
    ) -> Reader {
        Reader {
            engine,
            settings,
            lanes: Lanes::new(outlets),
            status,
            follower: Follower::default(),
            staged: Staged::default(),
            waiting: None,
            steps: VecDeque::new(),
            announcement: None,
            end_reported_at: None,
            refused_log: RefusedLog::new(REFUSED),
            scratch: Vec::new(),
        }
    }

    /// Passes on what waits for room; then reads a page, waiting up to `wait` for its first entry, and passes that on.
    /// `now` is the time since any one moment. After an error, the bus counts as away until a turn succeeds.
    pub fn turn(&mut self, now: Duration, wait: Duration) -> Result<Turn, EngineError> {
        if !self.deliver() {
            return Ok(Turn::Full);
        }
        self.refused_log.log_left_out();
        let outcome = match self.follower.read() {
            // After an error, it begins anew: the engine may be another one.
            None => self.load(),
            Some(read) => self.read_on(read, now, wait),
        };
        match outcome {
            Ok(turn) => Ok(if self.deliver() { turn } else { Turn::Full }),
            Err(error) => {
                if self.status.is_up() {
                    self.status.count_reconnect();
                }
                self.status.set_down(error.to_string());
                Err(error)
            }
        }
    }

    /// Loads another page of the newest entries, until there are as many as a node remembers.
    fn load(&mut self) -> Result<Turn, EngineError> {
        let mut staged = std::mem::take(&mut self.staged);
        let before = staged.pages.front().and_then(|page| page.first()).map(|first| first.position);
        let Page { entries, last } = self.engine.read_before(before, ENTRIES_MAX)?;
        staged.last = if before.is_none() { last } else { staged.last };
        staged.bytes += entries.iter().map(|entry| entry.content.bytes()).sum::<usize>();
        let is_all = entries.len() < ENTRIES_MAX || staged.bytes >= self.settings.load_bytes_max;
        staged.pages.push_front(entries);
        if !is_all {
            self.staged = staged;
            return Ok(Turn::Loaded);
        }
        let entries: Vec<_> = staged.pages.into_iter().flatten().collect();
        // What was appended meanwhile is read next.
        let last = entries.last().map_or(staged.last, |entry| entry.position);
        tracing::info!(entries = entries.len(), position = %last, "loaded the newest part of the bus");
        self.take(Page { entries, last });
        self.announcement = Some(Announcement::Loaded);
        Ok(Turn::Loaded)
    }

    fn read_on(&mut self, read: Position, now: Duration, wait: Duration) -> Result<Turn, EngineError> {
        let asks = self.lanes.outlets().map(Outlet::asks).collect();
        let page = self.engine.read_after(read, ENTRIES_MAX, wait)?;
        self.status.set_up();
        let last = page.last;
        let forks = page.entries.iter().filter(|entry| entry.content == Content::Fork { follows: None }).count();
        self.take(page);
        if let (Some(figures), Some(read)) = (self.status.bus(), self.follower.read()) {
            figures.note_read(read, last, forks as u64);
        }
        let is_due = self.end_reported_at.is_none_or(|at| now >= at + END_INTERVAL);
        if self.follower.read() == Some(last) && is_due {
            self.end_reported_at = Some(now);
            self.announcement = Some(Announcement::End(asks));
        }
        Ok(Turn::Read)
    }

    fn take(&mut self, page: Page) {
        let received = page.entries.iter().filter(|entry| entry.content != Content::Nothing);
        received.for_each(|_| self.status.count_received());
        let mut steps = Vec::new();
        self.follower.take(page, &mut steps);
        self.steps.extend(steps);
    }

    // ---- what is passed on ----

    /// Passes on what the loops have room for. True: that was everything.
    fn deliver(&mut self) -> bool {
        while let Some(outgoing) = self.next_message() {
            if !self.is_admitted(&outgoing.message) {
                self.waiting = Some(outgoing);
                break;
            }
            self.pass_on(outgoing);
        }
        if self.waiting.is_none() {
            self.announce();
        }
        self.lanes.wake();
        self.waiting.is_none()
    }

    fn is_admitted(&mut self, message: &Message) -> bool {
        match message {
            Message::Broadcast(broadcast) => self.lanes.admits(1, broadcast.frame.len()),
            Message::Gap(_) | Message::Epoch(..) => self.lanes.admits_gap(),
            _ => true,
        }
    }

    fn pass_on(&mut self, Outgoing { message, position }: Outgoing) {
        match message {
            // A loop that drops it announces a gap.
            Message::Broadcast(broadcast) => _ = self.lanes.push(broadcast, || position.id(None)),
            Message::Gap(gap) => self.lanes.push_gap(&gap),
            other => self.lanes.send_to_all(&other),
        }
    }

    fn announce(&mut self) {
        match self.announcement.take() {
            None => {}
            Some(Announcement::Loaded) => self.lanes.send_to_all(&Message::Loaded),
            Some(Announcement::End(asks)) => {
                self.lanes.outlets().zip(asks).for_each(|(outlet, asks)| outlet.push(Message::EndOfBus(asks)));
            }
        }
    }

    fn next_message(&mut self) -> Option<Outgoing> {
        if let Some(outgoing) = self.waiting.take() {
            return Some(outgoing);
        }
        while let Some(step) = self.steps.pop_front() {
            let (message, position) = match step {
                Step::Begin(epoch) => {
                    let is_gap = |step: &Step| matches!(step, Step::Gap(sequence, ..) if *sequence == epoch.sequence);
                    let gap = if self.steps.front().is_some_and(is_gap)
                        && let Some(Step::Gap(sequence, position, loss)) = self.steps.pop_front()
                    {
                        Some(self.gap(sequence, position, loss))
                    } else {
                        None
                    };
                    (Message::Epoch(epoch, gap), Position::default())
                }
                Step::Event(sequence, position, event) => {
                    (Message::Broadcast(self.format(sequence, position, &event)), position)
                }
                Step::Gap(sequence, position, loss) => (Message::Gap(self.gap(sequence, position, loss)), position),
                // This node has carried it out already, unless that was before it restarted.
                Step::Disconnect(_, node) if node == self.settings.node => continue,
                Step::Disconnect(disconnect, _) => {
                    (Message::Control(Control::Disconnect(Arc::new(disconnect))), Position::default())
                }
            };
            return Some(Outgoing { message, position });
        }
        None
    }

    fn format(&mut self, sequence: Sequence, position: Position, event: &Event) -> Broadcast {
        let frame = event_frame(position, event, &mut self.scratch);
        Broadcast { sequence, topic: event.topic.clone(), naming: Naming::Here(None), frame }
    }

    fn gap(&mut self, sequence: Sequence, position: Position, loss: Loss) -> Gap {
        let (reason, scope) = match loss {
            Loss::Fork => (GapReason::BusForked, GapScope::All),
            Loss::Trimmed => (GapReason::BusTrimmed, GapScope::All),
            Loss::Refused(topic, reason) => {
                self.status.count_refused(Refusal::Malformed);
                if self.refused_log.admit() {
                    tracing::warn!(%position, reason = &*clip(&reason), "{REFUSED}");
                }
                (GapReason::Refused, scope_of(topic.as_slice()))
            }
            Loss::Announced(reason, topics) => (reason, scope_of(&topics)),
        };
        Gap { sequence, id: position.id(None), reason, scope }
    }
}

/// A gap of these topics; of all, if there are none.
fn scope_of(topics: &[Topic]) -> GapScope {
    if topics.is_empty() {
        return GapScope::All;
    }
    let lost = LostTopics::default();
    let is_open = topics.iter().all(|topic| lost.add(topic));
    debug_assert!(is_open, "no reader has it yet");
    GapScope::Topics(Arc::new(lost))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::event::Topic;
    use crate::sources::backoff::BackoffLimits;
    use crate::sources::bus::{Content, Receipt};
    use crate::sources::channel::{ChannelLimits, Inbox, channel};

    /// Entries `1-0`, `1-1` and so on; of each three, some are events; the calls that are listed fail.
    struct Numbers {
        entries: u64,
        events_of_three: u64,
        calls: usize,
        failing: Vec<usize>,
    }

    impl Numbers {
        fn page(&mut self, offsets: Range<u64>) -> Result<Page, EngineError> {
            self.calls += 1;
            if self.failing.contains(&self.calls) {
                return Err(EngineError("away".into()));
            }
            let entry = |offset: u64| {
                let content = match offset % 3 < self.events_of_three {
                    true => Content::Event(Event::message(Topic::new("t").unwrap(), "")),
                    false => Content::Refused { topic: None, reason: String::new() },
                };
                Entry { position: Position { epoch: 1, offset }, content }
            };
            let last = Position { epoch: 1, offset: self.entries - 1 };
            Ok(Page { entries: offsets.map(entry).collect(), last })
        }
    }

    impl Engine for Numbers {
        fn append(&mut self, _: &[Content]) -> Result<Vec<Receipt>, EngineError> {
            unreachable!("a reader appends nothing")
        }

        fn read_after(&mut self, after: Position, entries_max: usize, _: Duration) -> Result<Page, EngineError> {
            let first = after.offset + 1;
            self.page(first..self.entries.min(first + entries_max as u64))
        }

        fn read_before(&mut self, before: Option<Position>, entries_max: usize) -> Result<Page, EngineError> {
            let end = before.map_or(self.entries, |before| before.offset);
            self.page(end.saturating_sub(entries_max as u64)..end)
        }
    }

    fn reader(engine: Numbers, messages_max: usize) -> (Reader, Inbox) {
        let (outlet, inbox) = channel(ChannelLimits { messages_max, bytes_max: 1 << 20 }, || ());
        let settings = BusSettings {
            node: "n".into(),
            load_bytes_max: 1 << 20,
            queue: Default::default(),
            bounds: Arc::default(),
            backoff: BackoffLimits { delay_min: Duration::ZERO, delay_max: Duration::ZERO },
        };
        (Reader::new(Box::new(engine), Arc::new(settings), vec![outlet], SourceStatus::new("bus")), inbox)
    }

    fn numbers(entries: u64) -> Numbers {
        Numbers { entries, events_of_three: 3, calls: 0, failing: Vec::new() }
    }

    fn turn(reader: &mut Reader, now_ms: u64) -> Result<Turn, EngineError> {
        reader.turn(Duration::from_millis(now_ms), Duration::ZERO)
    }

    #[test]
    fn events_and_gaps_wait_for_room() {
        for (events_of_three, events, gaps) in [(3, 63, 0), (2, 42, 21), (0, 0, 63)] {
            let engine = Numbers { events_of_three, ..numbers(ENTRIES_MAX as u64 - 1) };
            let (mut reader, inbox) = reader(engine, 4);
            let mut messages = Vec::new();
            loop {
                let outcome = turn(&mut reader, 0);
                let waiting: Vec<_> =
                    std::iter::from_fn(|| inbox.next()).map(|message| format!("{message:?}")).collect();
                let is_full = [("Broadcast", 4), ("Gap", 4)].map(|(kind, max)| {
                    let count = waiting.iter().filter(|message| message.starts_with(kind)).count();
                    assert!(count <= max, "{waiting:?}");
                    count == max
                });
                messages.extend(waiting);
                if outcome == Ok(Turn::Read) {
                    break;
                }
                assert!(outcome == Ok(Turn::Loaded) || is_full[0] || is_full[1], "{messages:?}");
            }
            let count = |kind| messages.iter().filter(|message| message.starts_with(kind)).count();
            // The gap with which the epoch begins comes with it.
            let first =
                messages.iter().filter(|message| message.starts_with("Epoch") && message.contains("Gap")).count();
            assert_eq!((count("Epoch"), count("Broadcast"), first + count("Gap")), (1, events, gaps));
            assert_eq!(
                messages[messages.len() - 2..],
                ["Loaded", "EndOfBus(0)"],
                "after everything that they are about"
            );
        }
    }

    #[test]
    fn a_load_that_fails_begins_anew_and_passes_nothing_on() {
        let (mut reader, inbox) = reader(Numbers { failing: vec![2], ..numbers(2 * ENTRIES_MAX as u64 + 7) }, 4096);
        assert_eq!(turn(&mut reader, 0), Ok(Turn::Loaded));
        assert_eq!(turn(&mut reader, 0), Err(EngineError("away".into())));
        for _ in 0..3 {
            assert!(inbox.is_empty());
            assert_eq!(turn(&mut reader, 0), Ok(Turn::Loaded));
        }
        assert_eq!(inbox.len(), 1 + 2 * ENTRIES_MAX + 7 + 1, "the epoch, the entries, and that it is loaded");
        assert!(!reader.status.is_up(), "it has not followed the bus yet");
        assert_eq!(turn(&mut reader, 0), Ok(Turn::Read));
        assert!(reader.status.is_up());
    }

    #[test]
    fn the_end_of_the_bus_is_reported_at_intervals() {
        let (mut reader, inbox) = reader(Numbers { failing: vec![5], ..numbers(3) }, 4096);
        let mut ends = Vec::new();
        for now_ms in [0, 0, 100, 199, 200, 399, 400, 1000] {
            let _fails_once = turn(&mut reader, now_ms);
            let is_end = std::iter::from_fn(|| inbox.next()).any(|message| matches!(message, Message::EndOfBus(_)));
            ends.extend(is_end.then_some(now_ms));
        }
        assert_eq!(ends, [0, 399, 1000], "the fifth call, at 200 ms, failed");
    }
}
