//! The publishing part of a [`plan`](super::plan): where messages go, how fast, and how many.

use anyhow::{anyhow, bail, ensure};

use super::args::{LoadArgs, PublishBody};
use super::plan::{RATE_MAX, RATE_MIN, authorization};
use super::stamp::PAYLOAD_BYTES_MIN;
use super::target::{Target, header_lines};
use crate::client::endpoint::Endpoint;
use crate::client::trust::Trust;
use crate::config::redact_url;
use crate::redis_address::RedisAddress;

/// Larger than any realistic event, and small enough that a few of them fit into memory.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// The topic of servers that have no topics, and of streams that name no topic.
const TOPIC_DEFAULT: &str = "dashboard_updates";

/// What is published.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    /// The destination.
    pub outlet: Outlet,
    /// The rate.
    pub pace: Pace,
    /// The number of messages after which to stop.
    pub count_max: u32,
    /// Length of the data.
    pub payload_bytes: usize,
    /// How many messages may share a request.
    pub batch_max: u32,
}

/// Where messages are published.
#[derive(Clone, Debug)]
pub enum Outlet {
    /// By POST.
    Http {
        /// The address.
        endpoint: Endpoint,
        /// Further request headers.
        headers: Vec<(String, String)>,
        /// Topics, in turn; when empty, the body is the bare payload.
        topics: Vec<String>,
        /// The trusted certificates.
        trust: Trust,
    },
    /// With PUBLISH.
    Redis {
        /// The server.
        address: Box<RedisAddress>,
        /// Channels, in turn.
        channels: Vec<String>,
    },
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each at its own time, whether or not earlier messages have arrived.
    PerSecond(f64),
    /// Each when every subscriber has received the previous one.
    Lockstep,
}

impl PublishPlan {
    /// Resolves arguments; publishing goes to `redis` if it is given, and `targets` are the streams. Returns `None` if
    /// nothing is to be published.
    pub fn new(
        args: &LoadArgs,
        redis: Option<RedisAddress>,
        targets: &[Target],
    ) -> anyhow::Result<Option<PublishPlan>> {
        let publishing = &args.publishing;
        let outlet = match (redis, &publishing.publish_url) {
            (Some(address), _) => {
                Outlet::Redis { address: Box::new(address), channels: publishing.redis_channel.clone() }
            }
            (None, Some(url)) => http_outlet(args, url, targets)?,
            (None, None) => return Ok(None),
        };
        let payload_bytes = publishing.payload_bytes;
        ensure!(
            (PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&payload_bytes),
            "--payload-bytes must be from {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX}"
        );
        let is_raw = publishing.publish_body == PublishBody::Raw;
        ensure!(!is_raw || publishing.publish_batch <= 1, "--publish-batch needs --publish-body envelope");
        let pace = read_pace(&publishing.publish_rate)?;
        let count_max = publishing.publish_count.unwrap_or(u32::MAX);
        Ok(Some(PublishPlan { outlet, pace, count_max, payload_bytes, batch_max: publishing.publish_batch.max(1) }))
    }
}

impl Outlet {
    /// What to try where the server changes every event.
    pub fn body_advice(&self) -> &'static str {
        match self {
            Outlet::Http { topics, .. } if topics.is_empty() => {
                "does the server expect JSON with topic and data? Then leave --publish-body raw out"
            }
            Outlet::Http { .. } => "does the server send the whole body of a request on? Then try --publish-body raw",
            Outlet::Redis { .. } => "does the server wrap what it gets from Redis?",
        }
    }

    /// The option that selects where messages go out, for the advice when no client receives any.
    pub fn flag(&self) -> &'static str {
        match self {
            Outlet::Http { topics, .. } if topics.is_empty() => "--publish-url",
            Outlet::Http { .. } => "--publish-topic",
            Outlet::Redis { .. } => "--redis-channel",
        }
    }
}

fn http_outlet(args: &LoadArgs, url: &str, targets: &[Target]) -> anyhow::Result<Outlet> {
    let publishing = &args.publishing;
    let endpoint = Endpoint::read_any_path(url, "/publish")
        .map_err(|advice| anyhow!("--publish-url {}: {advice}", redact_url(url)))?;
    let mut headers = header_lines("--publish-header", &publishing.publish_header)?;
    if let Some(file) = &publishing.publish_token_file {
        headers.extend(authorization(file)?);
    }
    let topics = match publishing.publish_body {
        PublishBody::Raw => Vec::new(),
        PublishBody::Envelope if publishing.publish_topic.is_empty() => topics_of_all(targets),
        PublishBody::Envelope => publishing.publish_topic.clone(),
    };
    let trust = Trust::new(args.connecting.ca.as_deref())?;
    Ok(Outlet::Http { endpoint, headers, topics, trust })
}

/// The topics that every stream's address names, because each message is owed to every client; otherwise the default.
fn topics_of_all(targets: &[Target]) -> Vec<String> {
    let mut topics = targets.first().map(Target::topics).unwrap_or_default();
    topics.retain(|topic| targets.iter().all(|target| target.topics().contains(topic)));
    if topics.is_empty() { vec![TOPIC_DEFAULT.to_owned()] } else { topics }
}

fn read_pace(text: &str) -> anyhow::Result<Pace> {
    match text.parse() {
        _ if text == "lockstep" => Ok(Pace::Lockstep),
        Ok(rate) if (RATE_MIN..=RATE_MAX).contains(&rate) => Ok(Pace::PerSecond(rate)),
        _ => bail!("--publish-rate {text}: write messages per second, from {RATE_MIN} to {RATE_MAX}, or lockstep"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_that_every_stream_names_are_published_to() {
        let check = |urls: &[&str], expected: &[&str]| {
            let targets: Vec<_> = urls.iter().map(|url| Target::new(url, &[]).unwrap()).collect();
            assert_eq!(topics_of_all(&targets), expected, "{urls:?}");
        };
        check(&["http://127.0.0.1:1/events"], &["dashboard_updates"]);
        check(&["http://127.0.0.1:1/events?topic=a%20b&latest=1&topic=c"], &["a b", "c"]);
        check(&["unix:/run/f.sock:/events?topic=a"], &["a"]);
        let (a_b, b_c) = ("http://127.0.0.1:1/events?topic=a&topic=b", "http://127.0.0.1:2/events?topic=b&topic=c");
        check(&[a_b, b_c], &["b"]);
        check(&[a_b, "http://127.0.0.1:2/events"], &["dashboard_updates"]);
    }
}
