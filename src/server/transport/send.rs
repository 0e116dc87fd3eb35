//! Sending to one connection: the half-written frame is completed first.
//!
//! Every byte goes through here or through a walk (`streams::deliver`). Both record what the kernel took the same way.

use std::time::Duration;

use super::Transport;
use super::connection::Flags;
use super::outbox::{Outbox, Progress, Sending};
use crate::event::Frame;
use crate::hub::HoldChange;
use crate::io::{Io, Sent};
use crate::server::node::Node;
use crate::server::wheel::Tick;

impl<I: Io> Transport<I> {
    /// Takes out what is half written on a connection; it is put back by [`Transport::send`] or
    /// [`Transport::put_back`].
    pub(crate) fn take_outbox(&mut self, slot: u32, now: Duration) -> Outbox {
        self.outboxes.remove(&slot).unwrap_or_else(|| Outbox::new(now))
    }

    pub(crate) fn outbox(&self, slot: u32) -> Option<&Outbox> {
        self.outboxes.get(&slot)
    }

    /// The connections that have half-written data.
    pub(crate) fn outboxes(&self) -> impl Iterator<Item = (u32, &Outbox)> {
        self.outboxes.iter().map(|(slot, outbox)| (*slot, outbox))
    }

    /// How many connections' last send the kernel took only in part, or not at all.
    pub(crate) fn unfinished_send_count(&self) -> usize {
        self.outboxes.len()
    }

    /// Sends a frame after the half-written data.
    pub(crate) fn send_frame(&mut self, slot: u32, frame: Frame, node: &mut Node) {
        let mut outbox = self.take_outbox(slot, node.now);
        outbox.push(frame);
        self.send_outbox(slot, outbox, node);
    }

    /// Sends the half-written data. False: some of it is still unsent.
    pub(crate) fn send_outbox(&mut self, slot: u32, outbox: Outbox, node: &mut Node) -> bool {
        let Some(mut outbox) = self.unless_blocked(slot, outbox, node) else { return false };
        let frames = outbox.take_unsent();
        if frames.is_empty() {
            return true;
        }
        let sending = Sending { frames: &frames, unlogged: frames.len(), is_event: |_| false };
        self.send(slot, outbox, &sending, node).is_none_or(|progress| progress.is_all)
    }

    /// Returns the outbox, or puts it back and returns none if the socket awaits writability.
    pub(crate) fn unless_blocked(&mut self, slot: u32, outbox: Outbox, node: &mut Node) -> Option<Outbox> {
        if !self.connections[slot as usize].flags.has(Flags::BLOCKED) {
            return Some(outbox);
        }
        node.counters.skipped_blocked += 1;
        self.put_back(slot, outbox);
        None
    }

    pub(crate) fn put_back(&mut self, slot: u32, outbox: Outbox) {
        self.outboxes.insert(slot, outbox);
    }

    /// What connections began or ceased to hold half written since the last call.
    pub(crate) fn take_hold_changes(&mut self) -> impl Iterator<Item = HoldChange> {
        self.hold_changes.drain(..)
    }

    /// Sends to a socket that does not await writability. The outbox, whose frames come first, is put back if anything is
    /// left. None: the connection broke.
    pub(crate) fn send<F: Fn(usize) -> bool>(
        &mut self,
        slot: u32,
        outbox: Outbox,
        sending: &Sending<'_, F>,
        node: &mut Node,
    ) -> Option<Progress> {
        let socket = self.connections[slot as usize].socket;
        let mut outcomes = std::mem::take(&mut self.outcomes);
        self.io.send(sending.frames, outbox.offset(), [socket].into_iter(), &mut outcomes);
        let sent = outcomes.pop().expect("one outcome for one target");
        self.outcomes = outcomes;
        self.record_send_result(slot, outbox, sending, sent, node)
    }

    /// Records what the kernel took.
    pub(crate) fn record_send_result<F: Fn(usize) -> bool>(
        &mut self,
        slot: u32,
        mut outbox: Outbox,
        sending: &Sending<'_, F>,
        sent: Sent,
        node: &mut Node,
    ) -> Option<Progress> {
        let taken = match sent {
            Sent::Bytes(taken) | Sent::Held(taken) => taken,
            Sent::WouldBlock => 0,
            Sent::Gone(gone) => {
                self.put_back(slot, outbox);
                self.close(slot, gone.into(), node);
                return None;
            }
        };
        node.counters.sends += 1;
        node.counters.sent_bytes += taken as u64;
        let connection = &mut self.connections[slot as usize];
        let watches = connection.flags.has(Flags::WATCHES);
        if watches || !connection.is_streaming() {
            node.counters.own.sent_bytes += taken as u64;
        }
        if taken > 0 {
            outbox.progress_at = node.now;
            if connection.is_streaming() {
                connection.since = Tick::of(node.now);
            }
        }
        let delivered_before = node.counters.delivered_events;
        let mut progress = outbox.advance(sending, taken, &mut node.counters.delivered_events, &mut self.hold_changes);
        progress.is_all &= !matches!(sent, Sent::Held(_));
        if watches {
            node.counters.own.delivered_events += node.counters.delivered_events - delivered_before;
        }
        if !progress.is_all {
            connection.flags.set(Flags::BLOCKED);
            node.counters.short_sends += 1;
            self.put_back(slot, outbox);
        }
        Some(progress)
    }
}
