//! The address of a server as users write it: `http://`, `https://`, or `unix:PATH:/TARGET` for HTTP on a Unix socket.

use std::fmt;
use std::path::PathBuf;

use ureq::Agent;
use ureq::config::Config;
use url::{Position, Url};

use super::unix;
use crate::config::redact_url;

const ADVICE: &str = "allowed is http://host[:port][/path], https:// likewise, or unix:PATH[:/path]";

/// The address of a server and the requested target. Displays without its password and its token.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The URL to request; over a Unix socket, its host is [`unix::HOST`].
    pub url: Url,
    /// The Unix socket to connect to, instead of the URL's host.
    pub socket: Option<PathBuf>,
}

impl Endpoint {
    /// Reads an address. The default scheme is http, and the default path is `default_path`, also in place of `/`.
    pub fn read(text: &str, default_path: &str) -> Result<Endpoint, String> {
        let mut endpoint = Endpoint::read_any_path(text, default_path)?;
        if endpoint.url.path() == "/" {
            endpoint.url.set_path(default_path);
        }
        Ok(endpoint)
    }

    /// As [`Endpoint::read`], for servers of any kind, which may serve `/`: the default path is for an address without one.
    pub fn read_any_path(text: &str, default_path: &str) -> Result<Endpoint, String> {
        let (socket, url) = match text.strip_prefix("unix:").map(split_socket) {
            Some(("", _)) => return Err(ADVICE.to_owned()),
            Some((path, target)) => {
                (Some(PathBuf::from(path)), format!("http://{}/{}", unix::HOST, target.unwrap_or("")))
            }
            None if text.contains("://") => (None, text.to_owned()),
            None => (None, format!("http://{text}")),
        };
        let mut url = Url::parse(&url).map_err(|_| ADVICE)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(ADVICE.to_owned());
        }
        if !names_path(text) {
            url.set_path(default_path);
        }
        url.set_fragment(None);
        Ok(Endpoint { url, socket })
    }

    /// A client for this address.
    pub fn agent(&self, config: Config) -> Agent {
        match &self.socket {
            Some(path) => unix::agent(path, config),
            None => Agent::new_with_config(config),
        }
    }

    /// The address for a message: host and port, or the socket.
    pub fn place(&self) -> String {
        let Endpoint { url, socket } = self;
        match socket {
            Some(path) => format!("unix:{}", path.display()),
            None => {
                let port = url.port_or_known_default().unwrap_or_default();
                format!("{}:{port}", url.host_str().unwrap_or_default())
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket {
            Some(_) => f.write_str(&redact_url(&format!("{}:{}", self.place(), &self.url[Position::BeforePath..]))),
            None => f.write_str(&redact_url(self.url.as_str())),
        }
    }
}

/// True if an address has a path, be it `/`.
fn names_path(text: &str) -> bool {
    if let Some(place) = text.strip_prefix("unix:") {
        return split_socket(place).1.is_some();
    }
    let place = text.split_once("://").map_or(text, |(_, place)| place);
    place.split(['?', '#']).next().is_some_and(|place| place.contains('/'))
}

/// Splits `PATH:/target`, as nginx writes it after `unix:`, into the socket and the target without its first slash.
fn split_socket(place: &str) -> (&str, Option<&str>) {
    place.split_once(":/").map_or((place, None), |(path, target)| (path, Some(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            let read = Endpoint::read(text, "/events").ok();
            assert_eq!(read.map(|endpoint| endpoint.to_string()).as_deref(), expected, "{text:?}");
        };
        check("http://host:3001/a?b=c#d", Some("http://host:3001/a?b=c"));
        check("https://host", Some("https://host/events"));
        check("https://host/?topic=a", Some("https://host/events?topic=a"));
        check("localhost:3001", Some("http://localhost:3001/events"));
        check("127.0.0.1:3001/dashboard/stream", Some("http://127.0.0.1:3001/dashboard/stream"));
        check("[::1]:3001", Some("http://[::1]:3001/events"));
        check("unix:/run/f.sock", Some("unix:/run/f.sock:/events"));
        check("unix:/run/f.sock:/", Some("unix:/run/f.sock:/events"));
        check("unix:/run/f.sock:/a?topic=b#c", Some("unix:/run/f.sock:/a?topic=b"));
        check("unix:/run/f.sock:/a?access_token=b", Some("unix:/run/f.sock:/a?access_token=***"));
        check("unix:f.sock", Some("unix:f.sock:/events"));
        for bad in ["", "http://", "ftp://host", "host:port", "unix:", "unix::/events"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_server_of_any_kind_may_serve_its_root() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Endpoint::read_any_path(text, "/events").unwrap().to_string(), expected, "{text:?}");
        };
        check("http://host", "http://host/events");
        check("http://host/", "http://host/");
        check("host:3001/", "http://host:3001/");
        check("https://host/?topic=a/b", "https://host/?topic=a/b");
        check("https://host?topic=a/b", "https://host/events?topic=a/b");
        check("unix:/run/f.sock", "unix:/run/f.sock:/events");
        check("unix:/run/f.sock:/", "unix:/run/f.sock:/");
    }

    #[test]
    fn an_endpoint_is_shown_without_its_secrets() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Endpoint::read(text, "/events").unwrap().place(), expected);
        };
        check("https://me:hunter2@host/a", "host:443");
        check("unix:/run/f.sock:/a", "unix:/run/f.sock");
    }
}
