//! The client that a request is from, as proxies report it: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy appends the address that it received the request from, so only the end of the list is reliable. The list
//! is read from the end, and the first hop that is not trusted is the client. What precedes it may be forged.

use std::net::{IpAddr, SocketAddr};

use super::fields::{split_quoted, trim};

/// The lines of both headers, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedFor {
    /// `Forwarded`.
    pub forwarded: Vec<String>,
    /// `X-Forwarded-For`.
    pub x_forwarded_for: Vec<String>,
}

impl ForwardedFor {
    /// The client, if a trusted proxy named it; port 0 means that the port is unknown.
    ///
    /// A proxy that sets one of the two headers passes the other on unchanged. If they name different clients, the
    /// server trusts neither.
    pub fn client(&self, is_trusted: impl Fn(IpAddr) -> bool) -> Option<SocketAddr> {
        let by_forwarded = self.forwarded.iter().rev().flat_map(|line| forwarded_hops(line));
        let by_forwarded = first_untrusted(by_forwarded, &is_trusted);
        let by_plain = self.x_forwarded_for.iter().rev().flat_map(|line| plain_hops(line));
        let by_plain = first_untrusted(by_plain, &is_trusted);
        match (self.forwarded.is_empty(), self.x_forwarded_for.is_empty()) {
            (false, false) => by_forwarded.filter(|client| by_plain.is_some_and(|other| other.ip() == client.ip())),
            _ => by_forwarded.or(by_plain),
        }
    }
}

/// The first hop that is not trusted; if a hop before it is hidden, the last known one.
fn first_untrusted(
    hops: impl Iterator<Item = Option<SocketAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<SocketAddr> {
    let mut client = None;
    for hop in hops {
        let Some(address) = hop else { break };
        client = Some(address);
        if !is_trusted(address.ip()) {
            break;
        }
    }
    client
}

/// The hops of a `Forwarded` line, nearest first: `for=192.0.2.7;proto=https, for="[2001:db8::7]:47011"`.
fn forwarded_hops(line: &str) -> impl Iterator<Item = Option<SocketAddr>> {
    let elements: Vec<_> = split_quoted(line, b',').collect();
    elements.into_iter().rev().map(|element| {
        let mut node = None;
        for pair in split_quoted(element, b';').map(trim).filter(|pair| !pair.is_empty()) {
            // A quote in a name is as suspicious as one that is not closed.
            let (name, value) = pair.split_once('=').filter(|(name, _)| !name.contains('"'))?;
            let value = unquote(trim(value))?;
            // With two `for` in one element it is unclear which one counts.
            if trim(name).eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                return None;
            }
        }
        address(node?)
    })
}

/// A token, or the text between the quotes. None if the quotes are not closed: they may be a trick to swallow what the
/// next proxy appended.
fn unquote(value: &str) -> Option<&str> {
    let Some(quoted) = value.strip_prefix('"') else { return (!value.contains('"')).then_some(value) };
    let mut escaped = false;
    let end = quoted.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    (end + 1 == quoted.len()).then(|| &quoted[..end])
}

/// The hops of an `X-Forwarded-For` line, nearest first.
fn plain_hops(line: &str) -> impl Iterator<Item = Option<SocketAddr>> {
    line.rsplit(',').map(|hop| address(trim(hop)))
}

/// An address with or without brackets and a port; none for `unknown`, for obfuscated identifiers (`_gateway`), and for
/// text that is not an address.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port),
        None if text.matches(':').count() == 1 => text.split_at(text.find(':')?),
        None => (text, ""),
    };
    // RFC 7239, 6.2: a port may be hidden, too.
    let port = match port.strip_prefix(':') {
        Some(port) if port.starts_with('_') => 0,
        Some(port) => port.parse().ok()?,
        None if port.is_empty() => 0,
        None => return None,
    };
    let ip: IpAddr = host.parse().ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port)).filter(|address| !address.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client that these lines name if 10.0.0.0/8 is trusted, by either header alone.
    fn client(forwarded: &[&str], x_forwarded_for: &[&str]) -> Option<String> {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let named = ForwardedFor { forwarded: owned(forwarded), x_forwarded_for: owned(x_forwarded_for) };
        let is_trusted = |address: IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
        named.client(is_trusted).map(|client| client.to_string())
    }

    #[test]
    fn the_first_hop_from_the_end_that_is_not_trusted_is_the_client() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(client(&[], &[line]).as_deref(), expected, "{line:?}");
            let forwarded = line.split(", ").map(|hop| format!("for=\"{hop}\"")).collect::<Vec<_>>().join(", ");
            assert_eq!(client(&[&forwarded], &[]).as_deref(), expected, "{forwarded:?}");
        };
        check("192.0.2.7", Some("192.0.2.7:0"));
        check("192.0.2.7:4711", Some("192.0.2.7:4711"));
        check("203.0.113.9, 192.0.2.7", Some("192.0.2.7:0"));
        check("192.0.2.7, 10.0.0.1, 10.0.0.2", Some("192.0.2.7:0"));
        check("10.0.0.1, 10.0.0.2", Some("10.0.0.1:0"));
        check("203.0.113.9, unknown, 10.0.0.2", Some("10.0.0.2:0"));
        check("_hidden, 192.0.2.7", Some("192.0.2.7:0"));
        check("192.0.2.7, _hidden", None);
        check("unknown", None);
        check("[2001:db8::7]", Some("[2001:db8::7]:0"));
        check("[2001:db8::7]:80", Some("[2001:db8::7]:80"));
        check("2001:db8::7", Some("[2001:db8::7]:0"));
        check("::ffff:192.0.2.7", Some("192.0.2.7:0"));
        for bad in
            ["", "x", "192.0.2", "192.0.2.7:x", "192.0.2.7:65536", "[2001:db8::7", "[2001:db8::7]x", "::", "0.0.0.0"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        let check =
            |line: &str, expected: Option<&str>| assert_eq!(client(&[line], &[]).as_deref(), expected, "{line:?}");
        check("for=192.0.2.7", Some("192.0.2.7:0"));
        check("For = 192.0.2.7 ; proto=https", Some("192.0.2.7:0"));
        check("proto=http;by=10.0.0.1;FOR=\"192.0.2.7:80\"", Some("192.0.2.7:80"));
        check("for=\"192.0.2.7:_secret\"", Some("192.0.2.7:0"));
        check("for=192.0.2.7;host=\"a, for=203.0.113.9\"", Some("192.0.2.7:0"));
        check("for=192.0.2.7;host=\"\\\", for=203.0.113.9;x=\\\"\"", Some("192.0.2.7:0"));
        check("for=192.0.2.7, proto=https", None);
        check("for=192.0.2.7;for=203.0.113.9", None);
        // An open quote swallows what the proxy appended: no address is better than one the client chose.
        for trick in ["for=203.0.113.9;x=\"", "x=\";for=203.0.113.9", "for=203.0.113.9;x=y\"", "for=203.0.113.9;x=\"\\"]
        {
            check(&format!("{trick}, for=192.0.2.7"), None);
        }
        check("for=\"192.0.2.7\"x", None);
        check("for=192.0.2.7;", Some("192.0.2.7:0"));
        check("for=192.0.2.7;proto", None);
    }

    #[test]
    fn the_last_line_is_the_nearest() {
        assert_eq!(client(&[], &["203.0.113.9", "192.0.2.7, 10.0.0.1"]).as_deref(), Some("192.0.2.7:0"));
        assert_eq!(client(&["for=\"", "for=192.0.2.7"], &[]).as_deref(), Some("192.0.2.7:0"));
    }

    #[test]
    fn two_headers_that_name_two_clients_name_none() {
        assert_eq!(client(&["for=192.0.2.7"], &["192.0.2.7:80"]).as_deref(), Some("192.0.2.7:0"));
        assert_eq!(client(&["for=203.0.113.9"], &["192.0.2.7"]), None);
        assert_eq!(client(&["for=unknown"], &["192.0.2.7"]), None);
        assert_eq!(client(&[], &[]), None);
    }
}
