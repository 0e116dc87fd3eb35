//! The channel into a loop: bounded in messages and bytes, with one wake however many messages wait.
//!
//! Invariants: events and gaps arrive in sequence order. Operator controls and answers to publishers use a separate
//! lane and never wait behind events. An [`Inbox`] that was woken and found empty is woken again by the next message.
//! Senders must respect the bounds ([`Outlet::has_room`]). Gaps don't count towards them, so that a loss can always be
//! announced; a sender of many has a bound for them ([`Outlet::has_room_for_gap`]). Absent: any policy for a full
//! channel. The sequencer has that policy.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use crate::event::archive::{Page, PageKey};
use crate::event::timeline::Epoch;
use crate::event::{Broadcast, Event, EventId, Sequence, Topic};
use crate::protocol::disconnect::Disconnect;
use crate::sources::bus_figures::BusFigures;

/// How full a channel may become before its senders must wait or drop.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// Broadcasts waiting; and gaps, for senders that bound them.
    pub messages_max: usize,
    /// Frame bytes waiting.
    pub bytes_max: usize,
}

impl Default for ChannelLimits {
    fn default() -> ChannelLimits {
        ChannelLimits { messages_max: 4096, bytes_max: 16 << 20 }
    }
}

/// What a loop receives.
#[derive(Clone, Debug)]
pub enum Message {
    /// An event for every subscriber of its topic.
    Broadcast(Broadcast),
    /// Events are missing at this place in the order.
    Gap(Gap),
    /// A broker took, or refused, what a client published.
    Published {
        /// The ticket that was passed to [`Publish::publish`].
        ticket: Ticket,
        /// Whether subscribers everywhere will receive it.
        outcome: Result<Published, PublishRefusal>,
    },
    /// The bus's positions continue with this epoch, and the gap with which it begins: in one message, so that no stream
    /// reaches the place of the gap before the gap is there.
    Epoch(Epoch, Option<Gap>),
    /// All of the bus that a node remembers has been read: streams may start.
    Loaded,
    /// The bus has been read to its end, by a read that began after this many asks ([`Outlet::asks`]).
    EndOfBus(u64),
    /// A page of the bus, as [`FetchPage::fetch`] requested it.
    Page(Page),
    /// What an operator requests from the process.
    Control(Control),
}

/// What a broker gave to the events of a publish, where the publish did not know that before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The ids of new events.
    pub ids: Vec<EventId>,
    /// The ids of events that were published before, under the same publisher's ids.
    pub duplicates: Vec<EventId>,
}

/// A loss, announced to the subscribers of the topics it touches.
#[derive(Clone, Debug)]
pub struct Gap {
    /// Its place in the order; 0: the loop gives it a place.
    pub sequence: Sequence,
    /// Its own id, so that a client that received this gap does not receive it again.
    pub id: EventId,
    /// Why.
    pub reason: GapReason,
    /// Where.
    pub scope: GapScope,
}

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// A source was disconnected, and it stores no events.
    SourceLost,
    /// The loop could not keep up with its sources.
    ChannelFull,
    /// A message that can't be an event (not UTF-8, too large) was dropped.
    Refused,
    /// The bus may have lost events at this place, on all nodes.
    BusForked,
    /// The bus no longer had events that this node had not read.
    BusTrimmed,
}

impl GapReason {
    /// All of them.
    pub const ALL: [GapReason; 5] = [
        GapReason::SourceLost,
        GapReason::ChannelFull,
        GapReason::Refused,
        GapReason::BusForked,
        GapReason::BusTrimmed,
    ];

    /// The name used in the gap event's data and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::SourceLost => "source_lost",
            GapReason::ChannelFull => "channel_full",
            GapReason::Refused => "event_refused",
            GapReason::BusForked => "bus_forked",
            GapReason::BusTrimmed => "bus_trimmed",
        }
    }
}

/// The topics that a gap touches.
#[derive(Clone, Debug)]
pub enum GapScope {
    /// Every topic, also those that don't exist yet.
    All,
    /// These topics.
    Topics(Arc<LostTopics>),
}

/// Maximum number of topics that one gap lists. With more, it is a gap of every topic.
const LOST_TOPICS_MAX: usize = 10_000;

/// A set of topics that grows while its gap still waits in the channel and is sealed when the loop reads it.
#[derive(Debug, Default)]
pub struct LostTopics(Mutex<LostState>);

#[derive(Debug, Default)]
struct LostState {
    topics: BTreeSet<Topic>,
    /// It touches every topic.
    is_all: bool,
    /// The place of the last event that was lost, if that moves while the set grows.
    place: Option<(Sequence, EventId)>,
    sealed: bool,
}

impl LostTopics {
    /// Adds a topic. False when a loop has already read the set: the loss then needs a gap of its own.
    #[must_use]
    pub fn add(&self, topic: &Topic) -> bool {
        self.grow(|lost| lost.insert(topic))
    }

    /// Adds an event that was lost at a place of its own, behind all that was added before; no topic: one of any topic. The
    /// gap moves there. False as for [`LostTopics::add`].
    #[must_use]
    pub fn add_at(&self, topic: Option<&Topic>, sequence: Sequence, id: EventId) -> bool {
        self.grow(|lost| {
            match topic {
                Some(topic) => lost.insert(topic),
                None => lost.is_all = true,
            }
            lost.place = Some((sequence, id));
        })
    }

    /// Stops the growth and returns the topics, or `None` when there are too many: the gap then covers every topic.
    /// Every loop that reads the gap gets the same result.
    pub fn seal(&self) -> Option<Vec<Topic>> {
        let mut lost = self.lock();
        lost.sealed = true;
        (!lost.is_all).then(|| lost.topics.iter().cloned().collect())
    }

    fn grow(&self, add: impl FnOnce(&mut LostState)) -> bool {
        let mut lost = self.lock();
        if !lost.sealed {
            add(&mut lost);
        }
        !lost.sealed
    }

    fn lock(&self) -> MutexGuard<'_, LostState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LostState {
    fn insert(&mut self, topic: &Topic) {
        if !self.is_all && !self.topics.contains(topic) {
            self.topics.insert(topic.clone());
            self.is_all = self.topics.len() > LOST_TOPICS_MAX;
        }
    }
}

impl Gap {
    /// Stops its growth and moves it to its last place. Returns its topics; none: it touches all.
    pub fn settle(&mut self) -> Option<Vec<Topic>> {
        let GapScope::Topics(lost) = &self.scope else { return None };
        let topics = lost.seal();
        if let Some((sequence, id)) = lost.lock().place.take() {
            (self.sequence, self.id) = (sequence, id);
        }
        topics
    }
}

/// Identifies the client's publish that an answer belongs to. The loop creates it and reads it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// What an operator requests: of one process by signal, or of all nodes through one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Shut down in an orderly way; on a second request, exit at once (SIGTERM, SIGINT).
    Drain,
    /// Apply the settings that were just read again (SIGHUP).
    Reload,
    /// End these streams, as requested on another node.
    Disconnect(Arc<Disconnect>),
}

/// Accepts events that clients publish over HTTP.
pub trait Publish {
    /// Takes all the events or none. Never blocks.
    fn publish(&self, events: Vec<Event>, ticket: Ticket) -> Result<Accepted, PublishRefusal>;

    /// Why it accepts nothing now, if it knows more than [`PublishRefusal::BrokerDown`] says.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Passes on to the other nodes which streams to end. Never blocks.
    fn pass_on(&self, disconnect: &Disconnect, ticket: Ticket) -> Result<PassedOn, PublishRefusal> {
        let _ = (disconnect, ticket);
        Ok(PassedOn::NoOtherNode)
    }
}

/// Fetches older entries of a durable bus.
pub trait FetchPage {
    /// Requests a page; [`Message::Page`] brings it. Never blocks. The caller bounds how many requests are under way.
    fn fetch(&self, key: PageKey);
}

/// The result of [`Publish::pass_on`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedOn {
    /// There are no other nodes.
    NoOtherNode,
    /// A broker has the message; [`Message::Published`] carries the outcome.
    Later,
}

/// The result of a publish that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted {
    /// They are on their way to every subscriber.
    Now(Vec<EventId>),
    /// A broker has them; [`Message::Published`] carries the outcome.
    Later(Vec<EventId>),
}

/// Why a publish was refused; the client may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishRefusal {
    /// Too much is waiting already.
    #[error("too many events are waiting in the server")]
    Busy,
    /// The broker can't be reached, or did not deliver the event back to this node.
    #[error("the broker is not reachable")]
    BrokerDown,
    /// The bus takes only smaller topics and events. Repeating it does not help.
    #[error("on this bus, a topic has at most {0} bytes and an event at most {1}")]
    TooLarge(usize, usize),
}

/// The state of a source, written by its thread and read by health checks and metrics.
#[derive(Debug)]
pub struct SourceStatus {
    name: &'static str,
    up: AtomicBool,
    received: AtomicU64,
    reconnects: AtomicU64,
    not_utf8: AtomicU64,
    too_large: AtomicU64,
    malformed: AtomicU64,
    overlapping: AtomicU64,
    own_copy: AtomicU64,
    copied: AtomicU64,
    bus: Option<BusFigures>,
    duplicate: AtomicU64,
    leading: AtomicU8,
    last_error: Mutex<Option<String>>,
}

/// A node's part in a source that one node at a time leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Leading {
    /// Another node leads, or none.
    StandsBy = 1,
    /// This node leads.
    Leads,
}

/// Why a message of a source did not become an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The payload is not UTF-8.
    NotUtf8,
    /// The payload is longer than an event may be.
    TooLarge,
    /// Not an envelope, or not a valid topic.
    Malformed,
    /// The same message again, through another channel or pattern that also matches. Not a loss.
    Overlapping,
    /// A copy that a Fanfare node sent to a channel, of an event that came over the bus. Not a loss.
    OwnCopy,
    /// An event that is on the bus already, under the same publisher's id. Not a loss.
    Duplicate,
}

impl SourceStatus {
    /// A source that is not up yet.
    pub fn new(name: &'static str) -> Arc<SourceStatus> {
        SourceStatus::with(name, None)
    }

    /// A durable bus that is not up yet.
    pub fn of_bus() -> Arc<SourceStatus> {
        SourceStatus::with("bus", Some(BusFigures::default()))
    }

    fn with(name: &'static str, bus: Option<BusFigures>) -> Arc<SourceStatus> {
        Arc::new(SourceStatus {
            bus,
            name,
            up: AtomicBool::new(false),
            received: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            not_utf8: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            overlapping: AtomicU64::new(0),
            own_copy: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            duplicate: AtomicU64::new(0),
            leading: AtomicU8::new(0),
            last_error: Mutex::new(None),
        })
    }

    /// What a durable bus does; none: it is another source.
    pub fn bus(&self) -> Option<&BusFigures> {
        self.bus.as_ref()
    }

    /// Its name in health, metrics and `--ready-requires`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// True while events can arrive.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// The source is connected and subscribed.
    pub fn set_up(&self) {
        self.up.store(true, Ordering::Release);
    }

    /// The source is disconnected, and why. `error` must not contain a secret.
    pub fn set_down(&self, error: impl Into<String>) {
        self.up.store(false, Ordering::Release);
        self.set_error(error);
    }

    /// An error that does not stop events from arriving. `error` must not contain a secret.
    pub fn set_error(&self, error: impl Into<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
    }

    /// The most recent error.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the source is down, while it is down.
    pub fn error(&self) -> Option<String> {
        self.last_error().filter(|_| !self.is_up())
    }

    /// Which part this node has.
    pub fn set_leading(&self, leading: Leading) {
        self.leading.store(leading as u8, Ordering::Relaxed);
    }

    /// Which part this node has; none: every node has the source for itself.
    pub fn leading(&self) -> Option<Leading> {
        let leading = self.leading.load(Ordering::Relaxed);
        [Leading::StandsBy, Leading::Leads].into_iter().find(|part| *part as u8 == leading)
    }

    /// Counts a message that arrived.
    pub fn count_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a return after a loss.
    pub fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts events that were published over HTTP and copied to channels for other readers.
    pub fn count_copied(&self, events: usize) {
        self.copied.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Counts a message that did not become an event.
    pub fn count_refused(&self, refusal: Refusal) {
        self.refusals(refusal).fetch_add(1, Ordering::Relaxed);
    }

    /// Messages that arrived, including refused ones.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns after a loss.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Events that were published over HTTP and copied to channels for other readers.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Messages that did not become an event, by reason.
    pub fn refused(&self) -> [(&'static str, u64); 6] {
        let count = |refusal| self.refusals(refusal).load(Ordering::Relaxed);
        [
            ("not_utf8", count(Refusal::NotUtf8)),
            ("too_large", count(Refusal::TooLarge)),
            ("malformed", count(Refusal::Malformed)),
            ("overlapping", count(Refusal::Overlapping)),
            ("own_copy", count(Refusal::OwnCopy)),
            ("duplicate", count(Refusal::Duplicate)),
        ]
    }

    fn refusals(&self, refusal: Refusal) -> &AtomicU64 {
        match refusal {
            Refusal::NotUtf8 => &self.not_utf8,
            Refusal::TooLarge => &self.too_large,
            Refusal::Malformed => &self.malformed,
            Refusal::Overlapping => &self.overlapping,
            Refusal::OwnCopy => &self.own_copy,
            Refusal::Duplicate => &self.duplicate,
        }
    }
}

/// Makes the two ends of a channel. `wake` must make the loop's wait return; any thread may call it.
pub fn channel(limits: ChannelLimits, wake: impl Fn() + Send + Sync + 'static) -> (Outlet, Inbox) {
    // Gaps need no bound here: the sequencer merges successive drops for one reason into one gap until a loop reads it,
    // and the reader of a bus waits for room. Answers to publishers, pages and controls are not counted either: the
    // connections that wait for an answer, and the requests under way, bound them.
    let (sender, receiver) = crossbeam_channel::unbounded();
    let (urgent_sender, urgent_receiver) = crossbeam_channel::unbounded();
    let shared = Arc::new(Shared {
        limits,
        messages: AtomicUsize::new(0),
        gaps: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        progress: AtomicU64::new(0),
        asks: AtomicU64::new(0),
        issued: AtomicU64::new(0),
        woken: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        wake: Box::new(wake),
    });
    let outlet = Outlet { sender, urgent: urgent_sender, shared: Arc::clone(&shared) };
    (outlet, Inbox { receiver, urgent: urgent_receiver, shared })
}

struct Shared {
    limits: ChannelLimits,
    messages: AtomicUsize,
    gaps: AtomicUsize,
    bytes: AtomicUsize,
    progress: AtomicU64,
    asks: AtomicU64,
    issued: AtomicU64,
    woken: AtomicBool,
    /// The loop has ended.
    closed: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// The sending end. Cheap to clone.
#[derive(Clone)]
pub struct Outlet {
    sender: Sender<Message>,
    urgent: Sender<Message>,
    shared: Arc<Shared>,
}

impl Outlet {
    /// True when this number of broadcasts, with this number of bytes in total, still fits. A loop that has ended takes
    /// everything: nothing waits for it.
    pub fn has_room(&self, messages: usize, bytes: usize) -> bool {
        let Shared { limits, messages: queued_messages, bytes: queued_bytes, .. } = &*self.shared;
        if self.is_closed() {
            return true;
        }
        let queued = queued_messages.load(Ordering::Relaxed);
        // A frame larger than the whole byte bound passes when the channel is empty.
        queued + messages <= limits.messages_max
            && (queued == 0 || queued_bytes.load(Ordering::Relaxed) + bytes <= limits.bytes_max)
    }

    /// True when another gap still fits, for a sender that can wait.
    pub fn has_room_for_gap(&self) -> bool {
        self.is_closed() || self.shared.gaps.load(Ordering::Relaxed) < self.shared.limits.messages_max
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// A number that changes while the loop makes progress, even when it reads no message for a while.
    pub fn progress(&self) -> u64 {
        self.shared.progress.load(Ordering::Relaxed)
    }

    /// How many positions of the bus clients of the loop have named that it had not read.
    pub fn asks(&self) -> u64 {
        self.shared.asks.load(Ordering::Relaxed)
    }

    /// Records the last number of the order before any loop can read it: clients that come from another loop may name it.
    pub fn note_issued(&self, last: Sequence) {
        self.shared.issued.fetch_max(last.0, Ordering::Relaxed);
    }

    /// Enqueues, and wakes the loop unless it was already woken. A message to a loop that has ended is discarded: the
    /// process is ending.
    pub fn send(&self, message: Message) {
        self.push(message);
        self.wake();
    }

    /// Enqueues one of several messages. Call [`Outlet::wake`] after the last one.
    pub fn push(&self, message: Message) {
        match &message {
            Message::Broadcast(broadcast) => {
                self.shared.messages.fetch_add(1, Ordering::Relaxed);
                self.shared.bytes.fetch_add(broadcast.frame.len(), Ordering::Relaxed);
            }
            Message::Gap(_) => _ = self.shared.gaps.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        let lane = match message {
            Message::Broadcast(_) | Message::Gap(_) | Message::Epoch(..) | Message::Loaded | Message::EndOfBus(_) => {
                &self.sender
            }
            Message::Published { .. } | Message::Page(_) | Message::Control(_) => &self.urgent,
        };
        let _ = lane.send(message);
    }

    /// Wakes the loop unless it was already woken.
    pub fn wake(&self) {
        if !self.shared.woken.swap(true, Ordering::AcqRel) {
            (self.shared.wake)();
        }
    }
}

/// The receiving end: the loop's.
pub struct Inbox {
    receiver: Receiver<Message>,
    urgent: Receiver<Message>,
    shared: Arc<Shared>,
}

impl Inbox {
    /// Call once before a run of [`Inbox::next`]: the next message sent after this call wakes the loop again.
    pub fn rearm(&self) {
        // A swap, not a store: a `send` that found the flag set does not call `wake`. The next receive is sure to see
        // that message only if this swap has read the value that the `send` wrote.
        self.shared.woken.swap(false, Ordering::AcqRel);
    }

    /// The last number of the order that a loop of this process may have read.
    pub fn issued(&self) -> Sequence {
        Sequence(self.shared.issued.load(Ordering::Relaxed))
    }

    /// Records how many positions of the bus clients have named that the loop had not read.
    pub fn note_asks(&self, asks: u64) {
        self.shared.asks.store(asks, Ordering::Relaxed);
    }

    /// Records that the loop is delivering to its subscribers: sources that wait for room may keep waiting.
    pub fn note_progress(&self) {
        self.shared.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// The next control or answer to a publisher, if one is waiting.
    pub fn next_urgent(&self) -> Option<Message> {
        self.urgent.try_recv().ok()
    }

    /// The next event or gap, if one is waiting.
    #[allow(clippy::should_implement_trait, reason = "an inbox that is empty now is not at its end")]
    pub fn next(&self) -> Option<Message> {
        let message = self.receiver.try_recv().ok()?;
        match &message {
            Message::Broadcast(broadcast) => {
                self.shared.messages.fetch_sub(1, Ordering::Relaxed);
                self.shared.bytes.fetch_sub(broadcast.frame.len(), Ordering::Relaxed);
            }
            Message::Gap(_) => _ = self.shared.gaps.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.note_progress();
        Some(message)
    }

    /// How many messages are waiting.
    pub fn len(&self) -> usize {
        self.receiver.len() + self.urgent.len()
    }

    /// True when no message is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // A lane that was given up takes, and discards, again.
        self.note_progress();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Naming;

    fn broadcast(sequence: u64, bytes: usize) -> Message {
        Message::Broadcast(Broadcast {
            sequence: Sequence(sequence),
            topic: Topic::new("t").unwrap(),
            naming: Naming::Here(None),
            frame: vec![b'x'; bytes].into(),
        })
    }

    fn counted(limits: ChannelLimits) -> (Outlet, Inbox, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let (outlet, inbox) = channel(limits, move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        (outlet, inbox, wakes)
    }

    #[test]
    fn one_wake_covers_many_messages() {
        let (outlet, inbox, wakes) = counted(ChannelLimits::default());
        (1..=3).for_each(|n| outlet.send(broadcast(n, 1)));
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        inbox.rearm();
        assert_eq!(std::iter::from_fn(|| inbox.next()).count(), 3);
        outlet.send(broadcast(4, 1));
        assert_eq!(wakes.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn control_messages_and_answers_are_read_before_events() {
        let (outlet, inbox, _) = counted(ChannelLimits::default());
        outlet.send(broadcast(1, 1));
        outlet.send(Message::Published { ticket: Ticket(7), outcome: Ok(Published::default()) });
        outlet.send(broadcast(2, 1));
        outlet.send(Message::Control(Control::Drain));
        assert_eq!(inbox.len(), 4);
        assert!(matches!(inbox.next_urgent(), Some(Message::Published { ticket: Ticket(7), .. })));
        assert!(matches!(inbox.next_urgent(), Some(Message::Control(Control::Drain))));
        assert!(inbox.next_urgent().is_none());
        assert_eq!(std::iter::from_fn(|| inbox.next()).count(), 2);
    }

    #[test]
    fn room_ends_at_the_bounds_and_returns_with_what_is_read() {
        let (outlet, inbox, _) = counted(ChannelLimits { messages_max: 3, bytes_max: 10 });
        assert!(outlet.has_room(1, 1000), "a frame over the bound passes alone");
        outlet.send(broadcast(1, 6));
        assert!(outlet.has_room(2, 4));
        assert!(!outlet.has_room(3, 1), "messages");
        assert!(!outlet.has_room(1, 5), "bytes");
        inbox.next();
        assert!(outlet.has_room(3, 10));
    }

    #[test]
    fn a_loop_that_has_ended_is_never_full() {
        let (outlet, inbox, _) = counted(ChannelLimits { messages_max: 1, bytes_max: 10 });
        outlet.send(broadcast(1, 6));
        assert!(!outlet.has_room(1, 1));
        drop(inbox);
        (2..9).for_each(|number| outlet.send(broadcast(number, 6)));
        assert!(outlet.has_room(1, 1) && outlet.has_room_for_gap());
    }

    #[test]
    fn a_source_that_stays_up_reports_its_errors_too() {
        let status = SourceStatus::new("test");
        status.set_up();
        status.set_error("beside it");
        assert_eq!((status.is_up(), status.last_error().as_deref()), (true, Some("beside it")));
        status.set_down("gone");
        assert_eq!((status.is_up(), status.last_error().as_deref()), (false, Some("gone")));
    }

    #[test]
    fn lost_topics_grow_until_they_are_read() {
        let lost = LostTopics::default();
        let [a, b] = ["a", "b"].map(|name| Topic::new(name).unwrap());
        assert!(lost.add(&b) && lost.add(&a) && lost.add(&b));
        assert_eq!(lost.seal(), Some(vec![a.clone(), b]));
        assert!(!lost.add(&a));
    }

    #[test]
    fn a_gap_stands_at_the_last_place_that_it_covers() {
        let [a, b] = ["a", "b"].map(|name| Topic::new(name).unwrap());
        let [one, three] = ["r-1", "r-3"].map(|id| EventId::new(id).unwrap());
        let lost = Arc::new(LostTopics::default());
        let scope = GapScope::Topics(Arc::clone(&lost));
        let mut gap = Gap { sequence: Sequence(1), id: one.clone(), reason: GapReason::ChannelFull, scope };
        assert!(lost.add_at(Some(&a), Sequence(1), one) && lost.add_at(Some(&b), Sequence(3), three.clone()));
        assert_eq!((gap.settle(), gap.sequence, &gap.id), (Some(vec![a, b.clone()]), Sequence(3), &three));
        assert!(!lost.add_at(Some(&b), Sequence(4), three));
    }

    #[test]
    fn lost_topics_are_listed_by_name_up_to_a_bound() {
        let lost = LostTopics::default();
        let name = |n: usize| Topic::new(&n.to_string()).unwrap();
        assert!((0..LOST_TOPICS_MAX).all(|n| lost.add(&name(n))) && lost.add(&name(0)));
        assert_eq!(lost.seal().map(|topics| topics.len()), Some(LOST_TOPICS_MAX));

        let lost = LostTopics::default();
        assert!((0..=LOST_TOPICS_MAX).all(|n| lost.add(&name(n))));
        assert_eq!(lost.seal(), None);
    }
}
