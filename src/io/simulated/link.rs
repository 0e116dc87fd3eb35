//! A connection with both its ends: the data sent, the data read, and the readiness to report.

use std::collections::VecDeque;
use std::time::Duration;

use super::secured::PeerSession;
use crate::io::{Gone, ListenerIndex, Peer, Socket, Token};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub usize);

/// How a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Everything, as soon as it arrives.
    Eager,
    /// A fixed number of bytes each time the interval passes.
    Slow {
        /// How many.
        bytes: usize,
        /// How often.
        every: Duration,
    },
    /// Never.
    Never,
}

/// The state of a connection as its peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Open, or still connecting.
    Open,
    /// The server will send no more; all data has arrived.
    Ended,
    /// Broken; data that had not arrived is lost.
    Reset,
}

/// Whether readiness is to be reported: once, then not until a call would have blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Waiting,
    Due,
    Reported,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Travelling,
    Waiting,
    Open(Socket),
    Closed,
}

/// One connection, both ends.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: Peer,
    pub(super) listener: ListenerIndex,
    pub(super) stage: Stage,
    pub(super) token: Option<Token>,
    /// Data that the server has not read yet.
    pub(super) unread: VecDeque<u8>,
    /// How much the server has read.
    pub(super) consumed: usize,
    pub(super) peer_ended: bool,
    pub(super) broken: Option<Gone>,
    pub(super) readable: Edge,
    pub(super) writable: Edge,
    /// The last send took less than all, and writability has not been reported since.
    pub(super) held_up: bool,
    /// All bytes that the kernel took from the server.
    pub(super) taken: Vec<u8>,
    /// How many of them the peer has read.
    pub(super) read: usize,
    pub(super) buffer_bytes: usize,
    pub(super) pace: Pace,
    pub(super) reading: bool,
    /// How many bytes, of those the peer has read, its application has received.
    pub(super) handed: usize,
    pub(super) ended: bool,
    pub(super) fate: Fate,
    /// When the last of the peer's data arrives: later data can't overtake it.
    pub(super) arrives_at: Duration,
    /// The peer's end of TLS, if it speaks that.
    pub(super) session: Option<Box<PeerSession>>,
}

impl Link {
    pub(super) fn room(&self) -> usize {
        self.buffer_bytes.saturating_sub(self.taken.len() - self.read)
    }
}

#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) waiting: VecDeque<PeerId>,
    pub(super) reported: bool,
    pub(super) stopped: bool,
}
