//! The inbox: what sources and signals sent, appended to the logs in order, within a budget.

use super::log_entries::LogEntry;
use super::publish::ticket_token;
use super::{CloseReason, Server};
use crate::event::{Broadcast, EventId, Sequence};
use crate::hub::Appended;
use crate::io::Io;
use crate::protocol::encoder;
use crate::sources::channel::{Control, Gap, GapScope, Message};

/// About what a gap takes in a log. Which topics it names is not asked before it is appended: until then it may grow.
const GAP_BYTES: usize = 256;
/// Messages in one turn.
const MESSAGES_PER_TURN_MAX: usize = 512;

impl<I: Io> Server<I> {
    /// Takes what waits, until the budget is spent or a log would lose what its walk has yet to bring round.
    pub(super) fn take_from_inbox(&mut self) {
        self.inbox.rearm();
        self.inbox_has_more = false;
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let Some(message) = self.held.take().or_else(|| self.inbox.next()) else { return };
            if self.would_outrun(&message) {
                // It makes the next wait zero: the walk may well end in this turn.
                self.held = Some(message);
                return;
            }
            match message {
                Message::Broadcast(broadcast) => self.append(broadcast),
                Message::Gap(gap) => self.append_gap(&gap),
                Message::Published { ticket, outcome } => self.finish_publish(ticket_token(ticket), outcome),
                Message::Control(Control::Drain) => self.start_drain(),
                Message::Control(Control::Disconnect(disconnect)) => self.disconnect_passed(disconnect),
                Message::Control(Control::Reload) => self.reload(),
            }
        }
        self.inbox_has_more = true;
    }

    fn would_outrun(&self, message: &Message) -> bool {
        match message {
            Message::Broadcast(broadcast) => self.hub.would_outrun(broadcast.topic.as_str(), broadcast.frame.len()),
            Message::Gap(_) => self.hub.would_gap_outrun(GAP_BYTES),
            Message::Published { .. } | Message::Control(_) => false,
        }
    }

    fn append(&mut self, broadcast: Broadcast) {
        if self.hub.is_pinned_over(broadcast.frame.len()) {
            self.close_pinners();
        }
        let topic = broadcast.topic.clone();
        match self.hub.append(broadcast, self.now) {
            Appended::Logged => self.counters.broadcasts += 1,
            Appended::Duplicate => self.counters.dropped.count("duplicate"),
            Appended::NoTopic => {
                self.counters.dropped.count("topics_exhausted");
                if self.may_log(LogEntry::EventDropped) {
                    tracing::warn!(topic = topic.as_str(), "{}", LogEntry::EventDropped.text());
                }
            }
        }
    }

    /// Tells of a loss in the logs of all topics that it touches.
    fn append_gap(&mut self, gap: &Gap) {
        let topics = match &gap.scope {
            GapScope::All => None,
            GapScope::Topics(lost) => lost.seal(),
        };
        // Everybody told reads the same frame: of several topics it names none, since not all are everybody's to know of.
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
            tracing::warn!(reason, topic = name, topics = count, id = %gap.id, "{}", LogEntry::GapTold.text());
        }
        self.counters.gaps.count(reason);
        self.hub.append_gap(gap.sequence, topics.as_deref(), &frame, self.now);
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
