//! The loop's settings: parsed and checked values, no files, flags or environment.

pub use super::hosts::Cors;
use super::hosts::is_same;
use crate::auth::proxies::TrustedProxies;
use crate::auth::{Patterns, Tokens, Verifier};
use crate::config::{DeliveryConfig, DrainConfig, LimitsConfig};
use crate::hub::TopicRule;
use crate::protocol::head::RequestHead;

/// How the loop behaves: the options that it reads, and what follows from others.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How streams are delivered.
    pub delivery: DeliveryConfig,
    /// What applies to some topics alone; of several that match a topic, the first one counts.
    pub topic_rules: Vec<TopicRule>,
    /// What is bounded, and by how much.
    pub limits: LimitsConfig,
    /// How the server leaves.
    pub drain: DrainConfig,
    /// How many bytes catching up may send in one turn.
    pub catch_up_bytes_max: usize,
    /// Open streams: `limits` may allow more than the file descriptors do.
    pub streams_max: usize,
    /// How many connections the file descriptors allow in all.
    pub connections_total_max: usize,
    /// Which proxies may speak for clients, and how.
    pub proxies: Proxies,
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
    /// The port of the first listener with TLS, if there is one: where clients of a listener that redirects are sent.
    pub https_port: Option<u16>,
    /// Each certificate in force: its file, and when it expires, in seconds since 1970.
    pub certificates: Vec<(String, u64)>,
    /// Sources whose loss makes the server unready.
    pub ready_requires: Vec<String>,
}

impl Settings {
    /// True when a stream that this request opens is compressed.
    pub(super) fn compresses_for(&self, head: &RequestHead) -> bool {
        self.delivery.compress && head.accepts_gzip
    }

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
