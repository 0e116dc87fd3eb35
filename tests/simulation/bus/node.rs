//! A node on the bus: the real server, reader and appender, each turned by hand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;
use fanfare::event::archive::PageKey;
use fanfare::event::{RunName, Topic};
use fanfare::hub::Hub;
use fanfare::io::Io;
use fanfare::io::simulated::{Random, SimulatedIo};
use fanfare::server::Server;
use fanfare::sources::bus::{Appender, BusPublisher, BusSettings, Engine, Job, Reader, Turn, fetch_page};
use fanfare::sources::channel::{FetchPage, Message, Outlet, SourceStatus, channel};
use fanfare::sources::sequencer::Sequencer;
use fanfare::sources::{BackoffLimits, QueueLimits};

use super::engine::{Handle, Link, Model, Served};
use super::plan::Plan;
use crate::ledger::must;

/// Turns without time passing before a node is said to spin.
const TURNS_AT_ONE_TIME_MAX: usize = 4000;

/// One node.
pub(crate) struct Node {
    server: Server<SimulatedIo>,
    reader: Reader,
    appender: Appender,
    jobs: Receiver<Job>,
    outlet: Outlet,
    fetching: Box<dyn Engine>,
    pages: Arc<WantedPages>,
    pub(crate) link: Arc<Mutex<Link>>,
    /// Its threads hang until then.
    pub(crate) hangs_until: Duration,
}

/// Pages that the server has requested.
#[derive(Default)]
struct WantedPages(Mutex<VecDeque<PageKey>>);

impl FetchPage for WantedPages {
    fn fetch(&self, key: PageKey) {
        self.0.lock().unwrap().push_back(key);
    }
}

impl Node {
    pub(crate) fn start(plan: &Plan, seed: u64, now: Duration, model: &Arc<Mutex<Model>>) -> Node {
        let mut io = SimulatedIo::new(seed, plan.of_node.faults.clone(), 2);
        io.set_start(now);
        io.set_horizon(now);
        let mut random = Random::new(seed ^ 0x5eed);
        let run = RunName::from_bits(random.bits());
        let (outlet, inbox) = channel(plan.of_node.channel, io.wake());
        let settings = Arc::new(BusSettings {
            node: run.to_string(),
            load_bytes_max: plan.load_bytes_max,
            queue: QueueLimits::default(),
            bounds: Arc::default(),
            backoff: BackoffLimits { delay_min: Duration::ZERO, delay_max: Duration::ZERO },
        });
        let link = Link::new(random, plan.call_failures);
        let engine = || Box::new(Handle { model: Arc::clone(model), link: Arc::clone(&link) });
        let status = SourceStatus::new("bus");
        let (publisher, jobs) = BusPublisher::new(Arc::clone(&settings), Arc::clone(&status), outlet.clone());
        let mut hub = Hub::of_bus(run, plan.of_node.hub.clone());
        // As a configuration does for its default topic.
        hub.reserve(&Topic::new(&plan.of_node.topics[0]).unwrap());
        let own_events = Sequencer::local(run, vec![outlet.clone()]);
        let pages = Arc::<WantedPages>::default();
        let parts =
            plan.of_node.parts(hub, inbox, Arc::new(publisher), own_events, Some(Arc::clone(&pages) as _), seed);
        Node {
            server: Server::new(io, parts),
            reader: Reader::new(engine(), settings, vec![outlet.clone()], Arc::clone(&status)),
            appender: Appender::new(engine(), jobs.clone(), status),
            jobs,
            outlet,
            fetching: engine(),
            pages,
            link,
            hangs_until: now,
        }
    }

    pub(crate) fn io(&mut self) -> &mut SimulatedIo {
        self.server.io_mut()
    }

    /// What its reader was given.
    pub(crate) fn served(&self) -> Served {
        self.link.lock().unwrap().served()
    }

    /// Its reader's thread takes a turn, and then its loop. True: it has read the bus, and passed on what it read.
    pub(crate) fn read(&mut self, now: Duration) -> Result<bool, String> {
        let turn = self.reader.turn(now, Duration::ZERO);
        self.run_until(now)?;
        Ok(turn == Ok(Turn::Read))
    }

    /// Its appender's thread takes what waits for it.
    pub(crate) fn append(&mut self) {
        if let Ok(job) = self.jobs.try_recv() {
            self.appender.append(job);
        }
    }

    /// Its fetcher's thread takes a request. True: it brought the page.
    pub(crate) fn fetch(&mut self) -> bool {
        let Some(key) = self.pages.0.lock().unwrap().pop_front() else { return false };
        match fetch_page(&mut *self.fetching, key) {
            Ok(page) => {
                self.outlet.send(Message::Page(page));
                true
            }
            Err(_) => {
                self.pages.0.lock().unwrap().push_front(key);
                false
            }
        }
    }

    /// Turns the loop until nothing is left to do at `until`.
    pub(crate) fn run_until(&mut self, until: Duration) -> Result<(), String> {
        self.io().set_horizon(until);
        let (mut turns, mut last) = (0, Duration::ZERO);
        loop {
            self.server.turn().map_err(|error| error.to_string())?;
            let now = self.io().now();
            if now == until && self.io().has_slept() {
                return Ok(());
            }
            turns = if now == last { turns + 1 } else { 0 };
            last = now;
            must(turns < TURNS_AT_ONE_TIME_MAX, || "spins".into())?;
        }
    }
}
