//! A node: one server on its own simulated network, turned by hand and looked at after every turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare::auth::Tokens;
use fanfare::config::{DeliveryConfig, DrainConfig, LimitsConfig, SlowPolicy};
use fanfare::event::{RunName, Topic};
use fanfare::hub::{Hub, HubLimits, TopicInfo};
use fanfare::io::sealed::Sealed;
use fanfare::io::simulated::{Faults, PeerId, Random, SimulatedHandshakes, SimulatedIo};
use fanfare::io::{Io, ListenerIndex};
use fanfare::server::settings::{Cors, Proxies, Publishing, Settings};
use fanfare::server::{Entrance, ListenerRole, Member, Parts, Reach, Reloads, Server};
use fanfare::sources::channel::{ChannelLimits, FetchPage, Inbox, Publish, channel};

use super::feed::{Bus, BusStop, Feed};
use super::ledger::must;
use super::order::{Bounds, History, Order};
use super::wire::{Promises, Turn, Wire};

/// Turns without time passing before a node is said to spin.
const TURNS_AT_ONE_TIME_MAX: usize = 4000;
/// The listener of clients.
const PUBLIC: ListenerIndex = ListenerIndex(0);
/// What one entry of a log may cost: frame, id, bookkeeping.
const ENTRY_BYTES_MAX: usize = 1024;

/// Everything about a world that is drawn from its seed, but what happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) topics: Vec<String>,
    pub(crate) nodes: usize,
    pub(crate) faults: Faults,
    pub(crate) hub: HubLimits,
    pub(crate) slow_policy: SlowPolicy,
    pub(crate) streams_max: usize,
    pub(crate) connections_per_address_max: Option<u32>,
    pub(crate) accepts_per_second_max: Option<u32>,
    pub(crate) connection_age_max: Option<Duration>,
    pub(crate) catch_up_bytes_per_tick: usize,
    pub(crate) channel: ChannelLimits,
    pub(crate) heartbeat: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) interval_floor: Duration,
    pub(crate) compress: bool,
    /// Clients speak TLS.
    pub(crate) is_secured: bool,
    /// How many handshakes of a thousand fail.
    pub(crate) failed_handshakes: u32,
}

impl Plan {
    pub(crate) fn drawn(random: &mut Random) -> Plan {
        let wild = random.chance(700);
        let draw = |random: &mut Random, most: usize| if wild { random.below(most + 1) as u32 } else { 0 };
        let topics = 1 + random.below(5);
        let least = [200, 400, 2000, 16 << 10][random.below(4)];
        let vanishing = random.chance(300);
        Plan {
            topics: (0..topics).map(|index| format!("t{index}")).collect(),
            nodes: 1 + random.below(2),
            faults: Faults {
                short_send: draw(random, 150),
                blocked_send: draw(random, 80),
                reset_on_send: draw(random, 4),
                partial_read: draw(random, 300),
                blocked_read: draw(random, 100),
                aborted_accept: draw(random, 50),
                failed_accept: draw(random, 20),
                failed_watch: draw(random, 10),
                late_event: draw(random, 900),
                repeated_edge: draw(random, 100),
                tardy_wait: draw(random, 60),
                delay_max: Duration::from_micros(random.below(4000) as u64),
                send_buffer_bytes: (least, least + random.below(4 * least)),
                user_timeout: Duration::from_secs(15),
            },
            hub: HubLimits {
                topics_max: if vanishing { 1 + random.below(topics) } else { 100 },
                history_events_max: [Some(1), Some(2), Some(5), Some(20), None][random.below(5)],
                history_bytes_max: [1200, 4000, 1 << 20][random.below(3)],
                history_bytes_total_max: [2000, 6000, 1 << 20, 1 << 20][random.below(4)],
                history_age_max: Duration::from_secs([3, 30, 3600][random.below(3)]),
                replay_events_max: random.chance(150).then(|| 1 + random.below(10)),
                fetch_entries_max: 0,
            },
            slow_policy: if random.chance(300) { SlowPolicy::Skip } else { SlowPolicy::Close },
            streams_max: if random.chance(150) { 1 + random.below(6) } else { 1000 },
            connections_per_address_max: random.chance(100).then(|| 1 + random.below(3) as u32),
            accepts_per_second_max: random.chance(100).then(|| 2 + random.below(20) as u32),
            connection_age_max: random.chance(100).then(|| Duration::from_secs(2 + random.below(20) as u64)),
            catch_up_bytes_per_tick: [100, 2000, 1 << 20][random.below(3)],
            channel: ChannelLimits { messages_max: [8, 64, 4096][random.below(3)], bytes_max: 1 << 20 },
            heartbeat: Duration::from_secs([2, 30][random.below(2)]),
            stall_timeout: Duration::from_secs([5, 30][random.below(2)]),
            interval_floor: if random.chance(50) { Duration::from_millis(200) } else { Duration::ZERO },
            compress: false,
            is_secured: random.chance(250),
            failed_handshakes: draw(random, 20),
        }
    }

    pub(crate) fn promises(&self) -> Promises {
        Promises { heartbeat: self.heartbeat, stall_timeout: self.stall_timeout }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            topics_max: self.hub.topics_max,
            events_max: self.hub.history_events_max.unwrap_or(usize::MAX),
            bytes_max: self.hub.history_bytes_max.min(self.hub.history_bytes_total_max),
            age_max: self.hub.history_age_max,
            replay_events_max: self.hub.replay_events_max,
            skips_slow: self.slow_policy == SlowPolicy::Skip,
        }
    }

    /// What a server of this plan is built from.
    pub(crate) fn parts(
        &self,
        hub: Hub,
        inbox: Inbox,
        publisher: Arc<dyn Publish + Send + Sync>,
        own_events: Arc<dyn Publish + Send + Sync>,
        fetcher: Option<Arc<dyn FetchPage + Send + Sync>>,
        seed: u64,
    ) -> Parts {
        Parts {
            settings: self.settings(),
            hub,
            inbox,
            member: Member::alone(),
            publisher,
            fetcher,
            own_events,
            sources: Vec::new(),
            kafka: None,
            live: Arc::default(),
            supervisor: Box::new(()),
            reloads: Reloads::default(),
            listeners: [ListenerRole::Public, ListenerRole::Admin]
                .map(|role| Entrance { role, reach: Reach::Loopback })
                .to_vec(),
            seed,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            delivery: DeliveryConfig {
                default_topic: Topic::new("t0").unwrap(),
                dashboard_topic: Topic::new("t0").unwrap(),
                stream_endpoint: None,
                retry: Duration::from_secs(2),
                heartbeat_interval: self.heartbeat,
                stall_timeout: self.stall_timeout,
                slow_policy: self.slow_policy,
                interval_floor: self.interval_floor,
                compress: self.compress,
            },
            topic_rules: Vec::new(),
            limits: LimitsConfig {
                connections_max: None,
                connections_per_ip_max: self.connections_per_address_max,
                accepts_per_second_max: self.accepts_per_second_max,
                connection_age_max: self.connection_age_max,
                head_bytes_max: 4096,
                headers_max: 50,
                head_timeout: Duration::from_secs(10),
                body_bytes_max: 64 << 10,
                body_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(20),
                pipelined_max: 100,
                answer_bytes_max: 1 << 20,
                topics_per_subscriber_max: 8,
                topic_bytes_max: 64,
                topics_max: self.hub.topics_max as u32,
                event_bytes_max: 4096,
                publishes_per_second_max: None,
            },
            drain: DrainConfig { notice: Duration::from_millis(300), duration: Duration::from_secs(2) },
            catch_up_bytes_max: self.catch_up_bytes_per_tick,
            streams_max: self.streams_max,
            connections_total_max: self.streams_max.saturating_add(20),
            proxies: Proxies::default(),
            publishing: Publishing::Loopback(Tokens::default()),
            operators: Tokens::default(),
            open_reports: false,
            allowed_hosts: Vec::new(),
            jwt: None,
            cors: Cors::default(),
            https_port: None,
            certificates: Vec::new(),
            ready_requires: Vec::new(),
        }
    }
}

/// What can be seen of the hub after a turn. The history checker does not see it.
#[derive(Debug, Default)]
struct Snapshot {
    head: u64,
    topics: BTreeMap<String, TopicSnapshot>,
}

#[derive(Clone, Copy, Debug)]
struct TopicSnapshot {
    evicted_through: u64,
    retained: usize,
}

/// One server, its feed, and the streams under scrutiny.
pub(crate) struct Node {
    pub(crate) server: Server<Sealed<SimulatedIo, SimulatedHandshakes>>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) wires: Vec<Wire>,
    promises: Promises,
    limits: HubLimits,
    snapshot: Snapshot,
    /// By peer, what had been published when its stream was answered.
    answers: BTreeMap<PeerId, u64>,
    /// When each sequence was appended.
    appended_at: Vec<Duration>,
    /// Why the server may not sleep now.
    awake_for: Option<String>,
    is_secured: bool,
    pub(crate) has_left: bool,
    /// Clients wait for a broker's answer.
    pub(crate) awaits_broker: bool,
}

impl Node {
    pub(crate) fn start(
        plan: &Plan,
        seed: u64,
        now: Duration,
        bus: Option<(&Arc<Bus>, usize)>,
        history: &Arc<History>,
    ) -> Node {
        let mut io = SimulatedIo::new(seed, plan.faults.clone(), 2);
        io.set_start(now);
        io.set_horizon(now);
        let (outlet, inbox) = channel(plan.channel, io.wake());
        let run = RunName::from_bits(Random::new(seed ^ 0x5eed).bits());
        let feed = Arc::new(Feed::new(run, plan.bounds(), outlet, Arc::clone(history)));
        feed.set_now(now);
        let publisher: Arc<dyn Publish + Send + Sync> = match bus {
            Some((bus, node)) => Arc::new(BusStop { bus: Arc::clone(bus), node }),
            None => Arc::clone(&feed) as _,
        };
        let hub = match bus {
            Some(_) => {
                feed.note_peers();
                Hub::with_peers(run, plan.hub.clone())
            }
            None => Hub::new(run, plan.hub.clone()),
        };
        let parts = plan.parts(hub, inbox, publisher, Arc::clone(&feed) as _, None, seed);
        if plan.is_secured {
            io.set_secured(PUBLIC);
        }
        let handshakes = SimulatedHandshakes::new(seed, plan.failed_handshakes, io.wake());
        let io = Sealed::new(io, handshakes, vec![plan.is_secured, false]);
        Node {
            server: Server::new(io, parts),
            feed,
            wires: Vec::new(),
            promises: plan.promises(),
            limits: plan.hub.clone(),
            snapshot: Snapshot::default(),
            answers: BTreeMap::new(),
            appended_at: Vec::new(),
            awake_for: None,
            is_secured: plan.is_secured,
            has_left: false,
            awaits_broker: false,
        }
    }

    pub(crate) fn io(&mut self) -> &mut SimulatedIo {
        self.server.io_mut().wire_mut()
    }

    pub(crate) fn watch(&mut self, peer: PeerId, request: super::wire::Request) {
        let now = self.io().now();
        self.wires.push(Wire::new(peer, request, self.promises, Arc::clone(&self.feed), now));
    }

    /// What had been published when this peer's stream was answered.
    pub(crate) fn answered(&self, peer: PeerId) -> Option<u64> {
        self.answers.get(&peer).copied()
    }

    /// Turns until nothing is left to do at `until`.
    pub(crate) fn run_until(&mut self, until: Duration) -> Result<(), String> {
        // What happened between the turns may well wake it.
        self.awake_for = None;
        self.io().set_horizon(until);
        let (mut turns, mut last) = (0, Duration::ZERO);
        while !self.has_left {
            self.turn()?;
            let now = self.io().now();
            if now == until && self.io().has_slept() && self.awake_for.is_none() {
                break;
            }
            turns = if now == last { turns + 1 } else { 0 };
            last = now;
            must(turns < TURNS_AT_ONE_TIME_MAX, || format!("spins; awake for {:?}", self.awake_for))?;
        }
        Ok(())
    }

    /// One turn, after something has happened.
    pub(crate) fn turn_once(&mut self) -> Result<(), String> {
        self.awake_for = None;
        self.turn()
    }

    fn turn(&mut self) -> Result<(), String> {
        let head_before = self.snapshot.head;
        let stays = self.server.turn().map_err(|error| error.to_string())?;
        let slept = self.io().has_slept();
        if let Some(reason) = self.awake_for.take().filter(|_| slept) {
            return Err(reason);
        }
        self.snapshot = self.look()?;
        let head = self.snapshot.head;
        self.feed.note_head(head);
        let now = self.io().now();
        self.appended_at.resize(head as usize, now);
        self.has_left = !stays;
        // Sources wait for subscribers that read: the loop looks again on its own.
        let unread = (head < self.feed.last() && !self.server.is_holding())
            .then(|| "sleeps with messages in its inbox".to_owned());
        self.awake_for = unread.or_else(|| self.unattended());
        let io = self.server.io_mut().wire_mut();
        for wire in &mut self.wires {
            let turn = Turn {
                now,
                sent: io.sent_to(wire.peer),
                taken_bytes: io.taken_for(wire.peer),
                read_bytes: io.read_from(wire.peer),
                is_held_up: io.is_held_up(wire.peer),
                is_open: io.is_open(wire.peer),
                is_ended: io.is_ended(wire.peer),
                head_before,
                head,
            };
            let checked = wire.check_turn(&turn);
            let context = |what: String| format!("peer {}: {what}\n{:?}", wire.peer.0, wire.request);
            checked.map_err(context)?;
            if let Some(answered) = wire.answered() {
                self.answers.entry(wire.peer).or_insert(answered);
            }
            if self.awake_for.is_none() {
                self.awake_for = wire.check_asleep(&turn).map_err(context).err();
            }
        }
        self.wires.retain(|wire| !io.is_closed(wire.peer));
        Ok(())
    }

    fn unattended(&mut self) -> Option<String> {
        let awaits_broker = self.awaits_broker;
        let peer = self.io().unattended().next().filter(|_| !awaits_broker)?;
        Some(format!("sleeps, and peer {} was not read to the end", peer.0))
    }

    /// What can be seen of the server, and whether it keeps its bounds.
    fn look(&mut self) -> Result<Snapshot, String> {
        let now = self.io().now();
        let hub = self.server.hub();
        let mut snapshot = Snapshot { head: hub.head().0, ..Snapshot::default() };
        for topic in hub.topics() {
            let (name, evicted_through) = (topic.name.to_string(), topic.evicted_through.0);
            let names = std::slice::from_ref(&name);
            let (least, most) = self.feed.look(|order| {
                let records = order.between(evicted_through, snapshot.head, names);
                let records: Vec<_> = records.filter(|(_, record)| !record.is_loss()).collect();
                (records.iter().filter(|(_, record)| record.is_certain()).count(), records.len())
            });
            let retained = topic.retained_events;
            must((least..=most).contains(&retained), || {
                format!("{name} holds {retained}, not {least} to {most} since {evicted_through}")
            })?;
            let within = self.limits.history_events_max.is_none_or(|most| retained <= most);
            must(within, || format!("{name} remembers {retained} events"))?;
            self.check_eviction(&topic, now)?;
            snapshot.topics.insert(name, TopicSnapshot { evicted_through, retained });
        }
        let hub = self.server.hub();
        let bytes = hub.bytes_total();
        let bytes_max = self.limits.history_bytes_total_max + ENTRY_BYTES_MAX;
        must(bytes <= bytes_max, || format!("{bytes} bytes are remembered, {} of them pinned", hub.pinned_bytes()))?;
        must(hub.topic_count() <= 2 * self.limits.topics_max, || format!("{} topics", hub.topic_count()))?;
        let (connections, streams) = self.server.open();
        let counters = self.server.counters();
        let (accepted, closed) = (counters.accepted, counters.closed.total());
        must(accepted == closed + connections as u64, || {
            format!("{accepted} accepted, {closed} closed, {connections} open")
        })?;
        let io = self.server.io_mut().wire_mut();
        must(io.open_peers().len() == connections, || {
            format!("{} sockets, {connections} connections", io.open_peers().len())
        })?;
        let seen =
            self.wires.iter().filter(|wire| wire.is_streaming() && io.is_open(wire.peer) && !io.is_ended(wire.peer));
        let seen = seen.count();
        // Over TLS, what a socket has not taken yet delays its end.
        must(self.is_secured || seen <= streams, || format!("{streams} streams, but {seen} are seen"))?;
        Ok(snapshot)
    }

    /// Nothing is forgotten before a bound asks for it: the count, the bytes, or the age of what went last.
    fn check_eviction(&self, topic: &TopicInfo, now: Duration) -> Result<(), String> {
        let (limits, evicted_through) = (&self.limits, topic.evicted_through.0);
        let before = self.snapshot.topics.get(topic.name.as_str());
        let has_evicted = before.is_some_and(|before| before.evicted_through < evicted_through && before.retained > 0);
        // A topic that vanishes takes all along, and what all topics hold depends on what is partly written to which
        // client.
        if !has_evicted || self.feed.look(Order::may_have_dropped_topics) || limits.history_bytes_total_max < 1 << 20 {
            return Ok(());
        }
        let is_full = limits.history_events_max == Some(topic.retained_events)
            || topic.retained_bytes + ENTRY_BYTES_MAX > limits.history_bytes_max;
        let appended_at = self.appended_at.get(evicted_through as usize - 1).copied().unwrap_or(now);
        let is_old = now.saturating_sub(appended_at) >= limits.history_age_max;
        must(is_full || is_old, || {
            format!(
                "{} forgot {before:?} through {evicted_through} and holds only {}",
                topic.name, topic.retained_events
            )
        })
    }
}
