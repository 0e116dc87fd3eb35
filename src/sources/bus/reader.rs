//! The reader's thread: loads the newest part of the bus, then follows it. While the engine is away, it waits: nothing
//! is lost meanwhile, because the bus keeps it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::timeline::Position;
use crate::event::{Broadcast, Event, Sequence};
use crate::observe::clip::clip;
use crate::sources::backoff::Backoff;
use crate::sources::bus::follower::{Follower, Loss, Step};
use crate::sources::bus::{BusSettings, Engine, EngineError, Page, event_frame};
use crate::sources::channel::{Control, Gap, GapReason, GapScope, LostTopics, Message, Outlet, Refusal, SourceStatus};
use crate::sources::refused_log::RefusedLog;
use crate::sources::thread::Stop;
use crate::sources::throttle::LogThrottle;

/// The log message for an entry that is not an event.
const REFUSED: &str = "an entry of the bus was refused";
/// Entries of one page.
const ENTRIES_MAX: usize = 64;
/// How long a read waits for the next entry, and so the longest time until the thread notices a stop.
const READ_WAIT: Duration = Duration::from_millis(500);
/// How often, at most, the loop learns that the end of the bus is reached.
const END_INTERVAL: Duration = Duration::from_millis(200);
/// How often it checks for room in the channel.
const ROOM_WAIT: Duration = Duration::from_millis(1);

/// The thread's state.
pub(super) struct Reader {
    engine: Box<dyn Engine>,
    settings: Arc<BusSettings>,
    outlet: Outlet,
    status: Arc<SourceStatus>,
    follower: Follower,
    /// What the loop has not received yet.
    steps: VecDeque<Step>,
    is_loaded: bool,
    /// When the loop was last told that the end of the bus is reached.
    end_reported_at: Instant,
    backoff: Backoff,
    log: LogThrottle,
    refused_log: RefusedLog,
    scratch: Vec<u8>,
}

impl Reader {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        settings: Arc<BusSettings>,
        outlet: Outlet,
        status: Arc<SourceStatus>,
    ) -> Reader {
        Reader {
            backoff: Backoff::new(settings.backoff),
            engine,
            settings,
            outlet,
            status,
            follower: Follower::default(),
            steps: VecDeque::new(),
            is_loaded: false,
            end_reported_at: Instant::now(),
            log: LogThrottle::default(),
            refused_log: RefusedLog::new(REFUSED),
            scratch: Vec::new(),
        }
    }

    /// Reads until asked to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        while let Err(error) = self.follow(stop) {
            if self.status.is_up() {
                self.status.count_reconnect();
                self.backoff.reset();
            }
            if let Some(swallowed) = self.log.permit(Instant::now()) {
                tracing::warn!(error = %error, swallowed, "the bus can't be read; subscribers wait");
            }
            self.status.set_down(error.to_string());
            if stop.wait(self.backoff.next_delay(getrandom::u64().unwrap_or_default())) {
                return;
            }
        }
    }

    /// Loads once, then follows. Ok: it was asked to stop.
    fn follow(&mut self, stop: &Stop) -> Result<(), EngineError> {
        if !self.deliver(stop) {
            return Ok(());
        }
        if !self.is_loaded {
            let page = self.load()?;
            tracing::info!(entries = page.entries.len(), position = %page.last, "loaded the newest part of the bus");
            self.take(page);
            if !self.deliver(stop) {
                return Ok(());
            }
            self.outlet.send(Message::Loaded);
            self.is_loaded = true;
        }
        while !stop.is_asked() {
            self.refused_log.log_left_out();
            let read = self.follower.read().expect("a page was taken");
            let page = self.engine.read_after(read, ENTRIES_MAX, READ_WAIT)?;
            if !self.status.is_up() {
                self.status.set_up();
                self.log.reset();
            }
            let last = page.last;
            self.take(page);
            if !self.deliver(stop) {
                break;
            }
            if self.follower.read() == Some(last) && self.end_reported_at.elapsed() >= END_INTERVAL {
                self.end_reported_at = Instant::now();
                self.outlet.send(Message::EndOfBus);
            }
        }
        Ok(())
    }

    /// The newest entries, as many as a node remembers.
    fn load(&mut self) -> Result<Page, EngineError> {
        let Page { mut entries, last } = self.engine.read_before(None, ENTRIES_MAX)?;
        let mut pages = VecDeque::new();
        let mut bytes = 0;
        while let Some(first) = entries.first() {
            let before = first.position;
            bytes += entries.iter().map(|entry| entry.content.bytes()).sum::<usize>();
            let is_all = entries.len() < ENTRIES_MAX || bytes >= self.settings.load_bytes_max;
            pages.push_front(entries);
            if is_all {
                break;
            }
            entries = self.engine.read_before(Some(before), ENTRIES_MAX)?.entries;
        }
        let entries: Vec<_> = pages.into_iter().flatten().collect();
        // What was appended meanwhile is read next.
        let last = entries.last().map_or(last, |entry| entry.position);
        Ok(Page { entries, last })
    }

    fn take(&mut self, page: Page) {
        page.entries.iter().for_each(|_| self.status.count_received());
        let mut steps = Vec::new();
        self.follower.take(page, &mut steps);
        self.steps.extend(steps);
    }

    /// Passes what was read on to the loop. False: it was asked to stop.
    fn deliver(&mut self, stop: &Stop) -> bool {
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Begin(epoch) => self.outlet.push(Message::Epoch(epoch)),
                Step::Event(sequence, position, event) => {
                    let broadcast = self.format(sequence, position, &event);
                    while !self.outlet.has_room(1, broadcast.frame.len()) {
                        self.outlet.wake();
                        if stop.wait(ROOM_WAIT) {
                            return false;
                        }
                    }
                    self.outlet.push(Message::Broadcast(broadcast));
                }
                Step::Disconnect(disconnect, node) => {
                    // This node has carried it out already, unless that was before it restarted.
                    if node != self.settings.node {
                        self.outlet.push(Message::Control(Control::Disconnect(Arc::new(disconnect))));
                    }
                }
                Step::Gap(sequence, position, loss) => self.push_gap(sequence, position, loss),
            }
        }
        self.outlet.wake();
        true
    }

    fn format(&mut self, sequence: Sequence, position: Position, event: &Event) -> Broadcast {
        let frame = event_frame(position, event, &mut self.scratch);
        Broadcast { sequence, topic: event.topic.clone(), foreign_id: None, frame }
    }

    fn push_gap(&mut self, sequence: Sequence, position: Position, loss: Loss) {
        let (reason, scope) = match loss {
            Loss::Fork => (GapReason::BusForked, GapScope::All),
            Loss::Trimmed => (GapReason::BusTrimmed, GapScope::All),
            Loss::Refused(topic, reason) => {
                self.status.count_refused(Refusal::Malformed);
                if self.refused_log.admit() {
                    tracing::warn!(%position, reason = &*clip(&reason), "{REFUSED}");
                }
                let lost = topic.map(|topic| {
                    let lost = Arc::new(LostTopics::default());
                    let _is_added = lost.add(&topic);
                    GapScope::Topics(lost)
                });
                (GapReason::Refused, lost.unwrap_or(GapScope::All))
            }
        };
        self.outlet.push(Message::Gap(Gap { sequence, id: position.id(None), reason, scope }));
    }
}
