//! A connection: what the loop knows of one socket, in at most 64 bytes.
//!
//! What only few connections need (a request half read, a frame half written, a pace) lives elsewhere, and only as
//! long as it is needed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::answers::Account;
use super::request::Request;
use super::wheel::Tick;
use crate::event::{EventId, Sequence};
use crate::io::{Gone, Peer, Socket};
use crate::protocol::head::RequestHead;
use crate::sources::channel::PublishRefusal;

/// One connection; its slot in the slab is its name, with `generation` to tell it from the slot's other tenants.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) generation: u32,
    /// Every event of its topics through here was sent, or at least begun.
    pub(super) delivered_through: Sequence,
    pub(super) phase: Phase,
    /// Its other end, or whom a trusted proxy names there.
    pub(super) peer: CompactPeer,
    pub(super) flags: Flags,
    /// When its phase began, or of a stream when something was last written.
    pub(super) since: Tick,
    /// The one tick at which the wheel's entry for it counts.
    pub(super) armed_for: Tick,
    /// When its stream is old enough to end.
    pub(super) retires_at: Tick,
}

const _: () = assert!(size_of::<Option<Connection>>() <= 64, "a slab entry");

impl Connection {
    /// Takes the request out of its phase, with what arrived behind it; the caller sets the next phase.
    pub(super) fn take_request(&mut self) -> Request {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Requesting(request) => *request,
            Phase::Publishing(publishing) => publishing.request,
            _ => Request::default(),
        }
    }
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Between requests; no byte of the next one is here.
    Idle,
    /// A request is being read.
    Requesting(Box<Request>),
    /// A response is being written.
    Responding(Box<Responding>),
    /// A broker has what it published; the answer waits for it.
    Publishing(Box<Publishing>),
    /// A subscriber.
    Streaming,
    /// Everything was said, for this reason; what the peer still sends is discarded until it closes too.
    Lingering(CloseReason),
    /// Its socket is closed; its slot is reaped at the end of the tick.
    Dead,
}

/// What follows a response that is being written.
#[derive(Debug)]
pub(super) struct Responding {
    /// What arrived behind the request that it answers.
    pub(super) request: Request,
    /// It is the connection's last, for this reason.
    pub(super) last: Option<CloseReason>,
    /// Who pays for it while it waits.
    pub(super) account: Account,
    /// Its size, once the kernel did not take it whole; 0 until then.
    pub(super) waiting_bytes: usize,
}

/// What is needed to answer once the broker has.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) answer: Awaited,
    pub(super) head: RequestHead,
    pub(super) request: Request,
}

/// The answer that is to be given.
#[derive(Debug)]
pub(super) enum Awaited {
    Publish(PublishAnswer),
    Disconnect(DisconnectAnswer),
}

/// What is known of streams that an operator disconnects.
#[derive(Clone, Copy, Debug)]
pub(super) struct DisconnectAnswer {
    /// How many there were on this node, once all have ended.
    pub(super) disconnected: Option<usize>,
    /// Whether the other nodes are told, once the broker says so.
    pub(super) passed_on: Option<Result<(), PublishRefusal>>,
}

/// The ids a publish is answered with.
#[derive(Debug, Default)]
pub(super) struct PublishAnswer {
    pub(super) ids: Vec<EventId>,
    pub(super) duplicates: Vec<EventId>,
    /// It came as an array.
    pub(super) batch: bool,
}

/// Small facts about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// The last send took less than all: no other is attempted before the socket is writable.
    pub(super) const BLOCKED: Flags = Flags(1);
    /// It stands in the queue of those that are behind; walks leave it to that.
    pub(super) const CATCHING_UP: Flags = Flags(1 << 1);
    /// It gets events at most once per interval.
    pub(super) const PACED: Flags = Flags(1 << 2);
    /// It gets only the newest event of each topic.
    pub(super) const LATEST: Flags = Flags(1 << 3);
    /// It has several topics.
    pub(super) const SEVERAL_TOPICS: Flags = Flags(1 << 5);
    /// It came through a listener on loopback, which browsers on this host reach with any name that points there.
    pub(super) const LOOPBACK: Flags = Flags(1 << 4);
    /// It came through the admin listener.
    pub(super) const ADMIN: Flags = Flags(1 << 6);
    /// It has the descriptor that is kept for when there is no other.
    pub(super) const ON_SPARE: Flags = Flags(1 << 7);
    /// It has yet to send its first request.
    pub(super) const FRESH: Flags = Flags(1 << 10);
    /// The peer will send no more.
    pub(super) const ENDED: Flags = Flags(1 << 8);
    /// It stands in the queue of those that may have more to read.
    pub(super) const READABLE: Flags = Flags(1 << 9);
    /// It subscribed with a token, of which the credentials tell more.
    pub(super) const HAS_CREDENTIAL: Flags = Flags(1 << 11);
    /// It counts for its peer's address.
    pub(super) const COUNTED: Flags = Flags(1 << 12);
    /// It has yet to begin with a header of the PROXY protocol.
    pub(super) const AWAITS_PROXY_HEADER: Flags = Flags(1 << 13);

    /// It took more than its share of its last visit: others are read before it.
    pub(super) const HEAVY: Flags = Flags(1 << 14);
    /// It has not caught up since its stream began.
    pub(super) const REPLAYING: Flags = Flags(1 << 15);

    #[cfg(test)]
    const ALL: [Flags; 16] = [
        Flags::BLOCKED,
        Flags::CATCHING_UP,
        Flags::PACED,
        Flags::LATEST,
        Flags::LOOPBACK,
        Flags::SEVERAL_TOPICS,
        Flags::ADMIN,
        Flags::ON_SPARE,
        Flags::ENDED,
        Flags::READABLE,
        Flags::FRESH,
        Flags::HAS_CREDENTIAL,
        Flags::COUNTED,
        Flags::AWAITS_PROXY_HEADER,
        Flags::HEAVY,
        Flags::REPLAYING,
    ];

    /// Flags for which a walk can't just send.
    pub(super) const NOT_PLAIN: Flags =
        Flags(Flags::BLOCKED.0 | Flags::CATCHING_UP.0 | Flags::PACED.0 | Flags::LATEST.0 | Flags::SEVERAL_TOPICS.0);

    pub(super) fn has(self, any: Flags) -> bool {
        self.0 & any.0 != 0
    }

    pub(super) fn set(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    pub(super) fn clear(&mut self, flags: Flags) {
        self.0 &= !flags.0;
    }
}

/// A peer's address without what is not needed, in 18 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct CompactPeer {
    address: [u8; 16],
    port: u16,
}

/// What connections are counted by: an IPv4 address, or of IPv6 the /64 that one customer gets, in eight bytes.
///
/// IPv4 takes the place of the networks in `::/32`, which are nobody's (RFC 4291, section 2.4; RFC 6890).
pub(super) type AddressKey = [u8; 8];

impl CompactPeer {
    pub(super) fn new(peer: Peer) -> CompactPeer {
        match peer {
            Peer::Unix => CompactPeer { address: [0; 16], port: 0 },
            Peer::Inet(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                CompactPeer { address: ip.octets(), port: address.port() }
            }
        }
    }

    /// Its address; none: it came over a unix socket.
    pub(super) fn ip(self) -> Option<IpAddr> {
        let ip = Ipv6Addr::from(self.address);
        (!ip.is_unspecified()).then(|| ip.to_canonical())
    }

    /// What limits count. A unix socket's peer has a network that is nobody's, too.
    pub(super) fn key(self) -> AddressKey {
        let mut key = AddressKey::default();
        match self.ip() {
            None => key.fill(0xff),
            Some(IpAddr::V4(v4)) => key[4..].copy_from_slice(&v4.octets()),
            Some(IpAddr::V6(v6)) => key.copy_from_slice(&v6.octets()[..8]),
        }
        key
    }
}

impl fmt::Display for CompactPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip(), self.port) {
            (None, _) => f.write_str("unix"),
            // A proxy's header seldom says it.
            (Some(ip), 0) => ip.fmt(f),
            (Some(ip), port) => SocketAddr::new(ip, port).fmt(f),
        }
    }
}

impl fmt::Debug for CompactPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a connection ended. Each has its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer closed it.
    PeerClosed,
    /// The peer reset it.
    Reset,
    /// The kernel gave up on an unresponsive peer.
    TimedOut,
    /// Another error on the socket.
    SocketError,
    /// It took no byte for the stall timeout.
    Stalled,
    /// It was so slow that its next event is forgotten.
    Evicted,
    /// It held a forgotten frame while the memory was needed.
    MemoryBound,
    /// Its request took too long.
    RequestTimeout,
    /// It took too long to read an answer.
    AnswerTimeout,
    /// It kept a connection without a request for too long.
    IdleTimeout,
    /// It asked for that, or spoke HTTP/1.0.
    Answered,
    /// Its request could not be understood.
    BadRequest,
    /// It did not begin with a header of the PROXY protocol, as configured.
    ProxyHeader,
    /// A limit; told to come back.
    Refused,
    /// The server is leaving.
    Drained,
    /// The token that it subscribed with has expired.
    TokenExpired,
    /// Its stream was as old as streams may get.
    Aged,
    /// It sent data on its stream, where nothing is expected.
    Upload,
    /// A reload took away what it was let in by.
    Revoked,
    /// An operator disconnected it.
    Disconnected,
}

impl CloseReason {
    /// All of them, in the order of their counters.
    pub const ALL: [CloseReason; 20] = [
        CloseReason::PeerClosed,
        CloseReason::Reset,
        CloseReason::TimedOut,
        CloseReason::SocketError,
        CloseReason::Stalled,
        CloseReason::Evicted,
        CloseReason::MemoryBound,
        CloseReason::RequestTimeout,
        CloseReason::AnswerTimeout,
        CloseReason::IdleTimeout,
        CloseReason::Answered,
        CloseReason::BadRequest,
        CloseReason::ProxyHeader,
        CloseReason::Refused,
        CloseReason::Drained,
        CloseReason::TokenExpired,
        CloseReason::Aged,
        CloseReason::Upload,
        CloseReason::Revoked,
        CloseReason::Disconnected,
    ];

    /// As it stands in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::Reset => "reset",
            CloseReason::TimedOut => "timed_out",
            CloseReason::SocketError => "socket_error",
            CloseReason::Stalled => "stalled",
            CloseReason::Evicted => "evicted",
            CloseReason::MemoryBound => "memory_bound",
            CloseReason::RequestTimeout => "request_timeout",
            CloseReason::AnswerTimeout => "answer_timeout",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::Answered => "answered",
            CloseReason::BadRequest => "bad_request",
            CloseReason::ProxyHeader => "proxy_header",
            CloseReason::Refused => "refused",
            CloseReason::Drained => "drained",
            CloseReason::TokenExpired => "token_expired",
            CloseReason::Aged => "aged",
            CloseReason::Upload => "upload",
            CloseReason::Revoked => "revoked",
            CloseReason::Disconnected => "disconnected",
        }
    }

    /// The server gave up on this peer: an operator may want to know whom.
    pub(super) fn is_eviction(self) -> bool {
        matches!(self, CloseReason::Stalled | CloseReason::Evicted | CloseReason::MemoryBound)
    }
}

impl From<Gone> for CloseReason {
    fn from(gone: Gone) -> CloseReason {
        match gone {
            Gone::Reset => CloseReason::Reset,
            Gone::TimedOut => CloseReason::TimedOut,
            Gone::Error(_) => CloseReason::SocketError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_counted_by_ipv4_address_or_ipv6_network() {
        let check = |address: &str, key: AddressKey, shown: &str| {
            let peer = CompactPeer::new(Peer::Inet(address.parse().unwrap()));
            assert_eq!(peer.key(), key);
            assert_eq!(peer.to_string(), shown);
        };
        check("192.0.2.7:80", [0, 0, 0, 0, 192, 0, 2, 7], "192.0.2.7:80");
        check("192.0.2.7:0", [0, 0, 0, 0, 192, 0, 2, 7], "192.0.2.7");
        check("[::ffff:192.0.2.7]:80", [0, 0, 0, 0, 192, 0, 2, 7], "192.0.2.7:80");
        check("[::1]:80", [0; 8], "[::1]:80");
        check("[2001:db8:1:2:3:4:5:6]:80", [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 2], "[2001:db8:1:2:3:4:5:6]:80");
        let unix = CompactPeer::new(Peer::Unix);
        assert_eq!((unix.ip(), unix.key(), unix.to_string().as_str()), (None, [0xff; 8], "unix"));
    }

    #[test]
    fn every_flag_has_a_bit_of_its_own() {
        for (index, flag) in Flags::ALL.into_iter().enumerate() {
            assert_eq!(flag, Flags(1 << index));
        }
    }

    #[test]
    fn every_close_reason_has_its_own_counter() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
