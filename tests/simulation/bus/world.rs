//! A world on a bus from a seed: an engine, two or three nodes, publishers, clients and mishaps, in steps of virtual time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fanfare::io::simulated::{Fate, Pace, PeerId, Random};
use fanfare::io::{ListenerIndex, Peer};

use super::client::Client;
use super::engine::{Model, Served};
use super::life::Known;
use super::node::Node;
use super::plan::Plan;
use super::publisher::Publisher;
use super::totals::Totals;
use super::truth;
use crate::client::Link;
use crate::ledger::{Checked, must};

/// What a world leaves behind: a hash of everything that happened, and what was checked.
pub(crate) type Outcome = Result<(u64, Totals), String>;

/// The rounds in which everything that is owed must arrive.
const ROUNDS_MAX: usize = 400;
/// The length of a round.
const ROUND: Duration = Duration::from_millis(500);
/// Rounds without anything new: longer than a heartbeat or a reconnection takes.
const QUIET_ROUNDS: usize = 20;

/// A world, and the hash of everything that happened in it.
pub(crate) struct World {
    pub(super) random: Random,
    pub(super) plan: Plan,
    pub(super) seed: u64,
    pub(super) model: Arc<Mutex<Model>>,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) publishers: Vec<Publisher>,
    pub(super) now: Duration,
    pub(super) serial: u64,
    /// Topics and ids of events that were published.
    pub(super) used_ids: Vec<(String, String)>,
    pub(super) starts: u64,
    pub(super) hash: u64,
    pub(super) totals: Totals,
    /// Mishaps are over: everything is to arrive.
    pub(super) is_settling: bool,
}

impl World {
    /// The world of this seed, before anything has happened.
    pub(crate) fn new(seed: u64) -> World {
        let mut random = Random::new(seed ^ 0xb05);
        let mut plan = Plan::drawn(&mut random);
        plan.of_node.compress = !seed.is_multiple_of(2);
        let topics = plan.of_node.topics.clone();
        let clients = 2 + random.below(7);
        let mut world = World {
            model: Arc::new(Mutex::new(Model::new(plan.entries_max, plan.id_memory))),
            nodes: Vec::new(),
            clients: (0..clients).map(|_| Client::drawn(&mut random, &topics, plan.of_node.nodes)).collect(),
            publishers: (0..1 + random.below(3)).map(|_| Publisher::default()).collect(),
            random,
            plan,
            seed,
            now: Duration::ZERO,
            serial: 0,
            used_ids: Vec::new(),
            starts: 0,
            hash: 0,
            totals: Totals::default(),
            is_settling: false,
        };
        if world.plan.of_node.compress {
            // Some of its clients do not know gzip.
            let clients = world.clients.iter_mut().enumerate();
            clients.for_each(|(index, client)| client.accepts_gzip = index % 4 != 3);
        }
        world.nodes = (0..world.plan.of_node.nodes).map(|_| world.start()).collect();
        world.totals.count("worlds");
        world.totals.count_many("nodes", world.nodes.len());
        world.totals.count_many("clients", clients);
        world
    }

    /// Lives through it all.
    pub(crate) fn live(mut self) -> Outcome {
        let outcome = self.live_through();
        for node in &mut self.nodes {
            self.hash = self.hash.rotate_left(7) ^ node.io().trace_hash();
        }
        self.count_truth();
        let records = || {
            let model = self.model();
            let lines: Vec<_> =
                model.truth.records().iter().enumerate().map(|(n, record)| format!("{n} {record:?}")).collect();
            lines.join("\n")
        };
        match outcome {
            Ok(()) => Ok((self.hash, self.totals.clone())),
            Err(what) => Err(format!("{}\n\n{what}\n\n{:#?}", records(), self.plan)),
        }
    }

    fn count_truth(&mut self) {
        let records = self.model().truth.records().to_vec();
        let is_lost = |record: &&truth::Record| matches!(record.fate, truth::Fate::Lost | truth::Fate::Undone);
        let lost = records.iter().filter(|record| record.is_acknowledged).filter(is_lost).count();
        self.totals.count_many("entries on the bus", records.len());
        self.totals.count_many("acknowledged and lost", lost);
    }

    fn live_through(&mut self) -> Checked {
        for _ in 0..40 + self.random.below(100) {
            self.mishap()?;
            self.publish();
            self.stir()?;
            let step = match self.random.below(100) {
                0..3 => Duration::from_secs(2 + self.random.below(40) as u64),
                3..50 => self.random.up_to(Duration::from_millis(20)),
                _ => self.random.up_to(Duration::from_millis(400)),
            };
            self.step(step)?;
        }
        self.settle()?;
        // Once more, from other nodes.
        for index in 0..self.clients.len() {
            let Link::Joined(peer) = self.clients[index].link else { continue };
            self.nodes[self.clients[index].node].io().peer_reset(peer);
            self.part(index, Duration::ZERO);
        }
        self.settle()?;
        let gaps = self.totals.gaps();
        must(gaps == 0 || !self.plan.is_calm(), || format!("B5: {gaps} gaps, although nothing was ever missing"))
    }

    pub(super) fn start(&mut self) -> Node {
        self.starts += 1;
        Node::start(&self.plan, self.seed.wrapping_mul(1000) + self.starts, self.now, &self.model)
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// Threads and clients do something.
    fn stir(&mut self) -> Checked {
        for index in 0..self.nodes.len() {
            if self.nodes[index].hangs_until > self.now {
                continue;
            }
            for _ in 0..self.random.below(4) {
                self.nodes[index].read(self.now)?;
            }
            (0..self.random.below(3)).for_each(|_| self.nodes[index].append());
            for _ in 0..self.random.below(3) {
                self.fetch(index);
            }
        }
        for index in 0..self.clients.len() {
            match self.clients[index].link {
                Link::Away { until } if until <= self.now => {
                    let pace = self.pace();
                    self.join(index, pace);
                }
                Link::Away { .. } => {}
                Link::Joined(peer) => self.stir_client(index, peer)?,
            }
        }
        Ok(())
    }

    fn fetch(&mut self, node: usize) {
        let is_there = self.nodes[node].fetch();
        self.totals.count_many("pages fetched", usize::from(is_there));
    }

    fn pace(&mut self) -> Pace {
        match self.random.below(20) {
            0..14 => Pace::Eager,
            14..19 => Pace::Slow {
                bytes: 1 + self.random.below(400),
                every: Duration::from_millis(1 + self.random.below(300) as u64),
            },
            _ => Pace::Never,
        }
    }

    fn join(&mut self, index: usize, pace: Pace) {
        let client = &mut self.clients[index];
        if self.random.chance(client.moves) {
            let node = self.random.below(self.nodes.len());
            self.totals.count_many("moved to another node", usize::from(node != client.node));
            client.node = node;
        }
        self.totals.count("connections");
        let request = client.request();
        let io = self.nodes[client.node].io();
        let peer = io.connect(ListenerIndex(0), address(1 + self.random.below(3) as u8), pace);
        client.link = Link::Joined(peer);
        let cut = self.random.below(request.len() + 1);
        io.peer_send(peer, &request[..cut]);
        io.peer_send(peer, &request[cut..]);
    }

    fn stir_client(&mut self, index: usize, peer: PeerId) -> Checked {
        let (pace, draw) = (self.pace(), self.random.below(1000));
        let away = self.random.up_to(Duration::from_secs(3));
        let io = self.nodes[self.clients[index].node].io();
        match draw {
            0..15 => io.peer_reset(peer),
            15..20 => io.peer_vanish(peer),
            20..60 => io.set_pace(peer, pace),
            _ => {}
        }
        if draw < 20 {
            self.hear_client(index, peer, false)?;
            self.part(index, away);
        }
        Ok(())
    }

    /// A client's connection is over.
    pub(super) fn part(&mut self, index: usize, away: Duration) {
        self.clients[index].leave(Link::Away { until: self.now + away });
    }

    // ---- time ----

    fn step(&mut self, step: Duration) -> Checked {
        self.pass(step)?;
        for index in 0..self.clients.len() {
            if let Link::Joined(peer) = self.clients[index].link {
                let cuts = self.random.chance(self.clients[index].cuts);
                self.hear_client(index, peer, cuts)?;
            }
        }
        (0..self.publishers.len()).try_for_each(|index| self.hear_publisher(index))
    }

    pub(super) fn pass(&mut self, step: Duration) -> Checked {
        self.now += step;
        self.model().set_now(self.now);
        let now = self.now;
        self.nodes.iter_mut().try_for_each(|node| node.run_until(now))
    }

    /// A client takes what has arrived, and may be cut off at any byte of it.
    fn hear_client(&mut self, index: usize, peer: PeerId, cuts: bool) -> Checked {
        let node = self.clients[index].node;
        let mut bytes = self.nodes[node].io().take(peer);
        let is_cut = cuts && !bytes.is_empty() && !self.is_settling;
        if is_cut {
            bytes.truncate(self.random.below(bytes.len() + 1));
        }
        let served = self.nodes[node].served();
        self.receive(index, &bytes, &served)?;
        if is_cut {
            self.totals.count("cuts");
            self.nodes[node].io().peer_reset(peer);
            let away = if self.random.chance(500) { Duration::ZERO } else { self.random.up_to(Duration::from_secs(2)) };
            self.part(index, away);
        } else if self.nodes[node].io().fate(peer) != Fate::Open {
            let waited = !self.clients[index].life.is_streaming();
            self.totals.count_many("waited for a node", usize::from(waited));
            let retry = self.clients[index].reception.retry();
            let away = if self.random.chance(500) { retry } else { self.random.up_to(Duration::from_secs(2)) };
            self.part(index, away);
        }
        Ok(())
    }

    pub(super) fn receive(&mut self, index: usize, bytes: &[u8], served: &Served) -> Checked {
        let model = self.model.lock().unwrap();
        let known = Known { truth: &model.truth, served, memory: self.plan.memory };
        let client = &mut self.clients[index];
        let received = client.receive(bytes, known, &mut self.totals);
        received.map_err(|what| format!("client {index}: {what}\n{served:?}\n{}", client.diary()))
    }

    fn hear_publisher(&mut self, index: usize) -> Checked {
        let Some((node, peer)) = self.publishers[index].asked else { return Ok(()) };
        let io = self.nodes[node].io();
        let (bytes, is_cut) = (io.take(peer), self.random.chance(30) && !self.is_settling);
        let World { publishers, totals, model, .. } = self;
        let publisher = &mut publishers[index];
        let is_answered = publisher.receive(&bytes, &mut model.lock().unwrap().truth, totals)?;
        if is_answered || is_cut {
            io.peer_reset(peer);
        }
        if !is_answered && (is_cut || io.fate(peer) != Fate::Open) {
            publisher.fail(totals);
        }
        if publisher.asked.is_none() {
            publisher.rests_until = self.now + self.random.up_to(Duration::from_secs(1));
        }
        Ok(())
    }

    // ---- the end ----

    /// Nothing fails any more, and every client reads: what is owed must arrive.
    fn settle(&mut self) -> Checked {
        self.is_settling = true;
        let (mut records, mut quiet) = (0, 0);
        for _ in 0..ROUNDS_MAX {
            for index in 0..self.nodes.len() {
                self.nodes[index].link.lock().unwrap().is_steady = true;
                for _ in 0..4 {
                    self.nodes[index].read(self.now)?;
                    self.nodes[index].append();
                    self.fetch(index);
                }
            }
            for index in 0..self.clients.len() {
                match self.clients[index].link {
                    Link::Joined(peer) => self.nodes[self.clients[index].node].io().set_pace(peer, Pace::Eager),
                    Link::Away { until } if until <= self.now => self.join(index, Pace::Eager),
                    Link::Away { .. } => {}
                }
            }
            self.post_what_is_left();
            self.step(ROUND)?;
            let now = self.model().truth.records().len();
            quiet = if now == records { quiet + 1 } else { 0 };
            records = now;
            let all_stream = self.clients.iter().all(|client| client.life.is_streaming());
            let all_published = self.publishers.iter().all(|publisher| !publisher.has_work());
            if quiet >= QUIET_ROUNDS && all_stream && all_published {
                return self.check_complete();
            }
        }
        let waiting = self.clients.iter().position(|client| !client.life.is_streaming());
        Err(format!("in the end: client {waiting:?} gets no stream, or a publisher no answer"))
    }

    fn post_what_is_left(&mut self) {
        for index in 0..self.publishers.len() {
            let publisher = &self.publishers[index];
            if publisher.asked.is_none() && publisher.has_work() && publisher.rests_until <= self.now {
                self.post(index);
            }
        }
    }

    fn check_complete(&self) -> Checked {
        let model = self.model();
        for (index, client) in self.clients.iter().enumerate() {
            let served = self.nodes[client.node].served();
            let known = Known { truth: &model.truth, served: &served, memory: self.plan.memory };
            let complete = client.life.check_complete(known);
            complete.map_err(|what| format!("client {index}: {what}\n{served:?}\n{}", client.diary()))?;
        }
        Ok(())
    }
}

/// Where a client connects from.
pub(super) fn address(host: u8) -> Peer {
    Peer::Inet(SocketAddr::from((Ipv4Addr::new(192, 0, 2, host), 999)))
}
