//! The HTTP client behind `fanfare subscribe` and `fanfare publish`.
//!
//! Blocking, one connection, for people and scripts; `fanfare load` has its own client, which counts bytes per
//! connection. What a failure means to the user is worded in `explain`, once; nothing here prints.

pub mod backoff;
pub mod explain;
pub mod stream;
pub mod token;
pub mod trust;

use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue};
use url::Url;

use self::trust::Trust;
use crate::config::redact_url;

const USER_AGENT: &str = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A header to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    name: HeaderName,
    value: HeaderValue,
}

/// Reads `Name: value`. The error does not repeat it: it may be a token.
pub fn header(text: &str) -> Result<Header, String> {
    const ADVICE: &str = "allowed is 'Name: value'";
    let (name, value) = text.split_once(':').ok_or(ADVICE)?;
    let name = name.trim().parse().map_err(|_| ADVICE)?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| ADVICE)?;
    value.set_sensitive(true); // it may be a token
    Ok(Header { name, value })
}

/// Reads a server's URL as people write it: without a scheme http is meant, without a path `default_path`.
pub fn endpoint(text: &str, default_path: &str) -> Result<Url, String> {
    const ADVICE: &str = "allowed is http://host[:port][/path] or https://host[:port][/path]";
    let parsed = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    let mut url = parsed.map_err(|_| ADVICE)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(ADVICE.to_owned());
    }
    if url.path() == "/" {
        url.set_path(default_path);
    }
    url.set_fragment(None);
    Ok(url)
}

/// For agents that hand every status to their caller, since the bodies of refusals explain them.
fn agent_config(trust: &Trust, silence_max: Option<Duration>) -> ureq::config::Config {
    ureq::Agent::config_builder()
        .user_agent(USER_AGENT)
        .http_status_as_error(false)
        .tls_config(trust.for_requests())
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(RESPONSE_TIMEOUT))
        .timeout_per_read(silence_max)
        .build()
}

/// An agent for requests that are answered at once; it keeps its connection between them.
pub fn request_agent(trust: &Trust) -> ureq::Agent {
    agent_config(trust, Some(RESPONSE_TIMEOUT)).into()
}

/// The URL as it may be shown.
pub fn shown(url: &Url) -> String {
    redact_url(url.as_str())
}

/// Text from a server as a terminal may get it: a control character could move the cursor or worse.
pub fn printable(text: &str) -> String {
    let replace = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(endpoint(text, "/events").ok().as_ref().map(Url::as_str), expected, "{text:?}");
        };
        check("http://host:3001/a?b=c#d", Some("http://host:3001/a?b=c"));
        check("https://host", Some("https://host/events"));
        check("https://host/?topic=a", Some("https://host/events?topic=a"));
        check("localhost:3001", Some("http://localhost:3001/events"));
        check("127.0.0.1:3001/dashboard/stream", Some("http://127.0.0.1:3001/dashboard/stream"));
        check("[::1]:3001", Some("http://[::1]:3001/events"));
        for bad in ["", "http://", "ftp://host", "unix:///run/f.sock", "host:port"] {
            check(bad, None);
        }
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let check = |text: &str, is_good: bool| assert_eq!(header(text).is_ok(), is_good, "{text:?}");
        check("X-Key: a:b", true);
        check("X-Key:", true);
        check("X-Key", false);
        check(": a", false);
        check("X Key: a", false);
        check("X-Key: a\r\nEvil: b", false);
    }

    #[test]
    fn what_a_server_says_can_not_drive_the_terminal() {
        assert_eq!(printable("a\tb\x1b[2Jc\r"), "a\tb\u{fffd}[2Jc\u{fffd}");
    }
}
