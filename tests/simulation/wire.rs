//! The checker of one stream: every byte that the server sent on it, held against the node's own record.
//!
//! What a subscriber is owed: from its position on every record of its topics, in order, each once. What may be
//! missing: what the log had forgotten before it could be sent, and then a gap stands exactly there. So a gap is
//! *true* if something before it that was owed is forgotten (or its id is one that the server can't know), *told
//! once* if nothing that it covers was covered before, and *due* as soon as anything after it is sent, or the server
//! goes to sleep with nothing more to send.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fanfare::io::simulated::PeerId;
use fanfare::protocol::decoder::{Decoder, Item};

use super::feed::{Feed, Record};

/// What can be seen of a node's hub after a turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) head: u64,
    pub(crate) topics: BTreeMap<String, TopicSnapshot>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicSnapshot {
    pub(crate) evicted_through: u64,
    pub(crate) retained: usize,
}

impl Snapshot {
    fn evicted_through(&self, topic: &str) -> u64 {
        self.topics.get(topic).map_or(u64::MAX, |topic| topic.evicted_through)
    }

    /// The newest position of which one of these topics has forgotten something.
    fn evicted_through_any(&self, topics: &[String]) -> u64 {
        topics.iter().filter_map(|topic| self.topics.get(topic)).map(|topic| topic.evicted_through).max().unwrap_or(0)
    }

    /// True while a log of these topics holds the record.
    fn retains(&self, sequence: u64, record: &Record, topics: &[String]) -> bool {
        let touched = topics.iter().filter(|topic| record.touches(std::slice::from_ref(topic)));
        let mut touched = touched.map(|topic| self.evicted_through(topic));
        touched.any(|evicted_through| evicted_through < sequence)
    }
}

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

/// What the checker has to know of how the server is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promises {
    pub(crate) replay_events_max: Option<usize>,
    pub(crate) skips_slow: bool,
    pub(crate) topics_vanish: bool,
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
    decoder: Decoder,
    /// Before the turn that took the request; after it.
    around: Option<(Rc<Snapshot>, Rc<Snapshot>)>,
    position: u64,
    /// Where its stream started; what is before and forgotten was never owed.
    start: u64,
    not_owed_through: u64,
    /// What is forgotten in the turn that takes the request may go before it is looked at, or after.
    perhaps_owed_through: u64,
    unknown_id: Option<bool>,
    is_capped: bool,
    gap_told: bool,
    /// Forgotten before they were sent; a gap is due.
    debts: Vec<u64>,
    last_of_topic: BTreeMap<String, u64>,
    was_held_up: bool,
    /// Something was held up, and nothing was sent since: what goes out next may have been begun before.
    is_behind: bool,
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
    /// Anything but a stream that goes on.
    Refused,
}

/// What a turn left a connection with.
pub(crate) struct Turn<'a> {
    pub(crate) now: Duration,
    pub(crate) sent: &'a [u8],
    pub(crate) read_bytes: usize,
    pub(crate) is_held_up: bool,
    pub(crate) is_open: bool,
    pub(crate) is_ended: bool,
    pub(crate) before: &'a Rc<Snapshot>,
    pub(crate) after: &'a Rc<Snapshot>,
}

type Checked = Result<(), String>;

impl Wire {
    pub(crate) fn new(peer: PeerId, request: Request, promises: Promises, feed: Arc<Feed>, now: Duration) -> Wire {
        Wire {
            peer,
            promises,
            feed,
            checked: 0,
            unparsed: Vec::new(),
            stage: Stage::Head,
            decoder: Decoder::new(),
            around: None,
            position: 0,
            start: 0,
            not_owed_through: 0,
            perhaps_owed_through: 0,
            unknown_id: None,
            is_capped: false,
            debts: Vec::new(),
            last_of_topic: BTreeMap::new(),
            was_held_up: false,
            is_behind: false,
            last_grown_at: now,
            last_held_up_at: now,
            held_up_since: now,
            last_delivery: None,
            is_exempt_from_pace: request.replay == "latest",
            gap_told: false,
            request,
        }
    }

    /// True once a stream was promised that goes on.
    pub(crate) fn is_streaming(&self) -> bool {
        matches!(self.stage, Stage::Preamble | Stage::Items)
    }

    /// Checks what this turn sent.
    pub(crate) fn check_turn(&mut self, turn: &Turn<'_>) -> Checked {
        if self.around.is_none() {
            if turn.read_bytes < self.request.bytes {
                return if turn.sent.is_empty() { Ok(()) } else { self.note_early_answer() };
            }
            self.around = Some((Rc::clone(turn.before), Rc::clone(turn.after)));
        }
        let new = &turn.sent[self.checked..];
        let grows = !new.is_empty();
        if grows {
            self.checked = turn.sent.len();
            self.last_grown_at = turn.now;
            let new = new.to_vec();
            self.take_bytes(&new, turn).map_err(|what| {
                let shown = String::from_utf8_lossy(&turn.sent[turn.sent.len().saturating_sub(800)..]).into_owned();
                format!("{what}\nit ends in: {shown}")
            })?;
        }
        self.is_behind = turn.is_held_up || self.is_behind && !grows;
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

    /// A timeout or a limit may be told before the request has arrived whole.
    fn note_early_answer(&mut self) -> Checked {
        self.stage = Stage::Refused;
        Ok(())
    }

    fn take_bytes(&mut self, bytes: &[u8], turn: &Turn<'_>) -> Checked {
        let mut rest = bytes.to_vec();
        if matches!(self.stage, Stage::Head | Stage::Preamble) {
            self.unparsed.extend_from_slice(&rest);
            rest.clear();
        }
        if self.stage == Stage::Head {
            let Some(end) = find(&self.unparsed, b"\r\n\r\n") else { return Ok(()) };
            let head = String::from_utf8(self.unparsed.drain(..end + 4).collect()).map_err(|_| "a head in UTF-8")?;
            let streams = head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream");
            must(head.starts_with("HTTP/1.1 "), || format!("no head: {head:?}"))?;
            self.stage = if streams && !head.contains("Connection: close") { Stage::Preamble } else { Stage::Refused };
        }
        if self.stage == Stage::Preamble {
            let Some(end) = find(&self.unparsed, b"\n\n") else { return Ok(()) };
            let preamble: Vec<u8> = self.unparsed.drain(..end + 2).collect();
            let _ = self.decoder.feed(&preamble, |_| ());
            must(self.decoder.retry().is_some(), || "the preamble has no retry".into())?;
            self.stage = Stage::Items;
            let id = self.decoder.last_event_id().to_owned();
            self.start_at(&id)?;
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
        let delivers = !items.is_empty();
        for (event_type, data, id) in items {
            self.take_item(&event_type, &data, &id, turn).map_err(|what| {
                format!(
                    "{what}\nat {event_type} {id} {data:?}, after position {}, debts {:?}",
                    self.position, self.debts
                )
            })?;
        }
        if delivers {
            self.check_pace(turn)?;
        }
        Ok(())
    }

    /// Where the stream starts, as its request and preamble have it.
    fn start_at(&mut self, preamble_id: &str) -> Checked {
        let (before, after) = self.around.clone().expect("an answer follows the request");
        let Request { topics, last_event_id, replay, .. } = self.request.clone();
        let named = (!last_event_id.is_empty() && replay != "none").then_some(last_event_id.as_str());
        let known = named.and_then(|id| self.feed.sequence_of(id));
        let fresh = self.feed.run.position(preamble_id).map(|position| position.0);
        match (named, known) {
            (Some(id), Some(position)) if preamble_id == id => {
                self.must_not_be_unknowable(position, id, &before)?;
                (self.position, self.unknown_id) = (position, Some(false));
            }
            (Some(id), known) => {
                self.must_be_unknowable(known, id, &after)?;
                self.unknown_id = Some(true);
            }
            (None, _) if replay == "missed" || replay == "none" => {
                let head = fresh.ok_or_else(|| format!("no position in the preamble, but {preamble_id:?}"))?;
                let sane = before.head <= head && head <= after.head;
                must(sane, || format!("starts at {head}, not within {}..={}", before.head, after.head))?;
                self.position = head;
            }
            (None, _) => {
                let found = |topic: &String| before.topics.get(topic).or(after.topics.get(topic));
                let forgotten = topics.iter().filter_map(found).map(|topic| topic.evicted_through);
                self.not_owed_through = forgotten.max().unwrap_or(0);
                self.perhaps_owed_through = after.evicted_through_any(&topics).max(self.not_owed_through);
            }
        }
        self.start = self.position;
        let remembered = self.feed.between(self.position, after.head, &topics);
        let remembered =
            remembered.iter().filter(|(sequence, record)| before.retains(*sequence, record, &topics)).count();
        // Who wants only the newest gets them all.
        self.is_capped = !self.request.latest
            && replay != "latest"
            && self.promises.replay_events_max.is_some_and(|max| remembered * topics.len() > max);
        if replay == "latest" {
            self.not_owed_through = before.head;
            self.perhaps_owed_through = before.head;
        }
        Ok(())
    }

    /// An id that is surely remembered must not be taken for an unknown one.
    fn must_be_unknowable(&self, known: Option<u64>, id: &str, after: &Snapshot) -> Checked {
        let Some(sequence) = known else { return Ok(()) };
        let own = self.feed.run.position(id).is_some();
        let retained = after.retains(sequence, &self.feed.record(sequence), &self.request.topics);
        must(!own && !retained, || format!("{id} is known, at {sequence}, and was taken for unknown"))
    }

    /// An id that is surely forgotten must not be taken for a known one.
    fn must_not_be_unknowable(&self, sequence: u64, id: &str, before: &Snapshot) -> Checked {
        let own = self.feed.run.position(id).is_some();
        if own {
            return must(sequence <= before.head, || format!("{id} is not yet"));
        }
        let record = self.feed.record(sequence);
        // The last one forgotten is still a known position.
        let knows =
            |topic: &String| record.touches(std::slice::from_ref(topic)) && before.evicted_through(topic) <= sequence;
        must(self.request.topics.iter().any(knows), || format!("{id} was forgotten, and taken for known"))
    }

    fn take_item(&mut self, event_type: &str, data: &str, id: &str, turn: &Turn<'_>) -> Checked {
        let sequence = self.feed.sequence_of(id).ok_or("an id that nobody gave")?;
        if event_type == "gap" {
            let gap: serde_json::Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
            let reason = gap["reason"].as_str().unwrap_or_default();
            if matches!(reason, "unknown_id" | "evicted" | "replay_limit" | "too_slow") {
                let named = gap["topics"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
                let named: Vec<_> = named.map(str::to_owned).collect();
                return self.take_missed_gap(reason, sequence, &named, turn.after);
            }
            let record = self.feed.record(sequence);
            must(record.is_gap && record.data == reason, || format!("not the gap that was announced: {record:?}"))?;
        } else {
            let record = self.feed.record(sequence);
            must(!record.is_gap && record.data == data, || format!("not what was published: {record:?}"))?;
        }
        let record = self.feed.record(sequence);
        must(record.touches(&self.request.topics), || format!("of no topic of mine: {record:?}"))?;
        must(sequence > self.position, || format!("again, or out of order: {sequence}"))?;
        match self.request.latest || sequence <= self.not_owed_through && self.request.replay == "latest" {
            true => self.take_newest(sequence, &record, turn)?,
            false => {
                self.skip_replay_of_latest();
                self.note_skipped(sequence, turn.after)?;
                self.note_told(&record);
            }
        }
        self.position = sequence;
        Ok(())
    }

    /// `replay=latest` wants of the past only the newest.
    fn skip_replay_of_latest(&mut self) {
        if self.request.replay == "latest" {
            self.position = self.position.max(self.not_owed_through);
        }
    }

    /// What lies between the last item and this one is owed, unless it is forgotten; then a gap is due.
    fn note_skipped(&mut self, through: u64, now: &Snapshot) -> Checked {
        let topics = &self.request.topics;
        for (skipped, record) in self.feed.between(self.position, through - 1, topics) {
            let is_cut = self.is_capped && !self.gap_told;
            let is_retained = now.retains(skipped, &record, topics);
            must(is_cut || !is_retained, || format!("skipped {skipped}, which is remembered"))?;
            if skipped > self.not_owed_through || is_retained {
                self.debts.push(skipped);
            }
        }
        let horizon = now.evicted_through_any(topics);
        must(!self.owes() || through <= horizon, || format!("lost {:?} without a gap", self.debts))
    }

    /// A gap is surely due.
    fn owes(&self) -> bool {
        self.debts.iter().any(|debt| *debt > self.perhaps_owed_through)
    }

    /// A gap of the same topics says what forgotten ones right before it would have.
    fn note_told(&mut self, record: &Record) {
        let touches = |record: &Record, topic: &String| record.touches(std::slice::from_ref(topic));
        let topics = &self.request.topics;
        self.debts.retain(|debt| {
            let debt = self.feed.record(*debt);
            let says_all = topics.iter().all(|topic| touches(record, topic) || !touches(&debt, topic));
            !(record.is_gap && debt.is_gap && says_all)
        });
    }

    fn take_missed_gap(&mut self, reason: &str, through: u64, named: &[String], now: &Snapshot) -> Checked {
        let topics = self.request.topics.clone();
        must(!self.request.latest, || "what latest=1 skips is no gap".into())?;
        must(through >= self.position, || format!("a gap at {through}, behind the position"))?;
        let mut missed = std::mem::take(&mut self.debts);
        let between = self.feed.between(self.position, through, &topics);
        // One topic may have forgotten more than another: what was there once the request was taken is owed, too.
        let start = self.around.as_ref().map(|(_, after)| Rc::clone(after));
        let was_there = |missed, record: &Record| start.as_ref().is_some_and(|it| it.retains(missed, record, &topics));
        let is_there = |missed, record: &Record| now.retains(missed, record, &topics);
        let owed = between.iter().filter(|(missed, record)| {
            *missed > self.not_owed_through || is_there(*missed, record) || was_there(*missed, record)
        });
        missed.extend(owed.map(|(missed, _)| *missed));
        let forgotten =
            missed.iter().filter(|missed| !now.retains(**missed, &self.feed.record(**missed), &topics)).count();
        let unnamed = missed.iter().find(|missed| !self.feed.record(**missed).touches(named));
        must(unnamed.is_none(), || format!("the gap names {named:?}, and {unnamed:?} is missing, too"))?;
        let skips = self.is_capped || reason == "too_slow";
        must(skips || forgotten == missed.len(), || format!("a gap instead of what is remembered: {missed:?}"))?;
        let is_true = match reason {
            "unknown_id" => self.unknown_id == Some(true),
            "replay_limit" => self.is_capped && !missed.is_empty(),
            "too_slow" => self.promises.skips_slow && forgotten > 0,
            _ => forgotten > 0 || self.unknown_id == Some(true) || self.is_capped && !missed.is_empty(),
        };
        // Of a topic that vanished nobody knows any more what it had: its last position stands for it.
        let is_unknowable = self.promises.topics_vanish
            && through > 0
            && now.evicted_through_any(&topics) >= through
            && !self.feed.record(through).touches(&topics);
        must(is_true || is_unknowable, || format!("a false gap ({reason}): {missed:?} was owed up to {through}"))?;
        // Told once: from here on the unknown is behind.
        self.unknown_id = self.unknown_id.map(|_| false);
        self.gap_told = true;
        self.position = through;
        Ok(())
    }

    /// Of what is kept to the newest only: there was no newer one when it was sent.
    fn take_newest(&mut self, sequence: u64, record: &Record, turn: &Turn<'_>) -> Checked {
        if let super::feed::Scope::Topic(topic) = &record.scope {
            self.last_of_topic.insert(topic.clone(), sequence);
            let known_head = if self.is_behind { 0 } else { turn.before.head };
            let topic = std::slice::from_ref(topic);
            let newer = self.feed.between(sequence, known_head, topic).into_iter().find(|(_, record)| !record.is_gap);
            must(newer.is_none(), || format!("{sequence} is not the newest: {newer:?}"))?;
        }
        Ok(())
    }

    fn check_pace(&mut self, turn: &Turn<'_>) -> Checked {
        let last = self.last_delivery.replace(turn.now);
        // A replay, or what was held up, may take several turns.
        let exempt = self.was_held_up || turn.is_held_up || self.is_exempt_from_pace;
        match last {
            Some(last) if !exempt => {
                let passed = turn.now - last;
                let allowed = passed.is_zero() || passed + Duration::from_millis(1) >= self.request.interval;
                must(allowed, || format!("paced at {:?}, and sent to after {passed:?}", self.request.interval))
            }
            _ => {
                self.is_exempt_from_pace = last.is_none() && self.is_exempt_from_pace || turn.is_held_up;
                Ok(())
            }
        }
    }

    /// Before the server goes to sleep, everything is said that can be.
    pub(crate) fn check_asleep(&self, turn: &Turn<'_>) -> Checked {
        if self.around.is_none() || !turn.is_open || turn.is_held_up || turn.is_ended {
            return Ok(());
        }
        must(self.stage != Stage::Head, || "asked for a stream and has no answer".into())?;
        if self.stage != Stage::Items {
            return Ok(());
        }
        // Nothing can be said to who takes nothing; the heartbeats go on when the next one is due.
        let silence = turn.now.saturating_sub(self.last_grown_at.max(self.last_held_up_at));
        let allowed = self.promises.heartbeat + Duration::from_millis(300);
        must(silence <= allowed, || format!("no heartbeat for {silence:?}"))?;
        // A heartbeat that was held up counts as a delivery, too.
        let waits = turn.now < self.last_grown_at + self.request.interval + Duration::from_millis(150);
        if !self.request.interval.is_zero() && (waits || self.last_delivery.is_none()) {
            return Ok(());
        }
        let topics = &self.request.topics;
        if self.request.latest || self.request.replay == "latest" {
            self.check_newest(turn.after)?;
        }
        let position = if self.request.replay == "latest" { self.not_owed_through } else { 0 }.max(self.position);
        let unsent = self.feed.between(position, turn.after.head, topics);
        let retained = |(sequence, record): &&(u64, Arc<Record>)| turn.after.retains(*sequence, record, topics);
        if let Some((unsent, _)) = unsent.iter().find(retained) {
            return Err(format!("sleeps, but {unsent} is not sent (position {})", self.position));
        }
        let lost = unsent.iter().map(|(sequence, _)| *sequence).find(|sequence| *sequence > self.perhaps_owed_through);
        let silent = self.request.latest || (lost.is_none() && !self.owes());
        must(silent, || format!("sleeps, but {lost:?} and {:?} are lost without a gap", self.debts))
    }
}

impl Wire {
    /// The newest event of each topic that is remembered, and newer than where the client stood, was sent.
    fn check_newest(&self, now: &Snapshot) -> Checked {
        let through = if self.request.latest { now.head } else { self.not_owed_through };
        for topic in &self.request.topics {
            let topics = std::slice::from_ref(topic);
            let events =
                self.feed.between(self.start, through, topics).into_iter().filter(|(_, record)| !record.is_gap);
            let Some((newest, record)) = events.last() else { continue };
            let has = self.last_of_topic.get(topic).is_some_and(|last| *last >= newest);
            let owed = now.retains(newest, &record, topics) && !self.is_capped;
            must(has || !owed, || format!("sleeps, but the newest of {topic}, {newest}, is not sent"))?;
        }
        Ok(())
    }
}

pub(crate) fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise()) }
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
