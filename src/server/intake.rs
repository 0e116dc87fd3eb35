//! The intake: what sources and signals sent. It appends events to the logs in order, within a budget. An event waits
//! while it would evict what subscribers that keep reading still need. Controls and answers to publishers have a lane
//! of their own and never wait behind events.

use super::backpressure::Backpressure;
use super::node::Node;
use super::node::log_entries::LogEntry;
use super::transport::Transport;
use super::transport::connection::CloseReason;
use crate::event::{Broadcast, EventId, STATISTICS_TOPIC, Sequence};
use crate::hub::{Appended, Hub};
use crate::io::Io;
use crate::observe::clip::clip;
use crate::protocol::encoder;
use crate::sources::channel::{Gap, Inbox, Message};

/// Messages of each lane in one turn.
const MESSAGES_PER_TURN_MAX: usize = 512;

/// The loop's end of the channel, and the event that waits.
pub(super) struct Intake {
    pub(super) inbox: Inbox,
    /// An event that waits for subscribers.
    held: Option<Broadcast>,
    backpressure: Backpressure,
    has_more: bool,
}

impl Intake {
    pub(super) fn new(inbox: Inbox) -> Intake {
        Intake { inbox, held: None, backpressure: Backpressure::default(), has_more: false }
    }

    /// True while there is work that needs no further message.
    pub(super) fn has_work(&self) -> bool {
        self.has_more || (self.held.is_some() && !self.is_holding())
    }

    /// True while an event waits for subscribers that keep reading, and not only for a walk.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some() && self.backpressure.waits_for_readers()
    }

    /// Reports to waiting sources that subscribers make progress.
    pub(super) fn note_progress(&self) {
        if self.held.is_some() {
            self.inbox.note_progress();
        }
    }

    /// Controls and answers to publishers, up to a turn's worth.
    pub(super) fn take_urgent(&mut self) -> Vec<Message> {
        self.inbox.rearm();
        let messages: Vec<_> = std::iter::from_fn(|| self.inbox.next_urgent()).take(MESSAGES_PER_TURN_MAX).collect();
        self.has_more = messages.len() == MESSAGES_PER_TURN_MAX;
        messages
    }

    /// Appends events and losses to the logs, until the budget is spent or an event has to wait for subscribers.
    pub(super) fn take_events<I: Io>(&mut self, transport: &mut Transport<I>, hub: &mut Hub, node: &mut Node) {
        self.inbox.note_asks(hub.asks());
        self.backpressure.look_again();
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let message = self.held.take().map(Message::Broadcast).or_else(|| self.inbox.next());
            match message {
                None => return,
                Some(Message::Broadcast(mut broadcast)) => {
                    let Some(sequence) = place(broadcast.sequence, hub, node) else { continue };
                    broadcast.sequence = sequence;
                    let topic = hub.locate(broadcast.topic.as_str());
                    let frame_bytes = broadcast.frame.len();
                    if self.backpressure.must_wait(topic, frame_bytes, transport, hub, node.now) {
                        self.held = Some(broadcast);
                        return;
                    }
                    if hub.is_pinned_over(frame_bytes) {
                        close_pinners(transport, hub, node);
                    }
                    let name = broadcast.topic.clone();
                    let appended = hub.append_at(topic, broadcast, node.now);
                    note_appended(appended, name.as_str(), node);
                }
                Some(Message::Gap(gap)) => append_loss(gap, hub, node),
                Some(Message::Epoch(epoch, gap)) => {
                    hub.begin_epoch(epoch);
                    gap.into_iter().for_each(|gap| append_loss(gap, hub, node));
                }
                Some(Message::Loaded) => hub.set_loaded(),
                Some(Message::EndOfBus(asks)) => hub.note_end_of_bus(asks),
                Some(Message::Published { .. } | Message::Page(_) | Message::Control(_)) => {
                    debug_assert!(false, "these have a lane of their own");
                }
            }
        }
        self.has_more = true;
    }
}

/// The place of an event or a gap, also of one that does not pass through the bus.
fn place(sequence: Sequence, hub: &Hub, node: &mut Node) -> Option<Sequence> {
    if sequence != Sequence::ZERO {
        return Some(sequence);
    }
    let next = hub.next_local();
    if next.is_none() {
        node.counters.dropped.count("local_order_full");
        if node.may_log(LogEntry::LocalOrderFull) {
            tracing::warn!("{}", LogEntry::LocalOrderFull.text());
        }
    }
    next
}

fn note_appended(appended: Appended, topic: &str, node: &mut Node) {
    match appended {
        Appended::Logged => {
            node.counters.broadcasts += 1;
            node.counters.own.broadcasts += u64::from(topic == STATISTICS_TOPIC);
        }
        Appended::Duplicate => node.counters.dropped.count("duplicate"),
        Appended::NoTopic => {
            node.counters.dropped.count("topics_exhausted");
            if node.may_log(LogEntry::EventDropped) {
                tracing::warn!(topic = &*clip(topic), "{}", LogEntry::EventDropped.text());
            }
        }
    }
}

/// Records a loss that a source announced.
fn append_loss(mut gap: Gap, hub: &mut Hub, node: &mut Node) {
    let topics = gap.settle();
    let Some(sequence) = place(gap.sequence, hub, node) else { return };
    // Every subscriber reads the same frame. It names a topic only if it concerns that topic alone: subscribers may not
    // learn the names of all topics.
    let name = match topics.as_deref() {
        Some([topic]) => topic.as_str(),
        _ => "*",
    };
    let before = Sequence(sequence.0 - 1);
    let last_id = (before > Sequence::ZERO).then(|| hub.id_of(before));
    let reason = gap.reason.as_str();
    let frame = encoder::gap(&gap.id, reason, &[name], last_id.as_ref().map(EventId::as_str));
    if node.may_log(LogEntry::GapReported) {
        let count = topics.as_ref().map(Vec::len);
        let topic = &*clip(name);
        tracing::warn!(reason, topic, topics = count, id = %gap.id, "{}", LogEntry::GapReported.text());
    }
    node.counters.gaps.count(reason);
    hub.append_loss(sequence, topics.as_deref(), frame, node.now);
}

/// Frees memory that evicted frames still occupy: closes the connections that hold them.
fn close_pinners<I: Io>(transport: &mut Transport<I>, hub: &mut Hub, node: &mut Node) {
    let holds_pinned =
        transport.outboxes().filter(|(_, outbox)| outbox.unsent().iter().any(|frame| hub.is_pinned(frame)));
    let mut holders: Vec<u32> = holds_pinned.map(|(slot, _)| slot).collect();
    holders.sort_unstable();
    for slot in holders {
        transport.close(slot, CloseReason::MemoryBound, node);
    }
    hub.apply_holds(transport.take_hold_changes());
}
