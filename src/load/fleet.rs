//! A fleet: one thread's clients and the epoll loop that serves them.
//!
//! Each turn: take orders, dial the clients that are due, wait, serve the clients that are ready, let slow clients
//! read, report periodically. The loop decides when clients dial, leave and return; the [`client`](super::client)
//! judges what a connection brings. Fleets are independent of each other: a fleet has the clients whose index belongs
//! to its part.

mod leaving;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::client::{Client, Ending, Phase, Scratch, Shared, kind_of};
use super::clock::Clock;
use super::histogram::Latencies;
use super::ledger::Tail;
use super::plan::{FleetPlan, Role};
use super::stamp::StampReader;
use super::tally::{Order, PartReport, Snapshot, Tally};
use super::target::Target;
use super::watch::resident_bytes;
use crate::io::dialer::{Dial, Dialer, Line, Readiness};

const SCRATCH_BYTES: usize = 64 * 1024;
const EVENTS_PER_WAIT: usize = 1024;
/// From this many clients on, a broadcast takes so long that a short pause for fewer wakes does not show.
const GATHER_CLIENTS_MIN: usize = 1000;
/// With this many ready at once, gathering is unnecessary.
const GATHER_READY_MIN: usize = 128;
const GATHER_PAUSE: Duration = Duration::from_micros(200);
const SNAPSHOT_INTERVAL_US: u64 = 100_000;
const REDIAL_PAUSE_US: u64 = 2_000;
const REDIRECTS_MAX: u8 = 5;
/// Redirects may name new targets without end; beyond this many they are errors.
const TARGETS_MAX: usize = 1024;

/// The part of the clients that a fleet has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Its index, counted from 0.
    pub(super) index: u32,
    /// The total number of parts.
    pub(super) count: u32,
    /// True for the first of its process, which reports the process's memory.
    pub(super) is_first: bool,
}

/// Runs one fleet to its end: the body of a thread.
///
/// `progress` grows with every delivered event, for a publisher that waits for them.
pub(super) fn run(
    plan: FleetPlan,
    part: Part,
    clock: Clock,
    started_us: u64,
    progress: &AtomicU64,
    orders: &Receiver<Order>,
    reports: &Sender<(u32, PartReport)>,
) {
    let tell = |item: PartReport| reports.send((part.index, item)).is_ok();
    let ran = Fleet::new(plan, part, clock, started_us).and_then(|mut fleet| fleet.run(progress, orders, &tell));
    // A conductor that has ended needs no reports.
    let _ = tell(match ran {
        Ok(tally) => PartReport::Done(Box::new(tally)),
        Err(error) => PartReport::Failed(format!("the event loop failed: {error}")),
    });
}

struct Fleet {
    part: Part,
    dialer: Dialer,
    clients: Vec<Client>,
    /// The targets of the plan, and those from redirects.
    targets: Vec<Target>,
    shared: Shared,
    /// The clients to check, and when: to dial, or to stop waiting for an answer.
    due: BinaryHeap<Reverse<(u64, u32, u32)>>,
    /// Clients below this index have dialled for the first time, or are waiting in `due`.
    started: usize,
    connecting: usize,
    /// Clients whose first attempt has neither succeeded nor failed yet.
    untried: usize,
    stage: Stage,
    random: u64,
    churn_credit: f64,
    last_turn_us: u64,
    next_snapshot_us: u64,
    next_slow_read_us: u64,
    slow_read_phase: u32,
}

/// The last order of the conductor.
enum Stage {
    Connecting,
    Holding { storm_at_us: Option<u64> },
    Settling { through: u32, unconfirmed: Vec<RangeInclusive<u32>> },
    RampingDown { at_us: u64, stopped: usize },
    Finished,
}

impl Fleet {
    fn new(plan: FleetPlan, part: Part, clock: Clock, started_us: u64) -> io::Result<Fleet> {
        let indices = (part.index..plan.clients).step_by(part.count as usize);
        let clients: Vec<_> = indices.map(|index| Client::new(plan.role(index))).collect();
        Ok(Fleet {
            part,
            dialer: Dialer::new(EVENTS_PER_WAIT)?,
            untried: clients.len(),
            clients,
            targets: plan.targets.clone(),
            due: BinaryHeap::new(),
            started: 0,
            connecting: 0,
            stage: Stage::Connecting,
            random: u64::from(part.index) + 1,
            churn_credit: 0.0,
            last_turn_us: clock.now_us(),
            next_snapshot_us: 0,
            next_slow_read_us: 0,
            slow_read_phase: 0,
            shared: Shared {
                stamps: StampReader::new(plan.run),
                plan,
                clock,
                tally: Tally::default(),
                timetable: None,
                publishing_since_us: None,
                interval_latency: Latencies::default(),
                started_us,
                lines: Vec::new(),
                session_config: None,
            },
        })
    }

    fn run(
        &mut self,
        progress: &AtomicU64,
        orders: &Receiver<Order>,
        tell: &dyn Fn(PartReport) -> bool,
    ) -> io::Result<Tally> {
        let mut scratch = Scratch::new(SCRATCH_BYTES);
        let mut ready: Vec<Readiness> = Vec::with_capacity(EVENTS_PER_WAIT);
        let mut reported_delivered = 0;
        loop {
            while let Ok(order) = orders.try_recv() {
                self.carry_out(order);
            }
            if matches!(self.stage, Stage::Finished) {
                return Ok(std::mem::take(&mut self.shared.tally));
            }
            let now_us = self.shared.clock.now_us();
            self.dial_first(now_us);
            self.serve_due(now_us);
            self.let_leave(now_us);
            let timeout_us = self.next_turn_us(now_us).saturating_sub(now_us);
            self.dialer.wait(Duration::from_micros(timeout_us))?;
            ready.clear();
            ready.extend(self.dialer.ready());
            for readiness in &ready {
                self.serve(*readiness, &mut scratch);
            }
            let delivered = self.shared.tally.counters.delivered_events;
            progress.fetch_add(delivered - reported_delivered, Ordering::Release);
            reported_delivered = delivered;
            // A server that writes to one socket after another would wake this thread for each, and pay for the wakes
            // itself.
            if self.clients.len() >= GATHER_CLIENTS_MIN && !ready.is_empty() && ready.len() < GATHER_READY_MIN {
                std::thread::sleep(GATHER_PAUSE);
            }
            let now_us = self.shared.clock.now_us();
            self.read_slowly(now_us, &mut scratch);
            if now_us >= self.next_snapshot_us && !self.report(now_us, tell) {
                // The reports have no receiver any more: the parent process died.
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Publish(timetable) => {
                self.shared.publishing_since_us =
                    Some(timetable.map_or_else(|| self.shared.clock.now_us(), |timetable| timetable.first_us));
                self.shared.timetable = timetable;
            }
            Order::Hold { from_us } => {
                let storm_at_us = self.shared.plan.storm_after_us.map(|after_us| from_us + after_us);
                self.stage = Stage::Holding { storm_at_us };
                self.silence_blackholes();
            }
            Order::Settle { through, unconfirmed } => self.stage = Stage::Settling { through, unconfirmed },
            Order::RampDown { at_us } => {
                self.close_ledgers();
                self.stage = Stage::RampingDown { at_us, stopped: 0 };
            }
            Order::Finish => {
                self.close_ledgers();
                self.stage = Stage::Finished;
            }
        }
    }

    // ---- dialling

    fn client_index(&self, slot: usize) -> u32 {
        self.part.index + slot as u32 * self.part.count
    }

    /// Dials clients for the first time when they are due, within the limit on pending connections.
    fn dial_first(&mut self, now_us: u64) {
        let connecting_max = self.shared.plan.connecting_max.div_ceil(self.part.count) as usize;
        while self.started < self.clients.len() && self.connecting < connecting_max {
            let after_us = self.shared.plan.connect_after_us(self.client_index(self.started));
            if self.shared.started_us + after_us > now_us || matches!(self.stage, Stage::RampingDown { .. }) {
                return;
            }
            self.started += 1;
            self.dial(self.started - 1, now_us);
        }
    }

    fn serve_due(&mut self, now_us: u64) {
        while let Some(&Reverse((due_us, slot, attempt))) = self.due.peek() {
            if due_us > now_us {
                return;
            }
            self.due.pop();
            let client = &self.clients[slot as usize];
            if client.attempt != attempt {
                continue;
            }
            let gives_up_us = client.started_us + self.shared.plan.connect_timeout_us;
            if matches!(client.phase, Phase::Connecting) && client.line.is_none() && due_us < gives_up_us {
                self.connecting -= 1;
                self.connect(slot as usize);
            } else if matches!(client.phase, Phase::Away) {
                self.shared.tally.counters.reconnects += 1;
                self.dial(slot as usize, now_us);
            } else if client.is_connecting() {
                self.ended(slot as usize, &Ending::Unreachable("connect_timeout"));
            }
        }
    }

    /// Begins a new attempt.
    fn dial(&mut self, slot: usize, now_us: u64) {
        let index = self.client_index(slot);
        let client = &mut self.clients[slot];
        client.target = (index as usize % self.shared.plan.targets.len()) as u16;
        client.redirects = 0;
        client.started_us = now_us;
        self.shared.tally.counters.connect_attempts += 1;
        self.connect(slot);
    }

    /// Connects to the client's target: the first one, or one from a redirect.
    fn connect(&mut self, slot: usize) {
        let index = self.client_index(slot);
        let plan = &self.shared.plan;
        let client = &mut self.clients[slot];
        client.attempt = client.attempt.wrapping_add(1);
        let dial = Dial {
            remote: &self.targets[client.target as usize].remote,
            source: plan.sources.get(index as usize % plan.sources.len().max(1)).copied(),
            receive_buffer_bytes: (client.role == Role::Slow).then_some(plan.slow_receive_buffer_bytes),
        };
        self.connecting += 1;
        match self.dialer.dial(token(slot, client.attempt), &dial) {
            Ok(line) => {
                client.line = Some(line);
                client.phase = Phase::Connecting;
                self.due.push(Reverse((client.started_us + plan.connect_timeout_us, slot as u32, client.attempt)));
            }
            // A Unix socket with a full queue: the kernel does not report when there is room.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                client.phase = Phase::Connecting;
                let redial_us = self.shared.clock.now_us() + REDIAL_PAUSE_US;
                self.due.push(Reverse((redial_us, slot as u32, client.attempt)));
            }
            Err(error) => {
                client.phase = Phase::Connecting;
                self.ended(slot, &Ending::Unreachable(kind_of(&error)));
            }
        }
    }

    fn serve(&mut self, ready: Readiness, scratch: &mut Scratch) {
        let (slot, attempt) = (ready.token & 0xffff_ffff, (ready.token >> 32) as u32);
        let index = self.client_index(slot);
        let client = &mut self.clients[slot];
        if client.attempt != attempt || client.line.is_none() {
            return;
        }
        let was_connecting = client.is_connecting();
        let target = &self.targets[client.target as usize];
        match client.advance(index, ready, target, &mut self.shared, scratch) {
            Err(ending) => self.ended(slot, &ending),
            Ok(()) if was_connecting && !self.clients[slot].is_connecting() => {
                self.connecting -= 1;
                self.tried(slot);
            }
            Ok(()) => {}
        }
    }

    // ---- how connections end

    /// Handles an end: follow a redirect, come back later, or stay away.
    fn ended(&mut self, slot: usize, ending: &Ending) {
        let now_us = self.shared.clock.now_us();
        let client = &mut self.clients[slot];
        if client.is_connecting() {
            self.connecting -= 1;
        }
        // The head's parser had already started the stream when the first body bytes were invalid; either way it is
        // over.
        let was_streaming = client.is_streaming();
        let counters = &mut self.shared.tally.counters;
        if was_streaming {
            counters.disconnects += 1;
            counters.deferred_connections += u64::from(client.was_deferred());
            counters.slow_disconnects += u64::from(client.role == Role::Slow);
        }
        if let Ending::Redirected(location) = ending
            && client.redirects < REDIRECTS_MAX
        {
            return self.follow(slot, location);
        }
        let comes_back = match ending {
            Ending::Redirected(_) | Ending::Unusable(_) | Ending::Refused(_) => false,
            _ => self.shared.plan.reconnects && !(was_streaming && client.role != Role::Plain),
        };
        counters.refused_clients += u64::from(matches!(ending, Ending::Refused(_)));
        let retry_us = self.shared.plan.retry_us.unwrap_or_else(|| client.retry_us());
        client.hang_up(if comes_back { Phase::Away } else { Phase::Gone });
        if comes_back {
            client.attempt = client.attempt.wrapping_add(1);
            self.due.push(Reverse((now_us + retry_us, slot as u32, client.attempt)));
        }
        self.count_error(ending);
        self.tried(slot);
    }

    /// The client's first attempt has succeeded or failed. After the last such client, the fleet reports at once.
    fn tried(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.clients[slot].is_tried, true) {
            self.untried -= 1;
            if self.untried == 0 {
                self.next_snapshot_us = 0;
            }
        }
    }

    fn count_error(&mut self, ending: &Ending) {
        let kind = match ending {
            Ending::Ended => return,
            Ending::Unreachable(kind) | Ending::Unusable(kind) | Ending::Broken(kind) => (*kind).to_owned(),
            Ending::Refused(status) => format!("status_{status}"),
            Ending::Redirected(_) => "bad_redirect".to_owned(),
        };
        self.shared.tally.counters.errors += 1;
        *self.shared.tally.errors.entry(kind).or_default() += 1;
    }

    fn follow(&mut self, slot: usize, location: &str) {
        let targets = &mut self.targets;
        let client = &mut self.clients[slot];
        client.hang_up(Phase::Away);
        let Ok(to) = targets[client.target as usize].redirected(location) else {
            client.redirects = REDIRECTS_MAX;
            return self.ended(slot, &Ending::Unusable("bad_redirect"));
        };
        let known = targets.iter().position(|target| *target == to);
        if known.is_none() && targets.len() == TARGETS_MAX {
            return self.ended(slot, &Ending::Unusable("bad_redirect"));
        }
        client.target = known.unwrap_or(targets.len()) as u16;
        if known.is_none() {
            targets.push(to);
        }
        client.redirects += 1;
        self.shared.tally.counters.redirects += 1;
        self.connect(slot);
    }

    // ---- reports

    fn next_turn_us(&self, now_us: u64) -> u64 {
        const TURN_US_MAX: u64 = 20_000;
        let due_us = self.due.peek().map_or(u64::MAX, |Reverse((due_us, ..))| *due_us);
        due_us.min(self.next_snapshot_us).min(now_us + TURN_US_MAX)
    }

    /// False if the conductor takes no more reports.
    fn report(&mut self, now_us: u64, tell: &dyn Fn(PartReport) -> bool) -> bool {
        self.next_snapshot_us = now_us + SNAPSHOT_INTERVAL_US;
        let lines = std::mem::take(&mut self.shared.lines);
        let is_sent = lines.into_iter().all(|line| tell(PartReport::Line(line)));
        is_sent && tell(PartReport::Snapshot(Box::new(self.snapshot(now_us))))
    }

    fn snapshot(&mut self, now_us: u64) -> Snapshot {
        let unsettled = match &self.stage {
            Stage::Settling { through, unconfirmed } => {
                let waits = |client: &&Client| {
                    client.role == Role::Plain
                        && !matches!(client.phase, Phase::Gone)
                        && !client.ledger.is_settled(*through, unconfirmed)
                };
                Some(self.clients.iter().filter(waits).count() as u32)
            }
            _ => None,
        };
        Snapshot {
            at_us: now_us,
            open: self.clients.iter().filter(|client| client.is_streaming()).count() as u32,
            untried: self.untried as u32,
            unsettled,
            counters: self.shared.tally.counters.clone(),
            latency: std::mem::take(&mut self.shared.interval_latency),
            resident_bytes: self.part.is_first.then(resident_bytes).flatten(),
        }
    }

    /// Closes every client's ledger and records its missing messages.
    fn close_ledgers(&mut self) {
        let (through, unconfirmed) = match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Settling { through, unconfirmed } => (through, unconfirmed),
            Stage::RampingDown { .. } | Stage::Finished => return,
            Stage::Connecting | Stage::Holding { .. } => (0, Vec::new()),
        };
        self.shared.tally.judge_disordered(&unconfirmed);
        let now_us = self.shared.clock.now_us();
        for slot in 0..self.clients.len() {
            let index = self.client_index(slot);
            let client = &mut self.clients[slot];
            client.count_missed_heartbeats(now_us, &mut self.shared);
            let tail = match client.role {
                Role::Plain if client.is_streaming() => Tail::Owed,
                Role::Plain => Tail::Away,
                Role::Slow | Role::Blackhole => Tail::Unjudged,
            };
            let tally = &mut self.shared.tally;
            tally.counters.slow_clients += u64::from(client.role == Role::Slow);
            let lost = client.ledger.close(through, &unconfirmed, tail, &mut tally.counters);
            for range in lost {
                tally.find(index, "lost", *range.start(), *range.end());
            }
            // Frees the ports at once for the next test.
            if let Some(line) = &client.line {
                let _: io::Result<()> = Line::abort_on_close(line);
            }
        }
    }
}

fn token(slot: usize, attempt: u32) -> usize {
    slot | (attempt as usize) << 32
}
