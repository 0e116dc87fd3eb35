//! The loop's settings: resolved values, no files, flags or environment.

use std::time::Duration;

pub use super::hosts::Cors;
use super::hosts::is_same;
use crate::auth::proxies::TrustedProxies;
use crate::auth::{Patterns, Tokens, Verifier};
use crate::event::Topic;
use crate::protocol::head::{HeadLimits, RequestHead};
use crate::protocol::publish::PublishLimits;

/// How the loop behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The stream of `GET /events` that names no topic, and of `stream_endpoint`.
    pub default_topic: Topic,
    /// The stream of `GET /dashboard/stream`.
    pub dashboard_topic: Topic,
    /// Another path for the default stream.
    pub stream_endpoint: Option<String>,
    /// How streams are delivered.
    pub delivery: Delivery,
    /// Which proxies may speak for clients, and how.
    pub proxies: Proxies,
    /// What is bounded, and by how much.
    pub limits: Limits,
    /// Who may publish over HTTP.
    pub publishing: Publishing,
    /// Who may see metrics, topics and the debug view outside the admin listener; none, and no `jwt`: every client on
    /// this host, if only this host reaches the server.
    pub operators: Tokens,
    /// Metrics, topics and the debug view are open to every client, regardless of the other settings.
    pub open_reports: bool,
    /// Host names that listeners on loopback accept in addition to their own, in lower case.
    pub allowed_hosts: Vec<String>,
    /// How JSON Web Tokens are checked; none: subscribing needs no token, and no JWT grants access.
    pub jwt: Option<Jwt>,
    /// Which pages of other origins may read and publish.
    pub cors: Cors,
    /// How the server leaves.
    pub drain: Drain,
    /// Sources whose loss makes the server unready.
    pub ready_requires: Vec<String>,
    /// How many connections the file descriptors allow in all.
    pub connections_total_max: usize,
}

impl Settings {
    /// True under `--dev`.
    pub(super) fn is_dev(&self) -> bool {
        matches!(self.publishing, Publishing::Loopback(_))
    }

    /// True unless a page of a foreign origin sends the request: a browser adds cookies to any page's requests.
    pub(super) fn trusts_cookies(&self, head: &RequestHead) -> bool {
        let Some(origin) = &head.origin else { return true };
        is_same(origin, head) || (!self.cors.any && self.cors.allows(origin))
    }

    /// True for requests that need no token under `--dev`. Others may be foreign: a proxy forwards outside requests to
    /// the loopback address, and a browser runs foreign pages.
    pub(super) fn is_open_to(&self, head: &RequestHead) -> bool {
        let foreign_page = head.origin.as_ref().is_some_and(|origin| !self.cors.allows(origin));
        self.is_dev() && !head.forwarded && !foreign_page
    }
}

/// How JSON Web Tokens are checked.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Holds the keys.
    pub verifier: Verifier,
    /// The cookie that may hold a subscriber's token.
    pub cookie: String,
    /// Topics that need no token.
    pub public_topics: Patterns,
    /// Subjects and token ids that may be denied at a time.
    pub denied_tokens_max: usize,
}

/// Which proxies may speak for clients, and how.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// The proxies whose client addresses are believed.
    pub trusted: TrustedProxies,
    /// Only these proxies may open public connections, and each begins with a header of the PROXY protocol.
    pub protocol: bool,
}

impl Proxies {
    /// True when a request's client may be another than its connection's peer.
    pub(super) fn are_configured(&self) -> bool {
        self.protocol || !self.trusted.is_empty()
    }
}

/// How streams are delivered.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The reconnection time sent to clients, before jitter.
    pub retry: Duration,
    /// The longest silence of a stream.
    pub heartbeat_interval: Duration,
    /// How long a subscriber may accept no byte.
    pub stall_timeout: Duration,
    /// What happens to a subscriber whose next event is evicted.
    pub slow_policy: SlowPolicy,
    /// The shortest interval between two deliveries to one subscriber; zero delivers at once.
    pub interval_floor: Duration,
    /// How many bytes catching up may send in one turn.
    pub catch_up_bytes_per_tick: usize,
}

/// What happens to a subscriber whose next event is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPolicy {
    /// Its stream ends, and it comes back with its last id.
    Close,
    /// It receives a gap event and continues with the newest event.
    Skip,
}

/// What is bounded, and by how much.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open streams.
    pub streams_max: usize,
    /// Connections from one address (of IPv6: one /64).
    pub connections_per_address_max: Option<u32>,
    /// Connections accepted in a second.
    pub accepts_per_second_max: Option<u32>,
    /// How old a stream may become.
    pub connection_age_max: Option<Duration>,
    /// A request's head.
    pub head: HeadLimits,
    /// How long a request's head may take.
    pub head_timeout: Duration,
    /// A request's body.
    pub body_bytes_max: usize,
    /// How long a request with a body may take.
    pub body_timeout: Duration,
    /// How long a connection may be kept without a request.
    pub idle_timeout: Duration,
    /// Topics of one stream.
    pub topics_per_subscriber_max: usize,
    /// Requests that may arrive ahead of their answers.
    pub pipelined_max: usize,
    /// Bytes of answers that clients have not read yet, in all.
    pub answer_bytes_max: usize,
    /// The content of a publish body.
    pub publish: PublishLimits,
    /// Events that one token may publish in a second.
    pub events_per_second_max: Option<u32>,
}

/// Who may publish over HTTP.
#[derive(Clone, Debug)]
pub enum Publishing {
    /// No publish token is configured: only JWTs may publish, if `jwt` is set.
    Refused,
    /// Clients that show one of these.
    Tokens(Tokens),
    /// Clients on this host (`--dev`); a request through a proxy or from a foreign page needs a token.
    Loopback(Tokens),
}

/// How the server leaves.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// How long it is unready but still accepts.
    pub notice: Duration,
    /// Over how long the streams are closed after that.
    pub duration: Duration,
}
