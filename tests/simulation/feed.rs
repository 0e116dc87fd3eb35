//! One node's way in: its sequencer, and the order that the node's publishers see, written as the sequencer numbers it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fanfare::event::{Event, EventId, RunName, Sequence, Topic, join};
use fanfare::sources::channel::{Accepted, Message, Outlet, Publish, PublishRefusal, Ticket};
use fanfare::sources::sequencer::{Batch, Sequencer};

use super::order::{Bounds, History, Order, Scope};

/// A sequencer, and the record of what it numbered.
pub(crate) struct Feed {
    sequencer: Arc<Sequencer>,
    outlet: Outlet,
    history: Arc<History>,
    /// How far the loop has read.
    head: AtomicU64,
    state: Mutex<State>,
}

struct State {
    order: Order,
    now: Duration,
    /// The newest sequence that a client of this node has received.
    heard: u64,
    /// The gap of refused messages that may still grow.
    open_gap: Option<u64>,
}

impl Feed {
    pub(crate) fn new(run: RunName, bounds: Bounds, outlet: Outlet, history: Arc<History>) -> Feed {
        let order = Order::new(run, bounds, history.counts());
        let state = State { order, now: Duration::ZERO, heard: 0, open_gap: None };
        let sequencer = Sequencer::new(run, vec![outlet.clone()]);
        Feed { sequencer, outlet, history, head: AtomicU64::new(0), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Looks something up in the order.
    pub(crate) fn look<T>(&self, ask: impl FnOnce(&Order) -> T) -> T {
        ask(&self.state().order)
    }

    /// The newest sequence given.
    pub(crate) fn last(&self) -> u64 {
        self.state().order.last()
    }

    /// Other nodes get the same events.
    pub(crate) fn note_peers(&self) {
        self.state().order.has_peers = true;
    }

    /// What is published from here on is published now.
    pub(crate) fn set_now(&self, now: Duration) {
        self.state().now = now;
    }

    /// The newest sequence that a client of this node has received.
    pub(crate) fn heard(&self) -> u64 {
        self.state().heard
    }

    pub(crate) fn note_heard(&self, sequence: u64) {
        let mut state = self.state();
        state.heard = state.heard.max(sequence);
    }

    /// An event from a source. False: there was no room, so it is dropped, and its topic's subscribers must get a gap.
    pub(crate) fn publish(&self, event: &Event) -> bool {
        if !self.outlet.has_room(1, event.data.len()) {
            let place = self.history.note(event.topic.as_str(), &event.data);
            let sequence = self.refuse(&event.topic);
            self.state().order.lost_event(event.topic.as_str(), place, sequence);
            return false;
        }
        let mut batch = Batch::default();
        match &event.id {
            Some(id) if id.has_run() => self.sequencer.add_passed_on(&mut batch, event),
            _ => self.sequencer.add_event(&mut batch, event),
        }
        assert!(self.sequencer.publish_all(&mut batch), "there was room");
        self.note(event);
        true
    }

    fn note(&self, event: &Event) {
        let history_place = self.history.note(event.topic.as_str(), &event.data);
        let mut state = self.state();
        let State { order, now, open_gap, .. } = &mut *state;
        *open_gap = None;
        let id = event.id.as_ref().map(|id| match id.has_run() {
            true => id.clone(),
            false => join(&order.id(order.last() + 1), Some(id)),
        });
        order.event((event.topic.as_str(), history_place), &event.data, id.as_ref().map(EventId::as_str), *now);
    }

    /// The source was away: anything may be missing here.
    pub(crate) fn lose(&self) {
        self.sequencer.announce_loss();
        let mut state = self.state();
        state.open_gap = None;
        state.order.loss(Scope::All, "source_lost");
    }

    /// A message of `topic` can't be an event. Returns the sequence of the loss that announces it.
    pub(crate) fn refuse(&self, topic: &Topic) -> u64 {
        let head = self.head.load(Ordering::SeqCst);
        self.sequencer.announce_refused(topic);
        let mut state = self.state();
        let State { order, open_gap, .. } = &mut *state;
        if let Some(open) = open_gap.filter(|open| *open > head) {
            order.widen_loss(open, topic.as_str());
            return open;
        }
        *open_gap.insert(order.loss(Scope::Topics(vec![topic.to_string()]), "event_refused"))
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
        events.iter().for_each(|event| self.note(event));
        Ok(accepted)
    }
}

/// The run under which nodes name events for the bus.
const NODES_RUN: u64 = 0x0b05;

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
    /// Lists the nodes on the bus.
    pub(crate) fn connect(&self, nodes: Vec<Arc<Feed>>) {
        self.state.lock().unwrap().nodes = nodes;
    }

    /// An id that no other event has, with the publisher's own.
    fn next_id(&self, publisher_id: Option<&EventId>) -> EventId {
        let mut state = self.state.lock().unwrap();
        state.count += 1;
        join(RunName::from_bits(NODES_RUN).id(Sequence(state.count)).as_str(), publisher_id)
    }

    /// Publishes to every node. False: one of them had no room.
    pub(crate) fn publish(&self, event: &Event) -> bool {
        let nodes = self.state.lock().unwrap().nodes.clone();
        // Each of them is asked, whatever the others say.
        nodes.iter().filter(|feed| !feed.publish(event)).count() == 0
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
            let id = self.bus.next_id(event.id.as_ref());
            self.bus.publish(&Event { id: Some(id.clone()), ..event });
            id
        });
        let ids = ids.collect();
        self.bus.state.lock().unwrap().tickets.push((self.node, ticket));
        Ok(Accepted::Later(ids))
    }
}
