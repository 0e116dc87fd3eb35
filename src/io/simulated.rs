//! The IO contract as a seeded network in memory: its second implementation, for deterministic tests.
//!
//! The same server runs on it as on epoll. Time is virtual: a wait jumps to its timeout or to the next scheduled event.
//! Every random outcome (how much a send takes, when bytes arrive, which peer resets when) comes from one seed, so that
//! a run can be repeated, and its [trace](SimulatedIo::trace_hash) compared.
//!
//! A test controls the other ends: [peers](PeerId) that connect, send, read at their own [`Pace`], end, reset or
//! vanish. Assertions here check the server's side of the contract: no call on a closed socket, no send on a socket
//! that awaits writability or after [`Io::end`], no accept on the spare descriptor unless it was released. Socket
//! numbers are never reused, so that a stale one can't be taken for another.
//!
//! Absent: any real IO, threads, and loss in transit (data that arrives, arrives in order).

mod faults;
mod link;
mod peers;
mod random;
mod secured;
mod trace;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

pub use faults::Faults;
pub use link::{Fate, Pace, PeerId};
pub use random::Random;
pub use secured::SimulatedHandshakes;

use super::{Accept, Close, Gone, Io, ListenerIndex, Read, Readiness, Sent, Socket, Token, Wire};
use crate::event::Frame;
use link::{Backlog, Edge, Link, Stage};
use peers::Happening;
use trace::Trace;

/// The maximum delay, in waits, of the readiness of a closed socket.
const LATE_WAITS_MAX: usize = 6;

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
    /// The listener whose peers speak TLS.
    secured: Option<ListenerIndex>,
    /// Readiness of closed sockets, with the number of waits until it is reported.
    late: Vec<(usize, Readiness)>,
    woken: Arc<AtomicBool>,
    descriptors_max: usize,
    has_spare: bool,
    trace: RefCell<Trace>,
}

impl SimulatedIo {
    /// A network with this many listeners, and no peers.
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
            secured: None,
            late: Vec::new(),
            woken: Arc::new(AtomicBool::new(false)),
            descriptors_max: usize::MAX,
            has_spare: true,
            trace: RefCell::default(),
        }
    }

    // ---- steering ----

    /// Makes a wait return, as `EpollIo::wake` does.
    pub fn wake(&self) -> impl Fn() + Send + Sync + 'static {
        let woken = Arc::clone(&self.woken);
        move || woken.store(true, Ordering::SeqCst)
    }

    /// The latest time to which a wait goes: it returns there, as if it had been interrupted.
    pub fn set_horizon(&mut self, horizon: Duration) {
        self.horizon = horizon.max(self.now);
    }

    /// Sets the time at the start: for a server that takes over from another one.
    pub fn set_start(&mut self, now: Duration) {
        assert!(self.links.is_empty(), "time never goes back");
        self.now = now;
    }

    /// True when the last wait was to sleep: the server had no work left, and no wake was pending.
    pub fn has_slept(&self) -> bool {
        self.has_slept
    }

    /// Peers that connect to this listener speak TLS.
    pub fn set_secured(&mut self, listener: ListenerIndex) {
        self.secured = Some(listener);
    }

    /// How many descriptors the process may have: open connections and the spare one.
    pub fn set_descriptors_max(&mut self, descriptors_max: usize) {
        self.descriptors_max = descriptors_max;
    }

    /// Replaces the faults from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The peers whose connections the server has accepted and not closed.
    pub fn open_peers(&self) -> Vec<PeerId> {
        self.sockets.values().copied().collect()
    }

    // ---- the trace ----

    /// A hash of everything that happened; equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.trace.borrow().hash
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> Vec<String> {
        self.trace.borrow().lines.iter().cloned().collect()
    }

    /// Adds a line from the test.
    pub fn note(&self, line: fmt::Arguments<'_>) {
        self.trace.borrow_mut().push(self.now, line);
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
            if !backlog.waiting.is_empty() && !std::mem::replace(&mut backlog.reported, true) {
                ready.push(Readiness::Acceptable(ListenerIndex(index)));
            }
        }
        for peer in self.sockets.values() {
            let link = &mut self.links[peer.0];
            let Some(token) = link.token else { continue };
            if link.writable == Edge::Due && !self.random.chance(self.faults.tardy_wait) {
                link.writable = Edge::Reported;
                link.held_up = false;
                ready.push(Readiness::Writable(token));
            }
            if link.readable == Edge::Due && !self.random.chance(self.faults.tardy_wait) {
                link.readable = Edge::Reported;
                ready.push(Readiness::Readable(token));
            }
        }
        for end in (before + 1..ready.len()).rev() {
            ready.swap(end, before + self.random.below(end + 1 - before));
        }
    }

    /// Sends these bytes, of which there are `bytes`.
    fn send_to(&mut self, content: impl Iterator<Item = u8>, bytes: usize, socket: Socket) -> Sent {
        let peer = self.link_of(socket);
        let draws = [self.faults.short_send, self.faults.blocked_send, self.faults.reset_on_send];
        let [short, blocked, reset] = draws.map(|chance| self.random.chance(chance));
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
        link.taken.extend(content.take(took));
        if let Some(Err(error)) = link.session.as_mut().map(|session| session.open(&link.taken)) {
            self.fail(format_args!("peer {} can't open what it gets: {error}", peer.0));
        }
        let link = &mut self.links[peer.0];
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
    fn backend(&self) -> &'static str {
        "simulated"
    }

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
            self.run_due_happenings();
            self.report(ready);
            if !ready.is_empty() || self.woken.swap(false, Ordering::SeqCst) || self.now >= until {
                break;
            }
            if self.random.chance(self.faults.tardy_wait) {
                break;
            }
            // Ready connections that were passed over above are reported a moment later.
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
            backlog.reported = false;
            return Accept::WouldBlock;
        }
        if self.sockets.len() + usize::from(self.has_spare) >= self.descriptors_max {
            return Accept::Exhausted;
        }
        if self.random.chance(self.faults.failed_accept) {
            self.note(format_args!("accept fails"));
            return Accept::Failed(libc::EPERM);
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

    fn release_reserved_fd(&mut self) -> bool {
        std::mem::take(&mut self.has_spare)
    }

    fn reserve_fd(&mut self) -> bool {
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

    fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        assert!(!run.is_empty() && run.len() <= super::FRAMES_PER_SEND_MAX, "a run of {} frames", run.len());
        assert!(skip_bytes < run[0].len(), "a frame that was sent whole is in no run");
        let bytes = run.iter().map(Frame::len).sum::<usize>() - skip_bytes;
        for socket in targets {
            let content = run.iter().flat_map(Frame::bytes).skip(skip_bytes).copied();
            let sent = self.send_to(content, bytes, socket);
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
        // Closing with unread data is also a reset, and discards what the peer has not read yet.
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

impl Wire for SimulatedIo {
    fn write(&mut self, socket: Socket, bytes: &[u8]) -> Sent {
        let sent = self.send_to(bytes.iter().copied(), bytes.len(), socket);
        self.note(format_args!("write {} to peer {}: {sent:?}", bytes.len(), self.link_of(socket).0));
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Peer;

    const TOKEN: Token = Token { slot: 0, generation: 1 };

    /// A network with one connection that is accepted and watched, and its initial readiness.
    fn connected(faults: Faults, pace: Pace) -> (SimulatedIo, PeerId, Socket) {
        let mut io = SimulatedIo::new(1, faults, 1);
        let peer = io.connect(ListenerIndex(0), Peer::Unix, pace);
        assert_eq!(wait(&mut io), [Readiness::Acceptable(ListenerIndex(0))]);
        let Accept::Connection(socket, _) = io.accept(ListenerIndex(0)) else { panic!("it has arrived") };
        assert_eq!(io.accept(ListenerIndex(0)), Accept::WouldBlock);
        io.watch(socket, TOKEN).unwrap();
        assert_eq!(wait(&mut io), [Readiness::Writable(TOKEN)]);
        (io, peer, socket)
    }

    fn wait(io: &mut SimulatedIo) -> Vec<Readiness> {
        let mut ready = Vec::new();
        io.wait(Some(Duration::from_secs(1)), &mut ready).unwrap();
        ready
    }

    fn send(io: &mut SimulatedIo, socket: Socket, bytes: usize) -> Sent {
        let mut outcomes = Vec::new();
        io.send(&[vec![b'x'; bytes].into()], 0, [socket].into_iter(), &mut outcomes);
        outcomes[0]
    }

    #[test]
    fn readiness_is_reported_once_until_a_call_would_have_blocked() {
        let (mut io, peer, socket) = connected(Faults::none(), Pace::Eager);
        io.peer_send(peer, b"ab");
        assert_eq!(wait(&mut io), [Readiness::Readable(TOKEN)]);
        let mut byte = [0];
        assert_eq!(io.read(socket, &mut byte), Read::Bytes(1));
        io.peer_send(peer, b"c");
        assert_eq!(wait(&mut io), [], "not drained yet");
        for expected in [Read::Bytes(1), Read::Bytes(1), Read::WouldBlock] {
            assert_eq!(io.read(socket, &mut byte), expected);
        }
        io.peer_end(peer);
        assert_eq!(wait(&mut io), [Readiness::Readable(TOKEN)]);
        assert_eq!(io.read(socket, &mut byte), Read::Ended);
    }

    #[test]
    fn a_slow_peer_fills_the_buffer_and_makes_room_again() {
        let faults = Faults { send_buffer_bytes: (10, 10), ..Faults::none() };
        let pace = Pace::Slow { bytes: 10, every: Duration::from_millis(5) };
        let (mut io, peer, socket) = connected(faults, pace);
        assert_eq!(send(&mut io, socket, 15), Sent::Bytes(10));
        assert!(io.is_held_up(peer));
        assert_eq!(wait(&mut io), [Readiness::Writable(TOKEN)]);
        assert_eq!(send(&mut io, socket, 5), Sent::Bytes(5));
        io.close(socket, Close::Graceful);
        wait(&mut io);
        assert_eq!((io.take(peer).len(), io.fate(peer)), (15, Fate::Ended));
    }

    #[test]
    fn closing_on_what_was_not_read_is_a_reset() {
        let (mut io, peer, socket) = connected(Faults::none(), Pace::Never);
        io.peer_send(peer, b"unread");
        wait(&mut io);
        assert_eq!(send(&mut io, socket, 5), Sent::Bytes(5));
        io.close(socket, Close::Graceful);
        assert_eq!((io.take(peer).len(), io.fate(peer)), (0, Fate::Reset));
    }

    #[test]
    #[should_panic(expected = "awaits writability")]
    fn a_send_to_a_peer_that_awaits_writability_breaks_the_contract() {
        let faults = Faults { send_buffer_bytes: (10, 10), ..Faults::none() };
        let (mut io, _, socket) = connected(faults, Pace::Never);
        send(&mut io, socket, 15);
        send(&mut io, socket, 5);
    }

    #[test]
    #[should_panic(expected = "after it was closed")]
    fn a_closed_socket_is_not_used() {
        let (mut io, _, socket) = connected(Faults::none(), Pace::Never);
        io.close(socket, Close::Reset);
        send(&mut io, socket, 5);
    }
}
