//! A stream's address: where to connect and the request to send there.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::client::endpoint::Endpoint;
use crate::client::header;
use crate::config::redact_url;
use crate::io::dialer::Remote;

/// Where a client connects, and the request it sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The address, or the target of a redirect, including its secrets.
    pub url: String,
    /// The Unix socket, or the first of the name's addresses.
    pub remote: Remote,
    /// The name that the server's certificate must have; `None`: the connection does not use TLS.
    pub tls_name: Option<String>,
    /// The request without its last empty line and Last-Event-ID.
    pub request_head: String,
    headers: Vec<(String, String)>,
}

impl Target {
    /// Resolves an address as users write it.
    pub fn new(text: &str, headers: &[(String, String)]) -> anyhow::Result<Target> {
        let target =
            Endpoint::read_any_path(text, "/events").map_err(anyhow::Error::msg).and_then(|endpoint| match endpoint {
                Endpoint { url, socket: Some(path) } => Ok(Target::on_unix_socket(&url, path, headers)),
                Endpoint { url, socket: None } => Target::on_tcp(&url, headers),
            });
        target.with_context(|| redact_url(text))
    }

    fn on_tcp(url: &Url, headers: &[(String, String)]) -> anyhow::Result<Target> {
        ensure!(matches!(url.scheme(), "http" | "https"), "neither http:// nor https://");
        let host = url.host_str().context("no host")?;
        let port = url.port_or_known_default().context("no port")?;
        let bare_host = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses: Vec<SocketAddr> =
            (bare_host, port).to_socket_addrs().with_context(|| format!("can't resolve {host}"))?.collect();
        // `localhost` often resolves to ::1 first where servers listen only on 127.0.0.1.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let address = *addresses.first().with_context(|| format!("{host} has no address"))?;
        Ok(Target {
            url: url.as_str().to_owned(),
            remote: Remote::Tcp(address),
            tls_name: (url.scheme() == "https").then(|| bare_host.to_owned()),
            request_head: request_head(url, headers),
            headers: headers.to_vec(),
        })
    }

    fn on_unix_socket(url: &Url, path: PathBuf, headers: &[(String, String)]) -> Target {
        Target {
            url: url.as_str().to_owned(),
            remote: Remote::Unix(path),
            tls_name: None,
            request_head: request_head(url, headers),
            headers: headers.to_vec(),
        }
    }

    /// The address without its secrets.
    pub fn shown(&self) -> String {
        let socket = match &self.remote {
            Remote::Unix(path) => Some(path.clone()),
            Remote::Tcp(_) => None,
        };
        Url::parse(&self.url).map_or_else(|_| redact_url(&self.url), |url| Endpoint { url, socket }.to_string())
    }

    /// The topics that the address names.
    pub fn topics(&self) -> Vec<String> {
        let Ok(url) = Url::parse(&self.url) else { return Vec::new() };
        url.query_pairs().filter(|(name, _)| name == "topic").map(|(_, topic)| topic.into_owned()).collect()
    }

    /// The target that `location` leads to from here. Credentials are dropped when the origin changes.
    pub fn redirected(&self, location: &str) -> anyhow::Result<Target> {
        let from = Url::parse(&self.url)?;
        let to = from.join(location).with_context(|| format!("redirected to {location:?}, which is not a URL"))?;
        if from.origin() == to.origin() {
            let request_head = request_head(&to, &self.headers);
            return Ok(Target { url: to.into(), request_head, ..self.clone() });
        }
        let is_private =
            |name: &str| ["authorization", "cookie"].iter().any(|private| name.eq_ignore_ascii_case(private));
        let headers: Vec<_> = self.headers.iter().filter(|(name, _)| !is_private(name)).cloned().collect();
        Target::on_tcp(&to, &headers).with_context(|| format!("redirected to {}", redact_url(to.as_str())))
    }
}

fn request_head(url: &Url, headers: &[(String, String)]) -> String {
    let host = url.host_str().unwrap_or_default();
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

/// The headers that the option `flag` sets.
pub fn header_lines(flag: &str, lines: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    lines.iter().map(|line| header_line(line).with_context(|| flag.to_owned())).collect()
}

/// The name as it is given, and the value.
fn header_line(text: &str) -> anyhow::Result<(String, String)> {
    let header = header(text).map_err(anyhow::Error::msg)?;
    let name = text.split(':').next().unwrap_or_default().trim();
    Ok((name.to_owned(), header.value()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, headers: &[&str], expected: Option<(&str, &str)>) {
        let headers: Vec<_> = headers.iter().map(|header| header_line(header).unwrap()).collect();
        let target = Target::new(url, &headers).ok();
        let shown = |target: &Target| match &target.remote {
            Remote::Tcp(address) => address.to_string(),
            Remote::Unix(path) => path.display().to_string(),
        };
        let found = target.as_ref().map(|target| (shown(target), target.request_head.as_str()));
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
            Some(("[::1]:80", "GET /events HTTP/1.1\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n")),
        );
        check(
            "https://127.0.0.1/",
            &[],
            Some((
                "127.0.0.1:443",
                "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n",
            )),
        );
        check(
            "unix:/run/a.sock:/events?topic=t",
            &[],
            Some((
                "/run/a.sock",
                "GET /events?topic=t HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n",
            )),
        );
        check(
            "localhost:3001/a?b",
            &["Host: h", "Accept: */*", "Cache-Control: x"],
            Some(("127.0.0.1:3001", "GET /a?b HTTP/1.1\r\n")),
        );
        check(
            "unix:/run/a.sock",
            &["Host: h", "Accept: */*", "Cache-Control: x"],
            Some(("/run/a.sock", "GET /events HTTP/1.1\r\n")),
        );
        check("unix::/events", &[], None);
        check("ftp://127.0.0.1/", &[], None);
        check("/events", &[], None);
    }

    #[test]
    fn a_redirect_keeps_headers_and_secrets_only_at_home() {
        let headers = [header_line("Authorization: Bearer s").unwrap(), header_line("X: y").unwrap()];
        let target = Target::new("http://127.0.0.1:1/a/b", &headers).unwrap();
        let near = target.redirected("../c?d").unwrap();
        assert_eq!(near.url, "http://127.0.0.1:1/c?d");
        assert!(near.request_head.contains("Authorization: Bearer s\r\n"));
        let secured = target.redirected("https://127.0.0.1:1/a/b").unwrap();
        assert_eq!(secured.tls_name.as_deref(), Some("127.0.0.1"));
        assert!(!secured.request_head.contains("Bearer"));
        let far = target.redirected("http://127.0.0.1:2/").unwrap();
        assert!(far.request_head.starts_with("GET / HTTP/1.1\r\n"), "a redirect says what it means");
        assert!(target.redirected("ftp://127.0.0.1/").is_err());
        assert!(!far.request_head.contains("Bearer"));
        assert!(far.request_head.contains("X: y\r\n"));
    }

    #[test]
    fn a_redirect_on_a_unix_socket_stays_there() {
        let target = Target::new("unix:/run/a.sock:/a", &[]).unwrap();
        let near = target.redirected("/b").unwrap();
        assert_eq!((&near.remote, near.url.as_str()), (&target.remote, "http://localhost/b"));
    }

    #[test]
    fn a_header_stays_on_its_line() {
        assert!(header_line("A: b\r\nC: d").is_err());
        assert!(header_line("no colon").is_err());
        assert!(header_line(": x").is_err());
        assert_eq!(header_line(" A :  b: c ").unwrap(), ("A".to_owned(), "b: c".to_owned()));
    }
}
