//! The header of the PROXY protocol, versions 1 and 2, in which a proxy that forwards bytes names the client
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). It comes once, before a connection's first byte.
//!
//! Strict: anything that is not exactly such a header is refused. Its extensions (TLVs) are skipped, within a bound.

use std::net::{IpAddr, SocketAddr};

use super::Parsed;

/// The longest line of version 1, its end included (specification, 2.1).
const LINE_BYTES_MAX: usize = 107;
/// The start of version 2. No other protocol starts with these bytes.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, and length.
const FIXED_BYTES: usize = 16;
/// Addresses and extensions of version 2: more than certificates' names and a balancer's tokens need.
const BLOCK_BYTES_MAX: usize = 4096;

/// What a header contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The proxy forwards the bytes of this address.
    Client(SocketAddr),
    /// The proxy connects for itself (a health check), or does not know the client.
    Proxy,
}

/// Why a connection did not begin with a header: the text says what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadProxyHeader(&'static str);

/// Reads the header at the start of `bytes`, which may hold less than that or more.
pub fn parse(bytes: &[u8]) -> Result<Parsed<ProxyHeader>, BadProxyHeader> {
    if starts_alike(bytes, SIGNATURE) {
        return parse_binary(bytes);
    }
    if starts_alike(bytes, b"PROXY ") {
        return parse_line(bytes);
    }
    Err(BadProxyHeader("the connection does not begin with a header of the PROXY protocol"))
}

fn starts_alike(bytes: &[u8], expected: &[u8]) -> bool {
    let count = bytes.len().min(expected.len());
    bytes[..count] == expected[..count]
}

/// Version 1: `PROXY TCP4 192.0.2.7 192.0.2.1 47011 443` and CRLF.
fn parse_line(bytes: &[u8]) -> Result<Parsed<ProxyHeader>, BadProxyHeader> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(line_feed) = memchr::memchr(b'\n', window) else {
        return match window.len() {
            LINE_BYTES_MAX => Err(BadProxyHeader("the line of the PROXY protocol is too long")),
            _ => Ok(Parsed::NeedMore),
        };
    };
    let line = window[..line_feed].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(BadProxyHeader("the line of the PROXY protocol does not end in CRLF"))?.split(' ');
    let value = match (words.next(), words.next()) {
        (Some("PROXY"), Some("TCP4")) => parse_words(words, |text| text.parse().ok().map(IpAddr::V4)),
        (Some("PROXY"), Some("TCP6")) => parse_words(words, |text| text.parse().ok().map(IpAddr::V6)),
        // The specification requires that the rest of the line is ignored.
        (Some("PROXY"), Some("UNKNOWN")) => Some(ProxyHeader::Proxy),
        _ => None,
    };
    let value = value.ok_or(BadProxyHeader("the line of the PROXY protocol is not two addresses and two ports"))?;
    Ok(Parsed::Complete { value, consumed: line_feed + 1 })
}

fn parse_words<'a>(
    words: impl Iterator<Item = &'a str>,
    parse_address: impl Fn(&str) -> Option<IpAddr>,
) -> Option<ProxyHeader> {
    let words: Vec<_> = words.collect();
    let [source, destination, source_port, destination_port] = words[..] else { return None };
    let client = client(parse_address(source)?, parse_port(source_port)?);
    client.filter(|_| parse_address(destination).is_some() && parse_port(destination_port).is_some())
}

/// Digits without a sign or leading zeros.
fn parse_port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port.to_string() == text).then_some(port)
}

/// Version 2: sixteen fixed bytes, then addresses and extensions, whose length the fixed bytes give.
fn parse_binary(bytes: &[u8]) -> Result<Parsed<ProxyHeader>, BadProxyHeader> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else { return Ok(Parsed::NeedMore) };
    let [.., command, family, high, low] = *fixed;
    let block_bytes = usize::from(u16::from_be_bytes([high, low]));
    if block_bytes > BLOCK_BYTES_MAX {
        return Err(BadProxyHeader("the header of the PROXY protocol is too long"));
    }
    if !matches!(command, 0x20 | 0x21) {
        return Err(BadProxyHeader("the header of the PROXY protocol has another version or command"));
    }
    let Some(block) = rest.get(..block_bytes) else { return Ok(Parsed::NeedMore) };
    let value = match (command, family) {
        // LOCAL, or a family that is not specified: the addresses are to be ignored.
        (0x20, _) | (_, 0x00) => Some(ProxyHeader::Proxy),
        (_, 0x11) => block.first_chunk::<12>().and_then(|&[a, b, c, d, _, _, _, _, high, low, ..]| {
            client(IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low]))
        }),
        (_, 0x21) => block.first_chunk::<36>().and_then(|addresses| {
            let (source, rest) = addresses.split_first_chunk::<16>()?;
            client(IpAddr::from(*source), u16::from_be_bytes([rest[16], rest[17]]))
        }),
        // A client on a unix socket of the proxy's host has no address, and counts as the proxy itself.
        (_, 0x31) if block_bytes >= 216 => Some(ProxyHeader::Proxy),
        _ => None,
    };
    let value = value.ok_or(BadProxyHeader("the header of the PROXY protocol has no addresses of a stream"))?;
    Ok(Parsed::Complete { value, consumed: FIXED_BYTES + block_bytes })
}

fn client(ip: IpAddr, port: u16) -> Option<ProxyHeader> {
    let ip = ip.to_canonical();
    (!ip.is_unspecified()).then(|| ProxyHeader::Client(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a header says and what follows it, `more`, or the refusal; the same byte by byte as in one piece.
    fn check(bytes: &[u8], expected: &str) {
        let show = |bytes: &[u8]| match parse(bytes) {
            Ok(Parsed::NeedMore) => "more".to_owned(),
            Ok(Parsed::Complete { value, consumed }) => {
                let rest = String::from_utf8_lossy(&bytes[consumed..]).into_owned();
                match value {
                    ProxyHeader::Client(client) => format!("{client}|{rest}"),
                    ProxyHeader::Proxy => format!("proxy|{rest}"),
                }
            }
            Err(error) => error.to_string(),
        };
        let whole = show(bytes);
        let shown = String::from_utf8_lossy(bytes);
        assert!(whole.starts_with(expected) && (expected != "more" || whole == "more"), "{shown:?}: {whole}");
        let first = (0..=bytes.len()).map(|end| show(&bytes[..end])).find(|outcome| outcome != "more");
        let first = first.unwrap_or("more".to_owned());
        let decided = first.split('|').next().unwrap();
        assert!(whole.starts_with(decided), "{shown:?} byte by byte: {first}, but in one piece {whole}");
    }

    fn line(rest: &str, expected: &str) {
        check(format!("PROXY {rest}").as_bytes(), expected);
    }

    #[test]
    fn version_1_is_a_line() {
        line("TCP4 192.0.2.7 192.0.2.1 47011 443\r\nGET /", "192.0.2.7:47011|GET /");
        line("TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535|");
        line("TCP6 2001:db8::7 2001:db8::1 0 80\r\n", "[2001:db8::7]:0|");
        line("TCP6 ::ffff:192.0.2.7 ::1 1 80\r\n", "192.0.2.7:1|");
        line("UNKNOWN\r\nGET /", "proxy|GET /");
        line(&format!("UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX - 16)), "proxy|");
        line("TCP4 192.0.2.7 192.0.2.1 47011 443\r", "more");
        line("TCP4 192.0.2.7", "more");
        check(b"", "more");
        check(b"PRO", "more");
        line(&format!("UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX - 15)), "the line of the PROXY protocol is too long");
        line(&"x".repeat(LINE_BYTES_MAX), "the line of the PROXY protocol is too long");
        line("TCP4 192.0.2.7 192.0.2.1 1 2\n", "the line of the PROXY protocol does not end in CRLF");
        for bad in [
            "",
            "TCP4",
            "TCP5 192.0.2.7 192.0.2.1 1 2",
            "tcp4 192.0.2.7 192.0.2.1 1 2",
            "TCP4  192.0.2.7 192.0.2.1 1 2",
            "TCP4 192.0.2.7 192.0.2.1 1 2 ",
            "TCP4 192.0.2.7 192.0.2.1 1",
            "TCP4 192.0.2.7 192.0.2.1 1 2 3",
            "TCP4 192.0.2.7 192.0.2.1 01 2",
            "TCP4 192.0.2.7 192.0.2.1 +1 2",
            "TCP4 192.0.2.7 192.0.2.1 1 65536",
            "TCP4 192.0.2 192.0.2.1 1 2",
            "TCP4 2001:db8::7 2001:db8::1 1 2",
            "TCP6 192.0.2.7 192.0.2.1 1 2",
            "TCP4 0.0.0.0 192.0.2.1 1 2",
        ] {
            line(&format!("{bad}\r\n"), "the line of the PROXY protocol is not two");
        }
    }

    fn binary(command: u8, family: u8, block: &[u8], rest: &str) -> Vec<u8> {
        let length = (block.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block, rest.as_bytes()].concat()
    }

    #[test]
    fn version_2_is_binary() {
        const V4: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xb7, 0xa3, 1, 187];
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 0x01, 7, 80);
        let with_extensions = [&V4[..], &[0xea; 500]].concat();
        check(&binary(0x21, 0x11, &V4, "GET /"), "192.0.2.7:47011|GET /");
        check(&binary(0x21, 0x11, &with_extensions, "GET /"), "192.0.2.7:47011|GET /");
        check(&binary(0x21, 0x21, &v6, "x"), "[2001::7]:80|x");
        check(&binary(0x20, 0x11, &V4, "x"), "proxy|x");
        check(&binary(0x20, 0x00, &[], "x"), "proxy|x");
        check(&binary(0x21, 0x00, &[1, 2, 3], "x"), "proxy|x");
        check(&binary(0x21, 0x31, &[b'/'; 216], "x"), "proxy|x");
        check(&binary(0x20, 0x00, &[0; BLOCK_BYTES_MAX], "x"), "proxy|x");
        check(&binary(0x21, 0x11, &V4, "")[..27], "more");
        check(&SIGNATURE[..], "more");
        check(b"\r\n\r\n", "more");
        let none = "the header of the PROXY protocol has no addresses";
        check(&binary(0x21, 0x11, &V4[..11], ""), none);
        check(&binary(0x21, 0x21, &v6[..35], ""), none);
        check(&binary(0x21, 0x31, &[0; 215], ""), none);
        check(&binary(0x21, 0x12, &V4, ""), none); // UDP
        check(&binary(0x21, 0x41, &V4, ""), none);
        check(&binary(0x21, 0x11, &[0; 12], ""), none);
        let version = "the header of the PROXY protocol has another version or command";
        check(&binary(0x11, 0x11, &V4, ""), version);
        check(&binary(0x22, 0x11, &V4, ""), version);
        let long = "the header of the PROXY protocol is too long";
        check(&binary(0x20, 0x00, &[0; BLOCK_BYTES_MAX + 1], "x"), long);
        check(&[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), long);
    }

    #[test]
    fn anything_else_is_refused_on_sight() {
        let none = "the connection does not begin";
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"proxy TCP4", b"PROXYTCP4", b"\r\n\r\nGET", b"\x16\x03\x01", b"\0"] {
            check(other, none);
        }
    }
}
