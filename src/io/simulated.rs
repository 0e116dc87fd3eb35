//! The IO contract as a seeded network in memory: its second implementation, for deterministic tests.
//!
//! The same server runs on it as on epoll. Time is virtual: a wait jumps to its timeout or to the next thing that
//! happens. Everything that may go either way (how much a send takes, when bytes arrive, who resets when) is drawn
//! from one seed, so that a run can be repeated, and its [trace](SimulatedIo::trace_hash) compared.
//!
//! A test holds the other ends: [peers](PeerId) that connect, speak, read at their own [`Pace`], end, reset or vanish.
//! What the contract asks of the server is asserted here: no call on a socket that is closed, no send on one that
//! awaits writability or after [`Io::end`], no accept on the spare descriptor but when it was released. Socket
//! numbers are never used twice, so that a stale one can't pass for another's.
//!
//! Absent: any real IO, threads, and loss in transit (what arrives, arrives in order).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::{Accept, Close, Gone, Io, ListenerIndex, Peer, Read, Readiness, Sent, Socket, Token};
use crate::event::Frame;

/// Lines that the trace keeps.
const TRACE_LINES_MAX: usize = 200;

/// By how many waits readiness of a closed socket may be late.
const LATE_WAITS_MAX: usize = 6;

/// What goes wrong, and how often: chances are in a thousand.
#[derive(Clone, Debug)]
pub struct Faults {
    /// A send takes less than there was room for.
    pub short_send: u32,
    /// A send takes nothing although there was room.
    pub blocked_send: u32,
    /// A send finds that the peer has reset.
    pub reset_on_send: u32,
    /// A read brings only a part.
    pub partial_read: u32,
    /// A read brings nothing although there is something.
    pub blocked_read: u32,
    /// A connection is gone before it is accepted.
    pub aborted_accept: u32,
    /// A new connection can't be watched.
    pub failed_watch: u32,
    /// Readiness is reported for a socket that was closed meanwhile.
    pub late_event: u32,
    /// Readiness is reported again without need, as epoll does when more arrives.
    pub repeated_edge: u32,
    /// What is ready is only reported by the next wait; or a wait ends for nothing.
    pub tardy_wait: u32,
    /// How long bytes travel at most.
    pub delay_max: Duration,
    /// What the kernel takes for a peer that reads nothing: at least, at most.
    pub send_buffer_bytes: (usize, usize),
    /// When the kernel gives up on a peer that vanished.
    pub user_timeout: Duration,
}

impl Faults {
    /// A network without faults, and without delay.
    pub fn none() -> Faults {
        Faults {
            short_send: 0,
            blocked_send: 0,
            reset_on_send: 0,
            partial_read: 0,
            blocked_read: 0,
            aborted_accept: 0,
            failed_watch: 0,
            late_event: 0,
            repeated_edge: 0,
            tardy_wait: 0,
            delay_max: Duration::ZERO,
            send_buffer_bytes: (16 << 10, 16 << 10),
            user_timeout: Duration::from_secs(60),
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub usize);

/// How a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Everything, as soon as it arrives.
    Eager,
    /// So many bytes each time the interval passes.
    Slow {
        /// How many.
        bytes: usize,
        /// How often.
        every: Duration,
    },
    /// Never.
    Never,
}

/// What a peer sees of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is open, or on its way to be.
    Open,
    /// The server will send no more; everything has arrived.
    Ended,
    /// It is broken; what had not arrived never will.
    Reset,
}

/// A small seeded generator (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that repeats itself for the same seed.
    pub fn new(seed: u64) -> Random {
        let mixed = (seed ^ 0x6a09_e667_f3bc_c909).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Random((mixed ^ (mixed >> 32)) | 1)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// True so often in a thousand.
    pub fn chance(&mut self, in_a_thousand: u32) -> bool {
        in_a_thousand > 0 && self.below(1000) < in_a_thousand as usize
    }

    /// A time up to `max`.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.below(max.as_micros() as usize + 1) as u64)
    }
}

/// Something that will happen at its time.
#[derive(Clone, Debug)]
enum Happening {
    /// A connection reaches its listener.
    Arrives(PeerId),
    /// Bytes reach the server.
    Brings(PeerId, Vec<u8>),
    /// The peer will send no more.
    Ends(PeerId),
    Breaks(PeerId, Gone),
    /// The peer reads.
    Reads(PeerId),
    /// What was held up for no reason goes on.
    Stirs(PeerId),
    /// The kernel looks whether a vanished peer has acknowledged anything.
    GivesUp(PeerId),
}

/// Whether readiness is to be reported: once, then not before a call would have blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Waiting,
    Due,
    Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Travelling,
    Waiting,
    Open(Socket),
    Closed,
}

/// One connection, both ends.
#[derive(Debug)]
struct Link {
    address: Peer,
    listener: ListenerIndex,
    stage: Stage,
    token: Option<Token>,
    /// What the server has yet to read.
    unread: VecDeque<u8>,
    /// How much the server has read.
    consumed: usize,
    peer_ended: bool,
    broken: Option<Gone>,
    readable: Edge,
    writable: Edge,
    /// The last send took less than all, and no writability was reported since.
    held_up: bool,
    /// Everything that the kernel took from the server.
    taken: Vec<u8>,
    /// How much of it the peer has read.
    read: usize,
    buffer_bytes: usize,
    pace: Pace,
    reading: bool,
    /// How much of what the peer has read its application has had.
    handed: usize,
    ended: bool,
    fate: Fate,
    /// When the last of what the peer sent arrives: what follows can't overtake it.
    arrives_at: Duration,
}

impl Link {
    fn room(&self) -> usize {
        self.buffer_bytes.saturating_sub(self.taken.len() - self.read)
    }
}

#[derive(Debug, Default)]
struct Backlog {
    waiting: VecDeque<PeerId>,
    told: bool,
    stopped: bool,
}

/// The IO contract over a network in memory. See the module's documentation.
pub struct SimulatedIo {
    random: Random,
    faults: Faults,
    now: Duration,
    horizon: Duration,
    has_slept: bool,
    happenings: BTreeMap<(Duration, u64), Happening>,
    happened: u64,
    links: Vec<Link>,
    sockets: BTreeMap<i32, PeerId>,
    next_socket: i32,
    backlogs: Vec<Backlog>,
    /// Readiness of closed sockets, and after how many waits it is reported.
    late: Vec<(usize, Readiness)>,
    woken: Arc<AtomicBool>,
    descriptors_max: usize,
    has_spare: bool,
    trace: RefCell<Trace>,
}

impl SimulatedIo {
    /// A network with so many listeners, and nobody there yet.
    pub fn new(seed: u64, faults: Faults, listeners: usize) -> SimulatedIo {
        SimulatedIo {
            random: Random::new(seed),
            faults,
            now: Duration::ZERO,
            horizon: Duration::MAX,
            has_slept: false,
            happenings: BTreeMap::new(),
            happened: 0,
            links: Vec::new(),
            sockets: BTreeMap::new(),
            next_socket: 3,
            backlogs: (0..listeners).map(|_| Backlog::default()).collect(),
            late: Vec::new(),
            woken: Arc::new(AtomicBool::new(false)),
            descriptors_max: usize::MAX,
            has_spare: true,
            trace: RefCell::default(),
        }
    }

    // ---- steering ----

    /// What makes a wait return, as `EpollIo::wake` does.
    pub fn wake(&self) -> impl Fn() + Send + Sync + 'static {
        let woken = Arc::clone(&self.woken);
        move || woken.store(true, Ordering::SeqCst)
    }

    /// No wait goes beyond this time: it returns there, as if it had been interrupted.
    pub fn set_horizon(&mut self, horizon: Duration) {
        self.horizon = horizon.max(self.now);
    }

    /// Starts at this time: a server that takes over from another one.
    pub fn set_start(&mut self, now: Duration) {
        assert!(self.links.is_empty(), "time never goes back");
        self.now = now;
    }

    /// True when the last wait was to sleep: the server had nothing left to do, and no wake was on its way.
    pub fn has_slept(&self) -> bool {
        self.has_slept
    }

    /// How many descriptors there are: open connections and the spare one.
    pub fn set_descriptors_max(&mut self, descriptors_max: usize) {
        self.descriptors_max = descriptors_max;
    }

    /// The peers whose connections the server has accepted and not closed.
    pub fn open_peers(&self) -> Vec<PeerId> {
        self.sockets.values().copied().collect()
    }

    // ---- the peers' side ----

    /// Somebody connects.
    pub fn connect(&mut self, listener: ListenerIndex, address: Peer, pace: Pace) -> PeerId {
        let (least, most) = self.faults.send_buffer_bytes;
        let buffer_bytes = least + self.random.below(most - least + 1);
        let peer = PeerId(self.links.len());
        self.links.push(Link {
            address,
            listener,
            stage: Stage::Travelling,
            token: None,
            unread: VecDeque::new(),
            consumed: 0,
            peer_ended: false,
            broken: None,
            readable: Edge::Waiting,
            writable: Edge::Due,
            held_up: false,
            taken: Vec::new(),
            read: 0,
            buffer_bytes,
            pace,
            reading: false,
            handed: 0,
            ended: false,
            fate: Fate::Open,
            arrives_at: self.now,
        });
        self.travel(peer, Happening::Arrives(peer));
        peer
    }

    /// The peer sends.
    pub fn peer_send(&mut self, peer: PeerId, bytes: &[u8]) {
        self.travel(peer, Happening::Brings(peer, bytes.to_vec()));
    }

    /// The peer will send no more; it still reads.
    pub fn peer_end(&mut self, peer: PeerId) {
        self.travel(peer, Happening::Ends(peer));
    }

    /// The peer resets the connection, and has forgotten it.
    pub fn peer_reset(&mut self, peer: PeerId) {
        self.links[peer.0].fate = Fate::Reset;
        self.travel(peer, Happening::Breaks(peer, Gone::Reset));
    }

    /// The peer is gone without a word: nothing it sends or should acknowledge arrives any more.
    pub fn peer_vanish(&mut self, peer: PeerId) {
        let link = &mut self.links[peer.0];
        link.fate = Fate::Reset;
        link.pace = Pace::Never;
        let at = self.now + self.faults.user_timeout;
        self.schedule(at, Happening::GivesUp(peer));
    }

    /// The peer reads differently from now on.
    pub fn set_pace(&mut self, peer: PeerId, pace: Pace) {
        self.links[peer.0].pace = pace;
        self.let_read(peer);
    }

    /// What has arrived at the peer since it was last asked.
    pub fn take(&mut self, peer: PeerId) -> Vec<u8> {
        let link = &mut self.links[peer.0];
        let bytes = link.taken[link.handed..link.read].to_vec();
        link.handed = link.read;
        bytes
    }

    /// What the peer sees of the connection.
    pub fn fate(&self, peer: PeerId) -> Fate {
        let link = &self.links[peer.0];
        if link.fate == Fate::Ended && link.handed < link.taken.len() { Fate::Open } else { link.fate }
    }

    /// Everything that the server has sent to this peer, arrived or not.
    pub fn sent_to(&self, peer: PeerId) -> &[u8] {
        &self.links[peer.0].taken
    }

    /// True while the server must not send to this peer.
    pub fn is_held_up(&self, peer: PeerId) -> bool {
        self.links[peer.0].held_up
    }

    /// True while the server has this connection open.
    pub fn is_open(&self, peer: PeerId) -> bool {
        matches!(self.links[peer.0].stage, Stage::Open(_))
    }

    /// True once the server has closed this connection, or never took it.
    pub fn is_closed(&self, peer: PeerId) -> bool {
        self.links[peer.0].stage == Stage::Closed
    }

    /// True once the server has said that it will send no more.
    pub fn is_ended(&self, peer: PeerId) -> bool {
        self.links[peer.0].ended
    }

    /// How many bytes of this peer the server has read.
    pub fn read_from(&self, peer: PeerId) -> usize {
        self.links[peer.0].consumed
    }

    /// Peers that the server was told are readable and has not read to the end, though it could send to them.
    pub fn unattended(&self) -> impl Iterator<Item = PeerId> {
        let unattended = |peer: &&PeerId| {
            let link = &self.links[peer.0];
            let has_something = !link.unread.is_empty() || link.peer_ended || link.broken.is_some();
            link.readable == Edge::Told && has_something && !link.held_up
        };
        self.sockets.values().filter(unattended).copied()
    }

    // ---- the trace ----

    /// A hash of everything that happened; equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.trace.borrow().hash
    }

    /// The last lines of what happened.
    pub fn trace(&self) -> Vec<String> {
        self.trace.borrow().lines.iter().cloned().collect()
    }

    /// Adds a line of the test's own.
    pub fn note(&self, line: fmt::Arguments<'_>) {
        self.trace.borrow_mut().push(self.now, line);
    }

    // ---- what happens ----

    fn schedule(&mut self, at: Duration, happening: Happening) {
        self.happened += 1;
        self.happenings.insert((at, self.happened), happening);
    }

    /// Lets something happen at the server's side after it has travelled there, behind what was sent before.
    fn travel(&mut self, peer: PeerId, happening: Happening) {
        let delay = self.random.up_to(self.faults.delay_max);
        let link = &mut self.links[peer.0];
        let at = link.arrives_at.max(self.now + delay);
        link.arrives_at = at;
        self.schedule(at, happening);
    }

    fn let_happen(&mut self) {
        while let Some(entry) = self.happenings.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Happening::Arrives(peer) => self.arrive(peer),
                Happening::Brings(peer, bytes) => self.bring(peer, &bytes),
                Happening::Ends(peer) => {
                    self.links[peer.0].peer_ended = true;
                    self.make_readable(peer);
                }
                Happening::Breaks(peer, gone) => self.break_link(peer, gone),
                Happening::Reads(peer) => self.read_at_peer(peer),
                Happening::Stirs(peer) => {
                    self.make_readable(peer);
                    self.make_writable(peer);
                }
                Happening::GivesUp(peer) => {
                    let unacknowledged = self.links[peer.0].taken.len() > self.links[peer.0].read;
                    match self.links[peer.0].stage {
                        Stage::Open(_) if unacknowledged => self.break_link(peer, Gone::TimedOut),
                        Stage::Closed => {}
                        _ => {
                            let at = self.now + self.faults.user_timeout;
                            self.schedule(at, Happening::GivesUp(peer));
                        }
                    }
                }
            }
        }
    }

    fn arrive(&mut self, peer: PeerId) {
        let backlog = &mut self.backlogs[self.links[peer.0].listener.0];
        if backlog.stopped {
            self.links[peer.0].stage = Stage::Closed;
            self.links[peer.0].fate = Fate::Reset;
            return;
        }
        self.links[peer.0].stage = Stage::Waiting;
        backlog.waiting.push_back(peer);
    }

    fn bring(&mut self, peer: PeerId, bytes: &[u8]) {
        let link = &mut self.links[peer.0];
        if link.stage == Stage::Closed {
            // The kernel answers what nobody will read with a reset, and what was under way the other way is lost.
            link.fate = Fate::Reset;
            return;
        }
        link.unread.extend(bytes);
        self.make_readable(peer);
    }

    fn break_link(&mut self, peer: PeerId, gone: Gone) {
        let link = &mut self.links[peer.0];
        if link.stage != Stage::Closed && link.broken.is_none() {
            link.fate = Fate::Reset;
            link.broken = Some(gone);
            link.unread.clear();
            self.note(format_args!("peer {} {gone:?}", peer.0));
            self.make_readable(peer);
            self.make_writable(peer);
        }
    }

    /// The peer reads what its pace allows, and comes back for the rest.
    fn read_at_peer(&mut self, peer: PeerId) {
        let link = &mut self.links[peer.0];
        link.reading = false;
        let arrived = link.taken.len() - link.read;
        link.read += match link.pace {
            Pace::Eager => arrived,
            Pace::Slow { bytes, .. } => arrived.min(bytes),
            Pace::Never => 0,
        };
        self.make_writable(peer);
        self.let_read(peer);
    }

    fn let_read(&mut self, peer: PeerId) {
        let link = &mut self.links[peer.0];
        if link.fate == Fate::Reset {
            return;
        }
        if link.read == link.taken.len() {
            if link.ended {
                link.fate = Fate::Ended;
            }
            return;
        }
        let delay = match link.pace {
            Pace::Eager => self.random.up_to(self.faults.delay_max),
            Pace::Slow { every, .. } => every,
            Pace::Never => return,
        };
        if !link.reading {
            link.reading = true;
            let at = self.now + delay;
            self.schedule(at, Happening::Reads(peer));
        }
    }

    fn make_readable(&mut self, peer: PeerId) {
        let repeated = self.random.chance(self.faults.repeated_edge);
        let link = &mut self.links[peer.0];
        if link.readable == Edge::Waiting || repeated {
            link.readable = Edge::Due;
        }
    }

    fn make_writable(&mut self, peer: PeerId) {
        // A kernel wakes writers when a good part is free again, not at every byte.
        let part = 1 + self.random.below(3);
        let link = &mut self.links[peer.0];
        let has_room =
            link.broken.is_some() || link.room() * part >= link.buffer_bytes || link.taken.len() == link.read;
        if link.writable == Edge::Waiting && has_room {
            link.writable = Edge::Due;
        }
    }

    /// The connection behind a socket that must be open.
    fn link_of(&self, socket: Socket) -> PeerId {
        let peer = self.sockets.get(&socket.0);
        *peer.unwrap_or_else(|| self.fail(format_args!("socket {} is used after it was closed", socket.0)))
    }

    fn fail(&self, what: fmt::Arguments<'_>) -> ! {
        panic!("the server broke the IO contract: {what}\n{}", self.trace().join("\n"));
    }

    fn report(&mut self, ready: &mut Vec<Readiness>) {
        let before = ready.len();
        self.late.retain_mut(|(waits, late)| {
            let is_due = *waits == 0;
            *waits = waits.saturating_sub(1);
            if is_due {
                ready.push(*late);
            }
            !is_due
        });
        for (index, backlog) in self.backlogs.iter_mut().enumerate() {
            if !backlog.waiting.is_empty() && !std::mem::replace(&mut backlog.told, true) {
                ready.push(Readiness::Acceptable(ListenerIndex(index)));
            }
        }
        for peer in self.sockets.values() {
            let link = &mut self.links[peer.0];
            let Some(token) = link.token else { continue };
            if link.writable == Edge::Due && !self.random.chance(self.faults.tardy_wait) {
                link.writable = Edge::Told;
                link.held_up = false;
                ready.push(Readiness::Writable(token));
            }
            if link.readable == Edge::Due && !self.random.chance(self.faults.tardy_wait) {
                link.readable = Edge::Told;
                ready.push(Readiness::Readable(token));
            }
        }
        for end in (before + 1..ready.len()).rev() {
            ready.swap(end, before + self.random.below(end + 1 - before));
        }
    }

    fn send_to(&mut self, run: &[Frame], skip_bytes: usize, socket: Socket) -> Sent {
        let peer = self.link_of(socket);
        let draws = [self.faults.short_send, self.faults.blocked_send, self.faults.reset_on_send];
        let [short, blocked, reset] = draws.map(|chance| self.random.chance(chance));
        let bytes: usize = run.iter().map(Frame::len).sum::<usize>() - skip_bytes;
        let link = &self.links[peer.0];
        if link.held_up {
            self.fail(format_args!("a send on peer {}, which awaits writability", peer.0));
        }
        if link.ended {
            self.fail(format_args!("a send to peer {} after the end", peer.0));
        }
        if let Some(gone) = link.broken {
            return Sent::Gone(gone);
        }
        if reset {
            self.break_link(peer, Gone::Reset);
            return Sent::Gone(Gone::Reset);
        }
        let room = if blocked { 0 } else { link.room().min(bytes) };
        let took = if short && room > 0 { 1 + self.random.below(room) } else { room };
        let delay = self.random.up_to(self.faults.delay_max + Duration::from_millis(1));
        let link = &mut self.links[peer.0];
        let rest = run.iter().flat_map(Frame::bytes).skip(skip_bytes);
        link.taken.extend(rest.take(took));
        if took < bytes {
            link.held_up = true;
            link.writable = Edge::Waiting;
            if link.room() > 0 {
                self.schedule(self.now + delay, Happening::Stirs(peer));
            }
        }
        self.let_read(peer);
        if took == 0 { Sent::WouldBlock } else { Sent::Bytes(took) }
    }
}

impl Io for SimulatedIo {
    fn now(&self) -> Duration {
        self.now
    }

    fn unix_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.now
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> std::io::Result<()> {
        let timeout = timeout.unwrap_or(Duration::MAX);
        self.has_slept = !timeout.is_zero() && !self.woken.load(Ordering::SeqCst);
        let until = self.now.saturating_add(timeout).min(self.horizon);
        loop {
            self.let_happen();
            self.report(ready);
            if !ready.is_empty() || self.woken.swap(false, Ordering::SeqCst) || self.now >= until {
                break;
            }
            if self.random.chance(self.faults.tardy_wait) {
                break;
            }
            // Whoever is ready but was passed over above is reported a moment later.
            let overdue = self.sockets.values().map(|peer| &self.links[peer.0]);
            let overdue = overdue.filter(|link| link.token.is_some());
            let passed_over = overdue.into_iter().any(|link| link.writable == Edge::Due || link.readable == Edge::Due);
            let next = self.happenings.first_key_value().map(|((at, _), _)| *at);
            let next = if passed_over { Some(self.now + Duration::from_micros(10)) } else { next };
            self.now = next.filter(|next| *next <= until).unwrap_or(until);
        }
        self.note(format_args!("wait {timeout:?} {ready:?}"));
        Ok(())
    }

    fn accept(&mut self, listener: ListenerIndex) -> Accept {
        let backlog = &mut self.backlogs[listener.0];
        if backlog.waiting.is_empty() {
            backlog.told = false;
            return Accept::WouldBlock;
        }
        if self.sockets.len() + usize::from(self.has_spare) >= self.descriptors_max {
            return Accept::Exhausted;
        }
        let Some(peer) = backlog.waiting.pop_front() else { return Accept::WouldBlock };
        let aborted = self.random.chance(self.faults.aborted_accept);
        let link = &mut self.links[peer.0];
        if aborted || link.broken.is_some() {
            link.stage = Stage::Closed;
            link.fate = Fate::Reset;
            return Accept::Aborted;
        }
        let socket = Socket(self.next_socket);
        self.next_socket += 1;
        self.sockets.insert(socket.0, peer);
        link.stage = Stage::Open(socket);
        let address = link.address;
        self.note(format_args!("accept peer {} as {}", peer.0, socket.0));
        Accept::Connection(socket, address)
    }

    fn release_spare(&mut self) -> bool {
        std::mem::take(&mut self.has_spare)
    }

    fn keep_spare(&mut self) -> bool {
        self.has_spare |= self.sockets.len() < self.descriptors_max;
        self.has_spare
    }

    fn watch(&mut self, socket: Socket, token: Token) -> std::io::Result<()> {
        let peer = self.link_of(socket);
        if self.random.chance(self.faults.failed_watch) {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        let link = &mut self.links[peer.0];
        assert!(link.token.replace(token).is_none(), "peer {} is watched twice", peer.0);
        if !link.unread.is_empty() || link.peer_ended || link.broken.is_some() {
            link.readable = Edge::Due;
        }
        Ok(())
    }

    fn read(&mut self, socket: Socket, buffer: &mut [u8]) -> Read {
        let peer = self.link_of(socket);
        let [partial, blocked] =
            [self.faults.partial_read, self.faults.blocked_read].map(|chance| self.random.chance(chance));
        let link = &mut self.links[peer.0];
        if let Some(gone) = link.broken {
            return Read::Gone(gone);
        }
        if blocked && !link.unread.is_empty() {
            link.readable = Edge::Waiting;
            self.schedule(self.now + Duration::from_millis(1), Happening::Stirs(peer));
            return Read::WouldBlock;
        }
        let available = link.unread.len().min(buffer.len());
        if available == 0 {
            if !link.peer_ended {
                link.readable = Edge::Waiting;
            }
            return if link.peer_ended { Read::Ended } else { Read::WouldBlock };
        }
        let count = if partial { 1 + self.random.below(available) } else { available };
        for (place, byte) in buffer.iter_mut().zip(link.unread.drain(..count)) {
            *place = byte;
        }
        link.consumed += count;
        self.note(format_args!("read {count} of peer {}", peer.0));
        Read::Bytes(count)
    }

    fn send(&mut self, run: &[Frame], skip_bytes: usize, targets: &[Socket], outcomes: &mut Vec<Sent>) {
        assert!(!run.is_empty() && run.len() <= super::FRAMES_PER_SEND_MAX, "a run of {} frames", run.len());
        assert!(skip_bytes < run[0].len(), "a frame that was sent whole is in no run");
        for &socket in targets {
            let sent = self.send_to(run, skip_bytes, socket);
            let bytes = run.iter().map(Frame::len).sum::<usize>() - skip_bytes;
            self.note(format_args!("send {bytes} in {} to peer {}: {sent:?}", run.len(), self.link_of(socket).0));
            outcomes.push(sent);
        }
    }

    fn end(&mut self, socket: Socket) {
        let peer = self.link_of(socket);
        self.links[peer.0].ended = true;
        self.note(format_args!("end of peer {}", peer.0));
        self.let_read(peer);
    }

    fn close(&mut self, socket: Socket, how: Close) {
        let peer = self.link_of(socket);
        self.note(format_args!("close {how:?} of peer {}", peer.0));
        self.sockets.remove(&socket.0);
        let link = &mut self.links[peer.0];
        link.stage = Stage::Closed;
        link.ended = true;
        // Closing on what was not read is a reset, too, and takes along what the peer has yet to read.
        if how == Close::Reset || !link.unread.is_empty() {
            link.fate = Fate::Reset;
        }
        let token = link.token.take();
        for late in token.into_iter().flat_map(|token| [Readiness::Readable(token), Readiness::Writable(token)]) {
            if self.random.chance(self.faults.late_event) {
                let waits = self.random.below(LATE_WAITS_MAX);
                self.late.push((waits, late));
            }
        }
        self.let_read(peer);
    }

    fn stop_listening(&mut self, listener: ListenerIndex) {
        let backlog = &mut self.backlogs[listener.0];
        backlog.stopped = true;
        for peer in std::mem::take(&mut backlog.waiting) {
            self.links[peer.0].stage = Stage::Closed;
            self.links[peer.0].fate = Fate::Reset;
        }
    }
}

/// What happened: all of it in a hash (FNV-1a), the last of it in words.
#[derive(Debug)]
struct Trace {
    hash: u64,
    lines: VecDeque<String>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new() }
    }
}

impl Trace {
    fn push(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        let mut line =
            if self.lines.len() < TRACE_LINES_MAX { String::new() } else { self.lines.pop_front().unwrap_or_default() };
        line.clear();
        let _ = write!(line, "{:>10.3} {what}", now.as_secs_f64());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push_back(line);
    }
}
