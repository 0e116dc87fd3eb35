//! Follows a stream for as long as its server allows: opens it, reads it, and opens it again after the last event's id.
//!
//! A browser gives up on any status except 200. This client waits and tries again after temporary failures (a lost
//! connection, 5xx, 429), and stops with the reason after permanent ones (other 4xx, an answer that is not a stream).
//! The caller prints: it gets every event and every wait as a [`Report`].

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use ureq::http::{HeaderValue, Response, StatusCode};
use ureq::{Agent, Body};

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::token::BearerToken;
use super::trust::Trust;
use super::{Header, agent_config, explain};
use crate::config::duration_text;
use crate::protocol::decoder::{Decoder, EventTooLarge, Item};

const READ_BUFFER_BYTES: usize = 16 << 10;
/// The longest `Retry-After` that is obeyed; a longer one may be a mistake, and a user is waiting.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// A stream may be silent indefinitely, but a refusal's body arrives at once or is not used.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The stream, with its topics in the query.
    pub endpoint: Endpoint,
    /// Headers to send.
    pub headers: Vec<Header>,
    /// A bearer token to send.
    pub token: BearerToken,
    /// The trusted certificates.
    pub trust: Trust,
    /// The event to resume after.
    pub last_event_id: Option<String>,
    /// A stream that sends nothing for this long, not even a heartbeat, is lost.
    pub silence_max: Option<Duration>,
    /// False stops at the first end or failure.
    pub reconnects: bool,
}

/// Events while a stream is followed.
#[derive(Debug)]
pub enum Report<'a> {
    /// An item of the stream.
    Item(Item<'a>),
    /// The stream ended or could not be opened; it is opened again after the wait.
    Waiting {
        /// Why.
        reason: &'a str,
        /// For how long.
        wait: Duration,
    },
}

/// Why the client stopped following a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The server refuses this stream permanently.
    #[error("{0}")]
    Refused(String),
    /// It failed, and reconnecting is disabled.
    #[error("{0}")]
    Failed(String),
    /// An event larger than the decoder's limit.
    #[error(transparent)]
    EventTooLarge(#[from] EventTooLarge),
}

/// The result of one connection.
enum Ended {
    /// The caller has stopped, or the server reports that there is nothing to follow (204).
    ForGood,
    /// The stream was open and has ended, orderly or not.
    Stream { reason: String, in_order: bool },
    /// The stream was never open.
    Unopened { reason: String, retry_after: Option<Duration> },
}

/// Follows a stream until `report` breaks, the server answers 204, or an error is permanent.
pub fn follow(
    subscription: &Subscription,
    mut report: impl FnMut(Report<'_>) -> ControlFlow<()>,
) -> Result<(), StreamError> {
    let config = agent_config(&subscription.trust, subscription.silence_max);
    let mut decoder = Decoder::new();
    if let Some(id) = &subscription.last_event_id {
        decoder.feed(format!("id: {id}\n\n").as_bytes(), |_| {})?; // as if the stream had sent it
    }
    let mut backoff = Backoff::default();
    loop {
        decoder = decoder.reconnected();
        // A new one each time: an agent that has cut a refusal short can't connect again.
        let agent = subscription.endpoint.agent(config.clone());
        let ended = match open(&agent, subscription, decoder.last_event_id())? {
            Opened::Stream(response) => {
                backoff.connected();
                read(response, subscription.silence_max, &mut decoder, &mut report)?
            }
            Opened::Not(ended) => ended,
        };
        backoff.set_retry(decoder.retry());
        let (reason, wait) = match ended {
            Ended::ForGood => return Ok(()),
            Ended::Stream { in_order: true, .. } if !subscription.reconnects => return Ok(()),
            Ended::Stream { reason, .. } | Ended::Unopened { reason, .. } if !subscription.reconnects => {
                return Err(StreamError::Failed(reason));
            }
            Ended::Stream { reason, .. } => (reason, backoff.after_end()),
            Ended::Unopened { reason, retry_after } => (reason, backoff.after_failure(retry_after, chance())),
        };
        if report(Report::Waiting { reason: &reason, wait }).is_break() {
            return Ok(());
        }
        std::thread::sleep(wait);
    }
}

enum Opened {
    Stream(Response<Body>),
    Not(Ended),
}

fn open(agent: &Agent, subscription: &Subscription, last_event_id: &str) -> Result<Opened, StreamError> {
    let mut request = agent.get(subscription.endpoint.url.as_str()).header("Cache-Control", "no-cache");
    if let Some(value) = subscription.token.header() {
        request = request.header("Authorization", value);
    }
    // UTF-8 without conversion: HTML requires it for this header, and `HeaderValue` accepts it only as bytes.
    if let Ok(id) = HeaderValue::from_bytes(last_event_id.as_bytes())
        && !id.is_empty()
    {
        request = request.header("Last-Event-ID", id);
    }
    // There are none where the URL was refused, which the call below reports: for example a host with a brace in it.
    if let Some(headers) = request.headers_mut() {
        headers.insert("Accept", HeaderValue::from_static("text/event-stream"));
        for header in &subscription.headers {
            headers.insert(header.name.clone(), header.value.clone());
        }
    }
    let mut response = match request.call() {
        Ok(response) => response,
        Err(error) => {
            let reason = explain::failure(&error, &subscription.endpoint);
            if explain::is_final(&error) {
                return Err(StreamError::Refused(reason));
            }
            return Ok(Opened::Not(Ended::Unopened { reason, retry_after: None }));
        }
    };
    match response.status() {
        StatusCode::OK => check_content_type(&response).map(|()| Opened::Stream(response)),
        StatusCode::NO_CONTENT => Ok(Opened::Not(Ended::ForGood)),
        status if is_transient(status) => {
            let (reason, retry_after) =
                (explain_in_time(agent, &subscription.token, &mut response), retry_after(&response));
            Ok(Opened::Not(Ended::Unopened { reason, retry_after }))
        }
        _ => Err(StreamError::Refused(explain_in_time(agent, &subscription.token, &mut response))),
    }
}

/// The text of a refusal. If reading it takes too long, only the status, and the agent is shut down.
fn explain_in_time(agent: &Agent, token: &BearerToken, response: &mut Response<Body>) -> String {
    let (reading, read) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if read.recv_timeout(REFUSAL_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                agent.clone().shutdown();
            }
        });
        let explained = explain::refusal(response, token);
        drop(reading);
        explained
    })
}

/// A response with another content type would be read forever as a stream without events.
fn check_content_type(response: &Response<Body>) -> Result<(), StreamError> {
    let content_type = response.headers().get("Content-Type").and_then(|value| value.to_str().ok()).unwrap_or("none");
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("text/event-stream") {
        return Ok(());
    }
    Err(StreamError::Refused(format!("not an event stream: the response's Content-Type is {content_type}")))
}

fn is_transient(status: StatusCode) -> bool {
    let asks_for_later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED || asks_for_later.contains(&status)
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("Retry-After")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn read(
    response: Response<Body>,
    silence_max: Option<Duration>,
    decoder: &mut Decoder,
    report: &mut impl FnMut(Report<'_>) -> ControlFlow<()>,
) -> Result<Ended, EventTooLarge> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        let bytes = match body.read(&mut buffer) {
            Ok(0) => return Ok(Ended::Stream { reason: "the stream ended".into(), in_order: true }),
            Ok(count) => &buffer[..count],
            Err(error) => {
                let reason = explain::loss(&error, silence_max);
                return Ok(Ended::Stream { reason, in_order: false });
            }
        };
        let mut flow = ControlFlow::Continue(());
        decoder.feed(bytes, |item| {
            if flow.is_continue() {
                flow = report(Report::Item(item));
            }
        })?;
        if flow.is_break() {
            return Ok(Ended::ForGood);
        }
    }
}

/// A fraction of one; without a source of randomness it is 1, the longest wait.
fn chance() -> f64 {
    getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX))
}

impl std::fmt::Display for Report<'_> {
    /// The wait as a line for the user; an item has no text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Report::Item(_) => Ok(()),
            Report::Waiting { reason, wait } => write!(f, "{reason}; retrying in {}", duration_text(*wait)),
        }
    }
}
