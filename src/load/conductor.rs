//! The conductor: leads all fleets through a test, and collects their measurements.
//!
//! ```text
//!  connecting ──▶ holding ──────────────────▶ settling ──────▶ (ramping down) ──▶ finished
//!  all have tried  publisher on its timetable  all have all      ramp only
//! ```
//!
//! Publishing begins when every client had a chance to connect, so that every message is owed to every client. It ends
//! before the connections do; a message is lost only if it has not arrived when the settling time is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use crossbeam_channel::RecvTimeoutError;

use super::args::Scenario;
use super::clock::{Clock, micros};
use super::crew::Crew;
use super::plan::Plan;
use super::publisher::{Audience, Published, Publisher};
use super::publishing::Pace;
use super::tally::{Order, PartReport, Snapshot, Tally, Timetable};
use super::timeline::Timeline;
use super::watch::{self, KernelUse, ProcessUse};

/// All results of a test.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the fleets measured.
    pub tally: Tally,
    /// What was published, if anything.
    pub published: Option<Published>,
    /// The course of the test over time.
    pub timeline: Timeline,
    /// Streams open when the hold began.
    pub held_clients: u32,
    /// From the start until every client had tried to connect.
    pub connecting_us: u64,
    /// From the start to the end.
    pub elapsed_us: u64,
    /// Resident memory of this program's processes: before connecting, and when all clients were connected.
    pub own_resident_bytes: (u64, u64),
    /// The server's processes: before, when all clients were connected, when publishing was over; `None` if the test
    /// did not reach that point.
    pub server: Option<[Vec<ProcessUse>; 3]>,
    /// Their names.
    pub server_names: Vec<String>,
    /// True if one of them had exited.
    pub server_vanished: bool,
    /// The kernel: before, and when all clients were connected.
    pub kernel: (KernelUse, KernelUse),
    /// If the user ended the test early: when.
    pub interruption: Option<Interruption>,
}

/// When the user ended a test early.
#[derive(Clone, Copy, Debug)]
pub struct Interruption {
    /// From the start.
    pub after_us: u64,
    /// The stage at that time.
    pub stage: &'static str,
}

/// Output while a test runs.
pub trait Display {
    /// Prints a line that stays.
    fn line(&mut self, line: &str);
    /// Shows the current state; called several times a second.
    fn progress(&mut self, stage: &str, clients: u32, snapshot: &Snapshot, timeline: &Timeline);
}

/// Runs a whole test; `interrupted` ends it early, also with a report.
pub fn conduct(plan: &Plan, display: &mut dyn Display, interrupted: &AtomicBool) -> anyhow::Result<Outcome> {
    let clock = Clock::start();
    let own_before = watch::resident_bytes().unwrap_or(0) * u64::from(plan.processes);
    let kernel_before = watch::kernel();
    let server_before = watch::processes(&plan.server_pids);
    let started_us = clock.now_us();
    let crew = Crew::start(&plan.fleet, plan.processes, clock, started_us)?;
    let parts = crew.parts as usize;
    let mut conductor = Conductor {
        plan,
        display,
        interrupted,
        clock,
        started_us,
        crew,
        snapshots: vec![Snapshot::default(); parts],
        tallies: 0,
        stage: Stage::Connecting,
        publisher: None,
        server_uses: vec![server_before],
        outcome: Outcome {
            own_resident_bytes: (own_before, 0),
            kernel: (kernel_before, kernel_before),
            timeline: Timeline::new(started_us),
            server_names: plan.server_pids.iter().map(|pid| watch::name_of(*pid)).collect(),
            ..Outcome::default()
        },
    };
    conductor.run()?;
    conductor.crew.join();
    let mut outcome = conductor.outcome;
    outcome.elapsed_us = clock.now_us() - started_us;
    outcome.server_vanished = !plan.server_pids.is_empty() && conductor.server_uses.contains(&None);
    let server_uses: Option<Vec<_>> = conductor.server_uses.into_iter().collect();
    outcome.server = server_uses.and_then(|uses| uses.try_into().ok());
    Ok(outcome)
}

struct Conductor<'a> {
    plan: &'a Plan,
    display: &'a mut dyn Display,
    interrupted: &'a AtomicBool,
    clock: Clock,
    started_us: u64,
    crew: Crew,
    snapshots: Vec<Snapshot>,
    tallies: u32,
    stage: Stage,
    publisher: Option<Publisher>,
    server_uses: Vec<Option<Vec<ProcessUse>>>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Connecting,
    /// `None`: until the last message is sent.
    Holding {
        until_us: Option<u64>,
    },
    /// `quiet_us`: since when no client waits for a message.
    Settling {
        ordered_us: u64,
        quiet_us: Option<u64>,
    },
    RampingDown {
        until_us: u64,
    },
    Finishing,
}

/// From ordering the timetable to its first message: every fleet has read the order by then.
const PUBLISH_NOTICE_US: u64 = 300_000;
/// How long to watch for duplicates after every client has every message.
const LINGER_US: u64 = 500_000;

impl Conductor<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        const REFRESH: Duration = Duration::from_millis(50);
        while self.tallies < self.crew.parts {
            match self.crew.reports.recv_timeout(REFRESH) {
                Ok((part, item)) => self.take(part as usize, item)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("every event loop has ended"),
            }
            let now_us = self.clock.now_us();
            self.advance_stage(now_us);
            let total = self.total();
            let published = self.publisher.as_ref().map_or(0, Publisher::sent);
            self.outcome.timeline.advance(now_us, &total, published);
            self.display.progress(self.stage.name(), self.plan.fleet.clients, &total, &self.outcome.timeline);
        }
        Ok(())
    }

    fn take(&mut self, part: usize, item: PartReport) -> anyhow::Result<()> {
        match item {
            PartReport::Snapshot(snapshot) => {
                self.outcome.timeline.take(&snapshot.latency);
                self.snapshots[part] = *snapshot;
            }
            PartReport::Line(line) => self.display.line(&line),
            PartReport::Done(tally) => {
                self.outcome.tally.add(*tally);
                self.tallies += 1;
            }
            PartReport::Failed(reason) => bail!("{reason}"),
        }
        Ok(())
    }

    /// Moves on to the next stage when it is time.
    fn advance_stage(&mut self, now_us: u64) {
        let ends_early = self.stage != Stage::Finishing && self.interrupted.load(Ordering::Relaxed);
        if ends_early {
            let interruption = Interruption { after_us: now_us - self.started_us, stage: self.stage.name() };
            self.outcome.interruption.get_or_insert(interruption);
        }
        match self.stage {
            Stage::Connecting if ends_early => self.settle(now_us),
            Stage::Connecting if self.all_have_tried(now_us) => self.hold(now_us),
            Stage::Holding { until_us } => {
                let is_sent = || self.publisher.as_ref().is_some_and(Publisher::is_finished);
                if until_us.map_or_else(is_sent, |until_us| now_us >= until_us) || ends_early {
                    self.settle(now_us);
                }
            }
            Stage::Settling { ordered_us, quiet_us } => {
                let all_settled = self.snapshots.iter().all(|s| s.at_us > ordered_us && s.unsettled == Some(0));
                let quiet_us = if all_settled { quiet_us.or(Some(now_us)) } else { None };
                self.stage = Stage::Settling { ordered_us, quiet_us };
                let is_quiet = quiet_us.is_some_and(|since_us| now_us >= since_us + LINGER_US);
                if is_quiet || now_us >= ordered_us + micros(self.plan.settle) || ends_early && all_settled {
                    self.wind_up(now_us);
                }
            }
            Stage::RampingDown { until_us } if now_us >= until_us || self.total().open == 0 || ends_early => {
                self.finish();
            }
            _ => {}
        }
    }

    fn all_have_tried(&self, now_us: u64) -> bool {
        let last_dial_us = self.plan.fleet.connect_after_us(self.plan.fleet.clients - 1);
        let patience_us = last_dial_us + 2 * self.plan.fleet.connect_timeout_us;
        let all_tried = self.snapshots.iter().all(|snapshot| snapshot.at_us > 0 && snapshot.untried == 0);
        all_tried || now_us > self.started_us + patience_us
    }

    fn hold(&mut self, now_us: u64) {
        let total = self.total();
        self.outcome.held_clients = total.open;
        self.outcome.connecting_us = now_us - self.started_us;
        self.outcome.own_resident_bytes.1 = self.snapshots.iter().filter_map(|s| s.resident_bytes).sum();
        self.outcome.kernel.1 = watch::kernel();
        self.server_uses.push(watch::processes(&self.plan.server_pids));
        let first_us = now_us + PUBLISH_NOTICE_US;
        self.crew.order(&Order::Hold { from_us: first_us });
        let until_us = self.plan.hold().map(|hold| first_us + micros(hold));
        self.stage = Stage::Holding { until_us };
        let (Some(publish), Some(run)) = (&self.plan.publish, self.plan.fleet.run) else { return };
        let interval_ns = match publish.pace {
            Pace::PerSecond(rate) => (1e9 / rate) as u64,
            Pace::Lockstep => 0,
        };
        let timetable = Timetable { first_us, interval_ns };
        self.crew.order(&Order::Publish((interval_ns > 0).then_some(timetable)));
        let audience = Audience { delivered: Arc::clone(&self.crew.delivered), subscribers: u64::from(total.open) };
        self.publisher = Some(Publisher::start(publish.clone(), run, self.clock, timetable, audience));
    }

    fn settle(&mut self, now_us: u64) {
        let published = self.publisher.take().map(Publisher::finish);
        let (through, unconfirmed) =
            published.as_ref().map_or((0, Vec::new()), |published| (published.count, published.unconfirmed.clone()));
        self.outcome.published = published;
        self.crew.order(&Order::Settle { through, unconfirmed });
        self.stage = Stage::Settling { ordered_us: self.clock.now_us().max(now_us), quiet_us: None };
    }

    fn wind_up(&mut self, now_us: u64) {
        self.server_uses.push(watch::processes(&self.plan.server_pids));
        if self.plan.fleet.scenario != Scenario::Ramp {
            return self.finish();
        }
        let longest_us = self.plan.fleet.connect_after_us(self.plan.fleet.clients);
        self.crew.order(&Order::RampDown { at_us: now_us });
        self.stage = Stage::RampingDown { until_us: now_us + longest_us + 1_000_000 };
    }

    fn finish(&mut self) {
        self.crew.order(&Order::Finish);
        self.stage = Stage::Finishing;
    }

    /// The sum of all fleets' snapshots.
    fn total(&self) -> Snapshot {
        let mut total = Snapshot::default();
        for snapshot in &self.snapshots {
            total.at_us = total.at_us.max(snapshot.at_us);
            total.open += snapshot.open;
            total.untried += snapshot.untried;
            total.unsettled = total.unsettled.max(Some(0)).and_then(|sum| Some(sum + snapshot.unsettled?));
            total.counters.add(&snapshot.counters);
        }
        total
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Connecting => "connecting",
            Stage::Holding { .. } => "holding",
            Stage::Settling { .. } => "settling",
            Stage::RampingDown { .. } => "closing",
            Stage::Finishing => "finishing",
        }
    }
}
