//! The history checker: what one subscriber received over its whole life, held against what was published.
//!
//! It knows what a client and the publishers know, and nothing of the server: the bytes that arrived, on which
//! connection and from which node, and the order in which that node was given its events and losses ([`Order`]).
//!
//! The rules, by the names that a violation begins with:
//! - `C1` An event is one that was published, on a topic of this client, unchanged.
//! - `C2` Each event arrives at most once. After a gap `unknown_id`, what is remembered may arrive again; so may
//!   what followed an id that was used more than once.
//! - `C3` Nothing is lost silently: when an event arrives, everything before it in its topic was received, or a gap
//!   named the topic, or the client was not owed it.
//! - `C4` The same at the end, when every client reads ([`Ledger::check_complete`]).
//! - `C5` A gap is true: of each topic that it names something is missing, and the bounds allowed to forget it.
//! - `C6` What arrives from one node is in the node's order; `unknown_id` comes first. A gap stands where the newest of
//!   what its topics lack stood. So when something arrives from behind that place, the gap was there before.
//! - `C7` A loss that the sequencer announced arrives as announced, or a gap stands for it.
//!
//! Clients that ask for the newest only (`latest=1`, `replay=latest`) consent to skip what is followed by something
//! newer, in each topic. Clients that ask for the past without an id are not owed what was forgotten by then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::order::{History, Order, Record};
use super::stand::{Account, Stand};

pub(crate) type Checked = Result<(), String>;

/// One client's ledger.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    topics: Vec<String>,
    /// None: it never got as far as a position.
    stand: Option<Stand>,
    /// The connection of this moment.
    stream: Option<Stream>,
}

/// One stream, from its preamble on.
#[derive(Clone, Debug)]
struct Stream {
    skips: Skips,
    /// What had been published when the stream was answered.
    answered: u64,
    unknown: Unknown,
    /// Where events of its topics carry the id that it was asked for with, if that is a publisher's.
    uses: Vec<u64>,
    resumed: bool,
    has_item: bool,
    /// What stands beyond the client's id and through here, the client may get again.
    repeats_through: u64,
}

/// What a client consents to skip when something newer follows in the same topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skips {
    Nothing,
    /// What was published before the stream was answered.
    Past,
    Everything,
}

/// Whether the server may say that it does not know the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    Forbidden,
    Allowed,
    Required,
}

/// How a stream was asked for, and how it began.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) last_event_id: String,
    pub(crate) replay: &'static str,
    pub(crate) latest: bool,
    /// The id in the preamble.
    pub(crate) preamble_id: Option<String>,
    /// What had been published when the stream was answered.
    pub(crate) answered: u64,
    /// The newest sequence that any client had received when this one connected.
    pub(crate) heard: u64,
}

/// What a client received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) data: &'a str,
    pub(crate) id: &'a str,
}

/// A gap as it stands on the wire.
#[derive(Debug)]
struct Gap {
    reason: String,
    topics: Vec<String>,
    at: u64,
}

impl Ledger {
    pub(crate) fn new(topics: &[String]) -> Ledger {
        Ledger { topics: topics.to_vec(), stand: None, stream: None }
    }

    /// The connection is over.
    pub(crate) fn disconnect(&mut self) {
        self.stream = None;
    }

    /// True while a stream is open.
    pub(crate) fn is_streaming(&self) -> bool {
        self.stream.is_some()
    }

    // ---- a stream begins ----

    /// Takes the preamble.
    pub(crate) fn connect(&mut self, opening: &Opening, order: &Order, now: Duration) -> Checked {
        let Opening { last_event_id, replay, latest, answered, .. } = opening;
        let skips = match (latest, *replay) {
            (true, _) => Skips::Everything,
            (_, "latest") => Skips::Past,
            _ => Skips::Nothing,
        };
        let resumed = !last_event_id.is_empty() && *replay != "none";
        let mut stream = Stream {
            skips,
            answered: *answered,
            unknown: Unknown::Forbidden,
            uses: Vec::new(),
            resumed,
            has_item: false,
            repeats_through: 0,
        };
        if resumed {
            self.resume(opening, &mut stream, order, now)?;
        } else {
            self.start(opening, order)?;
            if skips == Skips::Nothing && *replay == "all" {
                let position = self.stand_mut().position;
                self.must_skip_nothing_kept(position, order, now)?;
            }
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// A stream without a past, or with what happens to be remembered of it.
    fn start(&mut self, opening: &Opening, order: &Order) -> Checked {
        let wants_past = matches!(opening.replay, "all" | "latest");
        // The gap of a replay that was limited brings the position.
        let has_position = opening.preamble_id.is_some() || !wants_past;
        let position = if has_position { self.fresh_position(opening, order)? } else { 0 };
        if !wants_past {
            must(position >= opening.heard, || {
                format!("C3: starts at {position}, and {} was received before it asked", opening.heard)
            })?;
        }
        let accounted = self.accounts(position, order);
        let wanted = if wants_past { self.accounts(opening.answered, order) } else { BTreeMap::new() };
        self.stand =
            Some(Stand { run: order.run.to_string(), position, reach: position, last_event: None, accounted, wanted });
        Ok(())
    }

    fn fresh_position(&self, opening: &Opening, order: &Order) -> Result<u64, String> {
        let Opening { preamble_id, answered, .. } = opening;
        let position = preamble_id.as_ref().and_then(|id| order.own_position(id));
        let position = position.ok_or_else(|| format!("C6: the preamble has {preamble_id:?} for a position"))?;
        must(position <= *answered, || format!("C6: starts at {position}, after the newest ({answered})"))?;
        Ok(position)
    }

    /// A stream that resumes from an id.
    fn resume(&mut self, opening: &Opening, stream: &mut Stream, order: &Order, now: Duration) -> Checked {
        let Opening { last_event_id: id, preamble_id, answered, .. } = opening;
        let own = order.own_position(id);
        let uses = own.map_or_else(|| order.uses(id, &self.topics, *answered), |own| vec![own]);
        let position = own.or(uses.first().copied());
        stream.unknown = match (own, &uses[..]) {
            (Some(_), _) => Unknown::Forbidden,
            (None, []) => Unknown::Required,
            // What no client has received from this node, it may not have taken from its channel yet.
            (None, [only]) if *only <= opening.heard && order.surely_remembers(*only, now) => Unknown::Forbidden,
            (None, _) => Unknown::Allowed,
        };
        stream.uses = uses;
        let is_confirmed = preamble_id.as_ref() == Some(id);
        let starts_again = !is_confirmed && preamble_id.as_ref().is_some_and(|id| order.own_position(id).is_some());
        if starts_again && stream.skips != Skips::Nothing && stream.unknown != Unknown::Forbidden {
            return self.start_again(opening, stream, order);
        }
        must(is_confirmed || preamble_id.is_none(), || format!("C3: asked for {id}, and starts at {preamble_id:?}"))?;
        let Some(position) = position else {
            return must(!is_confirmed, || format!("C6: {id} means nothing here, and was taken for known"));
        };
        let stand = self.stand.as_mut().expect("a client with an id has a position");
        if stand.run != order.run.as_str() {
            stand.must_stand_at(position, order)?;
            stand.enter(position, order);
        }
        stand.position = position;
        stream.repeats_through = stand.reach;
        Ok(())
    }

    /// A client that wants only the newest starts anew. What it had may come again, what it lacks is still owed.
    fn start_again(&mut self, opening: &Opening, stream: &mut Stream, order: &Order) -> Checked {
        let position = self.fresh_position(opening, order)?;
        let stand = self.stand.as_mut().expect("a client with an id has a position");
        stand.enter(position, order);
        stand.position = position;
        stream.unknown = Unknown::Allowed;
        stream.repeats_through = stand.reach;
        Ok(())
    }

    fn accounts(&self, sequence: u64, order: &Order) -> BTreeMap<String, Account> {
        self.topics.iter().map(|topic| (topic.clone(), Account::at(topic, sequence, order))).collect()
    }

    // ---- what arrives ----

    /// Takes what arrived complete. `now` is no earlier than when it was sent.
    pub(crate) fn take(
        &mut self,
        received: Received<'_>,
        order: &Order,
        history: &History,
        now: Duration,
    ) -> Result<u64, String> {
        let stream = self.stream.as_ref().ok_or("an event before the preamble")?;
        let is_first = !stream.has_item;
        let sequence = match received.event_type {
            "gap" => self.take_gap(received, order, now),
            _ => self.take_event(received, order, history, now),
        };
        let sequence = sequence.map_err(|what| format!("{what}\nreceived {received:?}\n{self:?}"))?;
        let stream = self.stream_mut();
        stream.has_item = true;
        if is_first {
            stream.unknown = Unknown::Forbidden;
        }
        Ok(sequence)
    }

    fn take_event(
        &mut self,
        received: Received<'_>,
        order: &Order,
        history: &History,
        now: Duration,
    ) -> Result<u64, String> {
        let Received { data, id, .. } = received;
        let (topic, place) = history.find(data).ok_or("C1: this was never published")?;
        must(self.topics.contains(&topic), || format!("C1: {topic} is not subscribed to"))?;
        let sequence = order.sequence_of(&topic, place);
        let sequence = sequence.ok_or("C1: this was not published to this node")?;
        let Record::Event { id: published_id, .. } = order.record(sequence) else { unreachable!("an event") };
        must(published_id == id, || format!("C1: its id is {published_id}, not {id}"))?;
        self.must_follow(sequence)?;
        if !self.repeats(sequence) {
            let had = self.stand_mut().accounted[&topic].place;
            must(place > had, || format!("C2: {place} of {topic} arrives again, or after a gap that names it"))?;
            self.must_lack_nothing(&topic, sequence, order, now)?;
            self.must_have_heard_of_gaps(sequence, std::slice::from_ref(&topic), order, now)?;
        }
        let stand = self.stand_mut();
        stand.account(&topic, Account { place, losses: sequence });
        stand.wanted.remove(&topic);
        stand.advance(sequence);
        stand.last_event = Some((topic, place));
        Ok(sequence)
    }

    fn take_gap(&mut self, received: Received<'_>, order: &Order, now: Duration) -> Result<u64, String> {
        let gap = Gap::read(received, order)?;
        match gap.reason.as_str() {
            "unknown_id" => self.take_unknown_id(&gap, order, now)?,
            "evicted" | "replay_limit" | "too_slow" => self.take_missed(&gap, order, now)?,
            _ => self.take_loss(&gap, order, now)?,
        }
        self.stand_mut().last_event = None;
        Ok(gap.at)
    }

    /// The server cannot place the client: the ledger starts again at the gap.
    fn take_unknown_id(&mut self, gap: &Gap, order: &Order, now: Duration) -> Checked {
        let stream = self.stream.as_ref().expect("a gap arrives on a stream");
        must(!stream.has_item, || "C6: unknown_id does not come first".into())?;
        must(stream.unknown != Unknown::Forbidden, || "C5: the id is known".into())?;
        if stream.skips != Skips::Nothing {
            return self.take_unknown_id_of_newest(gap, order);
        }
        must(self.topics.iter().all(|topic| gap.names(topic)), || "C5: unknown_id does not name all topics".into())?;
        self.must_skip_nothing_kept(gap.at, order, now)?;
        self.stand = Some(Stand {
            run: order.run.to_string(),
            position: gap.at,
            reach: gap.at,
            last_event: None,
            accounted: self.accounts(gap.at, order),
            wanted: BTreeMap::new(),
        });
        self.stream_mut().repeats_through = 0;
        Ok(())
    }

    /// To a client that wants only the newest, the gap names the topics that have none.
    fn take_unknown_id_of_newest(&mut self, gap: &Gap, order: &Order) -> Checked {
        let named: Vec<_> = self.topics.iter().filter(|topic| gap.names(topic)).cloned().collect();
        must(!named.is_empty(), || "C5: unknown_id names no topic of this client".into())?;
        let stand = self.stand_mut();
        stand.enter(gap.at, order);
        stand.position = gap.at;
        named.iter().for_each(|topic| stand.account(topic, Account::at(topic, gap.at, order)));
        let reach = stand.reach;
        self.stream_mut().repeats_through = reach;
        Ok(())
    }

    /// Something that this client is owed is gone.
    fn take_missed(&mut self, gap: &Gap, order: &Order, now: Duration) -> Checked {
        self.must_follow(gap.at)?;
        let unknown = gap.topics.iter().find(|topic| !self.topics.contains(topic));
        must(unknown.is_none(), || format!("C1: the gap names {unknown:?}, which is not subscribed to"))?;
        self.must_be_allowed(gap, order)?;
        if !self.repeats(gap.at) {
            gap.topics.iter().try_for_each(|topic| self.must_be_true(gap, topic, order, now))?;
            self.must_have_heard_of_gaps(gap.at, &gap.topics, order, now)?;
        }
        let stand = self.stand_mut();
        for topic in &gap.topics {
            stand.account(topic, Account::at(topic, gap.at, order));
            // A limited replay still leaves out what was forgotten before.
            if gap.reason != "replay_limit" {
                stand.wanted.remove(topic);
            }
        }
        stand.advance(gap.at);
        Ok(())
    }

    /// A loss that the sequencer announced.
    fn take_loss(&mut self, gap: &Gap, order: &Order, now: Duration) -> Checked {
        must(gap.at <= order.last() && gap.at > 0, || "C7: no loss was announced there".into())?;
        let Record::Loss { scope, reason } = order.record(gap.at) else {
            return Err("C7: no loss was announced there".into());
        };
        must(*reason == gap.reason, || format!("C7: the loss was announced as {reason}"))?;
        let touched: Vec<_> = self.topics.iter().filter(|topic| scope.touches(topic)).cloned().collect();
        must(!touched.is_empty(), || "C7: the loss touches no topic of this client".into())?;
        must(touched.iter().all(|topic| gap.names(topic)), || format!("C7: the gap does not name {touched:?}"))?;
        self.must_follow(gap.at)?;
        if !self.repeats(gap.at) {
            self.must_have_heard_of_gaps(gap.at, &touched, order, now)?;
        }
        let stand = self.stand_mut();
        touched.iter().for_each(|topic| stand.account(topic, Account::at(topic, gap.at, order)));
        stand.advance(gap.at);
        Ok(())
    }

    // ---- the end ----

    /// Every client reads and nothing more happens: everything must be accounted for.
    pub(crate) fn check_complete(&self, order: &Order, now: Duration) -> Checked {
        let Some(stream) = &self.stream else { return Ok(()) };
        let checked = if stream.unknown == Unknown::Required {
            Err("C4: no gap reported that its id is unknown".into())
        } else {
            self.topics.iter().try_for_each(|topic| self.must_lack_nothing(topic, order.last() + 1, order, now))
        };
        checked.map_err(|what| format!("in the end: {what}\n{self:?}"))
    }

    // ---- the rules ----

    fn stand_mut(&mut self) -> &mut Stand {
        self.stand.as_mut().expect("a stream begins at a position")
    }

    fn stream_mut(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("what arrives, arrives on a stream")
    }

    /// C6: what arrives stands behind what arrived before.
    fn must_follow(&self, sequence: u64) -> Checked {
        let (stand, stream) = self.both();
        must(stream.unknown != Unknown::Required, || "C6: the id is unknown, and no gap reports it first".into())?;
        must(sequence > stand.position, || format!("C6: {sequence} arrives behind {}", stand.position))
    }

    /// The client had this, and resumed from before it.
    fn repeats(&self, sequence: u64) -> bool {
        let (stand, stream) = self.both();
        sequence <= stand.reach && sequence <= stream.repeats_through
    }

    /// C5: the past begins no later than what the bounds surely keep of it.
    fn must_skip_nothing_kept(&self, through: u64, order: &Order, now: Duration) -> Checked {
        if order.bounds.replay_events_max.is_some() {
            return Ok(());
        }
        for topic in &self.topics {
            let mut skipped = order.events_beyond(topic, 0, through + 1);
            let kept = skipped.find(|sequence| order.surely_remembers(*sequence, now));
            must(kept.is_none(), || format!("C5: {kept:?} of {topic} is skipped, and must be remembered"))?;
        }
        Ok(())
    }

    /// C3: nothing of the topic that stands before `end` is missing.
    fn must_lack_nothing(&self, topic: &str, end: u64, order: &Order, now: Duration) -> Checked {
        let missing = self.missing(topic, end, order, now);
        must(missing.is_none(), || format!("C3: lost in silence before {end}: {} of {topic}", missing.unwrap()))
    }

    /// C6: what other topics lack through `sequence` is still to be named by a gap further on. So something of theirs
    /// from further on is forgotten, too.
    fn must_have_heard_of_gaps(&self, sequence: u64, named: &[String], order: &Order, now: Duration) -> Checked {
        for topic in self.topics.iter().filter(|topic| !named.contains(topic)) {
            let Some(missing) = self.missing(topic, sequence + 1, order, now) else { continue };
            let place = self.both().0.accounted[topic].place;
            let mut events = order.events_beyond(topic, place, u64::MAX).filter(|event| *event > sequence);
            let is_later = events.any(|event| !order.surely_remembers(event, now))
                || order.losses_between(topic, sequence, u64::MAX).next().is_some()
                || order.may_have_dropped_topics();
            must(is_later, || format!("C6: {sequence} arrives, and no gap stands before it for {missing} of {topic}"))?;
        }
        Ok(())
    }

    /// The first thing of a topic before `end` that the client is owed and lacks.
    fn missing(&self, topic: &str, end: u64, order: &Order, now: Duration) -> Option<String> {
        let (stand, _) = self.both();
        let newest = self.skips_before(topic, order);
        let had = stand.accounted[topic];
        let wanted = stand.wanted.get(topic).copied().unwrap_or_default();
        if had.place.max(wanted.place) < order.base(topic) && newest == 0 {
            return Some(format!("event {} from before this run", had.place + 1));
        }
        let is_owed = |sequence: &u64| {
            let Record::Event { place, certain, .. } = order.record(*sequence) else { return false };
            let is_kept = *place > wanted.place || order.surely_remembers(*sequence, now);
            *certain && is_kept && *sequence >= newest
        };
        let event = order.events_beyond(topic, had.place, end).find(is_owed);
        let loss = order.losses_between(topic, had.losses.max(wanted.losses), end).find(|loss| *loss >= newest);
        event.map(|sequence| format!("event {sequence}")).or(loss.map(|sequence| format!("loss {sequence}")))
    }

    /// The client consents to skip what stands before this in a topic.
    fn skips_before(&self, topic: &str, order: &Order) -> u64 {
        let (_, stream) = self.both();
        match stream.skips {
            Skips::Nothing => 0,
            Skips::Past => order.newest(topic, stream.answered),
            Skips::Everything => order.newest(topic, order.last()),
        }
    }

    /// C5: a gap of this reason can happen here.
    fn must_be_allowed(&self, gap: &Gap, order: &Order) -> Checked {
        let (stand, stream) = self.both();
        let allowed = match (gap.reason.as_str(), order.bounds.replay_events_max) {
            ("too_slow", _) => order.bounds.skips_slow,
            ("replay_limit", None) => false,
            ("replay_limit", Some(max)) => {
                order.between(stand.position, stream.answered, &self.topics).count() > max && gap.at <= stream.answered
            }
            _ => true,
        };
        must(allowed, || format!("C5: nothing here can cause a gap {}", gap.reason))
    }

    /// C5: something of the topic that the client is owed lies before the gap's place, and may be forgotten.
    fn must_be_true(&self, gap: &Gap, topic: &str, order: &Order, now: Duration) -> Checked {
        let (stand, stream) = self.both();
        let had = stand.accounted[topic];
        let mut events = order.events_beyond(topic, had.place, gap.at + 1);
        let may_be_gone = |sequence: u64| gap.reason != "evicted" || !order.surely_remembers(sequence, now);
        let lacks_event = events.any(may_be_gone);
        let lacks_loss = order.losses_between(topic, had.losses, gap.at + 1).next().is_some();
        // Of a topic that has vanished the server knows only that something may have been there.
        let may_have_vanished = stream.resumed && order.may_have_dropped_topics() && gap.at <= stream.answered;
        // An id that was used twice is placed at its first use: from there something is left out.
        let is_from_first_use = gap.reason == "replay_limit" && stream.uses.len() > 1;
        let is_true = lacks_event || lacks_loss || may_have_vanished || is_from_first_use;
        must(is_true, || format!("C5: nothing of {topic} is missing"))
    }

    fn both(&self) -> (&Stand, &Stream) {
        let stand = self.stand.as_ref().expect("a stream begins at a position");
        (stand, self.stream.as_ref().expect("what arrives, arrives on a stream"))
    }
}

impl Gap {
    fn read(received: Received<'_>, order: &Order) -> Result<Gap, String> {
        let at = order.own_position(received.id).ok_or("C6: the gap's id is no position of this node")?;
        let json: serde_json::Value = serde_json::from_str(received.data).map_err(|error| error.to_string())?;
        let reason = json["reason"].as_str().ok_or("a gap without a reason")?.to_owned();
        let named = json["topics"].as_array().ok_or("a gap without topics")?;
        let topics: Vec<_> = named.iter().filter_map(|name| name.as_str()).map(str::to_owned).collect();
        must(!topics.is_empty(), || "C5: a gap that names no topic".into())?;
        Ok(Gap { reason, topics, at })
    }

    fn names(&self, topic: &str) -> bool {
        self.topics.iter().any(|named| named == topic || named == "*")
    }
}

pub(crate) fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise()) }
}
