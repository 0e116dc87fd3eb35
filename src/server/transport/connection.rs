//! A connection: what the loop stores for one socket, in at most 64 bytes. A subscriber's stream is a part of it, so
//! that a walk reads one place in memory for each delivery.
//!
//! What only few connections need (a half-read request, a half-written frame, a pace) is stored elsewhere, and only
//! while it is needed.

use super::answers::Account;
use super::peer::CompactPeer;
use super::request::Request;
use crate::event::{EventId, Sequence};
use crate::io::{Gone, Socket};
use crate::protocol::head::RequestHead;
use crate::server::node::letter::Inquiry;
use crate::server::wheel::Tick;
use crate::sources::channel::PublishRefusal;

/// One connection, named by its slot in the slab and by `generation`, which differs for each connection of a slot.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    /// Its other end, or the client that a trusted proxy names for it.
    pub(crate) peer: CompactPeer,
    pub(crate) flags: Flags,
    /// When its phase began; for a stream, when something was last written.
    pub(crate) since: Tick,
    /// The one tick at which the wheel's entry for it counts.
    pub(crate) armed_for: Tick,
}

const _: () = assert!(size_of::<Option<Connection>>() <= 64, "a slab entry");

impl Connection {
    /// Its stream, if it is a subscriber's.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        match &self.phase {
            Phase::Streaming(stream) => Some(stream),
            _ => None,
        }
    }

    pub(crate) fn stream_mut(&mut self) -> Option<&mut Stream> {
        match &mut self.phase {
            Phase::Streaming(stream) => Some(stream),
            _ => None,
        }
    }

    pub(crate) fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Streaming(_))
    }

    /// Takes the request out of its phase, with the bytes that arrived after it; the caller sets the next phase.
    pub(crate) fn take_request(&mut self) -> Request {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Requesting(request) => *request,
            Phase::Publishing(publishing) => publishing.request,
            _ => Request::default(),
        }
    }
}

/// A subscriber's stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Every event of its topics up to this one was sent, or at least begun.
    pub(crate) delivered_through: Sequence,
    /// When its token expires or its age is reached, whichever comes first.
    pub(crate) ends_at: Tick,
    pub(crate) mode: StreamMode,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// Its TLS handshake is under way.
    Securing,
    /// Between requests; no byte of the next one is here.
    Idle,
    /// A request is being read.
    Requesting(Box<Request>),
    /// A response is being written.
    Responding(Box<Responding>),
    /// The answer waits for a broker, for a sweep, or for other loops.
    Publishing(Box<Publishing>),
    /// A subscriber.
    Streaming(Stream),
    /// All was sent, and it closes for this reason; what the peer still sends is discarded until it closes too.
    Lingering(CloseReason),
    /// Its socket is closed; its slot is reaped at the end of the turn.
    Dead,
}

/// What follows a response that is being written.
#[derive(Debug)]
pub(crate) struct Responding {
    /// What arrived after the request that it answers.
    pub(crate) request: Request,
    /// It is the connection's last, for this reason.
    pub(crate) last: Option<CloseReason>,
    /// The account that it is charged to while it waits.
    pub(crate) account: Account,
    /// Its size, if the kernel did not take it whole; otherwise 0.
    pub(crate) waiting_bytes: usize,
}

/// What is needed for an answer that has to wait.
#[derive(Debug)]
pub(crate) struct Publishing {
    pub(crate) answer: Awaited,
    pub(crate) head: RequestHead,
    pub(crate) request: Request,
}

/// The answer that is awaited.
#[derive(Debug)]
pub(crate) enum Awaited {
    Publish(PublishAnswer),
    Disconnect(DisconnectAnswer),
    /// The replies of other loops.
    Inquiry(Inquiry),
    /// That this loop has appended what a client may have received through another one.
    Stream,
}

/// The state of a disconnect that an operator requested.
#[derive(Debug)]
pub(crate) struct DisconnectAnswer {
    /// How many streams have ended on this node.
    pub(crate) ended: usize,
    /// The loops whose sweep is not over.
    pub(crate) sweeping: Vec<usize>,
    /// Whether the broker accepted it for the other nodes, once that is known.
    pub(crate) passed_on: Option<Result<(), PublishRefusal>>,
}

/// The ids in the answer to a publish.
#[derive(Debug, Default)]
pub(crate) struct PublishAnswer {
    pub(crate) ids: Vec<EventId>,
    pub(crate) duplicates: Vec<EventId>,
    /// It came as an array.
    pub(crate) batch: bool,
}

/// Small facts about a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamMode(u8);

impl StreamMode {
    /// It gets events at most once per interval.
    pub(crate) const PACED: StreamMode = StreamMode(1);
    /// It gets only the newest event of each topic.
    pub(crate) const LATEST: StreamMode = StreamMode(1 << 1);
    /// It has several topics.
    pub(crate) const SEVERAL_TOPICS: StreamMode = StreamMode(1 << 2);
    /// It has not caught up since it began.
    pub(crate) const REPLAYING: StreamMode = StreamMode(1 << 3);

    /// Its heartbeats carry the position, so that its client's id keeps up while its topics are quiet.
    pub(crate) const POSITION_HEARTBEATS: StreamMode = StreamMode(1 << 4);

    /// It needs what the logs no longer hold, and a durable bus has it.
    pub(crate) const FETCHING: StreamMode = StreamMode(1 << 5);

    /// Its client gets gzip.
    pub(crate) const COMPRESSED: StreamMode = StreamMode(1 << 6);

    /// Compressed: the last that it was sent is its log's segment so far, with nothing in between.
    pub(crate) const HAS_SEGMENT: StreamMode = StreamMode(1 << 7);

    /// Its runs are its own.
    pub(crate) const APART: StreamMode =
        StreamMode(StreamMode::PACED.0 | StreamMode::LATEST.0 | StreamMode::FETCHING.0);

    /// What differs from plain delivery: a walk sends a shared run to streams without these, and to those of several topics
    /// of which only one has news.
    pub(crate) const SPECIAL: StreamMode = StreamMode(StreamMode::APART.0 | StreamMode::SEVERAL_TOPICS.0);

    /// A stream without these always gets the shared run as it is.
    pub(crate) const NOT_PLAIN: StreamMode = StreamMode(StreamMode::SPECIAL.0 | StreamMode::COMPRESSED.0);

    /// What keeps a stream from getting a shared run as it is, whatever it has news of.
    pub(crate) const NOT_SHARED: StreamMode = StreamMode(StreamMode::APART.0 | StreamMode::COMPRESSED.0);

    pub(crate) fn has(self, any: StreamMode) -> bool {
        self.0 & any.0 != 0
    }

    pub(crate) fn set(&mut self, mode: StreamMode) {
        self.0 |= mode.0;
    }

    pub(crate) fn clear(&mut self, mode: StreamMode) {
        self.0 &= !mode.0;
    }

    pub(crate) fn assign(&mut self, mode: StreamMode, is_set: bool) {
        if is_set { self.set(mode) } else { self.clear(mode) }
    }
}

/// Small facts about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    /// The last send was incomplete: the next one waits until the socket is writable.
    pub(crate) const BLOCKED: Flags = Flags(1);
    /// It is in the queue of connections that are behind; walks skip it.
    pub(crate) const CATCHING_UP: Flags = Flags(1 << 1);
    /// It came through a listener on loopback, which browsers on this host reach with any name that points there.
    pub(crate) const LOOPBACK: Flags = Flags(1 << 2);
    /// It came through the admin listener.
    pub(crate) const ADMIN: Flags = Flags(1 << 3);
    /// It has the spare descriptor, which is reserved for when no other is left.
    pub(crate) const ON_SPARE: Flags = Flags(1 << 4);
    /// It has not sent a request yet.
    pub(crate) const FRESH: Flags = Flags(1 << 5);
    /// The peer will send no more.
    pub(crate) const ENDED: Flags = Flags(1 << 6);
    /// It is in the queue of connections that may have more to read.
    pub(crate) const READABLE: Flags = Flags(1 << 7);
    /// It counts for its peer's address.
    pub(crate) const COUNTED: Flags = Flags(1 << 8);
    /// It has not sent its header of the PROXY protocol yet.
    pub(crate) const AWAITS_PROXY_HEADER: Flags = Flags(1 << 9);
    /// It took more than its share of its last visit: others are read before it.
    pub(crate) const HEAVY: Flags = Flags(1 << 10);

    /// It is a stream with the server's statistics among its topics.
    pub(crate) const WATCHES: Flags = Flags(1 << 11);

    /// It came through a listener that sends clients to the one with TLS.
    pub(crate) const REDIRECTS: Flags = Flags(1 << 12);

    /// Its TLS keys have sealed so much that it should end soon.
    pub(crate) const WORN: Flags = Flags(1 << 13);

    /// Its TLS handshake has not begun: it has sent nothing but a PROXY header, if that.
    pub(crate) const AWAITS_HANDSHAKE: Flags = Flags(1 << 14);

    #[cfg(test)]
    const ALL: [Flags; 15] = [
        Flags::BLOCKED,
        Flags::CATCHING_UP,
        Flags::LOOPBACK,
        Flags::ADMIN,
        Flags::ON_SPARE,
        Flags::FRESH,
        Flags::ENDED,
        Flags::READABLE,
        Flags::COUNTED,
        Flags::AWAITS_PROXY_HEADER,
        Flags::HEAVY,
        Flags::WATCHES,
        Flags::REDIRECTS,
        Flags::WORN,
        Flags::AWAITS_HANDSHAKE,
    ];

    /// Flags of connections that only the queue of those that are behind sends to.
    pub(crate) const BEHIND: Flags = Flags(Flags::BLOCKED.0 | Flags::CATCHING_UP.0);

    pub(crate) fn has(self, any: Flags) -> bool {
        self.0 & any.0 != 0
    }

    pub(crate) fn set(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    pub(crate) fn clear(&mut self, flags: Flags) {
        self.0 &= !flags.0;
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
    /// It was so slow that its next event was evicted.
    Evicted,
    /// It held an evicted frame while the memory was needed.
    MemoryBound,
    /// Its request took too long.
    RequestTimeout,
    /// It took too long to read an answer.
    AnswerTimeout,
    /// It kept a connection without a request for too long.
    IdleTimeout,
    /// Its last answer was sent: the client asked for the close, or used HTTP/1.0.
    Answered,
    /// Its request could not be understood.
    BadRequest,
    /// It did not begin with a header of the PROXY protocol, as configured.
    ProxyHeader,
    /// Its TLS handshake failed.
    Handshake,
    /// Its TLS handshake took too long.
    HandshakeTimeout,
    /// It sent a TLS record that was changed on the way, or an alert, or a KeyUpdate, which is not supported.
    TlsRecord,
    /// Its TLS keys had sealed as much as they may.
    KeysUsedUp,
    /// A limit refused it, with a time to come back.
    Refused,
    /// The server is leaving.
    Drained,
    /// The token that it subscribed with has expired.
    TokenExpired,
    /// Its stream reached the maximum age.
    Aged,
    /// It sent data on its stream, where nothing is expected.
    Upload,
    /// A reload took away its access.
    Revoked,
    /// An operator disconnected it.
    Disconnected,
}

impl CloseReason {
    /// All of them, in the order of their counters.
    pub const ALL: [CloseReason; 24] = [
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
        CloseReason::Handshake,
        CloseReason::HandshakeTimeout,
        CloseReason::TlsRecord,
        CloseReason::KeysUsedUp,
        CloseReason::Refused,
        CloseReason::Drained,
        CloseReason::TokenExpired,
        CloseReason::Aged,
        CloseReason::Upload,
        CloseReason::Revoked,
        CloseReason::Disconnected,
    ];

    /// Its name in metrics and logs.
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
            CloseReason::Handshake => "handshake",
            CloseReason::HandshakeTimeout => "handshake_timeout",
            CloseReason::TlsRecord => "tls_record",
            CloseReason::KeysUsedUp => "keys_used_up",
            CloseReason::Refused => "refused",
            CloseReason::Drained => "drained",
            CloseReason::TokenExpired => "token_expired",
            CloseReason::Aged => "aged",
            CloseReason::Upload => "upload",
            CloseReason::Revoked => "revoked",
            CloseReason::Disconnected => "disconnected",
        }
    }

    /// The server gave up on this peer; an operator may want to see which.
    pub(crate) fn is_eviction(self) -> bool {
        matches!(self, CloseReason::Stalled | CloseReason::Evicted | CloseReason::MemoryBound)
    }
}

impl From<Gone> for CloseReason {
    fn from(gone: Gone) -> CloseReason {
        match gone {
            Gone::Reset => CloseReason::Reset,
            Gone::TimedOut => CloseReason::TimedOut,
            Gone::Record => CloseReason::TlsRecord,
            Gone::KeysUsedUp => CloseReason::KeysUsedUp,
            Gone::Error(_) => CloseReason::SocketError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
