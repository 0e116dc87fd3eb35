//! The inbox: what sources and signals sent. Events are appended to the logs in order, within a budget. What signals ask,
//! and answers to publishers, have a lane of their own and never wait behind events.

use super::hold::Hold;
use super::log_entries::LogEntry;
use super::publish::ticket_token;
use super::{CloseReason, Server};
use crate::event::{Broadcast, EventId, Sequence};
use crate::hub::Appended;
use crate::io::Io;
use crate::observe::clip::clip;
use crate::protocol::encoder;
use crate::sources::channel::{Control, Gap, GapScope, Message};

/// Messages of each lane in one turn.
const MESSAGES_PER_TURN_MAX: usize = 512;

impl<I: Io> Server<I> {
    /// Takes what waits, until the budget is spent or an event has to wait for subscribers.
    pub(super) fn take_from_inbox(&mut self) {
        self.inbox.rearm();
        self.inbox_has_more = false;
        self.take_urgent();
        self.hold.iter_mut().for_each(Hold::look_again);
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let Some(message) = self.held.take().or_else(|| self.inbox.next()) else { return };
            if let Some(held) = self.take_message(message) {
                self.held = Some(held);
                return;
            }
        }
        self.inbox_has_more = true;
    }

    fn take_urgent(&mut self) {
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let Some(message) = self.inbox.next_urgent() else { return };
            self.take_message(message);
        }
        self.inbox_has_more = true;
    }

    /// Acts on a message; gives back an event that has to wait.
    fn take_message(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Broadcast(broadcast) => return self.append_unless_held(broadcast).map(Message::Broadcast),
            Message::Gap(gap) => self.append_loss(&gap),
            Message::Published { ticket, outcome } => self.finish_publish(ticket_token(ticket), outcome),
            Message::Control(Control::Drain) => self.start_drain(),
            Message::Control(Control::Disconnect(disconnect)) => self.disconnect_passed(disconnect),
            Message::Control(Control::Reload) => self.reload(),
        }
        None
    }

    fn append_unless_held(&mut self, broadcast: Broadcast) -> Option<Broadcast> {
        let frame_bytes = broadcast.frame.len();
        let topic = self.hub.locate(broadcast.topic.as_str());
        if self.must_hold(topic, frame_bytes) {
            return Some(broadcast);
        }
        if self.hub.is_pinned_over(frame_bytes) {
            self.close_pinners();
        }
        let name = broadcast.topic.clone();
        match self.hub.append_at(topic, broadcast, self.now) {
            Appended::Logged => self.counters.broadcasts += 1,
            Appended::Duplicate => self.counters.dropped.count("duplicate"),
            Appended::NoTopic => {
                self.counters.dropped.count("topics_exhausted");
                if self.may_log(LogEntry::EventDropped) {
                    tracing::warn!(topic = &*clip(name.as_str()), "{}", LogEntry::EventDropped.text());
                }
            }
        }
        None
    }

    /// Takes note of a loss that a source announced.
    fn append_loss(&mut self, gap: &Gap) {
        let topics = match &gap.scope {
            GapScope::All => None,
            GapScope::Topics(lost) => lost.seal(),
        };
        // Every subscriber reads the same frame. It names a topic only if it is of that one alone: not all topics are
        // everybody's to know of.
        let name = match topics.as_deref() {
            Some([topic]) => topic.as_str(),
            _ => "*",
        };
        let before = Sequence(gap.sequence.0 - 1);
        let last_id = (before > Sequence::ZERO).then(|| self.hub.run().id(before));
        let reason = gap.reason.as_str();
        let frame = encoder::gap(&gap.id, reason, &[name], last_id.as_ref().map(EventId::as_str));
        if self.may_log(LogEntry::GapTold) {
            let count = topics.as_ref().map(Vec::len);
            let topic = &*clip(name);
            tracing::warn!(reason, topic, topics = count, id = %gap.id, "{}", LogEntry::GapTold.text());
        }
        self.counters.gaps.count(reason);
        self.hub.append_loss(gap.sequence, topics.as_deref(), frame, self.now);
    }

    /// Memory is needed that evicted frames still take: whoever holds them goes first.
    fn close_pinners(&mut self) {
        self.hub.unpin();
        let holds = |slot: &u32| self.laggards[slot].unsent().iter().any(|frame| self.hub.is_pinned(frame));
        let mut holders: Vec<u32> = self.laggards.keys().copied().filter(holds).collect();
        holders.sort_unstable();
        for slot in holders {
            self.close(slot, CloseReason::MemoryBound);
        }
        self.hub.unpin();
    }
}
