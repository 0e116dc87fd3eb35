//! Explains a failed request to the user: one line with the server, the cause and, if there is one, the fix.

use std::io;
use std::time::Duration;

use rustls::InvalidMessage;
use ureq::Body;
use ureq::http::Response;

use super::endpoint::Endpoint;
use super::printable;
use super::token::BearerToken;
use crate::config::duration_text;

/// A refusal's body is read up to this size; an explanation is never longer.
const PROBLEM_BYTES_MAX: u64 = 64 << 10;

/// A refusal, and how to fix it.
pub fn refusal(response: &mut Response<Body>, token: &BearerToken) -> String {
    let advice = token.advice(response.status()).map(|advice| format!("; {advice}")).unwrap_or_default();
    format!("{}{advice}", problem(response))
}

/// A refusal: the status, and the text of its problem document (RFC 9457).
pub fn problem(response: &mut Response<Body>) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        title: Option<String>,
        detail: Option<String>,
    }
    let status = response.status();
    let text = response.body_mut().with_config().limit(PROBLEM_BYTES_MAX).read_to_string().unwrap_or_default();
    let said = match serde_json::from_str::<Problem>(&text) {
        Ok(Problem { title, detail }) => {
            // Some titles only repeat the status.
            let is_new = |title: &String| !status.canonical_reason().is_some_and(|it| it.eq_ignore_ascii_case(title));
            [title.filter(is_new), detail].into_iter().flatten().collect::<Vec<_>>().join(": ")
        }
        Err(_) => text.lines().next().unwrap_or_default().chars().take(200).collect(),
    };
    let said = printable(&said);
    let colon = if said.is_empty() { "" } else { ": " };
    format!("{status}{colon}{said}")
}

/// A request without an answer.
pub fn failure(error: &ureq::Error, endpoint: &Endpoint) -> String {
    let place = endpoint.place();
    match error {
        error if speaks_no_tls(error) => format!("{place}: the server does not speak TLS; did you mean http://?"),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on {place}: is the server running there?")
        }
        ureq::Error::Io(error) => format!("{place}: {error}"),
        ureq::Error::Timeout(_) => format!("{place}: no answer in time"),
        ureq::Error::HostNotFound => format!("{place}: no such host"),
        error => format!("{place}: {error}"),
    }
}

/// True when the same request would always fail in the same way.
pub(super) fn is_final(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Http(_) | ureq::Error::BadUri(_)) || speaks_no_tls(error)
}

fn speaks_no_tls(error: &ureq::Error) -> bool {
    let of_tls = match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
        _ => None,
    };
    matches!(of_tls, Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}

/// The end of a stream that may be silent for at most `silence_max`.
pub(super) fn loss(error: &io::Error, silence_max: Option<Duration>) -> String {
    let of_client = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (of_client, silence_max) {
        (Some(ureq::Error::Timeout(_)), Some(silence_max)) => {
            format!("the stream was silent for {} (--idle-timeout)", duration_text(silence_max))
        }
        _ => format!("the stream was lost: {error}"),
    }
}
