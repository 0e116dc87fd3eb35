//! The clients: subscribers that come back with their Last-Event-ID, as browsers do, and talkers that ask for
//! everything else, pipelined, in pieces, and not always well.

use std::collections::VecDeque;
use std::time::Duration;

use super::census::Census;
use super::feed::Feed;
use super::ledger::{Ledger, Opening, Received, must};
use super::order::History;
use super::reception::{Arrived, Reception, stream_request};
use super::wire::{Request, find};
use fanfare::io::simulated::{PeerId, Random};

/// The longest interval that a subscriber asks for.
pub(crate) const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// What a subscriber's diary holds.
const DIARY_LINES_MAX: usize = 40;

/// A subscriber, through all its connections.
pub(crate) struct Subscriber {
    pub(crate) topics: Vec<String>,
    pub(crate) replay: &'static str,
    pub(crate) latest: bool,
    pub(crate) interval: Duration,
    pub(crate) id_in_query: bool,
    pub(crate) is_event_source: bool,
    pub(crate) accepts_gzip: bool,
    /// How often, in a thousand, its connection is cut while it receives.
    pub(crate) cuts: u32,
    pub(crate) node: usize,
    pub(crate) link: Link,
    reception: Reception,
    /// The id that the connection of this moment was asked for with.
    asked_with: String,
    heard_before: u64,
    ledger: Ledger,
    /// The end of what happened to it, for the report of a failure.
    diary: VecDeque<String>,
}

/// Whether a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Away { until: Duration },
    Joined(PeerId),
}

/// What surrounds the bytes that a client receives.
pub(crate) struct Hearing<'a> {
    pub(crate) feed: &'a Feed,
    pub(crate) history: &'a History,
    /// What had been published when the stream was answered.
    pub(crate) answered: Option<u64>,
    pub(crate) now: Duration,
    pub(crate) census: &'a mut Census,
}

impl Subscriber {
    pub(crate) fn drawn(random: &mut Random, topics: &[String], nodes: usize) -> Subscriber {
        let count = if random.chance(350) { 1 } else { 1 + random.below(topics.len().min(4)) };
        let mut own: Vec<String> = topics.to_vec();
        while own.len() > count {
            own.remove(random.below(own.len()));
        }
        let plain = random.chance(650);
        Subscriber {
            replay: if plain { "missed" } else { ["missed", "all", "latest", "none"][random.below(4)] },
            latest: !plain && random.chance(350),
            interval: match random.chance(300) {
                true => [Duration::from_millis(100), Duration::from_secs(1), INTERVAL_MAX][random.below(3)],
                false => Duration::ZERO,
            },
            id_in_query: random.chance(200),
            is_event_source: random.chance(850),
            cuts: [0, 20, 100, 300][random.below(4)],
            node: random.below(nodes),
            ..Subscriber::new(own)
        }
    }

    /// A subscriber that wants everything at once, and was never connected.
    pub(crate) fn new(topics: Vec<String>) -> Subscriber {
        Subscriber {
            ledger: Ledger::new(&topics),
            topics,
            replay: "missed",
            latest: false,
            interval: Duration::ZERO,
            id_in_query: false,
            is_event_source: true,
            accepts_gzip: false,
            cuts: 0,
            node: 0,
            link: Link::Away { until: Duration::ZERO },
            reception: Reception::default(),
            asked_with: String::new(),
            heard_before: 0,
            diary: VecDeque::new(),
        }
    }

    fn note(&mut self, line: String) {
        note(&mut self.diary, line);
    }

    /// The end of what happened to it.
    pub(crate) fn diary(&self) -> String {
        self.diary.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The request for its stream, and what the checker of the wire has to know of it.
    pub(crate) fn request(&mut self, feed: &Feed) -> (Vec<u8>, Request) {
        let last_event_id = self.last_event_id().to_owned();
        let mut target = String::from("/events?");
        self.topics.iter().for_each(|topic| target.push_str(&format!("topic={topic}&")));
        target.push_str(&format!("replay={}&interval_ms={}", self.replay, self.interval.as_millis()));
        if self.latest {
            target.push_str("&latest=1");
        }
        self.reception.begin();
        self.asked_with.clone_from(&last_event_id);
        self.heard_before = feed.heard();
        self.note(format!("asks node {} for {target} with {last_event_id:?}", self.node));
        let bytes = stream_request(target, &last_event_id, self.id_in_query, self.is_event_source, self.accepts_gzip);
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
        self.note(format!("leaves until {until:?}"));
        self.link = Link::Away { until };
        self.reception.end();
        self.ledger.disconnect();
    }

    /// The reconnection time that it received.
    pub(crate) fn retry(&self) -> Duration {
        self.reception.retry()
    }

    /// The id that it would come back with.
    pub(crate) fn last_event_id(&self) -> &str {
        self.reception.last_event_id()
    }

    /// True while it receives a stream.
    pub(crate) fn is_streaming(&self) -> bool {
        self.ledger.is_streaming()
    }

    /// Takes what arrived.
    pub(crate) fn receive(&mut self, bytes: &[u8], hearing: &mut Hearing<'_>) -> Result<(), String> {
        let mut reception = std::mem::take(&mut self.reception);
        let received = reception.receive(bytes, |arrived| match arrived {
            Arrived::Preamble { id, is_compressed } => {
                hearing.census.compressed += u64::from(is_compressed);
                self.take_preamble(id, hearing)
            }
            Arrived::Item(received) => self.take_item(received, hearing),
        });
        self.reception = reception;
        received
    }

    fn take_preamble(&mut self, id: Option<&str>, hearing: &mut Hearing<'_>) -> Result<(), String> {
        let opening = Opening {
            last_event_id: self.asked_with.clone(),
            replay: self.replay,
            latest: self.latest,
            preamble_id: id.map(str::to_owned),
            answered: hearing.answered.ok_or("bytes arrived that were never sent")?,
            heard: self.heard_before,
        };
        self.note(format!("{:?} preamble {:?}, answered at {}", hearing.now, opening.preamble_id, opening.answered));
        hearing.census.streams += 1;
        hearing.census.resumes += u64::from(!opening.last_event_id.is_empty());
        let context = |what| format!("{what}\n{opening:?}");
        hearing.feed.look(|order| self.ledger.connect(&opening, order, hearing.now)).map_err(context)
    }

    fn take_item(&mut self, received: Received<'_>, hearing: &mut Hearing<'_>) -> Result<(), String> {
        let Hearing { feed, history, now, census, .. } = hearing;
        let Received { event_type, data, id } = received;
        census.count(event_type, data);
        let about = if event_type == "gap" { data.to_owned() } else { format!("{:?}", history.find(data)) };
        self.note(format!("  {event_type} {id} {about}"));
        let sequence = feed.look(|order| self.ledger.take(received, order, history, *now))?;
        feed.note_heard(sequence);
        Ok(())
    }

    /// In the end, when nothing keeps it from its events, it has them all.
    pub(crate) fn check_complete(&self, feed: &Feed, now: Duration) -> Result<(), String> {
        feed.look(|order| self.ledger.check_complete(order, now))
    }
}

fn note(diary: &mut VecDeque<String>, line: String) {
    diary.push_back(line);
    if diary.len() > DIARY_LINES_MAX {
        diary.pop_front();
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
