//! Sending to one subscriber: half-written frames first, then its next events from its topics' logs, in one run.

use super::Streams;
use super::slow::{self, Fate, Lag};
use crate::event::{EventId, Frame, Topic};
use crate::hub::{Hub, MissedGap, Run, RunLimits, Subscriber};
use crate::io::{FRAMES_PER_SEND_MAX, Io};
use crate::protocol::{encoder, gzip};
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::server::transport::connection::{Flags, StreamMode};
use crate::server::transport::outbox::{Outbox, Progress, Sending};

/// What one subscriber is sent at once: about the size of its send buffer.
pub(super) const RUN_LIMITS: RunLimits = RunLimits { frames_max: FRAMES_PER_SEND_MAX / 2, bytes_max: 64 << 10 };

impl Streams {
    /// Sends as much as fits one run. True: no more is waiting, neither here nor for the socket.
    pub(super) fn transmit<I: Io>(
        &mut self,
        slot: u32,
        transport: &mut Transport<I>,
        hub: &Hub,
        node: &mut Node,
    ) -> bool {
        let outbox = transport.take_outbox(slot, node.now);
        let Some(outbox) = transport.unless_blocked(slot, outbox, node) else { return false };
        let Some(lag) = self.lag(slot, &outbox, transport, hub, node) else {
            transport.put_back(slot, outbox);
            return true;
        };
        let fate = slow::fate(node.settings.delivery.slow_policy, Lag { is_stalled: false, ..lag });
        match fate {
            Fate::Close(reason) => {
                transport.put_back(slot, outbox);
                transport.close(slot, reason, node);
                return true;
            }
            Fate::Gap => self.owed.entry(slot).or_default().through = hub.lost_through(Subscriber(slot)),
            Fate::Keep | Fate::Skip => {}
        }
        let mut run = std::mem::take(&mut self.scratch.run);
        self.build(slot, &outbox, fate, transport, hub, &mut run);
        self.compress_run(slot, outbox.unsent().len(), &mut run, transport, hub, node);
        let done = self.send_run(slot, outbox, &run, transport, node);
        run.clear();
        self.scratch.run = run;
        done
    }

    /// Compresses what a run adds to the outbox, if the stream is compressed.
    pub(super) fn compress_run<I: Io>(
        &mut self,
        slot: u32,
        unlogged: usize,
        run: &mut Run,
        transport: &Transport<I>,
        hub: &Hub,
        node: &mut Node,
    ) {
        let mode = transport.stream(slot).map_or_else(StreamMode::default, |stream| stream.mode);
        if mode.has(StreamMode::COMPRESSED) {
            let receiver = (Subscriber(slot), mode.has(StreamMode::HAS_SEGMENT));
            self.forms.compress(run, unlogged, receiver, hub, node);
        }
    }

    pub(super) fn send_run<I: Io>(
        &mut self,
        slot: u32,
        outbox: Outbox,
        run: &Run,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) -> bool {
        if run.is_empty() {
            if let Some(stream) = transport.at_mut(slot).stream_mut() {
                stream.delivered_through = run.through();
            }
            self.owed.remove(&slot);
            return true;
        }
        let unlogged = outbox.unsent().len();
        let is_event = |index: usize| run.gaps_among(index..index + 1).next().is_none();
        let sending = Sending { frames: run.frames(), unlogged, is_event };
        match transport.send(slot, outbox, &sending, node) {
            None => true,
            Some(progress) => {
                self.note_progress(slot, run, unlogged, &progress, transport, node);
                progress.is_all && run.is_complete()
            }
        }
    }

    /// Records how much of a run was sent to one subscriber: its position, and what counts as delivered.
    pub(super) fn note_progress<I: Io>(
        &mut self,
        slot: u32,
        run: &Run,
        unlogged: usize,
        progress: &Progress,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        let Some(stream) = transport.at_mut(slot).stream_mut() else { return };
        if progress.is_all {
            stream.delivered_through = run.through();
        } else if progress.begun > unlogged {
            stream.delivered_through = run.position(progress.begun - 1);
        }
        if stream.mode.has(StreamMode::COMPRESSED) {
            let had = stream.mode.has(StreamMode::HAS_SEGMENT);
            stream
                .mode
                .assign(StreamMode::HAS_SEGMENT, run.completes_segment(unlogged..progress.begun.max(unlogged), had));
        }
        let position = stream.delivered_through;
        if self.owed.get(&slot).is_some_and(|owed| owed.through <= position) {
            self.owed.remove(&slot);
        }
        run.gaps_among(unlogged..progress.begun).for_each(|reason| node.counters.gaps.count(reason.as_str()));
        let gaps = run.gaps_among(unlogged..progress.whole).count();
        let events = (progress.whole.saturating_sub(unlogged) - gaps) as u64;
        node.counters.delivered_events += events;
        if transport.at(slot).flags.has(Flags::WATCHES) {
            node.counters.own.delivered_events += events;
        }
    }

    /// How a subscriber is behind; none if the slot has no stream.
    pub(super) fn lag<I: Io>(
        &self,
        slot: u32,
        outbox: &Outbox,
        transport: &Transport<I>,
        hub: &Hub,
        node: &Node,
    ) -> Option<Lag> {
        let stream = transport.stream(slot)?;
        let position = stream.delivered_through;
        let owed_through = self.owed.get(&slot).map_or(position, |owed| owed.through);
        Some(Lag {
            is_stalled: node.now.saturating_sub(outbox.progress_at) >= node.settings.delivery.stall_timeout,
            is_evicted: !stream.mode.has(StreamMode::FETCHING)
                && hub.is_evicted(Subscriber(slot), position.max(owed_through)),
            is_owed: position < owed_through,
            is_by_consent: stream.mode.has(StreamMode::PACED),
        })
    }

    /// Assembles the frames to send now; `fate` decides how the subscriber continues.
    fn build<I: Io>(&self, slot: u32, outbox: &Outbox, fate: Fate, transport: &Transport<I>, hub: &Hub, run: &mut Run) {
        let Some(stream) = transport.stream(slot) else { return };
        let (after, subscriber) = (stream.delivered_through, Subscriber(slot));
        let format = |gap: &MissedGap| gap_frame(hub, gap);
        run.clear();
        outbox.unsent().iter().for_each(|frame| run.push_unlogged(frame.clone(), after));
        match (fate, self.owed.get(&slot)) {
            (Fate::Skip, _) => hub.run_of_skip(subscriber, after, format, run),
            (_, owed) if stream.mode.has(StreamMode::LATEST) => {
                let owed = owed.cloned().unwrap_or_default();
                hub.latest_run_for(subscriber, after, &owed, format, RUN_LIMITS, run);
            }
            (_, Some(owed)) => hub.run_with_gaps(subscriber, after, owed, format, RUN_LIMITS, run),
            (_, None) => hub.run_for(subscriber, after, hub.head(), RUN_LIMITS, run),
        }
    }
}

/// Sends a frame that is for one stream alone.
pub(super) fn send_private<I: Io>(slot: u32, frame: Frame, transport: &mut Transport<I>, node: &mut Node) {
    let Some(stream) = transport.at_mut(slot).stream_mut() else { return };
    let is_compressed = stream.mode.has(StreamMode::COMPRESSED);
    stream.mode.clear(StreamMode::HAS_SEGMENT);
    transport.send_frame(slot, private(frame, is_compressed), node);
}

/// What a stream sends for a frame that is for it alone.
pub(super) fn private(frame: Frame, is_compressed: bool) -> Frame {
    if is_compressed { gzip::stored(frame.bytes()) } else { frame }
}

/// A gap as an event of its own.
pub(super) fn gap_frame(hub: &Hub, gap: &MissedGap) -> Frame {
    let topics: Vec<_> = gap.topics.iter().map(Topic::as_str).collect();
    let id = hub.id_of(gap.at);
    encoder::gap(&id, gap.reason.as_str(), &topics, gap.last_id.as_ref().map(EventId::as_str))
}
