//! The drain: first notice (unready, but still accepting), then the public listeners close, then the streams end one after
//! the other over the time given, each with a reconnection time after which this server is gone. Streams of the server's
//! own statistics close last, so that an operator can watch the others close. Every loop of a node drains its own streams, and
//! stays until those of all loops are closed.

use std::time::Duration;

use super::node::{Leaving, Node};
use super::streams::Streams;
use super::transport::Transport;
use super::transport::connection::CloseReason;
use super::transport::connection::Phase;
use crate::event::STATISTICS_TOPIC;
use crate::hub::{Hub, Subscriber};
use crate::io::Io;
use crate::protocol::encoder;

/// How often streams are closed: fifty small steps a second spread them evenly.
const STEP: Duration = Duration::from_millis(20);
/// Streams ended in one turn: a host that can't keep up would otherwise have more and more to end in each turn.
const CLOSES_PER_TURN_MAX: usize = 512;
/// How long the last answers may take after the streams are closed.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A server that is leaving.
#[derive(Debug)]
pub(super) struct Drain {
    stage: Stage,
    next_step: Duration,
    at_once: bool,
    /// All streams of this loop are closed but those of statistics, and the node knows.
    is_drained: bool,
}

#[derive(Debug)]
enum Stage {
    /// Unready, but still accepting.
    Notice { until: Duration },
    /// No public listener; streams are closed in the order of their slots, those of statistics in a second pass.
    Closing { started_at: Duration, streams: usize, closed: usize, pass: Pass, next_slot: usize },
    /// Requests in progress still get their answers.
    LastAnswers { until: Duration },
}

/// Which streams are being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Others,
    Statistics,
}

impl Drain {
    /// Begins to leave.
    pub(super) fn new(node: &mut Node) -> Drain {
        let until = node.now + node.settings.drain.notice;
        let streams = node.common.streams();
        if node.member.is_first() {
            let (notice, over) = (node.settings.drain.notice, node.settings.drain.duration);
            tracing::info!(streams, ?notice, ?over, "leaving");
        }
        node.leaving = Leaving::Notice;
        Drain { stage: Stage::Notice { until }, next_step: node.now, at_once: false, is_drained: false }
    }

    /// Leaves at once, on a second request to leave.
    pub(super) fn hurry(&mut self) {
        tracing::info!("asked again: leaving at once");
        self.at_once = true;
    }

    pub(super) fn next_step(&self) -> Duration {
        self.next_step
    }

    /// Takes the next step of leaving; false when it was the last.
    pub(super) fn advance<I: Io>(
        &mut self,
        streams: &mut Streams,
        transport: &mut Transport<I>,
        hub: &mut Hub,
        node: &mut Node,
    ) -> bool {
        let stays = !self.at_once && (node.now < self.next_step || self.step(streams, transport, hub, node));
        if !stays {
            transport.close_all(CloseReason::Drained, node);
            match node.member.loop_count() {
                1 => tracing::info!("left"),
                _ => tracing::info!(r#loop = node.member.index(), "left"),
            }
        }
        stays
    }

    fn step<I: Io>(&mut self, of: &mut Streams, transport: &mut Transport<I>, hub: &mut Hub, node: &mut Node) -> bool {
        self.next_step = node.now + STEP;
        match &mut self.stage {
            Stage::Notice { until } if node.now < *until => true,
            Stage::Notice { .. } => {
                transport.close_public_listeners();
                node.leaving = Leaving::ClosingStreams;
                let (started_at, streams) = (node.now, transport.stream_count());
                self.stage = Stage::Closing { started_at, streams, closed: 0, pass: Pass::Others, next_slot: 0 };
                true
            }
            Stage::Closing { started_at, streams, closed, pass, next_slot } => {
                let duration = node.settings.drain.duration;
                let passed = node.now - *started_at;
                let share = if duration.is_zero() { 1.0 } else { passed.as_secs_f64() / duration.as_secs_f64() };
                let wanted = if share >= 1.0 { usize::MAX } else { (*streams as f64 * share) as usize };
                let due = wanted.min(*closed + CLOSES_PER_TURN_MAX);
                let mut must_wait = false;
                while *closed < due && *next_slot < transport.slots_end() {
                    // Other loops may still close streams that are to close before; but a loop may hang.
                    must_wait = *pass == Pass::Statistics
                        && !node.common.is_drained()
                        && self.is_drained
                        && passed < duration + LAST_ANSWERS;
                    if must_wait {
                        break;
                    }
                    let drain_left = duration.saturating_sub(passed);
                    if pass.covers(*next_slot as u32, transport, hub) {
                        send_away(*next_slot as u32, drain_left, of, transport, hub, node);
                        *closed += 1;
                    }
                    *next_slot += 1;
                    if *pass == Pass::Others && *next_slot == transport.slots_end() {
                        (*pass, *next_slot) = (Pass::Statistics, 0);
                        if !std::mem::replace(&mut self.is_drained, true) {
                            node.common.note_drained();
                        }
                    }
                }
                if transport.stream_count() == 0 && !std::mem::replace(&mut self.is_drained, true) {
                    node.common.note_drained();
                }
                if must_wait {
                    return true;
                }
                if *closed < wanted && *next_slot < transport.slots_end() {
                    self.next_step = node.now;
                } else if share >= 1.0 || node.common.streams() == 0 {
                    self.stage = Stage::LastAnswers { until: node.now + LAST_ANSWERS };
                }
                true
            }
            Stage::LastAnswers { until } => {
                let is_answering = |phase: &Phase| !matches!(phase, Phase::Idle | Phase::Dead);
                node.now < *until && transport.connections().any(|connection| is_answering(&connection.phase))
            }
        }
    }
}

impl Pass {
    /// True if the slot holds a stream that this pass closes.
    fn covers<I: Io>(self, slot: u32, transport: &Transport<I>, hub: &Hub) -> bool {
        let is_of_statistics = || hub.topics_of(Subscriber(slot)).any(|topic| topic.as_str() == STATISTICS_TOPIC);
        transport.stream(slot).is_some() && is_of_statistics() == (self == Pass::Statistics)
    }
}

/// Ends one stream with a reconnection time after this server is gone. The times differ, so that subscribers return
/// over as long as they were closed over, not all at once.
fn send_away<I: Io>(
    slot: u32,
    drain_left: Duration,
    streams: &mut Streams,
    transport: &mut Transport<I>,
    hub: &mut Hub,
    node: &mut Node,
) {
    let spread = node.jitter.up_to(node.settings.drain.duration);
    let retry = drain_left + spread + node.jitter.around(node.settings.delivery.retry);
    streams.flush_stream(slot, transport, hub, node);
    streams.end_stream(slot, encoder::retry_only(retry), CloseReason::Drained, transport, hub, node);
}
