//! A world from a seed: nodes, clients, publishers and mishaps, in steps of virtual time, until all is said.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fanfare::event::{Event, EventId, Topic};
use fanfare::io::simulated::{Fate, Pace, PeerId, Random};
use fanfare::io::{ListenerIndex, Peer};
use fanfare::sources::channel::{Control, Message, PublishRefusal, Published};

use super::census::Census;
use super::client::{Hearing, INTERVAL_MAX, Link, Subscriber, Talker};
use super::feed::Bus;
use super::ledger::must;
use super::node::{Node, Plan};
use super::order::History;
use super::wire::find;

/// What a world leaves behind: a hash of everything that happened, and what was checked.
pub(crate) type Outcome = Result<(u64, Census), String>;

/// A world and the hash of everything that happened in it.
pub(crate) struct World {
    random: Random,
    plan: Plan,
    seed: u64,
    history: Arc<History>,
    bus: Option<Arc<Bus>>,
    nodes: Vec<Node>,
    subscribers: Vec<Subscriber>,
    talkers: Vec<Talker>,
    now: Duration,
    serial: u64,
    /// Ids that every node of now was given an event of.
    used_ids: Vec<(EventId, Topic)>,
    starts: u64,
    hash: u64,
    census: Census,
    /// Clients cut their connections: until everything is to arrive.
    may_cut: bool,
}

impl World {
    /// The world of this seed, before anything has happened.
    pub(crate) fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let plan = Plan { compress: !seed.is_multiple_of(2), ..Plan::drawn(&mut random) };
        let bus = (plan.nodes > 1 || random.chance(300)).then(Arc::<Bus>::default);
        let subscribers = 2 + random.below(12);
        let mut world = World {
            subscribers: (0..subscribers).map(|_| Subscriber::drawn(&mut random, &plan.topics, plan.nodes)).collect(),
            talkers: (0..random.below(4)).map(|_| Talker::new(random.below(plan.nodes))).collect(),
            random,
            plan,
            seed,
            history: Arc::default(),
            bus,
            nodes: Vec::new(),
            now: Duration::ZERO,
            serial: 0,
            used_ids: Vec::new(),
            starts: 0,
            hash: 0,
            census: Census { worlds: 1, clients: subscribers as u64, ..Census::default() },
            may_cut: true,
        };
        if world.plan.compress {
            // Some of its clients do not know gzip.
            let clients = world.subscribers.iter_mut().enumerate();
            clients.for_each(|(index, client)| client.accepts_gzip = index % 4 != 3);
        }
        world.nodes = (0..world.plan.nodes).map(|index| world.start(index)).collect();
        world.connect_bus();
        world
    }

    /// Lives through it all.
    pub(crate) fn live(mut self) -> Outcome {
        let outcome = self.live_through();
        for node in &mut self.nodes {
            self.hash = self.hash.rotate_left(7) ^ node.io().trace_hash();
        }
        let mut trace =
            || self.nodes.iter_mut().map(|node| node.io().trace().join("\n")).collect::<Vec<_>>().join("\n--\n");
        outcome
            .map(|()| (self.hash, self.census.clone()))
            .map_err(|what| format!("{}\n\n{what}\n\n{:#?}", trace(), self.plan))
    }

    fn live_through(&mut self) -> Result<(), String> {
        let steps = 40 + self.random.below(120);
        for _ in 0..steps {
            self.nodes.iter().for_each(|node| node.feed.set_now(self.now));
            self.mishap()?;
            self.publish();
            self.stir_clients()?;
            let step = match self.random.below(100) {
                0 => Duration::from_secs(10 + self.random.below(200) as u64),
                1..4 => Duration::from_secs(1 + self.random.below(9) as u64),
                4..50 => self.random.up_to(Duration::from_millis(20)),
                _ => self.random.up_to(Duration::from_millis(400)),
            };
            self.step(step)?;
        }
        self.settle()?;
        self.finish()
    }

    fn start(&mut self, index: usize) -> Node {
        self.starts += 1;
        let bus = self.bus.as_ref().map(|bus| (bus, index));
        let seed = self.seed.wrapping_mul(1000) + self.starts;
        Node::start(&self.plan, seed, self.now, bus, &self.history)
    }

    fn connect_bus(&self) {
        if let Some(bus) = &self.bus {
            bus.connect(self.nodes.iter().map(|node| Arc::clone(&node.feed)).collect());
        }
    }

    // ---- what happens ----

    fn mishap(&mut self) -> Result<(), String> {
        let index = self.random.below(self.nodes.len());
        let topic = self.a_topic();
        match self.random.below(100) {
            0..2 => return self.restart(index),
            2..6 => self.nodes[index].feed.lose(),
            6..9 => _ = self.nodes[index].feed.refuse(&topic),
            9..12 => {
                let descriptors = 1 + self.random.below(12);
                self.nodes[index].io().set_descriptors_max(descriptors);
            }
            12..30 => self.nodes[index].io().set_descriptors_max(usize::MAX),
            _ => {}
        }
        Ok(())
    }

    /// The process ends, and another takes its place: nothing is remembered, and its ids are new.
    fn restart(&mut self, index: usize) -> Result<(), String> {
        self.census.restarts += 1;
        // The new node was given no event under any of them.
        self.used_ids.clear();
        let node = self.start(index);
        let mut old = std::mem::replace(&mut self.nodes[index], node);
        self.hash = self.hash.rotate_left(7) ^ old.io().trace_hash();
        if let Some(bus) = &self.bus {
            bus.forget_tickets(index);
        }
        self.connect_bus();
        let World { subscribers, census, history, now, .. } = self;
        for subscriber in subscribers.iter_mut().filter(|subscriber| subscriber.node == index) {
            if let Link::Joined(peer) = subscriber.link {
                let bytes = old.io().take(peer);
                let (feed, answered) = (Arc::clone(&old.feed), old.answered(peer));
                let mut hearing = Hearing { feed: &feed, history, answered, now: *now, census };
                subscriber.receive(&bytes, &mut hearing)?;
                subscriber.leave(*now);
            }
        }
        for talker in self.talkers.iter_mut().filter(|talker| talker.node == index) {
            talker.leave(self.now, index);
        }
        Ok(())
    }

    fn a_topic(&mut self) -> Topic {
        let index = self.random.below(self.plan.topics.len());
        Topic::new(&self.plan.topics[index]).unwrap()
    }

    fn publish(&mut self) {
        let count = match self.random.below(10) {
            0..4 => 0,
            4..9 => 1 + self.random.below(4),
            _ => self.random.below(40),
        };
        for _ in 0..count {
            self.serial += 1;
            let padding = [0, 30, 300][self.random.below(3)];
            let topic = self.a_topic();
            let data = format!("source {} {}", self.serial, "y".repeat(self.random.below(padding + 1)));
            let mut event = Event::message(topic, data);
            if self.random.chance(600) {
                event.id = Some(self.some_id(&mut event.topic));
            }
            let times = if event.id.is_some() && self.random.chance(30) { 2 } else { 1 };
            let was_taken = (0..times).all(|_| match &self.bus {
                // What comes without an id gets one on each node, in the same order.
                Some(bus) => bus.publish(&event),
                None => self.nodes[0].feed.publish(&event),
            });
            if let Some(id) = event.id.filter(|_| was_taken) {
                self.used_ids.push((id, event.topic));
            }
        }
    }

    /// An id for an event of `topic`: new, or used before. The publisher that reuses one likes the ids that clients hold, and
    /// the topic that an id was used in.
    fn some_id(&mut self, topic: &mut Topic) -> EventId {
        if self.used_ids.is_empty() || !self.random.chance(60) {
            return EventId::new(&format!("source/{}", self.serial)).unwrap();
        }
        self.census.reused_ids += 1;
        let client = self.random.below(self.subscribers.len());
        let held = self.subscribers[client].last_event_id();
        let is_held = |used: &&(EventId, Topic)| held.ends_with(used.0.as_str());
        let any = self.random.below(self.used_ids.len());
        let (id, used_topic) = self.used_ids.iter().find(is_held).unwrap_or(&self.used_ids[any]).clone();
        if self.random.chance(700) {
            *topic = used_topic;
        }
        id
    }

    // ---- clients ----

    fn stir_clients(&mut self) -> Result<(), String> {
        for index in 0..self.subscribers.len() {
            match self.subscribers[index].link {
                Link::Away { until } if until <= self.now => self.join(index),
                Link::Away { .. } => {}
                Link::Joined(peer) => self.stir(index, peer)?,
            }
        }
        for index in 0..self.talkers.len() {
            self.let_talk(index);
        }
        Ok(())
    }

    fn pace(&mut self) -> Pace {
        match self.random.below(20) {
            0..13 => Pace::Eager,
            13..18 => Pace::Slow {
                bytes: 1 + self.random.below(400),
                every: Duration::from_millis(1 + self.random.below(300) as u64),
            },
            _ => Pace::Never,
        }
    }

    fn address(&mut self) -> Peer {
        let host = 1 + self.random.below(4) as u8;
        if host == 4 { Peer::Unix } else { Peer::Inet(SocketAddr::from((Ipv4Addr::new(192, 0, 2, host), 999))) }
    }

    fn join(&mut self, index: usize) {
        let (pace, address) = (self.pace(), self.address());
        let subscriber = &mut self.subscribers[index];
        if self.random.chance(300) {
            subscriber.node = self.random.below(self.nodes.len());
        }
        let node = &mut self.nodes[subscriber.node];
        self.census.connections += 1;
        let (bytes, mut request) = subscriber.request(&node.feed);
        request.interval = request.interval.max(self.plan.interval_floor);
        let peer = node.io().connect(ListenerIndex(0), address, pace);
        subscriber.link = Link::Joined(peer);
        let cut = self.random.below(bytes.len() + 1);
        node.io().peer_send(peer, &bytes[..cut]);
        node.io().peer_send(peer, &bytes[cut..]);
        node.watch(peer, request);
    }

    fn stir(&mut self, index: usize, peer: PeerId) -> Result<(), String> {
        let (pace, draw) = (self.pace(), self.random.below(1000));
        let away = self.now + self.random.up_to(Duration::from_secs(3));
        let subscriber = &mut self.subscribers[index];
        let io = self.nodes[subscriber.node].io();
        match draw {
            0..8 => io.peer_reset(peer),
            8..16 => io.peer_end(peer),
            16..20 => io.peer_vanish(peer),
            20..60 => io.set_pace(peer, pace),
            60..70 => io.peer_send(peer, b"what the server discards"),
            _ => {}
        }
        if draw < 20 {
            let bytes = io.take(peer);
            self.receive(index, peer, &bytes)?;
            self.subscribers[index].leave(away);
        }
        Ok(())
    }

    /// A client takes what has arrived.
    fn receive(&mut self, index: usize, peer: PeerId, bytes: &[u8]) -> Result<(), String> {
        let World { subscribers, nodes, history, census, now, .. } = self;
        let subscriber = &mut subscribers[index];
        let node = &nodes[subscriber.node];
        let mut hearing = Hearing { feed: &node.feed, history, answered: node.answered(peer), now: *now, census };
        let received = subscriber.receive(bytes, &mut hearing);
        received.map_err(|what| format!("subscriber {index}, peer {}: {what}\n{}", peer.0, subscriber.diary()))
    }

    /// Where a connection is cut that has brought these bytes: anywhere, and gladly around a gap.
    fn cut(&mut self, bytes: &[u8]) -> usize {
        let anywhere = self.random.below(bytes.len() + 1);
        let Some(gap) = find(bytes, b"event: gap").filter(|_| self.random.chance(700)) else { return anywhere };
        let before = bytes[..gap].windows(2).rposition(|window| window == b"\n\n").map_or(0, |end| end + 2);
        let after = find(&bytes[gap..], b"\n\n").map_or(bytes.len(), |end| gap + end + 2);
        let next = find(&bytes[after..], b"\n\n").map_or(bytes.len(), |end| after + end + 2);
        [before, gap, after - 1, after, next][self.random.below(5)]
    }

    fn let_talk(&mut self, index: usize) {
        let (pace, address) = (self.pace(), self.address());
        let talker = &mut self.talkers[index];
        let io = self.nodes[talker.node].io();
        match talker.link {
            Link::Away { until } if until <= self.now => {
                talker.link = Link::Joined(io.connect(ListenerIndex(0), address, pace));
            }
            Link::Joined(peer) if talker.is_sane && self.random.chance(300) => {
                let speech = talker.speech(&mut self.random, &self.plan.topics, &mut self.serial);
                for piece in speech.chunks(1 + self.random.below(speech.len())) {
                    io.peer_send(peer, piece);
                }
            }
            Link::Joined(peer) if self.random.chance(20) => {
                io.peer_end(peer);
                talker.is_sane = false;
            }
            _ => {}
        }
    }

    // ---- time ----

    fn step(&mut self, step: Duration) -> Result<(), String> {
        self.now += step;
        for node in &mut self.nodes {
            node.awaits_broker |= self.bus.as_ref().is_some_and(|bus| bus.has_tickets());
            node.run_until(self.now)?;
            node.awaits_broker = self.bus.is_some();
        }
        self.answer_tickets();
        self.hear()
    }

    /// The broker answers, or says that it can't; sometimes it takes its time.
    fn answer_tickets(&mut self) {
        let Some(bus) = &self.bus else { return };
        if self.random.chance(300) {
            return;
        }
        for (node, ticket) in bus.take_tickets() {
            let outcome =
                if self.random.chance(100) { Err(PublishRefusal::BrokerDown) } else { Ok(Published::default()) };
            self.nodes[node].feed.send(Message::Published { ticket, outcome });
        }
    }

    /// Clients take what has arrived, and leave where they were left.
    fn hear(&mut self) -> Result<(), String> {
        for index in 0..self.subscribers.len() {
            let Link::Joined(peer) = self.subscribers[index].link else { continue };
            let away = self.random.up_to(Duration::from_secs(2));
            let node = self.subscribers[index].node;
            let mut bytes = self.nodes[node].io().take(peer);
            let cuts = self.may_cut && !bytes.is_empty() && self.random.chance(self.subscribers[index].cuts);
            if cuts {
                let cut = self.cut(&bytes);
                bytes.truncate(cut);
            }
            self.receive(index, peer, &bytes)?;
            if cuts {
                self.census.cuts += 1;
                self.nodes[node].io().peer_reset(peer);
            }
            if self.nodes[node].io().fate(peer) != Fate::Open {
                let subscriber = &mut self.subscribers[index];
                let retry = if self.random.chance(500) { subscriber.retry() } else { away };
                let at_once = cuts && self.random.chance(500);
                subscriber.leave(self.now + if at_once { Duration::ZERO } else { retry });
            }
        }
        for index in 0..self.talkers.len() {
            let Link::Joined(peer) = self.talkers[index].link else { continue };
            let talker = &mut self.talkers[index];
            let node = talker.node;
            let io = self.nodes[node].io();
            let bytes = io.take(peer);
            talker.receive(&bytes).map_err(|what| format!("talker {index}, peer {}: {what}", peer.0))?;
            if io.fate(peer) != Fate::Open {
                talker.leave(self.now, self.random.below(self.nodes.len()));
            }
        }
        Ok(())
    }

    // ---- the end ----

    /// Nothing fails any more, and every client reads: what is owed must arrive.
    fn settle(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            node.io().set_descriptors_max(usize::MAX);
        }
        self.may_cut = false;
        let (mut head, mut rounds_since_event) = (0, 0);
        // Publishers finish what they began, one answer after the other: then the interval of every client passes.
        for round in 0.. {
            for index in 0..self.subscribers.len() {
                match self.subscribers[index].link {
                    Link::Joined(peer) => self.nodes[self.subscribers[index].node].io().set_pace(peer, Pace::Eager),
                    Link::Away { until } if until <= self.now && round < 40 => {
                        self.join(index);
                        if let Link::Joined(peer) = self.subscribers[index].link {
                            self.nodes[self.subscribers[index].node].io().set_pace(peer, Pace::Eager);
                        }
                    }
                    Link::Away { .. } => {}
                }
            }
            for talker in &self.talkers {
                if let Link::Joined(peer) = talker.link {
                    self.nodes[talker.node].io().set_pace(peer, Pace::Eager);
                }
            }
            self.step(Duration::from_millis(500))?;
            rounds_since_event += 1;
            let published = self.nodes.iter().map(|node| node.server.hub().head().0).sum();
            if published != head {
                (head, rounds_since_event) = (published, 0);
            }
            if round >= 60 && rounds_since_event * Duration::from_millis(500) > INTERVAL_MAX + Duration::from_secs(1) {
                break;
            }
        }
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            let Link::Joined(peer) = subscriber.link else { continue };
            let node = &mut self.nodes[subscriber.node];
            if subscriber.is_streaming() && node.io().is_open(peer) && !node.io().is_ended(peer) {
                let checked = subscriber.check_complete(&node.feed, self.now);
                checked
                    .map_err(|what| format!("subscriber {index}, peer {}: {what}\n{}", peer.0, subscriber.diary()))?;
            }
        }
        for talker in self.talkers.iter().filter(|talker| talker.is_sane) {
            let Link::Joined(peer) = talker.link else { continue };
            let Talker { asked, answered, .. } = talker;
            must(asked == answered, || format!("peer {}: {answered} answers to {asked} requests", peer.0))?;
        }
        Ok(())
    }

    /// All clients leave, or the nodes do; nothing remains.
    fn finish(&mut self) -> Result<(), String> {
        let drains = self.random.chance(500);
        if drains {
            // Some have a request or a stream under way.
            for index in 0..self.subscribers.len() {
                let (pace, subscriber) = (self.pace(), &self.subscribers[index]);
                if let Link::Joined(peer) = subscriber.link {
                    self.nodes[subscriber.node].io().set_pace(peer, pace);
                }
            }
            (0..5).for_each(|_| self.publish());
            self.step(Duration::from_millis(10))?;
        }
        for node in &mut self.nodes {
            if drains {
                node.feed.send(Message::Control(Control::Drain));
            }
        }
        let subscribers = self.subscribers.iter().map(|subscriber| (subscriber.node, subscriber.link));
        for (node, link) in subscribers.chain(self.talkers.iter().map(|talker| (talker.node, talker.link))) {
            if let (Link::Joined(peer), false) = (link, drains) {
                self.nodes[node].io().peer_end(peer);
            }
        }
        // Who vanished is found out by the kernel's patience, counted from when something is sent to it.
        for _ in 0..40 {
            self.step(Duration::from_millis(2000))?;
        }
        for node in &mut self.nodes {
            must(node.has_left == drains, || "did not leave when asked".into())?;
            check_empty(node)?;
        }
        Ok(())
    }
}

/// No client remains: neither in the slab, nor in the hub, nor on the network.
fn check_empty(node: &mut Node) -> Result<(), String> {
    let open = node.server.open();
    let who = node.io().open_peers();
    must(open == (0, 0), || format!("{open:?} connections and streams are left: {who:?}"))?;
    let subscribed: usize = node.server.hub().topics().map(|topic| topic.subscribers).sum();
    must(subscribed == 0, || format!("{subscribed} subscriptions are left"))?;
    let addresses = node.server.addresses();
    must(addresses == 0, || format!("{addresses} addresses have connections still, in its books"))?;
    must(node.io().open_peers().is_empty(), || "sockets are left".into())
}
