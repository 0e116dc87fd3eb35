//! A stream's address: where to connect and the request to send there.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use url::Url;

/// Where a client connects, and the request it sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The address as given, or as a redirect told.
    pub url: String,
    /// The first of the addresses that the name stands for.
    pub address: SocketAddr,
    /// The request, but for its last empty line and Last-Event-ID.
    pub request_head: String,
    headers: Vec<(String, String)>,
}

impl Target {
    /// Resolves `url`.
    pub fn new(url: &str, headers: &[(String, String)]) -> anyhow::Result<Target> {
        let parsed = Url::parse(url).with_context(|| format!("{url:?} is not a URL"))?;
        ensure!(
            parsed.scheme() == "http",
            "{url}: only http:// is supported; put a TLS proxy in front or measure behind it"
        );
        let host = parsed.host_str().with_context(|| format!("{url} names no host"))?;
        let port = parsed.port_or_known_default().unwrap_or(80);
        let bare_host = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses: Vec<SocketAddr> =
            (bare_host, port).to_socket_addrs().with_context(|| format!("can't resolve {host}"))?.collect();
        // `localhost` often names ::1 first where servers listen on 127.0.0.1 alone.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let address = *addresses.first().with_context(|| format!("{host} has no address"))?;
        let request_head = request_head(&parsed, host, headers);
        Ok(Target { url: url.to_owned(), address, request_head, headers: headers.to_vec() })
    }

    /// The target that `location` leads to from here. Credentials stay behind when the origin changes.
    pub fn redirected(&self, location: &str) -> anyhow::Result<Target> {
        let from = Url::parse(&self.url)?;
        let to = from.join(location).with_context(|| format!("redirected to {location:?}, which is not a URL"))?;
        let is_private =
            |name: &str| ["authorization", "cookie"].iter().any(|private| name.eq_ignore_ascii_case(private));
        let stays = from.origin() == to.origin();
        let headers: Vec<_> = self.headers.iter().filter(|(name, _)| stays || !is_private(name)).cloned().collect();
        Target::new(to.as_str(), &headers)
    }
}

fn request_head(url: &Url, host: &str, headers: &[(String, String)]) -> String {
    let mut head = format!("GET {}", url.path());
    if let Some(query) = url.query() {
        head.push('?');
        head.push_str(query);
    }
    head.push_str(" HTTP/1.1\r\n");
    let defaults = [
        ("Host", url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))),
        ("Accept", "text/event-stream".to_owned()),
        ("Cache-Control", "no-cache".to_owned()),
        ("User-Agent", concat!("fanfare-load/", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    for (name, value) in defaults {
        if headers.iter().all(|(given, _)| !given.eq_ignore_ascii_case(name)) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head
}

/// Splits `Name: value`, and refuses what would break out of its line.
pub fn header_line(text: &str) -> anyhow::Result<(String, String)> {
    let Some((name, value)) = text.split_once(':') else { bail!("{text:?} is not a header; write 'Name: value'") };
    let (name, value) = (name.trim(), value.trim());
    let is_name =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    ensure!(is_name && !value.bytes().any(|b| b.is_ascii_control()), "{text:?} is not a header; write 'Name: value'");
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, headers: &[&str], expected: Option<(&str, &str)>) {
        let headers: Vec<_> = headers.iter().map(|header| header_line(header).unwrap()).collect();
        let target = Target::new(url, &headers).ok();
        let found = target.as_ref().map(|target| (target.address.to_string(), target.request_head.as_str()));
        let expected = expected.map(|(address, head)| (address.to_owned(), head));
        let found = found.map(|(address, head)| (address, head.split("User-Agent").next().unwrap_or_default()));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_url_becomes_an_address_and_a_request() {
        check(
            "http://127.0.0.1:3001/events?topic=a%20b#x",
            &[],
            Some((
                "127.0.0.1:3001",
                "GET /events?topic=a%20b HTTP/1.1\r\nHost: 127.0.0.1:3001\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n",
            )),
        );
        check(
            "http://[::1]",
            &["host: example.org"],
            Some(("[::1]:80", "GET / HTTP/1.1\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n")),
        );
        check("https://127.0.0.1/", &[], None);
        check("/events", &[], None);
    }

    #[test]
    fn a_redirect_keeps_headers_and_secrets_only_at_home() {
        let headers = [header_line("Authorization: Bearer s").unwrap(), header_line("X: y").unwrap()];
        let target = Target::new("http://127.0.0.1:1/a/b", &headers).unwrap();
        let near = target.redirected("../c?d").unwrap();
        assert_eq!(near.url, "http://127.0.0.1:1/c?d");
        assert!(near.request_head.contains("Authorization: Bearer s\r\n"));
        let far = target.redirected("http://127.0.0.1:2/").unwrap();
        assert!(!far.request_head.contains("Bearer"));
        assert!(far.request_head.contains("X: y\r\n"));
    }

    #[test]
    fn a_header_stays_on_its_line() {
        assert!(header_line("A: b\r\nC: d").is_err());
        assert!(header_line("no colon").is_err());
        assert!(header_line(": x").is_err());
        assert_eq!(header_line(" A :  b: c ").unwrap(), ("A".to_owned(), "b: c".to_owned()));
    }
}
