//! What publishers know: the order in which one node was given its events and losses, and each event's place in its topic.
//!
//! The order is written as events are published, never read back from a server. Absent: what the server remembers. Only
//! its configured bounds are known here, and with them what it must [still remember](Order::surely_remembers).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use fanfare::event::{EventId, RunName};

/// Worlds publish far less than this: a log of this size never evicts because of its bytes.
const BYTES_NEVER_REACHED: usize = 1 << 20;

/// The whole world's events, topic by topic. Their data is unique and names them.
#[derive(Default)]
pub(crate) struct History(Mutex<Places>);

#[derive(Default)]
struct Places {
    of_data: HashMap<String, (String, usize)>,
    counts: BTreeMap<String, usize>,
}

impl History {
    /// The place of this event in its topic, from 1. An event that is published again keeps its place.
    pub(crate) fn note(&self, topic: &str, data: &str) -> usize {
        let mut places = self.0.lock().unwrap();
        if let Some((_, place)) = places.of_data.get(data) {
            return *place;
        }
        let count = places.counts.entry(topic.to_owned()).or_default();
        *count += 1;
        let place = *count;
        places.of_data.insert(data.to_owned(), (topic.to_owned(), place));
        place
    }

    /// The topic and the place of the event with this data.
    pub(crate) fn find(&self, data: &str) -> Option<(String, usize)> {
        self.0.lock().unwrap().of_data.get(data).cloned()
    }

    /// How many events each topic has.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.0.lock().unwrap().counts.clone()
    }
}

/// The topics that a loss touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Topics(Vec<String>),
    All,
}

impl Scope {
    pub(crate) fn touches(&self, topic: &str) -> bool {
        match self {
            Scope::Topics(topics) => topics.iter().any(|touched| touched == topic),
            Scope::All => true,
        }
    }
}

/// What stands at one sequence of a node's order.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Event {
        topic: String,
        place: usize,
        data: String,
        id: String,
        /// False: the server may take it for a duplicate, since it may still remember another event of this id.
        certain: bool,
        published_at: Duration,
    },
    Loss {
        scope: Scope,
        reason: &'static str,
    },
    /// The same event again, under the same id.
    Duplicate,
}

impl Record {
    pub(crate) fn touches(&self, wanted: &str) -> bool {
        match self {
            Record::Event { topic, .. } => topic == wanted,
            Record::Loss { scope, .. } => scope.touches(wanted),
            Record::Duplicate => false,
        }
    }

    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Record::Loss { .. })
    }

    /// Subscribers of its topics are owed it.
    pub(crate) fn is_certain(&self) -> bool {
        matches!(self, Record::Loss { .. } | Record::Event { certain: true, .. })
    }
}

/// The bounds that a node was configured with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Topics that were published to.
    pub(crate) topics_max: usize,
    pub(crate) events_max: usize,
    /// The smaller one of a topic's bytes and of all topics' bytes.
    pub(crate) bytes_max: usize,
    pub(crate) age_max: Duration,
    pub(crate) replay_events_max: Option<usize>,
    pub(crate) skips_slow: bool,
}

/// The publisher's id in an id, or the whole one.
fn alias_of(id: &str) -> String {
    EventId::new(id).map(|id| id.alias().to_string()).unwrap_or_default()
}

/// The order of one node, from its start on.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) run: RunName,
    pub(crate) bounds: Bounds,
    /// Other nodes get the same events.
    pub(crate) has_peers: bool,
    records: Vec<Record>,
    /// Of each topic the sequences and places of its events, those that were lost with a loss among them.
    marks: BTreeMap<String, Vec<Mark>>,
    losses: Vec<u64>,
    /// By the publisher's own id, or the whole id without one.
    by_alias: HashMap<String, Vec<u64>>,
    /// How many events each topic had before this node started.
    base: BTreeMap<String, usize>,
    /// The topics that were published to here.
    topics: BTreeSet<String>,
    /// The events that are remembered, where that is known exactly and not only by the bounds.
    remembered: Option<BTreeSet<u64>>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    sequence: u64,
    place: usize,
}

impl Order {
    /// An empty order. `base` counts the events of each topic that were published before.
    pub(crate) fn new(run: RunName, bounds: Bounds, base: BTreeMap<String, usize>) -> Order {
        Order {
            run,
            bounds,
            has_peers: false,
            records: Vec::new(),
            marks: BTreeMap::new(),
            losses: Vec::new(),
            by_alias: HashMap::new(),
            base,
            topics: BTreeSet::new(),
            remembered: None,
        }
    }

    // ---- what is written ----

    /// An event was given the next sequence. `id` is its id, unless that is this node's place alone.
    pub(crate) fn event(&mut self, (topic, place): (&str, usize), data: &str, id: Option<&str>, now: Duration) {
        let sequence = self.last() + 1;
        self.topics.insert(topic.to_owned());
        let id = id.map_or_else(|| self.id(sequence), str::to_owned);
        let uses = self.by_alias.get(&alias_of(&id)).cloned().unwrap_or_default();
        if uses.iter().any(|used| matches!(self.record(*used), Record::Event { data: other, .. } if other == data)) {
            return self.records.push(Record::Duplicate);
        }
        let last_use = uses.iter().rfind(|used| self.record(**used).touches(topic));
        let certain = last_use.is_none_or(|used| self.is_surely_forgotten(*used, topic));
        self.by_alias.entry(alias_of(&id)).or_default().push(sequence);
        self.marks.entry(topic.to_owned()).or_default().push(Mark { sequence, place });
        let (topic, data) = (topic.to_owned(), data.to_owned());
        self.records.push(Record::Event { topic, place, data, id, certain, published_at: now });
    }

    /// An event was given the next sequence, and dropped as a duplicate.
    #[allow(dead_code, reason = "only the small-scope test knows exactly what is remembered")]
    pub(crate) fn duplicate(&mut self) {
        self.records.push(Record::Duplicate);
    }

    /// Which events are remembered is known exactly: these.
    #[allow(dead_code, reason = "as above")]
    pub(crate) fn set_remembered(&mut self, remembered: BTreeSet<u64>) {
        self.remembered = Some(remembered);
    }

    /// A loss was announced.
    pub(crate) fn loss(&mut self, scope: Scope, reason: &'static str) -> u64 {
        self.records.push(Record::Loss { scope, reason });
        self.losses.push(self.last());
        self.last()
    }

    /// A loss that is not read yet touches one more topic.
    pub(crate) fn widen_loss(&mut self, sequence: u64, topic: &str) {
        if let Record::Loss { scope: Scope::Topics(topics), .. } = &mut self.records[sequence as usize - 1] {
            topics.push(topic.to_owned());
        }
    }

    /// An event was lost with the loss at this sequence.
    pub(crate) fn lost_event(&mut self, topic: &str, place: usize, sequence: u64) {
        self.marks.entry(topic.to_owned()).or_default().push(Mark { sequence, place });
    }

    // ---- what is asked ----

    /// The newest sequence.
    pub(crate) fn last(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn record(&self, sequence: u64) -> &Record {
        &self.records[sequence as usize - 1]
    }

    /// The id of a position of this node's own.
    pub(crate) fn id(&self, sequence: u64) -> String {
        self.run.id(fanfare::event::Sequence(sequence)).to_string()
    }

    /// The position that an id of this node's own names.
    pub(crate) fn own_position(&self, id: &str) -> Option<u64> {
        self.run.position(id).map(|sequence| sequence.0)
    }

    /// Where events of these topics carry the publisher's id in this id, through a sequence.
    pub(crate) fn uses(&self, id: &str, topics: &[String], through: u64) -> Vec<u64> {
        let uses = self.by_alias.get(&alias_of(id)).map(Vec::as_slice).unwrap_or_default().iter().copied();
        let uses = uses.filter(|used| self.is_same(id, *used));
        let is_mine = |used: &u64| topics.iter().any(|topic| self.record(*used).touches(topic));
        uses.filter(|used| *used <= through).filter(is_mine).collect()
    }

    /// What an id with another node's place names: the event that has the same one, or, if every node names the event after
    /// its own order, the one with the same publisher's id.
    fn is_same(&self, id: &str, used: u64) -> bool {
        let Record::Event { id: its_id, .. } = self.record(used) else { return false };
        let is_named_here = self.own_position(its_id).is_some();
        alias_of(id) == id || its_id == id || (is_named_here && self.has_peers)
    }

    /// The sequence of the event with this id and data.
    pub(crate) fn find_event(&self, id: &str, data: &str) -> Option<u64> {
        let is_it = |used: &&u64| match self.record(**used) {
            Record::Event { id: its_id, data: its_data, .. } => its_id == id && its_data == data,
            _ => false,
        };
        self.by_alias.get(&alias_of(id))?.iter().find(is_it).copied()
    }

    /// The sequence of the event at this place of a topic. None: it is older than this node, or was lost here.
    pub(crate) fn sequence_of(&self, topic: &str, place: usize) -> Option<u64> {
        let marks = self.marks(topic);
        let here = marks[marks.partition_point(|mark| mark.place < place)..].iter();
        let mut here = here.take_while(|mark| mark.place == place).map(|mark| mark.sequence);
        here.find(|sequence| matches!(self.record(*sequence), Record::Event { .. }))
    }

    /// The sequence of the newest of a topic's events through a place.
    pub(crate) fn sequence_through(&self, topic: &str, place: usize) -> u64 {
        let marks = self.marks(topic);
        let after = marks.partition_point(|mark| mark.place <= place);
        after.checked_sub(1).map_or(0, |index| marks[index].sequence)
    }

    /// The place of a topic's newest event at or before a sequence.
    pub(crate) fn place_at(&self, topic: &str, sequence: u64) -> usize {
        let marks = self.marks(topic);
        match marks.partition_point(|mark| mark.sequence <= sequence) {
            0 => self.base(topic),
            after => marks[after - 1].place,
        }
    }

    /// How many events a topic had before this node started.
    pub(crate) fn base(&self, topic: &str) -> usize {
        self.base.get(topic).copied().unwrap_or(0)
    }

    /// The sequences of a topic's events beyond a place, before a sequence.
    pub(crate) fn events_beyond(&self, topic: &str, place: usize, end: u64) -> impl Iterator<Item = u64> {
        let marks = self.marks(topic);
        let beyond = marks[marks.partition_point(|mark| mark.place <= place)..].iter();
        let events = beyond.take_while(move |mark| mark.sequence < end).map(|mark| mark.sequence);
        events.filter(|sequence| matches!(self.record(*sequence), Record::Event { .. }))
    }

    /// The sequences of the losses that touch a topic, after a sequence and before another.
    pub(crate) fn losses_between(&self, topic: &str, after: u64, end: u64) -> impl Iterator<Item = u64> {
        let losses = self.losses[self.losses.partition_point(|loss| *loss <= after)..].iter().copied();
        losses.take_while(move |loss| *loss < end).filter(|loss| self.record(*loss).touches(topic))
    }

    /// Events and losses of these topics, after a sequence through another.
    pub(crate) fn between(&self, after: u64, through: u64, topics: &[String]) -> impl Iterator<Item = (u64, &Record)> {
        let end = through.min(self.last()) as usize;
        let records = (1u64..).zip(&self.records).take(end).skip(after as usize);
        records.filter(|(_, record)| topics.iter().any(|topic| record.touches(topic)))
    }

    /// The sequence of the newest event or loss of a topic at or before a sequence.
    pub(crate) fn newest(&self, topic: &str, through: u64) -> u64 {
        let event = self.marks(topic).iter().rev().map(|mark| mark.sequence).find(|sequence| *sequence <= through);
        let losses = self.losses.iter().rev().copied().filter(|sequence| *sequence <= through);
        let loss = losses.into_iter().find(|loss| self.record(*loss).touches(topic));
        event.max(loss).unwrap_or(0)
    }

    /// The bounds leave the server no reason to have forgotten this event.
    pub(crate) fn surely_remembers(&self, sequence: u64, now: Duration) -> bool {
        let Record::Event { topic, published_at, certain: true, .. } = self.record(sequence) else { return false };
        if let Some(remembered) = &self.remembered {
            return remembered.contains(&sequence);
        }
        let newer = self.between(sequence, self.last(), std::slice::from_ref(topic)).count();
        newer < self.bounds.events_max
            && *published_at + self.bounds.age_max > now
            && self.bounds.bytes_max >= BYTES_NEVER_REACHED
            && !self.may_have_dropped_topics()
    }

    /// More topics were published to than may exist: some may have vanished.
    pub(crate) fn may_have_dropped_topics(&self) -> bool {
        self.topics.len() > self.bounds.topics_max
    }

    /// As many events followed in its topic as the topic may remember.
    fn is_surely_forgotten(&self, sequence: u64, topic: &str) -> bool {
        if let Some(remembered) = &self.remembered {
            return !remembered.contains(&sequence);
        }
        let topic = [topic.to_owned()];
        let followed = self.between(sequence, self.last(), &topic);
        followed.filter(|(_, record)| record.is_certain() && !record.is_loss()).count() >= self.bounds.events_max
    }

    fn marks(&self, topic: &str) -> &[Mark] {
        self.marks.get(topic).map(Vec::as_slice).unwrap_or_default()
    }
}
