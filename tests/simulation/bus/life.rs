//! The checker: what one client received over its whole life, held against what was on the bus.
//!
//! It knows what a client and an engine know: the bytes that arrived, what was on the bus and what is still there, and
//! what each node was given to read. It does not look into a server. The rules, by the names that a violation begins with:
//! - `B1` What arrives was on the bus at the position that its id names, unchanged, on a topic of this client.
//! - `B2` It arrives once, and behind what arrived before. Only a gap may come between descending positions.
//! - `B3` Nothing is skipped silently: when something arrives, everything of its topic before it was received, or a gap
//!   named the topic. A fork and a refused entry are such things: a gap is to say so, at their place.
//! - `B4` The same at the end, and for the position of a heartbeat.
//! - `B5` A gap is true: what it reports is missing, or may be.
//! - `B6` A node resumes where the id says, or begins with the gap `unknown_id`; it knows every id that was not lost and
//!   is of an epoch that it has read.

use std::collections::BTreeMap;

use fanfare::event::timeline::Position;

use super::engine::Served;
use super::truth::{Fate, Record, Truth, What};
use crate::ledger::{Checked, Received, must};

/// What the checker may know when something arrives.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) truth: &'a Truth,
    /// What the node was given to read.
    pub(crate) served: &'a Served,
    pub(crate) memory: Memory,
}

/// What a node still has of what it was given to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Everything.
    Whole,
    /// What its bounds allow.
    Bounded,
    /// What its bounds allow, and what the engine still has, because it fetches that.
    Fetching,
}

/// One client's life. A *mark* is a number of records: those through a place.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    topics: Vec<String>,
    /// By topic, the mark through which everything was received, named by a gap, or not owed; `None`: nothing is owed
    /// before the first event.
    settled: BTreeMap<String, Option<usize>>,
    /// The mark of its id.
    place: usize,
    /// The position of its id.
    position: Position,
    /// What arrived last was a gap, other than the first of a stream with an unknown id.
    had_gap: bool,
    /// The engine went back in this client's life: an id may mean either of two entries, and a node may send both. Only
    /// the order is checked, and that it reaches the end.
    is_adrift: bool,
    stream: Option<Stream>,
}

#[derive(Clone, Debug)]
struct Stream {
    asked_with: String,
    must_be_unknown: bool,
    has_item: bool,
    /// It began at a known id: what its node has forgotten is fetched.
    fetches: bool,
}

impl Life {
    pub(crate) fn new(topics: &[String]) -> Life {
        Life {
            topics: topics.to_vec(),
            settled: BTreeMap::new(),
            place: 0,
            position: Position::default(),
            had_gap: false,
            is_adrift: false,
            stream: None,
        }
    }

    pub(crate) fn is_streaming(&self) -> bool {
        self.stream.is_some()
    }

    pub(crate) fn disconnect(&mut self) {
        self.stream = None;
    }

    /// A stream begins with a preamble.
    pub(crate) fn connect(
        &mut self,
        asked_with: &str,
        replays_all: bool,
        preamble_id: Option<&str>,
        known: Known<'_>,
    ) -> Checked {
        let must_be_unknown = match preamble_id {
            _ if asked_with.is_empty() => {
                self.start(replays_all, preamble_id, known)?;
                false
            }
            Some(id) => {
                must(id == asked_with, || format!("B6: asked for {asked_with}, and starts at {id}"))?;
                self.resume(id, known)?;
                false
            }
            None => true,
        };
        let fetches = !asked_with.is_empty() && !must_be_unknown;
        self.stream = Some(Stream { asked_with: asked_with.to_owned(), must_be_unknown, has_item: false, fetches });
        Ok(())
    }

    fn start(&mut self, replays_all: bool, preamble_id: Option<&str>, known: Known<'_>) -> Checked {
        let id = preamble_id.ok_or("B6: a stream without a position")?;
        let position = read(id, known.truth)?;
        if replays_all {
            known.must_begin_with_all(position)?;
        }
        self.stand_at(position, known.truth.through(position), self.is_adrift);
        let is_owed = !self.is_adrift && (!replays_all || known.memory == Memory::Whole);
        self.settled = self.topics.iter().map(|topic| (topic.clone(), is_owed.then_some(self.place))).collect();
        Ok(())
    }

    fn resume(&mut self, id: &str, known: Known<'_>) -> Checked {
        let mark = known.truth.through(read(id, known.truth)?);
        let is_here = self.is_adrift || mark == self.place;
        must(is_here, || format!("the checker is wrong: {id} is {mark}, not {}", self.place))
    }

    /// The engine went back.
    pub(crate) fn set_adrift(&mut self) {
        self.is_adrift = true;
        self.settled.values_mut().for_each(|settled| *settled = None);
        self.place = 0;
    }

    /// Takes what arrived complete.
    pub(crate) fn take(&mut self, received: Received<'_>, known: Known<'_>) -> Checked {
        let stream = self.stream.as_mut().ok_or("an event before the preamble")?;
        let is_first = !std::mem::replace(&mut stream.has_item, true);
        let must_be_unknown = std::mem::take(&mut stream.must_be_unknown);
        let taken = match received.event_type {
            "gap" => self.take_gap(received, is_first, must_be_unknown, known),
            _ if must_be_unknown => Err("B6: the id is unknown, and no gap says so first".into()),
            _ => self.take_event(received, known),
        };
        taken.map_err(|what| format!("{what}\nreceived {received:?}\n{self:?}"))
    }

    fn take_event(&mut self, received: Received<'_>, known: Known<'_>) -> Checked {
        let Received { id, data, .. } = received;
        let position = read(id, known.truth)?;
        let found = known.truth.find_event(position, data);
        let index = found.ok_or("B1: this was not on the bus, or not there")?;
        let What::Event { topic, own, .. } = &known.truth.records()[index].what else { unreachable!("an event") };
        let published = own.as_ref().map_or(position.to_string(), |own| format!("{position}~{own}"));
        must(published == id, || format!("B1: its id is {published}"))?;
        must(self.topics.contains(topic), || format!("B1: {topic} is not subscribed to"))?;
        must(index >= self.place, || format!("B2: record {index} arrives behind {}", self.place))?;
        must(position > self.position || self.had_gap, || "B2: positions descend without a gap".into())?;
        // A client that is cut off here continues on any node: nothing of another topic may be missing either.
        self.topics.iter().try_for_each(|topic| self.must_lack_nothing(topic, index, known))?;
        self.settle(std::slice::from_ref(topic), index + 1);
        self.stand_at(position, index + 1, false);
        Ok(())
    }

    fn take_gap(&mut self, received: Received<'_>, is_first: bool, is_due: bool, known: Known<'_>) -> Checked {
        let position = read(received.id, known.truth)?;
        let mark = known.truth.through(position);
        let json: serde_json::Value = serde_json::from_str(received.data).map_err(|error| error.to_string())?;
        let reason = json["reason"].as_str().ok_or("a gap without a reason")?;
        let named = json["topics"].as_array().ok_or("a gap without topics")?;
        let named: Vec<_> = named.iter().filter_map(|name| name.as_str()).collect();
        let of_client = |topic: &&String| named.iter().any(|name| name == topic || *name == "*");
        let topics: Vec<String> = self.topics.iter().filter(of_client).cloned().collect();
        must(!topics.is_empty(), || "B5: the gap names no topic of this client".into())?;
        if reason == "unknown_id" {
            must(is_first && is_due, || "B6: unknown_id does not come first, or the id was known".into())?;
            self.must_be_unknown(known)?;
            known.must_begin_with_all(position)?;
            if !self.is_adrift {
                self.settled.values_mut().for_each(|settled| *settled = Some(mark));
            }
        } else {
            must(!is_due, || "B6: the id is unknown, and no gap says so first".into())?;
            // There is no position before the first of an epoch, so a stream that begins before that has its position.
            let is_at_start = position == self.position && position.offset == 0 && !self.had_gap;
            let follows = position > self.position || is_at_start || known.truth.went_back();
            must(follows, || format!("B2: a gap at {position} arrives behind {}", self.position))?;
            self.must_be_true(reason, position, &topics, known)?;
            // Of what was forgotten before the first event of a topic, a client that asks for the past learns nothing.
            let is_owed = |topic: &String| reason == "evicted" || self.settled[topic].is_some();
            let topics: Vec<_> = topics.into_iter().filter(is_owed).collect();
            self.settle(&topics, mark);
        }
        let had_gap = reason != "unknown_id" || self.is_adrift;
        self.stand_at(position, mark, had_gap);
        Ok(())
    }

    /// A heartbeat brought a new id.
    pub(crate) fn move_on(&mut self, id: &str, known: Known<'_>) -> Checked {
        let position = read(id, known.truth)?;
        let mark = known.truth.through(position);
        let follows = position >= self.position || known.truth.went_back();
        must(follows, || format!("B2: a heartbeat names {id}, behind {}", self.position))?;
        let complete = self.topics.iter().try_for_each(|topic| self.must_lack_nothing(topic, mark, known));
        complete.map_err(|what| format!("B4: a heartbeat names {id}: {what}"))?;
        self.settled.values_mut().flatten().for_each(|settled| *settled = mark.max(*settled));
        self.stand_at(position, mark, false);
        Ok(())
    }

    /// Nothing fails any more, and this client reads: it has everything.
    pub(crate) fn check_complete(&self, known: Known<'_>) -> Checked {
        let records = known.truth.records();
        let is_of_client = |record: &&Record| self.topics.iter().any(|topic| record.is_owed(topic));
        let newest = records.iter().rfind(is_of_client).map_or(Position::default(), |record| record.position);
        must(self.position >= newest, || format!("B4: in the end: {newest} is missing\n{self:?}"))?;
        let len = records.len();
        let complete = self.topics.iter().try_for_each(|topic| self.must_lack_nothing(topic, len, known));
        complete.map_err(|what| format!("B4: in the end: {what}\n{self:?}"))
    }

    fn stand_at(&mut self, position: Position, mark: usize, had_gap: bool) {
        let is_known = !self.is_adrift;
        (self.position, self.place, self.had_gap) = (position, if is_known { mark } else { 0 }, had_gap);
    }

    // ---- the rules ----

    fn settle(&mut self, topics: &[String], mark: usize) {
        for topic in topics.iter().filter(|_| !self.is_adrift) {
            let settled = self.settled.entry(topic.clone()).or_default();
            *settled = Some(settled.unwrap_or_default().max(mark));
        }
    }

    /// B3: every record before `end` that concerns the topic has been received, or covered by a gap.
    fn must_lack_nothing(&self, topic: &str, end: usize, known: Known<'_>) -> Checked {
        let Some(settled) = self.settled[topic] else { return Ok(()) };
        let missing = known.truth.records().iter().take(end).skip(settled).find(|record| record.is_owed(topic));
        must(missing.is_none(), || format!("B3: missing without a gap, of {topic}: {:?}", missing.unwrap()))
    }

    /// B5: what the gap reports may be so.
    fn must_be_true(&self, reason: &str, position: Position, topics: &[String], known: Known<'_>) -> Checked {
        let records = known.truth.records();
        let mark = known.truth.through(position);
        let is_there = |is_it: fn(&Record, &str) -> bool| {
            let mut there = records.iter().filter(|record| record.position == position);
            there.any(|record| topics.iter().all(|topic| is_it(record, topic)))
        };
        let is_true = match reason {
            "bus_forked" => is_there(|record, _| record.what == What::Fork),
            "event_refused" => {
                is_there(|record, topic| matches!(record.what, What::Refused(_)) && record.touches(topic))
            }
            "bus_trimmed" => {
                let from = if position == self.position { self.place.saturating_sub(1) } else { self.place };
                known.truth.went_back() || known.may_be_trimmed(from, mark)
            }
            "evicted" if known.truth.went_back() => true,
            "evicted" => topics.iter().all(|topic| self.may_be_forgotten(topic, position, known)),
            _ => false,
        };
        must(is_true, || format!("B5: nothing here can cause a gap {reason}"))
    }

    /// A node may lack something of this topic: it did not load it, or has forgotten it.
    fn may_be_forgotten(&self, topic: &str, position: Position, known: Known<'_>) -> bool {
        let mark = known.truth.through(position);
        let records = &known.truth.records()[..mark];
        let settled = self.settled[topic].unwrap_or_default();
        let was_not_loaded = known.served.from.is_some_and(|from| position <= from);
        let has_forgotten = records.iter().skip(settled).any(|record| record.touches(topic));
        match known.memory {
            Memory::Whole => was_not_loaded,
            Memory::Bounded => was_not_loaded || has_forgotten || known.may_be_trimmed(settled, mark),
            Memory::Fetching => {
                let fetches = self.stream.as_ref().is_some_and(|stream| stream.fetches);
                known.may_be_trimmed(settled, mark) || !fetches && (was_not_loaded || has_forgotten)
            }
        }
    }

    /// B6: the id was lost, or is of an epoch that the node has not read.
    fn must_be_unknown(&self, known: Known<'_>) -> Checked {
        let asked_with = &self.stream.as_ref().expect("it receives").asked_with;
        let position = read(asked_with, known.truth)?;
        let is_lost = known.truth.at(position).is_some_and(|record| record.fate == Fate::Lost);
        let epochs = &known.served.epochs;
        let is_of_unread_epoch =
            !epochs.contains(&position.epoch) && epochs.last().is_some_and(|newest| position.epoch < *newest);
        let may_be_unknown = is_lost || is_of_unread_epoch || known.truth.went_back();
        must(may_be_unknown, || format!("B6: {asked_with} is known"))
    }
}

impl Known<'_> {
    /// Something between two marks is gone, or may have been there.
    fn may_be_trimmed(&self, from: usize, mark: usize) -> bool {
        let records = self.truth.records();
        let is_gone = records[..mark].iter().skip(from).any(Record::is_gone);
        is_gone || records.iter().take(mark + 1).skip(from).any(|record| record.follows_hole)
    }

    /// B5: nothing that the node was given and still has is before this place.
    fn must_begin_with_all(&self, position: Position) -> Checked {
        let is_bounded = self.memory != Memory::Whole || self.truth.went_back();
        let from = self.served.from.unwrap_or_default();
        must(is_bounded || position <= from, || format!("B5: begins at {position}, and the node has read from {from}"))
    }
}

/// The position in an id of the bus; it was given out.
fn read(id: &str, truth: &Truth) -> Result<Position, String> {
    let position = Position::of_id(id).ok_or_else(|| format!("B1: {id:?} is no id of the bus"))?;
    must(position <= truth.newest(), || format!("B1: {id} was never given out"))?;
    Ok(position)
}
