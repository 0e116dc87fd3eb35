//! The HTTP client behind `fanfare subscribe` and `fanfare publish`.
//!
//! Blocking, one connection, for users and scripts; `fanfare load` has its own client, which counts bytes per
//! connection. `explain` is the only place that words failures for the user; nothing here prints.

pub mod backoff;
pub mod endpoint;
pub mod explain;
pub mod stream;
pub mod token;
pub mod trust;
mod unix;

use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::http::header::ToStrError;
use ureq::http::{HeaderName, HeaderValue};

use self::endpoint::Endpoint;
use self::trust::Trust;

const USER_AGENT: &str = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A header to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    name: HeaderName,
    value: HeaderValue,
}

impl Header {
    /// Its value, which may be a token.
    pub fn value(&self) -> Result<&str, ToStrError> {
        self.value.to_str()
    }
}

/// Reads `Name: value`. The error does not repeat the text: it may be a token.
pub fn header(text: &str) -> Result<Header, String> {
    const ADVICE: &str = "allowed is 'Name: value'";
    let (name, value) = text.split_once(':').ok_or(ADVICE)?;
    let name = name.trim().parse().map_err(|_| ADVICE)?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| ADVICE)?;
    value.set_sensitive(true); // it may be a token
    Ok(Header { name, value })
}

/// For agents that return every status to their caller, because the bodies of refusals explain them.
fn agent_config(trust: &Trust, silence_max: Option<Duration>) -> Config {
    Agent::config_builder()
        .user_agent(USER_AGENT)
        .http_status_as_error(false)
        .tls_config(trust.for_requests())
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(RESPONSE_TIMEOUT))
        .timeout_per_read(silence_max)
        .build()
}

/// An agent for requests that are answered at once; it keeps its connection between them.
pub fn request_agent(endpoint: &Endpoint, trust: &Trust) -> Agent {
    endpoint.agent(agent_config(trust, Some(RESPONSE_TIMEOUT)))
}

/// Makes a server's text safe for a terminal: a control character could move the cursor or worse.
pub fn printable(text: &str) -> String {
    let replace = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn text_from_a_server_cannot_control_the_terminal() {
        assert_eq!(printable("a\tb\x1b[2Jc\r"), "a\tb\u{fffd}[2Jc\u{fffd}");
    }
}
