//! The event loop's story: one thread, every socket, one turn after the other.
//!
//! ```text
//!  wait ─▶ accept ─▶ read (requests, routes, publishes) ─▶ inbox (append to logs) ─▶ sweep (streams that may not stay)
//!     ▲                                                                                        │
//!     │                                                                          walks (live delivery, sliced)
//!     │                                                                                        │
//!     └── reap ◀── leave (drain) ◀── housekeeping ◀── timers (heartbeats, timeouts) ◀── catch up (budgeted) ◀──┘
//! ```
//!
//! Invariants:
//! - Nothing blocks but the wait, and each phase has a budget, so that no one's work keeps all others waiting.
//! - What a turn leaves undone makes the next wait zero.
//! - A closed connection keeps its slot until the end of the turn; a late event is told from its slot's next tenant
//!   by the generation.
//! - No send is attempted on a socket that awaits writability, and none starts a frame before the last one ended.
//!
//! Absent: system calls (they are [`Io`]'s), who receives what (the hub's), time and randomness (passed in).

mod accept;
mod access;
mod age;
mod allowance;
mod answers;
mod catch_up;
mod clients;
mod connection;
mod credentials;
mod deliver;
mod disconnect;
mod drain;
mod hold;
mod housekeeping;
mod inbox;
mod listing;
mod log_entries;
mod origins;
mod pace;
mod page;
mod publish;
mod publish_rate;
mod read;
mod reading_queue;
mod refusal;
mod reload;
mod reports;
mod request;
mod respond;
mod routes;
pub mod settings;
mod slow;
mod statistics;
mod stream;
mod supervisor;
mod sweep;
mod timers;
mod transmit;
mod wheel;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::auth::denials::Denials;
use crate::event::{Frame, Sequence};
use crate::hub::{Hub, MissedReason, Run, Subscriber};
use crate::io::{Close, Io, ListenerIndex, Readiness, Sent, Token};
use crate::observe::live::Live;
use crate::observe::metrics::{Counters, Labelled};
use crate::protocol::encoder;
use crate::sources::channel::{GapReason, Inbox, Message, Publish, SourceStatus};
pub use connection::CloseReason;
use connection::{AddressKey, Connection, Flags, Phase};
use log_entries::LogEntry;
use pace::Pace;
pub use reload::Reloads;
pub use routes::Route;
use settings::Settings;
use stream::Preambles;
pub use supervisor::{News, Supervisor};
use transmit::Laggard;
use wheel::{Tick, Wheel};

/// How much one read takes; shared by all connections.
const READ_BYTES: usize = 64 << 10;
/// How soon to look again at an event that waits for subscribers.
const HOLD_INTERVAL: Duration = Duration::from_millis(5);
/// The longest wait: housekeeping is due then.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// A listener's part in the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Everything, within the limits.
    Public,
    /// Health, metrics and debug view, outside the limits of streams and during a drain.
    Admin,
}

/// Who can reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Programs on this host, and browsers on it with whatever page they show.
    Loopback,
    /// Who may open the file: a proxy, as a rule.
    UnixSocket,
    /// Everybody on a network.
    Network,
}

/// One listener, as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// Its part.
    pub role: ListenerRole,
    /// Who can reach it.
    pub reach: Reach,
}

/// What a server is put together from.
pub struct Parts {
    /// How it behaves.
    pub settings: Settings,
    /// The topics.
    pub hub: Hub,
    /// What sources send.
    pub inbox: Inbox,
    /// Where clients' events go.
    pub publisher: Arc<dyn Publish + Send + Sync>,
    /// Where the loop's own events go: into this node's order, past every broker.
    pub own_events: Arc<dyn Publish + Send + Sync>,
    /// The sources, for health and metrics.
    pub sources: Vec<Arc<SourceStatus>>,
    /// Where the loop leaves a few figures for other threads, and finds what they say of the process.
    pub live: Arc<Live>,
    /// Who is told that the server serves, lives and leaves.
    pub supervisor: Box<dyn Supervisor>,
    /// Where new settings come from while it runs.
    pub reloads: Reloads,
    /// The IO's listeners, in their order.
    pub listeners: Vec<Entrance>,
    /// For what is spread by chance: reconnection times and heartbeats.
    pub seed: u64,
}

/// The event loop and everything it owns.
pub struct Server<I: Io> {
    io: I,
    settings: Settings,
    hub: Hub,
    inbox: Inbox,
    publisher: Arc<dyn Publish + Send + Sync>,
    own_events: Arc<dyn Publish + Send + Sync>,
    sources: Vec<Arc<SourceStatus>>,
    live: Arc<Live>,
    supervisor: Box<dyn Supervisor>,
    reloads: Reloads,
    jitter: Jitter,
    now: Duration,

    connections: Slab<Connection>,
    generation: u32,
    streams: usize,
    addresses: HashMap<AddressKey, u32>,
    /// What only those need that have something half written, or a gap coming.
    laggards: HashMap<u32, Laggard>,
    paces: HashMap<u32, Pace>,
    publish_rates: publish_rate::PublishRates,
    /// Bytes received from those subscribers that sent any.
    uploads: HashMap<u32, usize>,
    /// What those streams were opened with that needed a token.
    credentials: credentials::Credentials,
    denials: Denials,
    sweeps: sweep::Sweeps,
    wheel: Wheel,
    pace_wheel: Wheel,
    /// Heartbeats that this turn may still send.
    heartbeats_left: usize,

    ready: Vec<Readiness>,
    acceptor: accept::Acceptor,
    /// Connections that may have more to read.
    readable: reading_queue::ReadingQueue,
    /// An event that waits for subscribers.
    held: Option<Message>,
    hold: Option<hold::Hold>,
    /// Subscribers that are to be closed for being slow, a few in each turn.
    closing: VecDeque<Token>,
    inbox_has_more: bool,
    /// The connection that is being read takes up no further request from then on.
    visit_until: Duration,
    /// Connections that took more than their share are not read before this time.
    heavy_again_at: Duration,
    catching_up: VecDeque<Token>,
    dead: Vec<u32>,
    drain: Option<drain::Drain>,
    next_housekeeping: Duration,

    counters: Counters,
    log_limits: log_entries::LogLimits,
    answers: answers::WaitingAnswers,
    /// The counters of a second ago, while somebody watches.
    last_sample: Option<statistics::Sample>,
    resident_at_start: Option<u64>,
    preambles: Preambles,
    heartbeat: Frame,
    continue_frame: Frame,
    date: respond::Date,
    refused_origins: origins::RefusedOrigins,
    scratch: Scratch,
}

/// Buffers that every turn uses again.
struct Scratch {
    read: Box<[u8]>,
    slice: Vec<Subscriber>,
    run: Run,
    batch: deliver::Batch,
    outcomes: Vec<Sent>,
    /// Where the shortest run of a slice ended that did not hold all there was.
    cut_at: Option<Sequence>,
}

impl<I: Io> Server<I> {
    /// Puts a server together; it does nothing before its first turn.
    pub fn new(io: I, parts: Parts) -> Server<I> {
        let Parts { settings, hub, inbox, publisher, own_events, sources, live, supervisor, reloads, listeners, seed } =
            parts;
        let now = io.now();
        let denied_tokens_max = settings.jwt.as_ref().map_or(0, |jwt| jwt.denied_tokens_max);
        Server {
            acceptor: accept::Acceptor::new(listeners, settings.limits.accepts_per_second_max),
            counters: new_counters(),
            log_limits: Default::default(),
            answers: answers::WaitingAnswers::default(),
            last_sample: None,
            resident_at_start: live.resident_bytes.known(),
            jitter: Jitter(seed),
            publish_rates: publish_rate::PublishRates::new(settings.limits.events_per_second_max),
            io,
            settings,
            hub,
            inbox,
            publisher,
            own_events,
            sources,
            live,
            supervisor,
            reloads,
            now,
            connections: Slab::new(),
            generation: 0,
            streams: 0,
            addresses: HashMap::new(),
            laggards: HashMap::new(),
            paces: HashMap::new(),
            uploads: HashMap::new(),
            credentials: Default::default(),
            denials: Denials::new(denied_tokens_max),
            sweeps: Default::default(),
            wheel: Wheel::new(),
            pace_wheel: Wheel::new(),
            heartbeats_left: 0,
            ready: Vec::new(),
            readable: reading_queue::ReadingQueue::default(),
            held: None,
            hold: None,
            closing: VecDeque::new(),
            inbox_has_more: false,
            visit_until: Duration::ZERO,
            heavy_again_at: Duration::ZERO,
            catching_up: VecDeque::new(),
            dead: Vec::new(),
            drain: None,
            next_housekeeping: now + HOUSEKEEPING_INTERVAL,
            preambles: Preambles::default(),
            heartbeat: encoder::HEARTBEAT.into(),
            continue_frame: crate::protocol::response::CONTINUE.into(),
            date: respond::Date::default(),
            refused_origins: origins::RefusedOrigins::default(),
            scratch: Scratch {
                read: vec![0; READ_BYTES].into(),
                slice: Vec::new(),
                run: Run::default(),
                batch: deliver::Batch::default(),
                outcomes: Vec::new(),
                cut_at: None,
            },
        }
    }

    /// Turns until a drain has ended.
    pub fn run(&mut self) -> std::io::Result<()> {
        self.supervisor.tell(News::Serving);
        while self.turn()? {}
        Ok(())
    }

    /// One turn of the loop; false when the server has left.
    pub fn turn(&mut self) -> std::io::Result<bool> {
        self.io.wait(Some(self.wait_max()), &mut self.ready)?;
        self.now = self.io.now();
        self.note_readiness();
        self.accept();
        self.read();
        self.take_from_inbox();
        self.sweep();
        let sent_bytes = self.counters.sent_bytes;
        self.walk();
        self.catch_up();
        self.note_progress(sent_bytes);
        self.fire_timers();
        self.fire_paces();
        self.keep_house();
        let stays = self.leave();
        self.reap();
        self.counters.turn_duration.observe(self.io.now().saturating_sub(self.now));
        Ok(stays)
    }

    /// Lets waiting sources know that the loop brings its subscribers forward.
    fn note_progress(&self, sent_bytes_before: u64) {
        if self.held.is_some() && self.counters.sent_bytes > sent_bytes_before {
            self.inbox.note_progress();
        }
    }

    /// How long the next wait may last: not at all if anything was left undone.
    fn wait_max(&self) -> Duration {
        let undone = !self.readable.is_empty()
            || self.inbox_has_more
            || (self.held.is_some() && !self.is_holding())
            || self.hub.is_walking()
            || !self.closing.is_empty()
            || !self.sweeps.is_empty()
            || !self.catching_up.is_empty()
            || self.acceptor.is_due(self.io.now(), self.has_slot());
        if undone {
            return Duration::ZERO;
        }
        let next_timer = self.wheel.next_armed().map(Tick::time);
        let next_pace = self.pace_wheel.next_armed().map(Tick::time);
        let next_step = self.drain.as_ref().map(drain::Drain::next_step);
        let next = [Some(self.next_housekeeping), next_timer, next_pace, next_step, self.acceptor.next_try()];
        let next = next.into_iter().flatten().min().expect("housekeeping always comes");
        let wait = next.saturating_sub(self.io.now());
        // Who is waited for may stop reading, of which no readiness tells.
        if self.is_holding() { wait.min(HOLD_INTERVAL) } else { wait }
    }

    /// Sorts what the wait reported into the queues of the phases to come.
    fn note_readiness(&mut self) {
        for ready in std::mem::take(&mut self.ready) {
            match ready {
                Readiness::Acceptable(listener) => self.acceptor.note_acceptable(listener),
                Readiness::Readable(token) => self.queue_reading(token),
                Readiness::Writable(token) => {
                    if let Some(connection) = self.connection(token)
                        && connection.flags.has(Flags::BLOCKED)
                    {
                        connection.flags.clear(Flags::BLOCKED);
                        if let Some(laggard) = self.laggards.get_mut(&token.slot) {
                            laggard.writable_at = Some(self.now);
                        }
                        self.queue_catching_up(token.slot);
                    }
                }
            }
        }
    }

    // ---- connections ----

    /// The connection a token means, unless it has ended.
    fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(token.slot as usize)?;
        let current = connection.generation == token.generation && !matches!(connection.phase, Phase::Dead);
        current.then_some(connection)
    }

    fn token(&self, slot: u32) -> Token {
        Token { slot, generation: self.connections[slot as usize].generation }
    }

    /// Leaves it to the end of the walks to bring this subscriber, or this response, forward.
    fn queue_catching_up(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.flags.has(Flags::CATCHING_UP) {
            connection.flags.set(Flags::CATCHING_UP);
            let token = Token { slot, generation: connection.generation };
            self.catching_up.push_back(token);
        }
    }

    /// Closes a connection's socket at once; its slot is reaped at the end of the turn.
    fn close(&mut self, slot: u32, reason: CloseReason) {
        let connection = &mut self.connections[slot as usize];
        if matches!(connection.phase, Phase::Dead) {
            return;
        }
        self.streams -= usize::from(matches!(connection.phase, Phase::Streaming));
        // Who takes nothing would make the kernel hold its data, and the connection, for minutes more.
        let takes_nothing = reason.is_eviction() || reason == CloseReason::AnswerTimeout;
        let how = if takes_nothing { Close::Reset } else { Close::Graceful };
        self.io.close(connection.socket, how);
        if let Phase::Responding(responding) = std::mem::replace(&mut connection.phase, Phase::Dead) {
            self.answers.release(&responding);
        }
        let (peer, position) = (connection.peer, connection.delivered_through);
        if !reason.is_eviction() {
            tracing::debug!(%peer, reason = reason.as_str(), "closed");
        } else if self.may_log(LogEntry::SlowReaderClosed) {
            let lagging_bytes = self.laggards.get(&slot).map_or(0, Laggard::unsent_bytes);
            let text = LogEntry::SlowReaderClosed.text();
            tracing::info!(%peer, reason = reason.as_str(), position = position.0, lagging_bytes, "{text}");
        }
        self.counters.closed.count(reason.as_str());
        self.laggards.remove(&slot);
        self.dead.push(slot);
    }

    /// Frees what closed connections still hold. Last in the turn: until here their slots had no other tenant.
    fn reap(&mut self) {
        for slot in std::mem::take(&mut self.dead) {
            let connection = self.connections.remove(slot as usize);
            self.paces.remove(&slot);
            self.uploads.remove(&slot);
            self.credentials.remove(slot);
            self.laggards.remove(&slot);
            self.hub.unsubscribe(Subscriber(slot));
            self.forget_address(connection.peer, connection.flags);
        }
    }

    /// How many addresses have connections, as far as they are counted.
    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// What the server counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The hub, to look at.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The outside world, as tests steer it.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// Open connections and, among them, streams.
    pub fn open(&self) -> (usize, usize) {
        (self.connections.len(), self.streams)
    }
}

impl<I: Io> Drop for Server<I> {
    fn drop(&mut self) {
        for (_, connection) in &self.connections {
            if !matches!(connection.phase, Phase::Dead) {
                self.io.close(connection.socket, Close::Graceful);
            }
        }
        for listener in 0..self.acceptor.listener_count() {
            self.io.stop_listening(ListenerIndex(listener));
        }
    }
}

/// A small seeded generator (SplitMix64): for spreading things out, not for secrets.
struct Jitter(u64);

impl Jitter {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration from nothing to all of `max`.
    fn up_to(&mut self, max: Duration) -> Duration {
        max.mul_f64((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// A duration from half of `max` to all of it.
    fn upper_half(&mut self, max: Duration) -> Duration {
        max / 2 + self.up_to(max / 2)
    }

    /// A duration between 80 and 120 percent of `mean`.
    fn around(&mut self, mean: Duration) -> Duration {
        mean * (800 + (self.next() % 401) as u32) / 1000
    }
}

fn new_counters() -> Counters {
    let missed = MissedReason::ALL.map(MissedReason::as_str);
    let lost = GapReason::ALL.map(GapReason::as_str);
    Counters {
        accepted: 0,
        accept_pauses: Labelled::new(accept::PauseReason::ALL.map(accept::PauseReason::as_str)),
        closed: Labelled::new(CloseReason::ALL.map(CloseReason::as_str)),
        streams: 0,
        refused: Labelled::new(refusal::Refusal::labels()),
        denied: Labelled::new(["missing_token", "invalid_token", "insufficient_scope", "closed_report"]),
        responses: Labelled::new([]),
        published_http: 0,
        broadcasts: 0,
        dropped: Labelled::new(["duplicate", "topics_exhausted"]),
        gaps: Labelled::new(missed.into_iter().chain(lost)),
        delivered_events: 0,
        sent_bytes: 0,
        sends: 0,
        short_sends: 0,
        skipped_blocked: 0,
        heartbeats: 0,
        broadcast_duration: Default::default(),
        delivery_duration: Default::default(),
        turn_duration: Default::default(),
    }
}
