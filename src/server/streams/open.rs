//! The start and the end of a stream: where it starts, its first frames, and its last.

use std::time::Duration;

use super::Streams;
use super::age::retirement;
use super::credentials::Credential;
use super::transmit::{gap_frame, private, send_private};
use crate::event::{EventId, Frame, STATISTICS_TOPIC, Sequence, Topic};
use crate::hub::{Hub, MissedGap, Replay, Run, RunLimits, Start, StartPoint, Subscriber, TopicPace};
use crate::io::Io;
use crate::protocol::encoder;
use crate::server::node::Node;
use crate::server::node::refusal::Refusal;
use crate::server::transport::Transport;
use crate::server::transport::connection::{CloseReason, Flags, Stream, StreamMode};
use crate::server::transport::outbox::Outbox;
use crate::server::wheel::Tick;

/// A client's request for a stream.
#[derive(Debug)]
pub(crate) struct StreamParams {
    pub(crate) topics: Vec<Topic>,
    pub(crate) last_event_id: Vec<u8>,
    pub(crate) replay: Replay,
    /// The shortest time between two deliveries.
    pub(crate) interval: Duration,
    /// Only the newest event of each topic matters.
    pub(crate) latest: bool,
    /// Heartbeats carry the position.
    pub(crate) position_heartbeats: bool,
    /// It gets gzip.
    pub(crate) is_compressed: bool,
    /// The credential that admitted it, if it needed a token.
    pub(crate) credential: Option<Credential>,
}

impl StreamParams {
    /// Follows what its topics allow at most: a client may ask for less, and never for more.
    fn slow_down(&mut self, topics: TopicPace) {
        self.interval = self.interval.max(topics.interval_floor);
        self.latest |= topics.latest;
    }

    /// What of the past is replayed. A subscriber that gets only the newest events needs no cap.
    fn replay_mode(&self) -> Replay {
        match self.replay {
            Replay::Missed if self.latest && !self.last_event_id.is_empty() => Replay::Latest,
            Replay::All if self.latest => Replay::Latest,
            replay => replay,
        }
    }

    fn mode(&self) -> StreamMode {
        let mut mode = StreamMode::default();
        if self.topics.len() > 1 {
            mode.set(StreamMode::SEVERAL_TOPICS);
        }
        if self.latest {
            mode.set(StreamMode::LATEST);
        }
        if self.position_heartbeats {
            mode.set(StreamMode::POSITION_HEARTBEATS);
        }
        if self.is_compressed {
            mode.set(StreamMode::COMPRESSED);
        }
        if self.latest || !self.interval.is_zero() {
            mode.set(StreamMode::PACED);
        }
        mode
    }
}

impl Streams {
    /// Makes a connection a subscriber: sends `head`, the head of the response, and then its first frames. Or says why
    /// its stream can't start now.
    pub(crate) fn open<I: Io>(
        &mut self,
        slot: u32,
        head: Frame,
        mut params: StreamParams,
        transport: &mut Transport<I>,
        hub: &mut Hub,
        node: &mut Node,
    ) -> Result<(), Refusal> {
        hub.subscribe(Subscriber(slot), &params.topics).map_err(|_| Refusal::TopicLimit)?;
        params.slow_down(hub.pace_of(Subscriber(slot)));
        hub.note_asked(&params.last_event_id);
        let mut mode = params.mode();
        let start = match hub.start(Subscriber(slot), &params.last_event_id, params.replay_mode()) {
            Start::Ready(start) => start,
            Start::Fetching(start) => {
                mode.set(StreamMode::FETCHING);
                node.counters.fetching_streams += 1;
                start
            }
            Start::Waiting => {
                hub.unsubscribe(Subscriber(slot));
                return Err(Refusal::PositionUnknown);
            }
        };
        let credential = params.credential.take();
        let expires_at = credential.as_ref().map_or(Tick::NEVER, |credential| credential.expires_at);
        if let Some(credential) = credential {
            self.credentials.insert(slot, credential);
        }
        // Answers to earlier requests may wait in it, or a `100 Continue` be half written.
        let mut outbox = transport.take_outbox(slot, node.now);
        outbox.push(head);
        let position = self.push_start(slot, &mut outbox, &params, start, hub, node);
        if mode.has(StreamMode::PACED) {
            self.paces.insert(slot, params.interval);
        }
        let ends_at = expires_at.min(retirement(transport.at(slot).flags.has(Flags::ADMIN), node));
        let is_behind = position < hub.head();
        if is_behind {
            mode.set(StreamMode::REPLAYING);
        }
        let stream = Stream { delivered_through: position, ends_at, mode };
        transport.start_stream(slot, stream, node.now);
        node.counters.streams += 1;
        if params.topics.iter().any(|topic| topic.as_str() == STATISTICS_TOPIC) {
            transport.at_mut(slot).flags.set(Flags::WATCHES);
            node.counters.own.streams += 1;
        }
        node.counters.compressed_streams += u64::from(params.is_compressed);
        transport.send_outbox(slot, outbox, node);
        // The rest of a replay is sent under the budget for catching up; a blocked connection waits for room.
        let connection = transport.at(slot);
        if is_behind && connection.is_streaming() && !connection.flags.has(Flags::BLOCKED) {
            transport.queue_catching_up(slot);
        }
        Ok(())
    }

    /// Queues what precedes the log: preamble, gap, the newest events if requested. Returns the position after it.
    fn push_start(
        &mut self,
        slot: u32,
        outbox: &mut Outbox,
        params: &StreamParams,
        start: StartPoint,
        hub: &Hub,
        node: &mut Node,
    ) -> Sequence {
        let preamble = self.preamble(&start, &params.last_event_id, hub, node);
        outbox.push(private(preamble, params.is_compressed));
        if let Some(opening) = &start.opening {
            node.counters.gaps.count(opening.reason.as_str());
            outbox.push(private(gap_frame(hub, opening), params.is_compressed));
        }
        if params.replay == Replay::Latest {
            outbox.extend(self.newest(Subscriber(slot), &start, params.is_compressed, hub, node));
            return hub.head();
        }
        if start.owed.through > start.position {
            self.owed.insert(slot, start.owed);
        }
        start.position
    }

    /// The `retry:`, and the `id:` to resume from if the stream breaks before its first event.
    fn preamble(&mut self, start: &StartPoint, last_event_id: &[u8], hub: &Hub, node: &mut Node) -> Frame {
        let retry = node.settings.delivery.retry;
        let named = std::str::from_utf8(last_event_id).ok().and_then(|id| EventId::new(id).ok());
        match named.filter(|_| start.id_is_known) {
            // The publisher's own id in it may be known on other nodes too, so the server's id does not replace it.
            Some(id) => encoder::preamble(node.jitter.around(retry), &id),
            // The gap's own id follows immediately.
            None if start.opening.is_some() => encoder::retry_only(node.jitter.around(retry)),
            None => {
                let id = hub.id_of(start.position);
                self.preambles.get(start.position, &id, retry, &mut node.jitter)
            }
        }
    }

    /// The newest event of each topic, all at once: live events follow.
    fn newest(
        &mut self,
        subscriber: Subscriber,
        start: &StartPoint,
        is_compressed: bool,
        hub: &Hub,
        node: &mut Node,
    ) -> Option<Frame> {
        let mut run = Run::default();
        let format = |gap: &MissedGap| gap_frame(hub, gap);
        hub.latest_run_for(subscriber, start.position, &start.owed, format, RunLimits::NONE, &mut run);
        run.gaps_among(0..run.frames().len()).for_each(|reason| node.counters.gaps.count(reason.as_str()));
        if is_compressed {
            self.forms.compress(&mut run, 0, (subscriber, false), hub, node);
        }
        // One frame, so that one send takes all of it, however many topics there are.
        let bytes = || run.frames().iter().flat_map(Frame::bytes).copied().collect::<Vec<_>>();
        (!run.is_empty()).then(|| bytes().into())
    }

    /// Sends one run of what a stream has not received yet, before it ends on purpose.
    pub(crate) fn flush_stream<I: Io>(&mut self, slot: u32, transport: &mut Transport<I>, hub: &Hub, node: &mut Node) {
        let is_behind =
            |stream: &Stream| stream.delivered_through < hub.head() && !stream.mode.has(StreamMode::FETCHING);
        if transport.stream(slot).is_some_and(is_behind) && !transport.at(slot).flags.has(Flags::BLOCKED) {
            self.transmit(slot, transport, hub, node);
        }
    }

    /// Ends a stream on purpose, with a last frame.
    pub(crate) fn end_stream<I: Io>(
        &mut self,
        slot: u32,
        last_frame: Frame,
        reason: CloseReason,
        transport: &mut Transport<I>,
        hub: &mut Hub,
        node: &mut Node,
    ) {
        if transport.stream(slot).is_none() {
            return;
        }
        send_private(slot, last_frame, transport, node);
        if transport.stream(slot).is_none() {
            return;
        }
        if transport.outbox(slot).is_some() || self.owed.contains_key(&slot) {
            // It accepts nothing now: when it reads on, it finds the end and its last id.
            transport.close(slot, reason, node);
        } else {
            hub.unsubscribe(Subscriber(slot));
            transport.linger(slot, reason, node);
        }
    }
}
