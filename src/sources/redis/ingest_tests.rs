//! The proof of the module's doc, tried: nodes on a model of Redis whose calls fail before, after and long after Redis
//! has carried them out. Nodes are killed, wait, lose connections and leave. The model has the rules of
//! `functions.lua`.

use std::sync::{Arc, Mutex, MutexGuard};

use super::*;
use crate::protocol::publish::PublishLimits;
use crate::redis_address::RedisAddress;
use crate::sources::QueueLimits;
use crate::sources::bus::Receipt;
use crate::sources::redis::Payload;

const MARKERS: &str = "{bus}:marker";

/// A call that Redis may carry out late.
enum Call {
    Lead { token: String, ended: Option<String> },
    Ingest { token: String, contents: Vec<Content> },
    AnnounceEnd { token: String },
    Resign { token: String, hands_over: bool },
}

#[derive(Default)]
struct Redis {
    now_ms: u64,
    leader: Option<String>,
    leads_until: u64,
    ended_leader: Option<String>,
    /// Markers, and numbers on the channel, in the order in which every subscriber receives them.
    published: Vec<Message>,
    numbers: u64,
    /// What is on the bus; none: a gap.
    stream: Vec<Option<u64>>,
    late: Vec<Call>,
    /// How many calls of ten thousand fail.
    failing: u64,
    random: Random,
}

#[derive(Clone)]
enum Message {
    Number(u64),
    Marker(String),
}

struct Random(u64);

impl Default for Random {
    fn default() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % end
    }
}

fn refused<T>(why: &str) -> Result<T, EngineError> {
    Err(EngineError(why.to_owned()))
}

impl Redis {
    /// Publishes the next number.
    fn publish(&mut self) {
        self.published.push(Message::Number(self.numbers));
        self.numbers += 1;
    }

    fn is_leader(&self, token: &str) -> bool {
        self.leader.as_deref() == Some(token)
    }

    /// Carries out a call, as the functions do. Every call's answer has one type here.
    fn carry_out(&mut self, call: &Call) -> Result<Lead, EngineError> {
        match call {
            Call::Lead { token, ended, .. } => {
                let node = |token: &str| token.split('/').next().map(str::to_owned);
                let continues = ended.is_some() && *ended == self.leader && *ended == self.ended_leader;
                if let Some(leader) = self.leader.clone()
                    && node(&leader) != node(token)
                    && !continues
                    && self.leads_until > self.now_ms
                {
                    return Ok(Lead::OfAnother(leader));
                }
                if !continues {
                    self.stream.push(None);
                }
                (self.leader, self.ended_leader) = (Some(token.clone()), None);
                self.leads_until = self.now_ms + LEASE.as_millis() as u64;
                self.published.push(Message::Marker(format!("leads {token}")));
                Ok(if continues { Lead::Continues } else { Lead::Begins })
            }
            Call::Ingest { token, .. } | Call::Resign { token, .. } if !self.is_leader(token) => refused("NOTLEADER"),
            Call::Ingest { contents, .. } => {
                self.leads_until = self.now_ms + LEASE.as_millis() as u64;
                self.stream.extend(contents.iter().map(|content| match content {
                    Content::Event(event) => event.data.parse().ok(),
                    _ => None,
                }));
                Ok(Lead::Continues)
            }
            Call::AnnounceEnd { token } => {
                self.published.push(Message::Marker(format!("ends {token}")));
                Ok(Lead::Continues)
            }
            Call::Resign { token, hands_over } => {
                self.leads_until = if *hands_over { self.now_ms + 2000 } else { 0 };
                self.ended_leader = hands_over.then(|| token.clone());
                Ok(Lead::Continues)
            }
        }
    }

    /// Carries out a call, or lets it fail.
    fn call(&mut self, call: Call) -> Result<Lead, EngineError> {
        if self.random.below(10_000) >= self.failing {
            return self.carry_out(&call);
        }
        match self.random.below(3) {
            0 => {}
            1 => drop(self.carry_out(&call)),
            _ => self.late.push(call),
        }
        refused("no answer in time")
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Redis>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Redis> {
        self.0.lock().unwrap()
    }
}

impl LeadEngine for Shared {
    fn disconnect(&mut self) {}

    fn lead(&mut self, claim: &Claim<'_>) -> Result<Lead, EngineError> {
        self.lock().call(Call::Lead { token: claim.token.to_owned(), ended: claim.ended.map(str::to_owned) })
    }

    fn ingest(&mut self, token: &str, _: Duration, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        let (token, contents) = (token.to_owned(), contents.to_vec());
        self.lock().call(Call::Ingest { token, contents }).map(|_| Vec::new())
    }

    fn announce_end(&mut self, token: &str) -> Result<u64, EngineError> {
        self.lock().call(Call::AnnounceEnd { token: token.to_owned() }).map(|_| 2)
    }

    fn resign(&mut self, token: &str, hands_over: bool) -> Result<(), EngineError> {
        self.lock().call(Call::Resign { token: token.to_owned(), hands_over }).map(drop)
    }
}

fn settings() -> RedisSettings {
    RedisSettings {
        rules: Vec::new(),
        address: RedisAddress::new("redis://nowhere", None).unwrap(),
        channels: vec!["t".to_owned()],
        patterns: Vec::new(),
        payload: Payload::Raw,
        bus: MARKERS.to_owned(),
        copied_channels: Vec::new(),
        limits: PublishLimits { topic_bytes_max: 10, data_bytes_max: 100, batch_max: 1 },
        body_bytes_max: 100,
        queue: QueueLimits::default(),
        timing: Default::default(),
    }
}

/// A node, and how far its connection has brought it.
struct Node {
    redis: Shared,
    ingest: Ingest,
    sessions: u64,
    connection: Option<usize>,
    started_at: Instant,
}

impl Node {
    fn start(redis: &Shared, name: &str, started_at: Instant) -> Node {
        let engine = Box::new(redis.clone());
        let ingest = Ingest::new(engine, name.to_owned(), &settings(), Arc::default(), SourceStatus::new("redis"));
        Node { redis: redis.clone(), ingest, sessions: 0, connection: None, started_at }
    }

    fn now(&self) -> Instant {
        self.started_at + Duration::from_millis(self.redis.lock().now_ms)
    }

    fn connect(&mut self) {
        self.sessions += 1;
        let end = self.redis.lock().published.len();
        let is_begun = self.ingest.begin(NonZeroU64::new(self.sessions).unwrap(), self.now()).is_ok();
        self.connection = is_begun.then_some(end);
    }

    fn disconnect(&mut self) {
        if self.connection.take().is_some() {
            self.ingest.end(Some("closed"));
        }
    }

    fn tend(&mut self) {
        if self.connection.is_some() && self.ingest.tend(self.now()).is_err() {
            self.disconnect();
        }
    }

    /// Reads at most this number of messages, as one read of the connection does.
    fn read(&mut self, count: usize) {
        let Some(from) = self.connection else { return };
        let messages: Vec<_> = self.redis.lock().published.iter().skip(from).take(count).cloned().collect();
        self.connection = Some(from + messages.len());
        for message in messages {
            let (channel, payload) = match &message {
                Message::Number(number) => ("t", number.to_string()),
                Message::Marker(text) => (MARKERS, text.clone()),
            };
            let message = crate::redis_address::replies::Message {
                pattern: None,
                channel: channel.as_bytes(),
                payload: payload.as_bytes(),
            };
            if self.ingest.admits(&Reply::Message(message)) {
                self.ingest.add_data(Topic::new("t").unwrap(), &payload);
            }
        }
        self.ingest.flush();
    }

    /// Stops, after it read at most this number of messages.
    fn leave(mut self, count: usize) {
        if self.connection.is_some() {
            for _ in 0..count {
                if !self.ingest.is_leaving() {
                    break;
                }
                self.read(1);
            }
            self.ingest.end(None);
        }
    }
}

/// Checks that numbers rise, that the last one is there, and that each other one is there or a gap is in its place.
/// Returns how many gaps there are.
fn check_stream(redis: &Redis) -> usize {
    let (mut next, mut is_after_gap) = (0, false);
    for entry in &redis.stream {
        match *entry {
            None => is_after_gap = true,
            Some(number) => {
                assert!(
                    number == next || is_after_gap && number > next,
                    "{number} instead of {next}: {:?}",
                    redis.stream
                );
                (next, is_after_gap) = (number + 1, false);
            }
        }
    }
    assert_eq!(next, redis.numbers, "what is published while a node leads arrives: {:?}", redis.stream);
    redis.stream.iter().filter(|entry| entry.is_none()).count()
}

/// Lets all nodes work until one leads and everything is read.
fn settle(redis: &Shared, nodes: &mut [Node]) {
    redis.lock().failing = 0;
    for _ in 0..20 {
        redis.lock().now_ms += 1000;
        for node in &mut *nodes {
            if node.connection.is_none() {
                node.connect();
            }
            node.tend();
            node.read(usize::MAX);
        }
    }
}

#[test]
fn no_message_is_lost_without_a_gap_or_appended_twice() {
    let (mut gaps, mut numbers) = (0, 0);
    for seed in 1..5000 {
        let redis = Shared::default();
        let mut random = Random(seed * 0x9e37_79b9);
        redis.lock().failing = [0, 100, 1000][seed as usize % 3];
        redis.lock().random = Random(seed);
        let started_at = Instant::now();
        let mut names = (0..).map(|number| format!("node{number}"));
        let mut start = || Node::start(&redis, &names.next().unwrap(), started_at);
        let mut nodes = [start(), start(), start()];
        for _ in 0..150 {
            let index = random.below(3) as usize;
            let node = &mut nodes[index];
            match random.below(24) {
                0..6 => redis.lock().publish(),
                6..12 => node.read(random.below(6) as usize),
                12..18 => node.tend(),
                18..20 if node.connection.is_none() => node.connect(),
                20 => redis.lock().now_ms += random.below(4000),
                21 if random.below(3) == 0 => node.disconnect(),
                22 if random.below(3) == 0 => {
                    let node = std::mem::replace(node, start());
                    match random.below(3) {
                        0 => drop(node),
                        _ => node.leave(random.below(12) as usize),
                    }
                }
                23 => {
                    let mut redis = redis.lock();
                    if !redis.late.is_empty() {
                        let call = redis.late.remove(0);
                        drop(redis.carry_out(&call));
                    }
                }
                _ => {}
            }
        }
        settle(&redis, &mut nodes);
        redis.lock().publish();
        settle(&redis, &mut nodes);
        gaps += check_stream(&redis.lock());
        numbers += redis.lock().stream.iter().flatten().count();
    }
    assert!(gaps > 5000 && numbers > 50_000, "{gaps} gaps, {numbers} numbers");
}

/// However nodes leave, one after the other, and whatever is published meanwhile.
#[test]
fn nodes_that_leave_one_after_the_other_are_no_gap() {
    for seed in 1..500 {
        let redis = Shared::default();
        let mut random = Random(seed * 0x9e37_79b9);
        let started_at = Instant::now();
        let mut nodes = vec![Node::start(&redis, "first", started_at), Node::start(&redis, "second", started_at)];
        settle(&redis, &mut nodes);
        for number in 0..5 {
            let publish = |random: &mut Random| {
                (0..random.below(20)).for_each(|_| redis.lock().publish());
            };
            publish(&mut random);
            nodes.iter_mut().for_each(|node| node.read(random.below(20) as usize));
            publish(&mut random);
            nodes.remove(0).leave(usize::MAX >> 1);
            publish(&mut random);
            nodes.push(Node::start(&redis, &format!("node{number}"), started_at));
            // Also when its successor is there before the one that stays takes over.
            if random.below(2) == 0 {
                nodes[1].connect();
            }
            nodes[0].read(usize::MAX);
            nodes[0].tend();
            publish(&mut random);
            settle(&redis, &mut nodes);
        }
        redis.lock().publish();
        settle(&redis, &mut nodes);
        assert_eq!(check_stream(&redis.lock()), 1, "only that of the first claim");
    }
}

#[test]
fn a_node_that_keeps_too_much_begins_after_a_gap() {
    let redis = Shared::default();
    let started_at = Instant::now();
    let mut nodes = vec![Node::start(&redis, "first", started_at), Node::start(&redis, "second", started_at)];
    settle(&redis, &mut nodes);
    let check = |nodes: &mut Vec<Node>, name: &str, kept: usize, gaps: usize| {
        nodes.remove(0).leave(usize::MAX >> 1);
        (0..kept).for_each(|_| redis.lock().publish());
        nodes[0].read(usize::MAX);
        nodes.push(Node::start(&redis, name, started_at));
        settle(&redis, nodes);
        redis.lock().publish();
        settle(&redis, nodes);
        assert_eq!(check_stream(&redis.lock()), gaps);
    };
    check(&mut nodes, "third", KEPT_CONTENTS_MAX, 1);
    check(&mut nodes, "fourth", KEPT_CONTENTS_MAX + 1, 2);
}
