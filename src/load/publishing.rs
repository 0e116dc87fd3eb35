//! The publishing part of a [`plan`](super::plan): where messages go, how fast, and how many.

use anyhow::{bail, ensure};
use url::Url;

use super::args::{LoadArgs, PublishBody};
use super::plan::read_token;
use super::stamp::PAYLOAD_BYTES_MIN;
use super::target::header_line;
use crate::client::trust::Trust;
use crate::config::redact_url;
use crate::redis_address::RedisAddress;

/// What is published.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    /// Where to.
    pub outlet: Outlet,
    /// How fast.
    pub pace: Pace,
    /// After how many to stop.
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
        url: String,
        /// Further request headers.
        headers: Vec<(String, String)>,
        /// Topics, in turn; none: the body is the bare payload.
        topics: Vec<String>,
        /// Whose certificates are good.
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
    /// Each at its own time, whether or not those before it have arrived.
    PerSecond(f64),
    /// Each when everybody has the one before.
    Lockstep,
}

impl PublishPlan {
    /// Resolves arguments, of which `redis` is the one to publish to; none if nothing is to be published.
    pub fn new(args: &LoadArgs, redis: Option<RedisAddress>) -> anyhow::Result<Option<PublishPlan>> {
        let publishing = &args.publishing;
        let outlet = if let Some(address) = redis {
            Outlet::Redis { address: Box::new(address), channels: publishing.redis_channel.clone() }
        } else if let Some(url) = &publishing.publish_url {
            let is_http = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            ensure!(is_http, "--publish-url {}: write http://… or https://…", redact_url(url));
            let mut headers = Vec::new();
            for header in &publishing.publish_header {
                headers.push(header_line(header)?);
            }
            if let Some(file) = &publishing.publish_token_file {
                headers.push(("Authorization".to_owned(), format!("Bearer {}", read_token(file)?)));
            }
            let topics = match publishing.publish_body {
                PublishBody::Envelope => publishing.publish_topic.clone(),
                PublishBody::Raw => Vec::new(),
            };
            let trust = Trust::new(args.connecting.ca.as_deref())?;
            Outlet::Http { url: url.clone(), headers, topics, trust }
        } else {
            return Ok(None);
        };
        let payload_bytes = publishing.payload_bytes;
        ensure!(payload_bytes >= PAYLOAD_BYTES_MIN, "--payload-bytes must be at least {PAYLOAD_BYTES_MIN}");
        let pace = match publishing.publish_rate.as_str() {
            "lockstep" => Pace::Lockstep,
            text => match text.parse() {
                Ok(rate) if rate > 0.0 && rate <= 1e6 => Pace::PerSecond(rate),
                _ => bail!("--publish-rate {text}: write messages per second, up to 1000000, or lockstep"),
            },
        };
        let is_raw = publishing.publish_body == PublishBody::Raw;
        ensure!(!is_raw || publishing.publish_batch <= 1, "--publish-batch needs --publish-body envelope");
        let count_max = publishing.publish_count.unwrap_or(u32::MAX);
        Ok(Some(PublishPlan { outlet, pace, count_max, payload_bytes, batch_max: publishing.publish_batch.max(1) }))
    }
}
