//! The crew: all fleets of a test, in this process and in others, with one channel for reports and one path for orders.
//!
//! Several processes share a test that needs more descriptors than one process may have. The first starts the others
//! (itself again, as `load --worker`), sends each its part on standard input, and reads their reports from standard
//! output, one JSON line each. A worker whose parent has died exits.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::fleet::{self, Part};
use super::plan::FleetPlan;
use super::tally::{Order, PartReport};

/// All fleets of a test.
pub(super) struct Crew {
    /// Fleets in all.
    pub(super) parts: u32,
    /// What they tell, and which of them.
    pub(super) reports: Receiver<(u32, PartReport)>,
    /// Grows by every event delivered in this process.
    pub(super) delivered: Arc<AtomicU64>,
    threads: Threads,
    workers: Vec<Worker>,
}

/// The first line that a worker process receives.
#[derive(Serialize, Deserialize)]
struct Assignment {
    plan: FleetPlan,
    started_us: u64,
    /// The first of this process's parts, and the total number of parts.
    first_part: u32,
    parts: u32,
}

struct Worker {
    process: Child,
    orders: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

/// The fleets of this process.
struct Threads {
    orders: Vec<Sender<Order>>,
    joins: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts every fleet of the test, over `processes` processes; the fleets of this process use `clock`.
    pub(super) fn start(plan: &FleetPlan, processes: u32, clock: Clock, started_us: u64) -> anyhow::Result<Crew> {
        let (sender, reports) = unbounded();
        let parts = plan.threads * processes;
        let delivered = Arc::new(AtomicU64::new(0));
        let assignment = |first_part| Assignment { plan: plan.clone(), started_us, first_part, parts };
        let mut workers = Vec::new();
        for process in 1..processes {
            workers.push(Worker::start(&assignment(process * plan.threads), &sender)?);
        }
        let threads = Threads::start(&assignment(0), clock, &delivered, &sender);
        Ok(Crew { parts, reports, delivered, threads, workers })
    }

    /// Sends an order to every fleet.
    pub(super) fn order(&mut self, order: &Order) {
        self.threads.order(order);
        for worker in &mut self.workers {
            // The reader of a worker that died notices it.
            let _ = worker.orders.as_mut().map(|orders| write_line(orders, order));
        }
    }

    /// Waits for fleets that have sent their last reports.
    pub(super) fn join(mut self) {
        self.threads.join();
        for worker in &mut self.workers {
            worker.orders = None;
            let _ = worker.process.wait();
            let _ = worker.reader.take().map(JoinHandle::join);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The process is still alive here only when the test is given up.
        if self.orders.is_some() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

impl Threads {
    fn start(
        assignment: &Assignment,
        clock: Clock,
        delivered: &Arc<AtomicU64>,
        reports: &Sender<(u32, PartReport)>,
    ) -> Threads {
        let mut threads = Threads { orders: Vec::new(), joins: Vec::new() };
        for thread in 0..assignment.plan.threads {
            let (sender, orders) = unbounded();
            let part = Part { index: assignment.first_part + thread, count: assignment.parts, is_first: thread == 0 };
            let (plan, started_us) = (assignment.plan.clone(), assignment.started_us);
            let (reports, delivered) = (reports.clone(), Arc::clone(delivered));
            threads.orders.push(sender);
            threads.joins.push(std::thread::spawn(move || {
                fleet::run(plan, part, clock, started_us, &delivered, &orders, &reports);
            }));
        }
        threads
    }

    fn order(&self, order: &Order) {
        for orders in &self.orders {
            // A fleet that failed has already reported it.
            let _ = orders.send(order.clone());
        }
    }

    fn join(&mut self) {
        for join in self.joins.drain(..) {
            let _ = join.join();
        }
    }
}

impl Worker {
    fn start(assignment: &Assignment, reports: &Sender<(u32, PartReport)>) -> anyhow::Result<Worker> {
        let program = std::env::current_exe().context("can't find this program to start it again")?;
        let mut process = Command::new(program)
            .args(["load", "--worker"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("can't start a worker process")?;
        let mut orders = process.stdin.take().context("a worker process without standard input")?;
        let output = process.stdout.take().context("a worker process without standard output")?;
        write_line(&mut orders, assignment).context("a worker process ended at once")?;
        let (reports, first_part) = (reports.clone(), assignment.first_part);
        let mut unfinished = assignment.plan.threads;
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Some(item) = line.ok().and_then(|line| serde_json::from_str::<(u32, PartReport)>(&line).ok())
                else {
                    break;
                };
                unfinished -= u32::from(matches!(item.1, PartReport::Done(_) | PartReport::Failed(_)));
                let _ = reports.send(item);
            }
            if unfinished > 0 {
                let _ = reports.send((first_part, PartReport::Failed("a worker process ended early".to_owned())));
            }
        });
        Ok(Worker { process, orders: Some(orders), reader: Some(reader) })
    }
}

/// The whole life of a worker process: its assignment and orders from `input`, its reports to `output`.
pub fn work(input: impl BufRead + Send + 'static, output: &mut impl Write) -> anyhow::Result<()> {
    let mut lines = input.lines();
    let first = lines.next().context("no assignment on standard input: --worker is for fanfare itself")??;
    let assignment: Assignment = serde_json::from_str(&first).context("the assignment can't be read")?;
    ensure!(assignment.plan.threads > 0, "an assignment without work");
    let (sender, reports) = unbounded();
    let mut threads = Threads::start(&assignment, Clock::start(), &Arc::default(), &sender);
    drop(sender);
    let orders = threads.orders.clone();
    // Not joined: it ends with the process, or when standard input does, which means that the parent and this process
    // end.
    std::thread::spawn(move || {
        let parsed = lines.map_while(Result::ok).map_while(|line| serde_json::from_str::<Order>(&line).ok());
        for order in parsed.chain([Order::Finish]) {
            for fleet in &orders {
                let _ = fleet.send(order.clone());
            }
        }
    });
    for item in reports {
        write_line(output, &item)?;
    }
    threads.join();
    Ok(())
}

fn write_line(to: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}
