//! Origins of pages (CORS, as the Fetch standard has it) and names of hosts, as requests give them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::protocol::head::RequestHead;

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
    /// True when pages of this origin may read and publish.
    pub fn allows(&self, origin: &str) -> bool {
        self.any
            || self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            || (self.any_localhost && authority(origin).is_some_and(is_loopback))
    }
}

/// True when a page calls the host that it came from. The scheme is not compared: a proxy may have removed TLS.
pub(crate) fn is_same(origin: &str, head: &RequestHead) -> bool {
    head.host.as_deref().is_some_and(|host| origin.split_once("://").is_some_and(|(_, at)| at == host))
}

fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// An authority without its port, if it has one.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// True when an authority names exactly this host, with any port or none; a dot at its end makes no difference.
pub(crate) fn is_name(authority: &str, name: &str) -> bool {
    let host = without_port(authority);
    host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(name)
}

/// True for an address instead of a name, with any port or none.
pub(crate) fn is_address(authority: &str) -> bool {
    let host = without_port(authority);
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok() || in_brackets.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// True for a name (RFC 6761, 6.3) or an address that never leaves this host, with any port or none.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = without_port(authority);
    // The last byte tells which of the three it may be: each request is checked, and parsing an address takes longest.
    match host.as_bytes().last() {
        Some(b'0'..=b'9') => host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
        Some(b']') => {
            let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            address.is_some_and(|host| host.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()))
        }
        _ => host.rsplit('.').next().is_some_and(|domain| domain.eq_ignore_ascii_case("localhost")),
    }
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
