//! What is published, and in which order: every node's own record of it, written as the sequencer numbers it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use fanfare::event::{Event, EventId, RunName, Topic};
use fanfare::sources::channel::{Accepted, Message, Outlet, Publish, PublishRefusal, Ticket};
use fanfare::sources::sequencer::Sequencer;

/// Who must be told.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// Subscribers of this topic.
    Topic(String),
    /// Subscribers of each of these.
    Topics(Vec<String>),
    /// Everybody.
    All,
    /// Nobody: the sequence was given to a duplicate.
    Nobody,
}

/// What stands at one sequence of a node's order.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) scope: Scope,
    pub(crate) is_gap: bool,
    pub(crate) data: String,
}

impl Record {
    pub(crate) fn touches(&self, topics: &[String]) -> bool {
        match &self.scope {
            Scope::Topic(topic) => topics.contains(topic),
            Scope::Topics(lost) => lost.iter().any(|topic| topics.contains(topic)),
            Scope::All => true,
            Scope::Nobody => false,
        }
    }
}

/// The order in which the whole world's events were published: topic by topic, by their data, which is unique.
#[derive(Default)]
pub(crate) struct History {
    places: Mutex<HistoryState>,
}

#[derive(Default)]
struct HistoryState {
    of_data: HashMap<String, (String, usize)>,
    counts: HashMap<String, usize>,
}

impl History {
    fn note(&self, event: &Event) {
        let mut state = self.places.lock().unwrap();
        if !state.of_data.contains_key(&event.data) {
            let topic = event.topic.to_string();
            let count = state.counts.entry(topic.clone()).or_default();
            *count += 1;
            let place = *count;
            state.of_data.insert(event.data.clone(), (topic, place));
        }
    }

    /// The topic of the event with this data, and its place there, from 1.
    pub(crate) fn place(&self, data: &str) -> Option<(String, usize)> {
        self.places.lock().unwrap().of_data.get(data).cloned()
    }

    /// How many events of a topic were published.
    pub(crate) fn count(&self, topic: &str) -> usize {
        self.places.lock().unwrap().counts.get(topic).copied().unwrap_or(0)
    }
}

/// One node's way in: its sequencer, and the record of what it numbered.
pub(crate) struct Feed {
    pub(crate) run: RunName,
    sequencer: Arc<Sequencer>,
    outlet: Outlet,
    history: Arc<History>,
    /// How far the loop has read.
    head: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Vec<Arc<Record>>,
    by_id: HashMap<String, u64>,
    /// The gap of refused messages that may still grow.
    open_gap: Option<u64>,
}

impl Feed {
    pub(crate) fn new(run: RunName, outlet: Outlet, history: Arc<History>) -> Feed {
        let sequencer = Sequencer::new(run, vec![outlet.clone()]);
        Feed { run, sequencer, outlet, history, head: AtomicU64::new(0), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The newest sequence given.
    pub(crate) fn last(&self) -> u64 {
        self.state().records.len() as u64
    }

    pub(crate) fn record(&self, sequence: u64) -> Arc<Record> {
        Arc::clone(&self.state().records[sequence as usize - 1])
    }

    /// The records after `after`, through `through`, that subscribers of `topics` are owed.
    pub(crate) fn between(&self, after: u64, through: u64, topics: &[String]) -> Vec<(u64, Arc<Record>)> {
        let state = self.state();
        let end = (through as usize).min(state.records.len());
        let range = (after as usize).min(end)..end;
        let records = range.clone().zip(&state.records[range]);
        records
            .filter(|(_, record)| record.touches(topics))
            .map(|(index, record)| (index as u64 + 1, Arc::clone(record)))
            .collect()
    }

    /// The sequence that an id names here, if it names any.
    pub(crate) fn sequence_of(&self, id: &str) -> Option<u64> {
        self.run.position(id).map(|sequence| sequence.0).or_else(|| self.state().by_id.get(id).copied())
    }

    /// An event from a source. Without room it is dropped, and its topic's subscribers are to be told.
    pub(crate) fn publish(&self, event: &Event) -> bool {
        if !self.outlet.has_room(1, event.data.len()) {
            self.history.note(event);
            self.refuse(&event.topic);
            return false;
        }
        assert!(self.sequencer.publish(event), "there was room");
        self.note(event, event.id.as_ref());
        true
    }

    fn note(&self, event: &Event, id: Option<&EventId>) {
        self.history.note(event);
        let mut state = self.state();
        state.open_gap = None;
        let sequence = state.records.len() as u64 + 1;
        let is_duplicate = match id.filter(|id| self.run.position(id.as_str()).is_none()) {
            None => false,
            Some(id) if state.by_id.contains_key(id.as_str()) => true,
            Some(id) => state.by_id.insert(id.to_string(), sequence).is_some(),
        };
        let scope = if is_duplicate { Scope::Nobody } else { Scope::Topic(event.topic.to_string()) };
        state.records.push(Arc::new(Record { scope, is_gap: false, data: event.data.clone() }));
    }

    /// The source was away: anything may be missing here.
    pub(crate) fn lose(&self) {
        self.sequencer.announce_loss();
        let mut state = self.state();
        state.open_gap = None;
        state.records.push(Arc::new(Record { scope: Scope::All, is_gap: true, data: "source_lost".into() }));
    }

    /// A message of `topic` can't be an event.
    pub(crate) fn refuse(&self, topic: &Topic) {
        let head = self.head.load(Ordering::SeqCst);
        self.sequencer.announce_refused(topic);
        let mut state = self.state();
        if let Some(open) = state.open_gap.filter(|open| *open > head) {
            let record = Arc::make_mut(&mut state.records[open as usize - 1]);
            if let Scope::Topics(topics) = &mut record.scope {
                topics.push(topic.to_string());
            }
            return;
        }
        let scope = Scope::Topics(vec![topic.to_string()]);
        state.records.push(Arc::new(Record { scope, is_gap: true, data: "event_refused".into() }));
        state.open_gap = Some(state.records.len() as u64);
    }

    /// Notes how far the loop has read.
    pub(crate) fn note_head(&self, head: u64) {
        self.head.store(head, Ordering::SeqCst);
    }

    pub(crate) fn send(&self, message: Message) {
        self.outlet.send(message);
    }
}

impl Publish for Feed {
    fn publish(&self, events: Vec<Event>, ticket: Ticket) -> Result<Accepted, PublishRefusal> {
        let accepted = Publish::publish(&*self.sequencer, events.clone(), ticket)?;
        if let Accepted::Now(ids) = &accepted {
            events.iter().zip(ids).for_each(|(event, id)| self.note(event, Some(id)));
        }
        Ok(accepted)
    }
}

/// A broker that brings what one node's clients publish to every node, under the same ids and in the same order.
#[derive(Default)]
pub(crate) struct Bus {
    state: Mutex<BusState>,
}

#[derive(Default)]
struct BusState {
    nodes: Vec<Arc<Feed>>,
    count: u64,
    tickets: Vec<(usize, Ticket)>,
}

impl Bus {
    /// Tells who is on the bus.
    pub(crate) fn connect(&self, nodes: Vec<Arc<Feed>>) {
        self.state.lock().unwrap().nodes = nodes;
    }

    /// An id that no other event has.
    pub(crate) fn next_id(&self) -> EventId {
        let mut state = self.state.lock().unwrap();
        state.count += 1;
        EventId::new(&format!("bus/{}", state.count)).unwrap()
    }

    /// Publishes to every node.
    pub(crate) fn publish(&self, event: &Event) {
        let nodes = self.state.lock().unwrap().nodes.clone();
        for feed in nodes {
            feed.publish(event);
        }
    }

    /// The publishes that wait for an answer, by node.
    pub(crate) fn take_tickets(&self) -> Vec<(usize, Ticket)> {
        std::mem::take(&mut self.state.lock().unwrap().tickets)
    }

    pub(crate) fn has_tickets(&self) -> bool {
        !self.state.lock().unwrap().tickets.is_empty()
    }

    /// Drops the questions of a node that is gone.
    pub(crate) fn forget_tickets(&self, node: usize) {
        self.state.lock().unwrap().tickets.retain(|(of, _)| *of != node);
    }
}

/// The bus as one node's clients reach it.
pub(crate) struct BusStop {
    pub(crate) bus: Arc<Bus>,
    pub(crate) node: usize,
}

impl Publish for BusStop {
    fn publish(&self, events: Vec<Event>, ticket: Ticket) -> Result<Accepted, PublishRefusal> {
        let bytes = events.iter().map(|event| event.data.len()).sum();
        let nodes = self.bus.state.lock().unwrap().nodes.clone();
        if !nodes.iter().all(|feed| feed.outlet.has_room(events.len(), bytes)) {
            return Err(PublishRefusal::Busy);
        }
        let ids = events.into_iter().map(|event| {
            let id = event.id.clone().unwrap_or_else(|| self.bus.next_id());
            self.bus.publish(&Event { id: Some(id.clone()), ..event });
            id
        });
        let ids = ids.collect();
        self.bus.state.lock().unwrap().tickets.push((self.node, ticket));
        Ok(Accepted::Later(ids))
    }
}
