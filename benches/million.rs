//! The loop with a million subscribers: how much one turn does, and what a subscriber costs.
//!
//! The server is the real one, on an IO that has no kernel: it counts sends, and takes everything. Its clock advances with
//! each call, by about what the kernel takes for it, so that every run does the same in the same turns. The allocator counts what each turn asks of it.
//!
//! A turn is long when a table grows at once: growing one with an entry for each subscriber allocates tens of megabytes in
//! the turn of one accept. So the figures are of the turn that did most, for each of: a million clients that
//! connect, an event to all of them, their heartbeats, and the end of all connections at once.
//!
//! `cargo bench --bench million` fails when a figure has grown past its baseline; `-- --save` writes a new baseline. The time
//! of the longest turn is printed, and not judged.
#![allow(clippy::print_stdout, reason = "a bench's output")]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fanfare::auth::Tokens;
use fanfare::config::{DeliveryConfig, DrainConfig, LimitsConfig, SlowPolicy};
use fanfare::event::{Event, Frame, RunName, Topic};
use fanfare::hub::{Hub, HubLimits};
use fanfare::io::allocator::give_large_blocks_their_own_pages;
use fanfare::io::{Accept, Close, Io, ListenerIndex, Peer, Read, Readiness, Sent, Socket, Token};
use fanfare::server::settings::{Cors, Proxies, Publishing, Settings};
use fanfare::server::{Entrance, ListenerRole, Member, Parts, Reach, Reloads, Server};
use fanfare::sources::channel::{ChannelLimits, channel};
use fanfare::sources::sequencer::Sequencer;
use support::baseline::{self, Figures};

const SUBSCRIBERS: usize = 1_000_000;
const HEARTBEAT: Duration = Duration::from_secs(60);
/// More than any phase needs.
const TURNS_MAX: usize = 1_000_000;

fn main() -> ExitCode {
    if support::play_role() {
        return ExitCode::SUCCESS;
    }
    give_large_blocks_their_own_pages();
    let subscribers = if support::is_smoke_test() { 1_000 } else { SUBSCRIBERS };
    let mut figures = Figures::new();
    let mut stage = Stage::new(subscribers);
    for (name, begin, is_over) in PHASES {
        begin(&mut stage);
        let most = stage.run(is_over);
        most.note(name, subscribers, &mut figures);
    }
    if support::is_smoke_test() {
        return ExitCode::SUCCESS;
    }
    baseline::hold("million", &figures, |_| None)
}

/// How a phase begins, and when it is over.
type Phase = (&'static str, fn(&mut Stage), fn(&Stage) -> bool);

const PHASES: [Phase; 4] = [
    ("connect", |stage| stage.io().waiting = stage.subscribers, |stage| stage.server.open().1 == stage.subscribers),
    ("broadcast", Stage::publish, |stage| stage.server.counters().delivered_events == stage.subscribers as u64),
    (
        "heartbeats",
        |stage| stage.io().now += HEARTBEAT,
        |stage| stage.server.counters().heartbeats >= stage.subscribers as u64,
    ),
    ("leave", |stage| stage.io().hang_up_all(), |stage| stage.server.open().0 == 0),
];

// ---- what is counted ----

/// Counts what is asked of it, and lets the system do it.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED_BYTES: AtomicU64 = AtomicU64::new(0);
static MOVED_BYTES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: passes every call on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        ALLOCATED_BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        ALLOCATED_BYTES.fetch_add(size.saturating_sub(layout.size()) as u64, Ordering::Relaxed);
        MOVED_BYTES.fetch_add(layout.size().min(size) as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// What was done: in a turn, or in all turns of a phase.
#[derive(Clone, Copy, Default)]
struct Work {
    sends: u64,
    allocations: u64,
    allocated_bytes: u64,
    moved_bytes: u64,
    time: Duration,
}

impl Work {
    fn now(io: &Hollow, started: Instant) -> Work {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Work {
            sends: io.sends,
            allocations: count(&ALLOCATIONS),
            allocated_bytes: count(&ALLOCATED_BYTES),
            moved_bytes: count(&MOVED_BYTES),
            time: started.elapsed(),
        }
    }

    fn each(self, other: Work, with: fn(u64, u64) -> u64) -> Work {
        Work {
            sends: with(self.sends, other.sends),
            allocations: with(self.allocations, other.allocations),
            allocated_bytes: with(self.allocated_bytes, other.allocated_bytes),
            moved_bytes: with(self.moved_bytes, other.moved_bytes),
            time: self.time.max(other.time),
        }
    }
}

/// All turns of a phase: how many, their sum, and the most of each that one of them did.
#[derive(Default)]
struct Turns {
    count: u64,
    sum: Work,
    most: Work,
}

impl Turns {
    fn add(&mut self, turn: Work) {
        self.count += 1;
        self.sum = self.sum.each(turn, |one, other| one + other);
        self.most = self.most.each(turn, u64::max);
    }

    fn note(&self, phase: &str, subscribers: usize, figures: &mut Figures) {
        println!("{phase}: {} turns, the longest {:.1} ms", self.count, self.most.time.as_secs_f64() * 1e3);
        let mut note = |name: &str, value: f64| _ = figures.insert(format!("{phase}.{name}"), value);
        note("sends_of_a_turn_max", self.most.sends as f64);
        note("allocations_each", self.sum.allocations as f64 / subscribers as f64);
        note("allocated_kb_of_a_turn_max", self.most.allocated_bytes as f64 / 1e3);
        note("moved_kb_of_a_turn_max", self.most.moved_bytes as f64 / 1e3);
    }
}

// ---- the server ----

struct Stage {
    server: Server<Hollow>,
    sequencer: Arc<Sequencer>,
    subscribers: usize,
}

impl Stage {
    fn new(subscribers: usize) -> Stage {
        let (outlet, inbox) = channel(ChannelLimits::default(), || {});
        let run = RunName::from_bits(1);
        let sequencer = Sequencer::new(run, vec![outlet]);
        let parts = Parts {
            settings: settings(subscribers),
            hub: Hub::new(run, HubLimits::default()),
            inbox,
            member: Member::alone(),
            publisher: Arc::clone(&sequencer) as _,
            fetcher: None,
            own_events: Arc::clone(&sequencer) as _,
            sources: Vec::new(),
            kafka: None,
            live: Arc::default(),
            supervisor: Box::new(()),
            reloads: Reloads::default(),
            listeners: vec![Entrance { role: ListenerRole::Public, reach: Reach::Network }],
            seed: 1,
        };
        Stage { server: Server::new(Hollow::for_clients(subscribers), parts), sequencer, subscribers }
    }

    fn io(&mut self) -> &mut Hollow {
        self.server.io_mut()
    }

    fn publish(&mut self) {
        let event = Event::message(Topic::new("bench").expect("a name"), "x".repeat(100));
        assert!(self.sequencer.publish(&event));
        self.io().is_woken = true;
    }

    /// Turns until a phase is over.
    fn run(&mut self, is_over: fn(&Stage) -> bool) -> Turns {
        let mut turns = Turns::default();
        while !is_over(self) {
            assert!(turns.count < TURNS_MAX as u64, "the phase ends");
            let started = Instant::now();
            let before = Work::now(self.io(), started);
            self.server.turn().expect("nothing here fails");
            let after = Work::now(self.io(), started);
            turns.add(Work { time: after.time, ..after.each(before, |after, before| after - before) });
        }
        turns
    }
}

fn settings(subscribers: usize) -> Settings {
    Settings {
        delivery: DeliveryConfig {
            default_topic: Topic::new("bench").expect("a name"),
            dashboard_topic: Topic::new("bench").expect("a name"),
            stream_endpoint: None,
            retry: Duration::from_secs(3),
            heartbeat_interval: HEARTBEAT,
            compress: false,
            stall_timeout: Duration::from_secs(30),
            slow_policy: SlowPolicy::Close,
            interval_floor: Duration::ZERO,
        },
        topic_rules: Vec::new(),
        limits: LimitsConfig {
            connections_max: None,
            connections_per_ip_max: Some(100),
            accepts_per_second_max: None,
            connection_age_max: None,
            head_bytes_max: 16 << 10,
            headers_max: 100,
            head_timeout: Duration::from_secs(10),
            body_bytes_max: 1 << 20,
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            pipelined_max: 100,
            answer_bytes_max: 64 << 20,
            topics_per_subscriber_max: 8,
            topic_bytes_max: 64,
            topics_max: 100_000,
            event_bytes_max: 1 << 20,
            publishes_per_second_max: None,
        },
        drain: DrainConfig { notice: Duration::ZERO, duration: Duration::ZERO },
        catch_up_bytes_max: 4 << 20,
        streams_max: subscribers,
        connections_total_max: subscribers + 256,
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

// ---- an IO without a kernel ----

const REQUEST: &[u8] = b"GET /events HTTP/1.1\r\nHost: example.com\r\nAccept: text/event-stream\r\n\r\n";
/// As many as one `epoll_wait` reports.
const READY_PER_WAIT_MAX: usize = 1024;
/// About what the kernel takes for a call.
const CALL: Duration = Duration::from_micros(4);

/// Clients that connect, ask for a stream, take everything, and hang up when they are told to.
#[derive(Default)]
struct Hollow {
    now: Duration,
    /// Clients that are to be accepted, and whether that was reported.
    waiting: usize,
    is_reported: bool,
    /// By socket.
    clients: Vec<Client>,
    /// What waits report next, from the end.
    ready: Vec<Readiness>,
    is_woken: bool,
    sends: u64,
}

#[derive(Clone, Copy)]
struct Client {
    token: Option<Token>,
    has_asked: bool,
    has_hung_up: bool,
}

impl Hollow {
    /// With room for all that it will note: its own tables do not grow during a turn.
    fn for_clients(count: usize) -> Hollow {
        Hollow { clients: Vec::with_capacity(count), ready: Vec::with_capacity(count), ..Hollow::default() }
    }

    fn hang_up_all(&mut self) {
        for client in &mut self.clients {
            client.has_hung_up = true;
            self.ready.extend(client.token.map(Readiness::Readable));
        }
    }
}

impl Io for Hollow {
    fn backend(&self) -> &'static str {
        "hollow"
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn unix_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.now
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> std::io::Result<()> {
        if self.waiting > 0 && !self.is_reported {
            self.is_reported = true;
            ready.push(Readiness::Acceptable(ListenerIndex(0)));
        }
        let reported = self.ready.len().min(READY_PER_WAIT_MAX);
        ready.extend(self.ready.drain(self.ready.len() - reported..));
        self.now += CALL;
        if ready.is_empty() && !std::mem::take(&mut self.is_woken) {
            self.now += timeout.unwrap_or_default();
        }
        Ok(())
    }

    fn accept(&mut self, _: ListenerIndex) -> Accept {
        self.now += CALL;
        if self.waiting == 0 {
            self.is_reported = false;
            return Accept::WouldBlock;
        }
        self.waiting -= 1;
        let number = self.clients.len() as u32;
        self.clients.push(Client { token: None, has_asked: false, has_hung_up: false });
        let address = Ipv4Addr::from(0x0a00_0000 + number);
        Accept::Connection(Socket::numbered(number as i32), Peer::Inet(SocketAddr::new(address.into(), 40_000)))
    }

    fn release_reserved_fd(&mut self) -> bool {
        false
    }

    fn reserve_fd(&mut self) -> bool {
        true
    }

    fn watch(&mut self, socket: Socket, token: Token) -> std::io::Result<()> {
        self.clients[socket.number() as usize].token = Some(token);
        self.ready.push(Readiness::Readable(token));
        Ok(())
    }

    fn read(&mut self, socket: Socket, buffer: &mut [u8]) -> Read {
        self.now += CALL;
        let client = &mut self.clients[socket.number() as usize];
        if !std::mem::replace(&mut client.has_asked, true) {
            buffer[..REQUEST.len()].copy_from_slice(REQUEST);
            return Read::Bytes(REQUEST.len());
        }
        if client.has_hung_up { Read::Ended } else { Read::WouldBlock }
    }

    fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        let bytes = run.iter().map(Frame::len).sum::<usize>() - skip_bytes;
        self.sends += targets.len() as u64;
        self.now += CALL * targets.len() as u32;
        outcomes.extend(targets.map(|_| Sent::Bytes(bytes)));
    }

    fn end(&mut self, _: Socket) {}

    fn close(&mut self, socket: Socket, _: Close) {
        self.clients[socket.number() as usize].token = None;
    }

    fn stop_listening(&mut self, _: ListenerIndex) {}
}
