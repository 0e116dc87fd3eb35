//! Leaving: notice first (unready, but still accepting), then no more connections, then the streams one after the
//! other over the time given, each told to come back when this server is surely gone. Those of the server's own
//! statistics close last: an operator watches the others go.

use std::time::Duration;

use super::connection::Phase;
use super::{CloseReason, News, Server};
use crate::event::STATISTICS_TOPIC;
use crate::hub::Subscriber;
use crate::io::Io;
use crate::protocol::encoder;

/// How often streams are closed: fifty small steps a second look even.
const STEP: Duration = Duration::from_millis(20);
/// Streams ended in one turn: a host that can't keep up would otherwise have ever more of them to end in the next.
const CLOSES_PER_TURN_MAX: usize = 512;
/// How long the last answers may take after the streams are closed.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A server that is leaving.
#[derive(Debug)]
pub(super) struct Drain {
    stage: Stage,
    next_step: Duration,
    at_once: bool,
}

#[derive(Debug)]
enum Stage {
    /// Unready, but still accepting.
    Notice { until: Duration },
    /// No listener; streams are closed in the order of their slots, those of statistics in a second pass.
    Closing { started_at: Duration, streams: usize, closed: usize, pass: Pass, next_slot: usize },
    /// What is being answered still is.
    LastAnswers { until: Duration },
}

/// Which streams are being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Others,
    Statistics,
}

impl Drain {
    pub(super) fn next_step(&self) -> Duration {
        self.next_step
    }
}

impl<I: Io> Server<I> {
    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// True once no new stream may start.
    pub(super) fn is_closing_streams(&self) -> bool {
        self.drain_stage() == 2
    }

    pub(super) fn drain_stage(&self) -> u8 {
        match self.drain.as_ref().map(|drain| &drain.stage) {
            None => 0,
            Some(Stage::Notice { .. }) => 1,
            Some(Stage::Closing { .. } | Stage::LastAnswers { .. }) => 2,
        }
    }

    /// Begins to leave; asked again, leaves at once.
    pub(super) fn start_drain(&mut self) {
        if let Some(drain) = &mut self.drain {
            tracing::info!("asked again: leaving at once");
            drain.at_once = true;
            return;
        }
        let until = self.now + self.settings.drain.notice;
        tracing::info!(streams = self.streams, notice = ?self.settings.drain.notice,
            over = ?self.settings.drain.duration, "leaving");
        self.supervisor.tell(News::Leaving);
        self.drain = Some(Drain { stage: Stage::Notice { until }, next_step: self.now, at_once: false });
    }

    /// Takes the next step of leaving; false when it was the last.
    pub(super) fn leave(&mut self) -> bool {
        let Some(mut drain) = self.drain.take() else { return true };
        let stays = !drain.at_once && (self.now < drain.next_step || self.step(&mut drain));
        if !stays {
            let open: Vec<_> = self.connections.iter().map(|(slot, _)| slot as u32).collect();
            open.into_iter().for_each(|slot| self.close(slot, CloseReason::Drained));
            tracing::info!("left");
        }
        self.drain = Some(drain);
        stays
    }

    fn step(&mut self, drain: &mut Drain) -> bool {
        drain.next_step = self.now + STEP;
        match &mut drain.stage {
            Stage::Notice { until } if self.now < *until => true,
            Stage::Notice { .. } => {
                for listener in self.acceptor.close_public() {
                    self.io.stop_listening(listener);
                }
                let (started_at, streams) = (self.now, self.streams);
                drain.stage = Stage::Closing { started_at, streams, closed: 0, pass: Pass::Others, next_slot: 0 };
                true
            }
            Stage::Closing { started_at, streams, closed, pass, next_slot } => {
                let duration = self.settings.drain.duration;
                let passed = self.now - *started_at;
                let share = if duration.is_zero() { 1.0 } else { passed.as_secs_f64() / duration.as_secs_f64() };
                let wanted = if share >= 1.0 { usize::MAX } else { (*streams as f64 * share) as usize };
                let due = wanted.min(*closed + CLOSES_PER_TURN_MAX);
                while *closed < due && *next_slot < self.connections.capacity() {
                    *closed += usize::from(self.send_away(*next_slot, *pass, duration.saturating_sub(passed)));
                    *next_slot += 1;
                    if *pass == Pass::Others && *next_slot == self.connections.capacity() {
                        (*pass, *next_slot) = (Pass::Statistics, 0);
                    }
                }
                if *closed < wanted && *next_slot < self.connections.capacity() {
                    drain.next_step = self.now;
                } else if share >= 1.0 || self.streams == 0 {
                    drain.stage = Stage::LastAnswers { until: self.now + LAST_ANSWERS };
                }
                true
            }
            Stage::LastAnswers { until } => {
                let answering = |phase: &Phase| !matches!(phase, Phase::Idle | Phase::Dead);
                self.now < *until && self.connections.iter().any(|(_, connection)| answering(&connection.phase))
            }
        }
    }

    /// Tells one subscriber to come back when this server is surely gone, and not all at once then: they return over as
    /// long as they were closed over. False: the slot holds none that this pass closes.
    fn send_away(&mut self, slot: usize, pass: Pass, drain_left: Duration) -> bool {
        let phase = self.connections.get(slot).map(|connection| &connection.phase);
        if !matches!(phase, Some(Phase::Streaming)) {
            return false;
        }
        let slot = slot as u32;
        let is_of_statistics = self.hub.topics_of(Subscriber(slot)).any(|topic| topic.as_str() == STATISTICS_TOPIC);
        if is_of_statistics != (pass == Pass::Statistics) {
            return false;
        }
        let spread = self.jitter.up_to(self.settings.drain.duration);
        let retry = drain_left + spread + self.jitter.around(self.settings.delivery.retry);
        self.flush_stream(slot);
        self.end_stream(slot, encoder::retry_only(retry), CloseReason::Drained);
        true
    }
}
