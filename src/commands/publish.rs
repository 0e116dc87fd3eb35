//! `fanfare publish`: events over HTTP or through Redis, one from the arguments or many from standard input.
//!
//! Lines that are available at the same time are sent together, in one request or one pipeline. Nothing is sent twice:
//! a failure ends the command and names the lines that were refused or whose fate is unknown.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use super::UsageError;
use super::redis::redis_address;
use crate::cli::PublishArgs;
use crate::client::endpoint::Endpoint;
use crate::client::token::BearerToken;
use crate::client::{self, explain};
use crate::config::{PUBLISH_TOKEN_VARIABLE, RedisPayload};
use crate::event::{EventId, EventType};
use crate::protocol::envelope::{Data, Envelope};
use crate::redis_address::RedisAddress;

/// Stands for standard input where data is expected.
const STDIN: &str = "-";
/// Most events in one batch.
const BATCH_EVENTS_MAX: usize = 500;
/// Most bytes of lines in one batch: even if JSON escapes every byte with six, a server's usual bound on bodies is
/// kept.
const BATCH_BYTES_MAX: usize = 128 << 10;
const REDIS_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes what the arguments or standard input hold.
pub(super) fn run(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    if args.data == STDIN && args.id.is_some() {
        return Err(UsageError("--id names one event, so DATA can't be -".into()).into());
    }
    let needs_envelope = args.event.is_some() || args.id.is_some() || args.retry.is_some();
    if args.redis_url.is_some() && args.redis_payload == RedisPayload::Raw && needs_envelope {
        let reason = "a raw Redis message holds only data: --event, --id and --retry need --redis-payload envelope";
        return Err(UsageError(reason.into()).into());
    }
    let mut publisher = Publisher::new(args)?;
    if args.data != STDIN {
        publisher.publish(&[event(args, &args.data).map_err(UsageError)?])?;
        return Ok(ExitCode::SUCCESS);
    }
    for batch in (Batches { lines: read_lines(), held: None }) {
        publish_lines(&mut publisher, args, &batch.context("standard input")?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Publishes lines together. At a line that can't be an event it fails, after it has published the lines before.
fn publish_lines(publisher: &mut Publisher, args: &PublishArgs, lines: &[Line]) -> anyhow::Result<()> {
    let mut events = Vec::with_capacity(lines.len());
    let mut refused = Ok(());
    for line in lines {
        match event(args, &line.text) {
            Ok(event) => events.push(event),
            Err(reason) => {
                refused = Err(anyhow!("line {}: {reason}", line.number));
                break;
            }
        }
    }
    if !events.is_empty() {
        publisher.publish(&events).with_context(|| range(&lines[..events.len()]))?;
    }
    refused
}

/// The event that the arguments describe, with this data.
fn event<'a>(args: &'a PublishArgs, data: &'a str) -> Result<Envelope<'a>, String> {
    let data = match args.json {
        true => Data::Json(serde_json::from_str(data).map_err(|error| format!("the data is not JSON: {error}"))?),
        false => Data::Text(data),
    };
    Ok(Envelope {
        topic: args.topic.as_str(),
        id: args.id.as_ref().map(EventId::as_str),
        event: args.event.as_ref().map(EventType::as_str),
        retry: args.retry.map(|retry| u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)),
        data,
    })
}

/// The way to the server.
enum Publisher {
    Http(HttpPublisher),
    Redis(Box<RedisPublisher>),
}

impl Publisher {
    fn new(args: &PublishArgs) -> anyhow::Result<Publisher> {
        Ok(match &args.redis_url {
            Some(url) => Publisher::Redis(Box::new(RedisPublisher::connect(url, args)?)),
            None => Publisher::Http(HttpPublisher::new(args)?),
        })
    }

    fn publish(&mut self, events: &[Envelope<'_>]) -> anyhow::Result<()> {
        match self {
            Publisher::Http(http) => http.publish(events),
            Publisher::Redis(redis) => redis.publish(events),
        }
    }
}

struct HttpPublisher {
    agent: ureq::Agent,
    endpoint: Endpoint,
    token: BearerToken,
}

impl HttpPublisher {
    fn new(args: &PublishArgs) -> anyhow::Result<HttpPublisher> {
        let endpoint = super::endpoint(&args.url, "/publish")?;
        let agent = client::request_agent(&endpoint, &super::trust(args.ca.as_deref())?);
        let token = BearerToken::read(args.token_file.as_deref(), PUBLISH_TOKEN_VARIABLE)?;
        Ok(HttpPublisher { agent, endpoint, token })
    }

    /// Sends all events in one request, which the server accepts or refuses as a whole; prints the ids that the server
    /// gave.
    fn publish(&self, events: &[Envelope<'_>]) -> anyhow::Result<()> {
        let body = match events {
            [event] => serde_json::to_vec(event)?,
            events => serde_json::to_vec(events)?,
        };
        let mut request = self.agent.post(self.endpoint.url.as_str()).header("Content-Type", "application/json");
        if let Some(value) = self.token.header() {
            request = request.header("Authorization", value);
        }
        let sent = request.send(body.as_slice());
        let mut response = sent.map_err(|error| anyhow!(explain::failure(&error, &self.endpoint)))?;
        if !response.status().is_success() {
            bail!("{}", explain::refusal(&mut response, &self.token));
        }
        let answer = response.body_mut().read_to_string().context("reading the server's response")?;
        let Answer { id, ids, duplicate, duplicates } = serde_json::from_str(&answer).unwrap_or_default();
        let mut stdout = io::stdout().lock();
        for id in id.iter().chain(&ids).chain(&duplicates) {
            writeln!(stdout, "{}", client::printable(id))?;
        }
        if duplicate || !duplicates.is_empty() {
            let _ = writeln!(io::stderr(), "{} already published: skipped", duplicates.len().max(1));
        }
        Ok(stdout.flush()?)
    }
}

/// The server's answer. Another server may answer something else, and has still published.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    id: Option<String>,
    ids: Vec<String>,
    duplicate: bool,
    duplicates: Vec<String>,
}

struct RedisPublisher {
    address: RedisAddress,
    connection: redis::Connection,
    payload: RedisPayload,
}

impl RedisPublisher {
    fn connect(url: &str, args: &PublishArgs) -> anyhow::Result<RedisPublisher> {
        let address = redis_address(url, args.redis_password_file.as_deref())?;
        let connection =
            address.connect(REDIS_TIMEOUT, REDIS_TIMEOUT).map_err(|error| anyhow!(address.failure(&error)))?;
        Ok(RedisPublisher { address, connection, payload: args.redis_payload })
    }

    /// Sends all events in one pipeline. Redis returns no ids, only how many clients received each message.
    fn publish(&mut self, events: &[Envelope<'_>]) -> anyhow::Result<()> {
        let mut pipeline = redis::pipe();
        for event in events {
            match self.payload {
                RedisPayload::Raw => pipeline.publish(event.topic, event.data.as_str()),
                RedisPayload::Envelope => pipeline.publish(event.topic, serde_json::to_string(event)?),
            };
        }
        let receiver_counts: Vec<u64> =
            pipeline.query(&mut self.connection).map_err(|error| anyhow!(self.address.failure(&error)))?;
        if receiver_counts.contains(&0) {
            let topic = client::printable(events.first().map_or("", |event| event.topic));
            let _ = writeln!(io::stderr(), "no client is subscribed to {topic} on {}", self.address);
        }
        Ok(())
    }
}

/// A line of standard input.
struct Line {
    /// Counted from 1, as editors do.
    number: usize,
    text: String,
}

/// Reads lines in a separate thread, so that a batch can end where no further line is available yet. Leaves out empty
/// lines.
fn read_lines() -> mpsc::Receiver<io::Result<Line>> {
    let (sender, receiver) = mpsc::sync_channel(2 * BATCH_EVENTS_MAX);
    std::thread::spawn(move || {
        for (index, line) in io::stdin().lock().lines().enumerate() {
            let line = line.map(|text| Line { number: index + 1, text });
            let is_empty = matches!(&line, Ok(line) if line.text.is_empty());
            let is_last = line.is_err();
            if !is_empty && sender.send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Lines in batches: waits for the next line, then adds those that are already available.
struct Batches {
    lines: mpsc::Receiver<io::Result<Line>>,
    /// A line that did not fit into the previous batch, or a failure after it.
    held: Option<io::Result<Line>>,
}

impl Iterator for Batches {
    type Item = io::Result<Vec<Line>>;

    fn next(&mut self) -> Option<io::Result<Vec<Line>>> {
        let first = match self.held.take().map_or_else(|| self.lines.recv().ok(), Some)? {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let mut bytes = first.text.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_EVENTS_MAX {
            match self.lines.try_recv() {
                Ok(Ok(line)) if bytes + line.text.len() <= BATCH_BYTES_MAX => {
                    bytes += line.text.len();
                    batch.push(line);
                }
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break, // no line for now, or the end: the next recv shows which
            }
        }
        Some(Ok(batch))
    }
}

fn range(batch: &[Line]) -> String {
    match batch {
        [] => String::new(),
        [line] => format!("line {}", line.number),
        [first, .., last] => format!("lines {} to {}", first.number, last.number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_travel_together_up_to_a_bound_and_none_is_lost() {
        let check = |lengths: &[usize], expected: &[&[usize]]| {
            let (sender, lines) = mpsc::sync_channel(lengths.len() + 1);
            for (index, length) in lengths.iter().enumerate() {
                sender.send(Ok(Line { number: index + 1, text: "x".repeat(*length) })).unwrap();
            }
            sender.send(Err(io::Error::other("unreadable"))).unwrap();
            let mut batches = Batches { lines, held: None };
            for expected in expected {
                let batch = batches.next().unwrap().unwrap();
                assert_eq!(batch.iter().map(|line| line.number).collect::<Vec<_>>(), *expected, "{lengths:?}");
            }
            assert!(batches.next().unwrap().is_err(), "{lengths:?}: the failure comes after every line");
        };
        check(&[], &[]);
        check(&[1, 2, 3], &[&[1, 2, 3]]);
        check(&[BATCH_BYTES_MAX, 1, 1], &[&[1], &[2, 3]]);
        check(&[1, 2 * BATCH_BYTES_MAX, 1], &[&[1], &[2], &[3]]);
        let all: Vec<usize> = (1..=BATCH_EVENTS_MAX + 1).collect();
        check(&vec![1; all.len()], &[&all[..BATCH_EVENTS_MAX], &all[BATCH_EVENTS_MAX..]]);
    }
}
