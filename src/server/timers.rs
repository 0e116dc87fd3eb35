//! Deadlines: one for each connection, whatever it waits for. Heartbeats are spread, so that a broadcast to all is
//! not followed by a heartbeat to all half a minute later.

use std::time::Duration;

use super::connection::{Flags, Phase};
use super::wheel::Tick;
use super::{CloseReason, Server};
use crate::hub::Subscriber;
use crate::io::Io;
use crate::protocol::encoder;

/// Deadlines in one turn: about 2 ms of heartbeats. After a host was stopped for a while, everybody's have passed.
const DEADLINES_PER_TURN_MAX: usize = 512;
/// Heartbeats in one turn beside walks: events come first, and one that reaches a subscriber is as good as a heartbeat.
const HEARTBEATS_BESIDE_WALKS_MAX: usize = 32;
/// How soon a heartbeat follows that gave way to events.
const HEARTBEAT_DELAY: Duration = Duration::from_secs(1);
/// How long a peer may take to close after it was told all.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a broker may take to answer a publish.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request on the spare descriptor may take: others wait for it.
const SPARE_TIMEOUT: Duration = Duration::from_secs(1);

impl<I: Io> Server<I> {
    /// Acts on deadlines that have passed, one turn's worth of them.
    pub(super) fn fire_timers(&mut self) {
        let now = Tick::of(self.now);
        self.heartbeats_left = if self.hub.is_walking() { HEARTBEATS_BESIDE_WALKS_MAX } else { DEADLINES_PER_TURN_MAX };
        for _ in 0..DEADLINES_PER_TURN_MAX {
            let Some((slot, tick)) = self.wheel.fire(now) else { return };
            let is_armed = |connection: &super::Connection| connection.armed_for == tick;
            if self.connections.get(slot as usize).is_some_and(is_armed) {
                self.connections[slot as usize].armed_for = Tick::NEVER;
                self.fire(slot, now);
            }
        }
    }

    fn fire(&mut self, slot: u32, now: Tick) {
        if self.deadline(slot).is_some_and(|deadline| deadline <= now) {
            self.act_on_deadline(slot, now);
        }
        self.arm_deadline(slot);
    }

    /// Arms the wheel for a connection's deadline, unless it is armed for an earlier tick anyway.
    pub(super) fn arm_deadline(&mut self, slot: u32) {
        let Some(deadline) = self.deadline(slot) else { return };
        if deadline < self.connections[slot as usize].armed_for {
            self.connections[slot as usize].armed_for = self.wheel.arm(slot, deadline);
        }
    }

    fn deadline(&self, slot: u32) -> Option<Tick> {
        let connection = &self.connections[slot as usize];
        let limits = &self.settings.limits;
        let on_spare = connection.flags.has(Flags::ON_SPARE);
        let wait = match &connection.phase {
            Phase::Dead => return None,
            Phase::Idle | Phase::Requesting(_) | Phase::Responding(_) | Phase::Lingering(_) if on_spare => {
                SPARE_TIMEOUT
            }
            Phase::Idle if connection.flags.has(Flags::FRESH) => limits.head_timeout,
            Phase::Idle => limits.idle_timeout,
            Phase::Requesting(request) if request.is_in_body() => limits.body_timeout,
            Phase::Requesting(_) => limits.head_timeout,
            Phase::Responding(_) => {
                // Not the time it takes in all: a steady reader of a large answer is served to its end.
                let progress_at = self.laggards.get(&slot).map_or(connection.since, |it| Tick::of(it.progress_at));
                return Some(progress_at.after(self.settings.delivery.stall_timeout));
            }
            Phase::Publishing(_) => PUBLISH_TIMEOUT,
            Phase::Lingering(_) => LINGER_TIMEOUT,
            Phase::Streaming => {
                let heartbeat = connection.since.after(self.heartbeat_wait(slot));
                let has_credential = connection.flags.has(Flags::HAS_CREDENTIAL);
                let expiry = has_credential.then(|| self.credentials.expiry(slot));
                return [Some(heartbeat), expiry, Some(connection.retires_at)].into_iter().flatten().min();
            }
        };
        Some(connection.since.after(wait))
    }

    /// The heartbeat interval less up to a fifth, different from slot to slot.
    fn heartbeat_wait(&self, slot: u32) -> Duration {
        let spread = slot.wrapping_mul(0x9e37_79b9) >> 22; // 10 well mixed bits
        self.settings.delivery.heartbeat_interval * (5120 - spread) / 5120
    }

    fn act_on_deadline(&mut self, slot: u32, now: Tick) {
        let connection = &mut self.connections[slot as usize];
        match connection.phase {
            Phase::Dead => {}
            Phase::Idle | Phase::Requesting(_) if connection.flags.has(Flags::AWAITS_PROXY_HEADER) => {
                self.close(slot, CloseReason::ProxyHeader);
            }
            Phase::Idle => self.close(slot, CloseReason::IdleTimeout),
            Phase::Requesting(_) => self.time_out_request(slot),
            Phase::Responding(_) => self.close(slot, CloseReason::AnswerTimeout),
            Phase::Publishing(_) => self.time_out_publish(slot),
            Phase::Lingering(reason) => self.close(slot, reason),
            Phase::Streaming if connection.flags.has(Flags::HAS_CREDENTIAL) && self.credentials.expiry(slot) <= now => {
                self.end_stream(slot, encoder::TOKEN_EXPIRED.into(), CloseReason::TokenExpired);
            }
            Phase::Streaming if connection.retires_at <= now => self.retire(slot),
            Phase::Streaming => self.beat(slot, now),
        }
    }

    fn beat(&mut self, slot: u32, now: Tick) {
        let connection = &self.connections[slot as usize];
        let takes_nothing = connection.flags.has(Flags::BLOCKED);
        let is_due_more = connection.flags.has(Flags::CATCHING_UP)
            // What waits for a pace may wait for an hour.
            || !connection.flags.has(Flags::PACED)
                && self.hub.has_news_for(Subscriber(slot), connection.delivered_through);
        // Silence is counted anew although nothing was said: slow subscribers are watched elsewhere, and an event that is
        // on its way breaks the silence.
        if takes_nothing || is_due_more {
            self.connections[slot as usize].since = now;
        } else if self.heartbeats_left == 0 {
            self.delay_heartbeat(slot, now);
        } else {
            self.heartbeats_left -= 1;
            self.counters.heartbeats += 1;
            self.connections[slot as usize].since = now;
            self.say(slot, self.heartbeat.clone());
        }
    }

    /// Counts the silence so that the heartbeat is due a little later.
    fn delay_heartbeat(&mut self, slot: u32, now: Tick) {
        let wait = Tick(0).after(self.heartbeat_wait(slot));
        let due = now.after(HEARTBEAT_DELAY);
        self.connections[slot as usize].since = Tick(due.0.saturating_sub(wait.0));
    }
}
