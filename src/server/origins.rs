//! Pages and the hosts that they come from: whose may read (CORS, as the Fetch standard has it), and under which names
//! a listener on loopback is asked.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Server;
use super::connection::Flags;
use super::log_entries::LogEntry;
use crate::io::Io;
use crate::observe::clip::clip;
use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};

/// Refused origins that are remembered, so that the same ones are not logged again and again.
const REFUSED_ORIGINS_MAX: usize = 100;

/// Which pages of other origins may read and publish.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Exactly these origins.
    pub origins: Vec<String>,
    /// Any origin on this host, with any port (`--dev`).
    pub any_localhost: bool,
    /// Every origin: the streams are public.
    pub any: bool,
}

impl Cors {
    /// True when pages of this origin may.
    pub fn allows(&self, origin: &str) -> bool {
        self.any
            || self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            || (self.any_localhost && authority(origin).is_some_and(is_loopback))
    }
}

/// The refused origins that were logged last, clipped as they are logged.
#[derive(Debug, Default)]
pub(super) struct RefusedOrigins(VecDeque<String>);

impl RefusedOrigins {
    /// True for one of them.
    fn has(&self, origin: &str) -> bool {
        self.0.iter().any(|logged| logged == origin)
    }

    /// Remembers one more, and forgets the oldest for it: whatever strangers invent, there is room for a real one.
    fn remember(&mut self, origin: Cow<'_, str>) {
        if self.0.len() >= REFUSED_ORIGINS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(origin.into_owned());
    }
}

impl<I: Io> Server<I> {
    /// What a page's origin may know; a refused one is logged, with what would permit it.
    pub(super) fn cors_headers(&mut self, head: &RequestHead) -> Vec<(&'static str, String)> {
        let Some(origin) = &head.origin else { return Vec::new() };
        let exposed = ("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate".to_owned());
        if self.settings.cors.any {
            // Never with credentials: what is for every page is nobody's in particular.
            return vec![("Access-Control-Allow-Origin", "*".to_owned()), exposed];
        }
        let vary = ("Vary", "Origin".to_owned());
        if self.settings.cors.allows(origin) {
            let credentials = ("Access-Control-Allow-Credentials", "true".to_owned());
            return vec![("Access-Control-Allow-Origin", origin.clone()), credentials, exposed, vary];
        }
        if !is_same(origin, head) {
            self.log_refused_origin(origin);
        }
        vec![vary]
    }

    fn log_refused_origin(&mut self, origin: &str) {
        let origin = clip(origin);
        if !self.refused_origins.has(&origin) && self.may_log(LogEntry::OriginRefused) {
            // Not as it is: it may hold what moves a terminal's cursor or turns its text round.
            tracing::warn!(
                origin = &*origin,
                "{}; --cors-origin {origin:?} would permit it",
                LogEntry::OriginRefused.text()
            );
            self.refused_origins.remember(origin);
        }
    }

    /// The answer to OPTIONS: what a route takes and, to a page that may, what it may send.
    pub(super) fn preflight(&mut self, head: &RequestHead, methods: &'static str) -> Response {
        let response = Response::new(204).with_header("Allow", methods);
        let allowed = head.origin.as_ref().is_some_and(|origin| self.settings.cors.allows(origin));
        if !allowed || head.access_control_request_method.is_none() {
            return response;
        }
        response
            .with_header("Access-Control-Allow-Methods", methods)
            .with_header("Access-Control-Allow-Headers", "Authorization, Cache-Control, Content-Type, Last-Event-ID")
            .with_header("Access-Control-Max-Age", "600")
    }

    /// On loopback, refuses requests for a host that is not this one. A page whose name was made to point here (DNS
    /// rebinding) would else be of our own origin, and free to read and to publish.
    ///
    /// A trusted proxy passes on public names, and what it lets through is for the public anyway. Forwarding headers alone
    /// prove no proxy: a page may send most of them. Under `--dev`, where no token is needed, no proxy is trusted so far.
    pub(super) fn check_host(&self, slot: u32, head: &RequestHead) -> Result<(), Response> {
        let connection = &self.connections[slot as usize];
        let Some(host) = head.host.as_deref().filter(|_| connection.flags.has(Flags::LOOPBACK)) else { return Ok(()) };
        let is_dev = self.settings.is_dev();
        let is_proxied =
            !connection.flags.has(Flags::ADMIN) && (self.settings.proxies.protocol || self.is_trusted(connection.peer));
        // No page has a name that is an address. Under --dev even the addresses of this host's networks are not its own.
        let is_own = is_loopback(host) || (!is_dev && is_address(host));
        let is_allowed = || self.settings.allowed_hosts.iter().any(|allowed| is_name(host, allowed));
        if (is_proxied && !is_dev) || is_own || is_allowed() {
            return Ok(());
        }
        let detail = "this listener on loopback answers to localhost, to addresses, and to the names of --allowed-host; a \
                      proxy in front of it is named by --trusted-proxy";
        Err(response::problem(421, "Not this host", detail))
    }
}

/// True when a page asks the server that it came from; what scheme a proxy in between took away is not known here.
pub(super) fn is_same(origin: &str, head: &RequestHead) -> bool {
    head.host.as_deref().is_some_and(|host| origin.split_once("://").is_some_and(|(_, at)| at == host))
}

fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// An authority without its port, if it has one.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// True when an authority names exactly this host, with any port or none; a dot at its end changes nothing.
fn is_name(authority: &str, name: &str) -> bool {
    let host = without_port(authority);
    host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(name)
}

/// True for an address instead of a name, with any port or none.
fn is_address(authority: &str) -> bool {
    let host = without_port(authority);
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok() || in_brackets.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// True for a name (RFC 6761, 6.3) or an address that never leaves this host, with any port or none.
fn is_loopback(authority: &str) -> bool {
    let host = without_port(authority);
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
        || in_brackets.is_some_and(|host| host.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()))
        || host.rsplit('.').next().is_some_and(|domain| domain.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact_and_localhost_is_a_host_not_a_prefix() {
        let cors = Cors { origins: vec!["https://app.example".into()], any_localhost: true, any: false };
        let check = |origin: &str, allowed: bool| assert_eq!(cors.allows(origin), allowed, "{origin}");
        check("https://app.example", true);
        check("https://APP.example", true);
        check("https://app.example:8443", false);
        check("https://app.example.evil.test", false);
        check("http://localhost:5173", true);
        check("http://127.0.0.1", true);
        check("http://[::1]:80", true);
        check("http://localhost.evil.test", false);
        check("http://localhost:5173@evil.test", false);
        check("null", false);
    }

    #[test]
    fn a_host_is_named_whole_whatever_its_port_and_case() {
        for good in ["events.example.com", "Events.Example.COM:443", "events.example.com.", "events.example.com.:1"] {
            assert!(is_name(good, "events.example.com"), "{good}");
        }
        for bad in ["", "example.com", "x.events.example.com", "events.example.com..", "events.example.com:80:evil"] {
            assert!(!is_name(bad, "events.example.com"), "{bad}");
        }
        for address in ["10.0.0.1", "10.0.0.1:3001", "[::2]", "[2001:db8::1]:80", "0.0.0.0"] {
            assert!(is_address(address), "{address}");
        }
        for name in ["", ":80", "10.0.0.1.nip.io", "::2", "2130706433", "[::2", "[evil]", "10.0.0.1:80:evil"] {
            assert!(!is_address(name), "{name}");
        }
    }

    #[test]
    fn a_loopback_host_is_one_whatever_its_port_and_nothing_that_looks_like_it() {
        for good in
            ["localhost", "LOCALHOST:3001", "app.localhost:1", "127.0.0.1:3001", "127.9.9.9", "[::1]", "[::1]:80"]
        {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "evil.test",
            "localhost.evil.test",
            "evillocalhost",
            "127.0.0.1.evil.test",
            "127.0.0.1.nip.io:3001",
            "128.0.0.1",
            "0.0.0.0",
            "2130706433",
            "0x7f.1",
            "127.1",
            "::1",
            "[::2]",
            "[::ffff:127.0.0.1]",
            "[localhost]",
            "localhost:80:evil.test",
            "user@localhost",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
