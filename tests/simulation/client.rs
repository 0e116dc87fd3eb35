//! The clients: subscribers that come back with their Last-Event-ID, as browsers do, and talkers that ask for
//! everything else, pipelined, in pieces, and not always well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare::io::simulated::{PeerId, Random};
use fanfare::protocol::decoder::{Decoder, Item};

use super::feed::History;
use super::wire::{Request, find, must};

/// The longest interval that a subscriber asks for.
pub(crate) const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// A subscriber, through all its connections.
pub(crate) struct Subscriber {
    pub(crate) topics: Vec<String>,
    pub(crate) replay: &'static str,
    pub(crate) latest: bool,
    pub(crate) interval: Duration,
    pub(crate) id_in_query: bool,
    pub(crate) is_event_source: bool,
    pub(crate) node: usize,
    pub(crate) link: Link,
    decoder: Decoder,
    /// Bytes of the head of this connection's answer, until it is whole.
    head: Option<Vec<u8>>,
    ledger: Ledger,
}

/// Whether a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Away { until: Duration },
    Joined(PeerId),
}

/// What one subscriber has seen, whichever node and connection it came through.
#[derive(Default)]
struct Ledger {
    /// Of each topic, the place of the newest event.
    places: BTreeMap<String, usize>,
    /// Topics of which a gap was told since their last event.
    gaps: BTreeSet<String>,
    /// Something was skipped, or repeated: what is remembered from before a gap comes before it, so it is due.
    gap_is_due: bool,
}

impl Subscriber {
    pub(crate) fn drawn(random: &mut Random, topics: &[String], nodes: usize) -> Subscriber {
        let count = if random.chance(500) { 1 } else { 1 + random.below(topics.len().min(4)) };
        let mut own: Vec<String> = topics.to_vec();
        while own.len() > count {
            own.remove(random.below(own.len()));
        }
        let plain = random.chance(650);
        Subscriber {
            topics: own,
            replay: if plain { "missed" } else { ["missed", "all", "latest", "none"][random.below(4)] },
            latest: !plain && random.chance(350),
            interval: match random.chance(300) {
                true => [Duration::from_millis(100), Duration::from_secs(1), INTERVAL_MAX][random.below(3)],
                false => Duration::ZERO,
            },
            id_in_query: random.chance(200),
            is_event_source: random.chance(850),
            node: random.below(nodes),
            link: Link::Away { until: Duration::ZERO },
            decoder: Decoder::new(),
            head: None,
            ledger: Ledger::default(),
        }
    }

    /// The request for its stream, and what the checker has to know of it.
    pub(crate) fn request(&mut self) -> (Vec<u8>, Request) {
        let last_event_id = self.decoder.last_event_id().to_owned();
        let mut target = String::from("/events?");
        self.topics.iter().for_each(|topic| target.push_str(&format!("topic={topic}&")));
        target.push_str(&format!("replay={}&interval_ms={}", self.replay, self.interval.as_millis()));
        if self.latest {
            target.push_str("&latest=1");
        }
        if self.id_in_query && !last_event_id.is_empty() {
            target.push_str(&format!("&lastEventId={last_event_id}"));
        }
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n");
        if self.is_event_source {
            head.push_str("Accept: text/event-stream\r\n");
        }
        if !self.id_in_query && !last_event_id.is_empty() {
            head.push_str(&format!("Last-Event-ID: {last_event_id}\r\n"));
        }
        head.push_str("\r\n");
        self.head = Some(Vec::new());
        let bytes = head.into_bytes();
        let request = Request {
            topics: self.topics.clone(),
            last_event_id,
            replay: self.replay,
            latest: self.latest,
            interval: self.interval,
            bytes: bytes.len(),
        };
        (bytes, request)
    }

    /// The connection is over; when it comes back.
    pub(crate) fn leave(&mut self, until: Duration) {
        self.link = Link::Away { until };
        self.decoder = std::mem::take(&mut self.decoder).reconnected();
        self.head = None;
    }

    /// It asked for less than everything.
    fn is_lossy(&self) -> bool {
        self.latest || self.replay == "latest" || self.replay == "none"
    }

    /// How long it was told to stay away.
    pub(crate) fn retry(&self) -> Duration {
        self.decoder.retry().unwrap_or(Duration::from_secs(3))
    }

    /// Takes what arrived.
    pub(crate) fn receive(&mut self, bytes: &[u8], history: &History) -> Result<(), String> {
        let mut bytes = bytes.to_vec();
        if let Some(head) = &mut self.head {
            head.extend_from_slice(&bytes);
            let Some(end) = find(head, b"\r\n\r\n") else { return Ok(()) };
            bytes = head.split_off(end + 4);
            let streams = find(head, b"text/event-stream").is_some();
            let status = String::from_utf8_lossy(&head[..12]).into_owned();
            must(streams || [" 503", " 429", " 408"].iter().any(|refused| status.ends_with(refused)), || status)?;
            if !streams {
                return Ok(());
            }
            self.head = None;
        }
        let lossy = self.is_lossy();
        let (ledger, topics) = (&mut self.ledger, &self.topics);
        let mut outcome = Ok(());
        let fed = self.decoder.feed(&bytes, |item| {
            if let Item::Event { event_type, data, .. } = item
                && outcome.is_ok()
            {
                outcome = ledger.take(event_type, data, topics, history, lossy);
            }
        });
        fed.map_err(|error| error.to_string()).and(outcome)
    }

    /// In the end, when nothing keeps it from its events, it has them all.
    pub(crate) fn check_complete(&self, history: &History) -> Result<(), String> {
        must(!self.ledger.gap_is_due, || "was never told of the gap in what it has".into())?;
        // Who does not want all has no claim to what came while it was away and is forgotten: `wire` knows.
        let topics = if self.is_lossy() { &[] } else { &self.topics[..] };
        for topic in topics.iter().filter(|topic| !self.ledger.gaps.contains(*topic)) {
            let Some(place) = self.ledger.places.get(topic) else { continue };
            let count = history.count(topic);
            must(*place == count, || format!("has {place} of {count} events of {topic}"))?;
        }
        Ok(())
    }
}

impl Ledger {
    fn take(
        &mut self,
        event_type: &str,
        data: &str,
        topics: &[String],
        history: &History,
        lossy: bool,
    ) -> Result<(), String> {
        if event_type == "gap" {
            self.gaps = topics.iter().cloned().collect();
            self.gap_is_due = false;
            return Ok(());
        }
        let (topic, place) = history.place(data).ok_or_else(|| format!("{data:?} was never published"))?;
        must(topics.contains(&topic), || format!("{topic} is none of mine"))?;
        let had_gap = self.gaps.remove(&topic);
        if let Some(last) = self.places.insert(topic, place) {
            self.gap_is_due |= place != last + 1 && !had_gap && !lossy;
        }
        Ok(())
    }
}

/// A client that asks for anything but streams.
pub(crate) struct Talker {
    pub(crate) link: Link,
    pub(crate) node: usize,
    /// Final answers that are due.
    pub(crate) asked: usize,
    /// What it sent was all well-formed, so that each request has its answer.
    pub(crate) is_sane: bool,
    pub(crate) answered: usize,
    unparsed: Vec<u8>,
    streams: bool,
}

impl Talker {
    pub(crate) fn new(node: usize) -> Talker {
        Talker {
            link: Link::Away { until: Duration::ZERO },
            node,
            asked: 0,
            is_sane: true,
            answered: 0,
            unparsed: Vec::new(),
            streams: false,
        }
    }

    /// What it says next.
    pub(crate) fn speech(&mut self, random: &mut Random, topics: &[String], serial: &mut u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..1 + random.below(4) {
            self.asked += 1;
            let topic = &topics[random.below(topics.len())];
            match random.below(12) {
                0 => bytes.extend_from_slice(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
                1 => bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
                2 => bytes.extend_from_slice(b"GET /topics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
                3 => bytes.extend_from_slice(b"OPTIONS /publish HTTP/1.1\r\nHost: localhost\r\n\r\n"),
                4 => bytes.extend_from_slice(b"GET /dashboard/data HTTP/1.1\r\nHost: localhost\r\n\r\n"),
                5 if random.chance(100) => {
                    self.is_sane = false;
                    bytes.extend_from_slice(b"GET /\x01 HTTP/9.9\r\n\r\nnonsense");
                }
                6 if random.chance(300) => {
                    // A stream takes no body: this is refused, and what was half written comes first.
                    self.is_sane = false;
                    let head =
                        format!("GET /events?topic={topic} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n");
                    bytes.extend_from_slice(head.as_bytes());
                    bytes.extend_from_slice(b"Content-Length: 2\r\n\r\nhi");
                }
                7 if random.chance(200) => {
                    self.is_sane = false;
                    bytes.extend_from_slice(b"HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
                }
                draw => bytes.extend_from_slice(&publish(random, draw, topic, serial)),
            }
            if !self.is_sane {
                break;
            }
        }
        bytes
    }

    /// Takes what arrived: answers, one after the other, each whole.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.streams {
            return Ok(());
        }
        self.unparsed.extend_from_slice(bytes);
        while let Some(end) = find(&self.unparsed, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&self.unparsed[..end + 4]).into_owned();
            must(head.starts_with("HTTP/1.1 "), || format!("no head where one is due: {head:?}"))?;
            if head.starts_with("HTTP/1.1 100 ") {
                must(head == "HTTP/1.1 100 Continue\r\n\r\n", || head.clone())?;
                self.unparsed.drain(..end + 4);
                continue;
            }
            if head.contains("text/event-stream") {
                let shape = head.matches("HTTP/1.1").count() == 1 && head.contains("Date: ");
                must(shape, || format!("a torn head: {head:?}"))?;
                self.streams = true;
                return Ok(());
            }
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if self.unparsed.len() < end + 4 + length {
                return Ok(());
            }
            self.unparsed.drain(..end + 4 + length);
            self.answered += 1;
        }
        Ok(())
    }

    pub(crate) fn leave(&mut self, until: Duration, node: usize) {
        *self = Talker { link: Link::Away { until }, ..Talker::new(node) };
    }
}

/// One event, or an array, with ids of their own or without.
fn publish(random: &mut Random, draw: usize, topic: &str, serial: &mut u64) -> Vec<u8> {
    let mut event = |twice: bool| {
        *serial += 1;
        let id = if draw.is_multiple_of(2) { format!(r#","id":"own/{serial}""#) } else { String::new() };
        let pad = "x".repeat(random.below(120));
        let event = format!(r#"{{"topic":"{topic}","data":"http {serial} {pad}"{id}}}"#);
        if twice && !id.is_empty() { format!("{event},{event}") } else { event }
    };
    let body = match draw {
        10 => format!("[{},{},{}]", event(false), event(true), event(false)),
        _ => event(false),
    };
    let expect = if draw == 11 { "Expect: 100-continue\r\n" } else { "" };
    format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{expect}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}
