//! The IO contract and its implementations: the only home of mio, libc and unsafe.
//!
//! [`Io`] is all that the server knows of the outside: what is ready, what a read, a send or an accept came to, and
//! what time it is. Two implementations supply it: [`epoll`] over mio, and [`simulated`], a seeded network in
//! memory that runs the same server in deterministic tests.
//!
//! What every implementation promises:
//! - Readiness is edge-triggered: after [`Readiness::Readable`] no other comes for that socket until a read would
//!   have blocked; the same for writing. A new socket that is watched is reported once for each when ready.
//! - No call but [`Io::wait`] blocks, and nothing borrowed in a call is used after it.
//! - A token comes back as it was given, at worst late: after its socket was closed. Whoever reads it checks the
//!   generation.

pub mod activation;
pub mod allocator;
pub mod dialer;
pub mod epoll;
pub mod limits;
pub mod listener;
pub mod simulated;
pub mod socket_options;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::event::Frame;

/// The most frames in one [`Io::send`]: what one vectored write takes (IOV_MAX).
pub const FRAMES_PER_SEND_MAX: usize = 1024;

/// An open connection's socket. Copying it copies the name, not the socket; [`Io::close`] ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub(in crate::io) i32);

/// Whose readiness is reported: a slot, and which of its successive tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The slot in the server's slab.
    pub slot: u32,
    /// Differs between two tenants of one slot.
    pub generation: u32,
}

/// A listening socket, by its place in the order in which they were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerIndex(pub usize);

/// Something that [`Io::wait`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Connections wait to be accepted.
    Acceptable(ListenerIndex),
    /// A read will find bytes, the end, or an error.
    Readable(Token),
    /// A send that would have blocked may be tried again.
    Writable(Token),
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer.
    Inet(SocketAddr),
    /// Somebody on this host.
    Unix,
}

/// What an accept came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// A connection, non-blocking, with its listener's socket options.
    Connection(Socket, Peer),
    /// The peer was gone before we came; there may be others.
    Aborted,
    /// Nobody waits; a later edge will tell.
    WouldBlock,
    /// No descriptor or no memory is left for it; it still waits. No edge will tell.
    Exhausted,
    /// Accepting itself fails, with this error (errno). The connection still waits, and the next accept may fail alike.
    /// No edge will tell.
    Failed(i32),
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing for now; a later edge will tell.
    WouldBlock,
    /// The peer will send no more.
    Ended,
    /// The connection is broken.
    Gone(Gone),
}

/// What a send to one socket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel took so many bytes: all of them, or as many as it had room for. After fewer than all the next
    /// send is to wait for [`Readiness::Writable`].
    Bytes(usize),
    /// It took none; [`Readiness::Writable`] will tell.
    WouldBlock,
    /// The connection is broken.
    Gone(Gone),
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The peer reset it (ECONNRESET, EPIPE).
    Reset,
    /// The peer acknowledged nothing for too long (ETIMEDOUT).
    TimedOut,
    /// Another error, by its number.
    Error(i32),
}

/// How to end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// What was sent still goes out.
    Graceful,
    /// At once: what the kernel still holds for the peer is dropped, and the peer sees a reset.
    Reset,
}

/// What the server needs of the outside world.
pub trait Io {
    /// The time since some fixed start; it never goes back.
    fn now(&self) -> Duration;

    /// The calendar time, for `Date`.
    fn unix_time(&self) -> SystemTime;

    /// Waits until something is ready, a wake came, or `timeout` has passed; appends what is ready to `ready`.
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> std::io::Result<()>;

    /// Accepts one connection.
    fn accept(&mut self, listener: ListenerIndex) -> Accept;

    /// Gives up the descriptor kept for this, so that one more [`Io::accept`] succeeds. False: there is none.
    fn release_reserved_fd(&mut self) -> bool;

    /// Takes a descriptor to keep again. False: none is left.
    fn reserve_fd(&mut self) -> bool;

    /// Starts to report a connection's readiness, reading and writing, under `token`.
    fn watch(&mut self, socket: Socket, token: Token) -> std::io::Result<()>;

    /// Reads into `buffer`.
    fn read(&mut self, socket: Socket, buffer: &mut [u8]) -> Read;

    /// Sends the same run of frames, from byte `skip_bytes` of it on, to each of `targets`, and appends what each
    /// came to, in their order, to `outcomes`. At most [`FRAMES_PER_SEND_MAX`] frames.
    fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    );

    /// Tells the peer that nothing more will be sent; reading goes on.
    fn end(&mut self, socket: Socket);

    /// Ends a connection. Its readiness may still be reported, late, under its token.
    fn close(&mut self, socket: Socket, how: Close);

    /// Stops listening. Connections that wait to be accepted are refused; those of an inherited socket, and whoever
    /// else connects to it, wait for the process that inherits it next.
    fn stop_listening(&mut self, listener: ListenerIndex);
}
