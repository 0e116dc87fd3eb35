//! The IO contract and its implementations: the only home of mio, libc and unsafe.
//!
//! [`Io`] is the server's only access to the outside: readiness, the results of reads, sends and accepts, and the time.
//! It has two implementations: [`epoll`] over mio, whose sends go through [`uring`] with `--io io_uring`, and
//! [`simulated`], a seeded network in memory that runs the same server in deterministic tests. [`sealed`] adds TLS to each of
//! them.
//!
//! Guarantees of every implementation:
//! - Readiness is edge-triggered: after [`Readiness::Readable`] no other is reported for that socket until a read would
//!   have blocked; the same applies to writing. A newly watched socket is reported once for each when it is ready.
//! - Only [`Io::wait`] blocks, and nothing borrowed in a call is used after it.
//! - A token comes back unchanged, possibly late: after its socket was closed. The caller must check the generation.

pub mod activation;
pub mod affinity;
pub mod allocator;
#[cfg(test)]
mod contract_tests;
pub mod dialer;
pub mod epoll;
pub mod handshakes;
pub mod limits;
pub mod listener;
pub mod sealed;
mod send;
pub mod simulated;
pub mod socket_options;
#[cfg_attr(not(feature = "io-uring"), path = "no_uring.rs")]
pub mod uring;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::event::Frame;
use crate::tls::handshake::Failure;

/// The most frames in one [`Io::send`]: the limit of one vectored write (IOV_MAX).
pub const FRAMES_PER_SEND_MAX: usize = 1024;

/// An open connection's socket. A copy refers to the same socket; [`Io::close`] ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(i32);

/// The bit of a [`Socket`] that speaks TLS. No process has that many descriptors.
const SPEAKS_TLS: i32 = 1 << 30;

impl Socket {
    /// A socket of another implementation of [`Io`], by its number there.
    pub fn numbered(number: i32) -> Socket {
        Socket(number)
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0 & !SPEAKS_TLS
    }

    /// True when its client speaks TLS: it has to be [secured](Io::secure) before anything is sent.
    pub fn speaks_tls(self) -> bool {
        self.0 & SPEAKS_TLS != 0
    }

    fn speaking_tls(self) -> Socket {
        Socket(self.0 | SPEAKS_TLS)
    }

    /// The same socket, below TLS.
    fn plain(self) -> Socket {
        Socket(self.number())
    }
}

/// Identifies the connection whose readiness is reported: a slot, and which of its successive tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The slot in the server's slab.
    pub slot: u32,
    /// Differs between two tenants of one slot.
    pub generation: u32,
}

/// A listening socket, by its place in the order in which they were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerIndex(pub usize);

/// An event that [`Io::wait`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Connections are waiting to be accepted.
    Acceptable(ListenerIndex),
    /// A read will find bytes, the end, or an error.
    Readable(Token),
    /// A send that would have blocked may be tried again.
    Writable(Token),
    /// The kernel took a part of what is [held](Sent::Held), and has no room for the rest.
    Taken(Token),
    /// The TLS handshake has succeeded: from now on it is read and sent to. Bytes may have arrived.
    Secured(Token),
    /// The TLS handshake has failed. What the client is to know was sent.
    NotSecured(Token, Failure),
    /// The keys of this connection have sealed so much that it should end soon.
    Worn(Token),
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer.
    Inet(SocketAddr),
    /// A process on this host.
    Unix,
}

/// The result of an accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// A connection, non-blocking, with its listener's socket options.
    Connection(Socket, Peer),
    /// The peer was gone before the accept; there may be others.
    Aborted,
    /// No connection is waiting; a later edge reports the next one.
    WouldBlock,
    /// No descriptor or memory is left for it; the connection still waits. No edge reports it again.
    Exhausted,
    /// Accepting itself fails, with this error (errno). The connection still waits, and the next accept may fail in the
    /// same way. No edge reports it again.
    Failed(i32),
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing to read now; a later edge reports more.
    WouldBlock,
    /// The peer will send no more.
    Ended,
    /// The connection is broken.
    Gone(Gone),
}

/// The result of a send to one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel took this many bytes: all of them, or as many as it had room for. After fewer than all, the next send
    /// must wait for [`Readiness::Writable`].
    Bytes(usize),
    /// This many bytes will go out, but not all of them are with the kernel yet. The next send must wait for
    /// [`Readiness::Writable`].
    Held(usize),
    /// The kernel took nothing; [`Readiness::Writable`] reports room.
    WouldBlock,
    /// The connection is broken.
    Gone(Gone),
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The peer reset it (ECONNRESET, EPIPE).
    Reset,
    /// The peer did not acknowledge data for too long (ETIMEDOUT).
    TimedOut,
    /// The peer sent a TLS record that was changed on the way, or has no place here: an error, or new keys (KeyUpdate).
    Record,
    /// Its TLS keys must not seal more.
    KeysUsedUp,
    /// Another error, by its errno.
    Error(i32),
}

/// How to end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Data that was already sent still goes out.
    Graceful,
    /// At once: the kernel drops the data it still holds for the peer, and the peer sees a reset.
    Reset,
}

/// The operations that the server needs from the outside.
pub trait Io {
    /// What it is called in reports, such as `epoll`.
    fn backend(&self) -> &'static str;

    /// The time since some fixed start; it never goes back.
    fn now(&self) -> Duration;

    /// The calendar time, for `Date`.
    fn unix_time(&self) -> SystemTime;

    /// Waits until something is ready, a wake arrives, or `timeout` passes; appends what is ready to `ready`.
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> std::io::Result<()>;

    /// Accepts one connection.
    fn accept(&mut self, listener: ListenerIndex) -> Accept;

    /// False while a listener's connections have to wait: too many TLS handshakes are under way. Nothing reports their end.
    fn has_room_for(&self, _listener: ListenerIndex) -> bool {
        true
    }

    /// Gives up the descriptor kept for this, so that one more [`Io::accept`] succeeds. False: there is none.
    fn release_reserved_fd(&mut self) -> bool;

    /// Takes a descriptor to keep again. False: none is left.
    fn reserve_fd(&mut self) -> bool;

    /// Starts to report a connection's readiness for reading and writing under `token`.
    fn watch(&mut self, socket: Socket, token: Token) -> std::io::Result<()>;

    /// Begins the TLS handshake of a watched socket that [speaks TLS](Socket::speaks_tls). `received`: what was read from it.
    /// Its end is reported under `token`. Until then its other readiness means nothing.
    fn secure(&mut self, _socket: Socket, _token: Token, _received: Vec<u8>) {
        debug_assert!(false, "no socket of this IO speaks TLS");
    }

    /// Reads into `buffer`, which has room for a TLS record.
    fn read(&mut self, socket: Socket, buffer: &mut [u8]) -> Read;

    /// Sends the same run of frames, starting at byte `skip_bytes`, to each of `targets`, and appends the result of
    /// each to `outcomes`, in the same order. At most [`FRAMES_PER_SEND_MAX`] frames.
    fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    );

    /// Signals to the peer that no more data will be sent; reading goes on.
    fn end(&mut self, socket: Socket);

    /// Ends a connection. Its readiness may still be reported, late, under its token.
    fn close(&mut self, socket: Socket, how: Close);

    /// Stops listening. Waiting connections are refused. On an inherited socket they are not: they and later
    /// connections wait for the process that inherits it next.
    fn stop_listening(&mut self, listener: ListenerIndex);
}

/// What TLS needs of the IO below it, besides the contract.
pub trait Wire: Io {
    /// Sends bytes that are for one socket alone.
    fn write(&mut self, socket: Socket, bytes: &[u8]) -> Sent;
}
