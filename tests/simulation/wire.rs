//! The checker of one stream as the server sends it: what has its time, and what must not wait.
//!
//! - A stream begins with a head and a preamble with a reconnection time.
//! - Heartbeats come in time, a client that reads nothing is closed in time, and intervals between deliveries are kept.
//! - The server does not sleep while something is unsent that a client which reads is owed.
//! - A client that wants only the newest event gets the one that was the newest when it was sent.
//!
//! Absent: which events a client must have, and which gaps. The [ledger](super::ledger) knows that, from the other end.

use std::sync::Arc;
use std::time::Duration;

use fanfare::io::simulated::PeerId;
use fanfare::protocol::decoder::{Decoder, Item};

use super::coding::Coding;
use super::feed::Feed;
use super::ledger::must;

/// How a client asked for its stream.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) topics: Vec<String>,
    pub(crate) last_event_id: String,
    pub(crate) replay: &'static str,
    pub(crate) latest: bool,
    pub(crate) interval: Duration,
    /// How long the request is, on the wire.
    pub(crate) bytes: usize,
}

/// The times that the server is configured with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promises {
    pub(crate) heartbeat: Duration,
    pub(crate) stall_timeout: Duration,
}

/// One stream under scrutiny.
pub(crate) struct Wire {
    pub(crate) peer: PeerId,
    pub(crate) request: Request,
    promises: Promises,
    feed: Arc<Feed>,
    /// How much of what was sent is checked.
    checked: usize,
    /// Bytes of the head, or of the preamble, until they are whole.
    unparsed: Vec<u8>,
    stage: Stage,
    coding: Coding,
    decoder: Decoder,
    has_item: bool,
    has_asked: bool,
    /// What had been published when the server answered, and how far the loop had read before.
    answered: Option<(u64, u64)>,
    /// Everything through here was sent, or is covered by a gap, or is not owed.
    position: u64,
    was_held_up: bool,
    /// Something was held up, and nothing was sent since: what goes out next may have been begun before.
    is_behind: bool,
    taken_bytes: usize,
    last_grown_at: Duration,
    last_held_up_at: Duration,
    held_up_since: Duration,
    last_delivery: Option<Duration>,
    is_exempt_from_pace: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Preamble,
    Items,
    /// Anything but an open stream.
    Refused,
}

/// What a turn left a connection with.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    pub(crate) now: Duration,
    pub(crate) sent: &'a [u8],
    /// What the kernel has taken: with TLS, more than is sent.
    pub(crate) taken_bytes: usize,
    pub(crate) read_bytes: usize,
    pub(crate) is_held_up: bool,
    pub(crate) is_open: bool,
    pub(crate) is_ended: bool,
    /// How far the loop had read its inbox before the turn, and has after it.
    pub(crate) head_before: u64,
    pub(crate) head: u64,
}

type Checked = Result<(), String>;

impl Turn<'_> {
    fn is_secured(&self) -> bool {
        self.taken_bytes > self.sent.len()
    }
}

impl Wire {
    pub(crate) fn new(peer: PeerId, request: Request, promises: Promises, feed: Arc<Feed>, now: Duration) -> Wire {
        Wire {
            peer,
            promises,
            feed,
            checked: 0,
            unparsed: Vec::new(),
            stage: Stage::Head,
            coding: Coding::default(),
            decoder: Decoder::new(),
            has_item: false,
            has_asked: false,
            answered: None,
            position: 0,
            was_held_up: false,
            is_behind: false,
            taken_bytes: 0,
            last_grown_at: now,
            last_held_up_at: now,
            held_up_since: now,
            last_delivery: None,
            is_exempt_from_pace: request.replay == "latest",
            request,
        }
    }

    /// True once an open stream was promised.
    pub(crate) fn is_streaming(&self) -> bool {
        matches!(self.stage, Stage::Preamble | Stage::Items)
    }

    /// What had been published when the server answered.
    pub(crate) fn answered(&self) -> Option<u64> {
        self.answered.map(|(published, _)| published)
    }

    /// Checks what this turn sent.
    pub(crate) fn check_turn(&mut self, turn: &Turn<'_>) -> Checked {
        let has_new = turn.sent.len() > self.checked;
        if turn.taken_bytes > self.taken_bytes {
            self.taken_bytes = turn.taken_bytes;
            self.last_grown_at = turn.now;
        }
        if has_new && self.answered.is_none() {
            self.answered = Some((self.feed.last(), turn.head_before));
        }
        if !self.has_asked {
            if turn.read_bytes < self.request.bytes {
                // A timeout or a limit may be reported before the request is complete.
                self.stage = if has_new { Stage::Refused } else { self.stage };
                return Ok(());
            }
            self.has_asked = true;
        }
        if has_new {
            let new = turn.sent[self.checked..].to_vec();
            self.checked = turn.sent.len();
            self.take_bytes(new, turn).map_err(|what| {
                let shown = String::from_utf8_lossy(&turn.sent[turn.sent.len().saturating_sub(800)..]).into_owned();
                format!("{what}\nit ends in: {shown}")
            })?;
        }
        self.is_behind = turn.is_held_up || self.is_behind && !has_new;
        if !self.was_held_up {
            self.held_up_since = turn.now;
        }
        self.was_held_up = turn.is_held_up;
        if turn.is_held_up {
            self.last_held_up_at = turn.now;
        }
        let silence = turn.now.saturating_sub(self.last_grown_at.max(self.held_up_since));
        // Housekeeping looks once a second, and time passes in jumps of as much.
        if turn.is_held_up && turn.is_open && self.is_streaming() {
            let allowed = self.promises.stall_timeout + Duration::from_millis(2500);
            return must(silence <= allowed, || format!("took nothing for {silence:?} and is still here"));
        }
        Ok(())
    }

    fn take_bytes(&mut self, mut rest: Vec<u8>, turn: &Turn<'_>) -> Checked {
        if self.stage == Stage::Head {
            self.unparsed.append(&mut rest);
            let Some(end) = find(&self.unparsed, b"\r\n\r\n") else { return Ok(()) };
            let head = String::from_utf8(self.unparsed.drain(..end + 4).collect()).map_err(|_| "a head in UTF-8")?;
            let streams = head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream");
            must(head.starts_with("HTTP/1.1 "), || format!("no head: {head:?}"))?;
            self.stage = if streams && !head.contains("Connection: close") { Stage::Preamble } else { Stage::Refused };
            self.coding = Coding::of_head(&head);
            rest = std::mem::take(&mut self.unparsed);
        }
        let mut rest = self.coding.decode(rest)?;
        if self.stage == Stage::Preamble {
            self.unparsed.append(&mut rest);
            let Some(end) = find(&self.unparsed, b"\n\n") else { return Ok(()) };
            let preamble: Vec<u8> = self.unparsed.drain(..end + 2).collect();
            let _ = self.decoder.feed(&preamble, |_| ());
            must(self.decoder.retry().is_some(), || "the preamble has no retry".into())?;
            self.stage = Stage::Items;
            self.start();
            rest = std::mem::take(&mut self.unparsed);
        }
        if self.stage != Stage::Items {
            return Ok(());
        }
        let mut items = Vec::new();
        let decoded = self.decoder.feed(&rest, |item| {
            if let Item::Event { event_type, data, id } = item {
                items.push((event_type.to_owned(), data.to_owned(), id.to_owned()));
            }
        });
        decoded.map_err(|error| error.to_string())?;
        // A gap that the stream opens with belongs to its preamble.
        let is_opening = |data: &str| ["unknown_id", "replay_limit"].iter().any(|reason| data.contains(reason));
        let opens = !self.has_item && items.first().is_some_and(|(kind, data, _)| kind == "gap" && is_opening(data));
        let delivers = items.len() > usize::from(opens);
        self.has_item |= !items.is_empty();
        for (event_type, data, id) in items {
            let taken = self.take_item(&event_type, &data, &id, turn);
            taken.map_err(|what| format!("{what}\nat {event_type} {id} {data:?}, after {}", self.position))?;
        }
        if delivers { self.check_pace(turn) } else { Ok(()) }
    }

    /// Where the stream starts: at its preamble's id, or behind the past that was wanted and not owed.
    fn start(&mut self) {
        let Request { topics, last_event_id, replay, .. } = &self.request;
        let (answered, _) = self.answered.expect("something was sent");
        let id = self.decoder.last_event_id();
        self.position = match self.feed.look(|order| order.own_position(id)) {
            Some(_) if last_event_id.is_empty() && matches!(*replay, "all" | "latest") => answered,
            Some(own) => own,
            None => self.feed.look(|order| order.uses(id, topics, answered).last().copied().unwrap_or(0)),
        };
    }

    fn take_item(&mut self, event_type: &str, data: &str, id: &str, turn: &Turn<'_>) -> Checked {
        let sequence = self.feed.look(|order| match event_type {
            "gap" => order.own_position(id),
            _ => order.find_event(id, data),
        });
        let sequence = sequence.ok_or("an id that was never given")?;
        if event_type != "gap" {
            self.check_newest(sequence, turn)?;
        }
        self.position = self.position.max(sequence);
        Ok(())
    }

    /// Of what is kept to the newest only there was no newer one when it was sent.
    fn check_newest(&self, sequence: u64, turn: &Turn<'_>) -> Checked {
        let (_, head_at_start) = self.answered.expect("something was sent");
        let known_head = match self.request.latest {
            _ if self.is_behind => 0,
            true => turn.head_before,
            false if self.request.replay == "latest" => head_at_start,
            false => 0,
        };
        let newer = self.feed.look(|order| {
            let topics: Vec<_> =
                self.request.topics.iter().filter(|topic| order.record(sequence).touches(topic)).cloned().collect();
            let mut newer = order.between(sequence, known_head, &topics);
            newer.find(|(_, record)| record.is_certain() && !record.is_loss()).map(|(newer, _)| newer)
        });
        must(newer.is_none(), || format!("{sequence} is not the newest: {newer:?}"))
    }

    fn check_pace(&mut self, turn: &Turn<'_>) -> Checked {
        let last = self.last_delivery.replace(turn.now);
        // A replay, or what was held up, may take several turns. Before its end a stream is given all that there is.
        let exempt = self.was_held_up || turn.is_held_up || turn.is_ended || self.is_exempt_from_pace;
        match last {
            Some(last) if !exempt => {
                let passed = turn.now - last;
                let allowed = passed.is_zero() || passed + Duration::from_millis(1) >= self.request.interval;
                must(allowed, || format!("paced at {:?}, and sent to after {passed:?}", self.request.interval))
            }
            _ => {
                // What TLS held is seen when the rest of its record goes out, later than it was sent.
                let was_seen_late = self.was_held_up && turn.is_secured();
                self.is_exempt_from_pace =
                    last.is_none() && self.is_exempt_from_pace || turn.is_held_up || was_seen_late;
                Ok(())
            }
        }
    }

    /// Before the server goes to sleep, everything is said that can be.
    pub(crate) fn check_asleep(&self, turn: &Turn<'_>) -> Checked {
        if !self.has_asked || !turn.is_open || turn.is_held_up || turn.is_ended {
            return Ok(());
        }
        must(self.stage != Stage::Head, || "asked for a stream and has no answer".into())?;
        if self.stage != Stage::Items {
            return Ok(());
        }
        // Nothing can be sent to a client that reads nothing; heartbeats continue when the next one is due.
        let silence = turn.now.saturating_sub(self.last_grown_at.max(self.last_held_up_at));
        let allowed = self.promises.heartbeat + Duration::from_millis(300);
        must(silence <= allowed, || format!("no heartbeat for {silence:?}"))?;
        // A heartbeat that was held up counts as a delivery, too.
        let waits = turn.now < self.last_grown_at + self.request.interval + Duration::from_millis(150);
        if !self.request.interval.is_zero() && (waits || self.last_delivery.is_none()) {
            return Ok(());
        }
        let unsent = self.feed.look(|order| {
            let mut unsent = order.between(self.position, turn.head, &self.request.topics);
            unsent.find(|(_, record)| record.is_certain()).map(|(unsent, _)| unsent)
        });
        must(unsent.is_none(), || {
            let sent = String::from_utf8_lossy(&turn.sent[turn.sent.len().saturating_sub(800)..]);
            format!("sleeps at {}, but {unsent:?} is neither sent nor covered by a gap\n{sent}", self.position)
        })
    }
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
