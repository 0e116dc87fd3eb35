//! Ids and positions: what the id of a place in the order is, and which place an id names.
//!
//! Without a durable bus, this process gives out the order, and its run names it. With one, positions of the bus name
//! it, and this process learns them epoch by epoch.

use std::collections::HashMap;

use crate::event::timeline::{Epoch, Place, Position, SEQUENCES_PER_POSITION, Timeline};
use crate::event::{EventId, RunName, Sequence};
use crate::hub::archive::TakenBack;
use crate::hub::{Hub, Subscriber};

/// Positions that clients named and this process has not read, at a time. Beyond it, another one is unknown at once.
const ASKED_MAX: usize = 1024;

/// For how many ends of the bus such a position is remembered: its client returns within that time, a minute or more.
const ENDS_REMEMBERED: u64 = 300;

/// Who gives out the order.
#[derive(Debug)]
pub(super) enum Ids {
    /// This process.
    Run {
        /// Other nodes get the same events, with the same publishers' ids, in orders of their own.
        has_peers: bool,
    },
    /// A bus.
    Bus(Following),
}

/// How far this process has read a bus.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// The epochs that it has read.
    timeline: Timeline,
    /// All that it remembers of the bus has been read.
    is_loaded: bool,
    /// How often it has read the bus to its end.
    ends_reached: u64,
    /// Positions beyond what it has read that clients named.
    asked: HashMap<Position, Asked>,
    /// How many there were so far.
    asks: u64,
    /// The asks that precede a read which reached the end of the bus.
    answered_asks: u64,
}

/// A position that a client named.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Its number among all of them.
    number: u64,
    /// How often the end had been reached by then.
    ends_reached: u64,
}

impl Hub {
    /// The run of this process.
    pub fn run(&self) -> RunName {
        self.run
    }

    /// The id of a place in the order.
    pub fn id_of(&self, sequence: Sequence) -> EventId {
        match &self.ids {
            Ids::Run { .. } => self.run.id(sequence),
            // Before the first epoch there is only what does not pass through the bus.
            Ids::Bus(Following { timeline, .. }) => {
                timeline.position_at(sequence).map_or_else(|| self.run.id(sequence), |position| position.id(None))
            }
        }
    }

    /// The place that an id names; `None`: it has not the order's own form, so a log may know it.
    pub(super) fn place_of(&self, id: &str) -> Option<Place> {
        match &self.ids {
            Ids::Run { .. } => {
                let sequence = self.run.position(id)?;
                Some(if sequence <= self.head { Place::At(sequence) } else { Place::Unknown })
            }
            Ids::Bus(Following { timeline, .. }) => {
                Position::of_id(id).map(|position| timeline.place(position, self.head))
            }
        }
    }

    /// The bus's positions continue with this epoch.
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        let Ids::Bus(Following { timeline, .. }) = &mut self.ids else { return };
        if timeline.is_empty() {
            // What came before the first position is missing from every topic of the bus, also from those that exist
            // already because a client has named them.
            self.topics.begin_after(Sequence(epoch.sequence.0 - SEQUENCES_PER_POSITION));
        }
        if let Some(from) = timeline.taken_back_by(&epoch) {
            self.archive.take_back(TakenBack { from, through: epoch.previous_end, place: epoch.sequence });
        }
        timeline.push(epoch);
        // Its first entry has been read, even if nothing of it is logged.
        self.head = self.head.max(epoch.sequence);
    }

    /// All that this process remembers of the bus has been read.
    pub fn set_loaded(&mut self) {
        if let Ids::Bus(following) = &mut self.ids {
            following.is_loaded = true;
        }
    }

    /// The bus has been read to its end, by a read that began after this many asks ([`Hub::asks`]).
    pub fn note_end_of_bus(&mut self, asks: u64) {
        if let Ids::Bus(Following { ends_reached, asked, answered_asks, .. }) = &mut self.ids {
            *ends_reached += 1;
            *answered_asks = asks;
            asked.retain(|_, asked| *ends_reached <= asked.ends_reached + ENDS_REMEMBERED);
        }
    }

    /// How many positions clients have named that had not been read by then. A read that begins after an ask shows whether
    /// its position is on the bus.
    pub fn asks(&self) -> u64 {
        match &self.ids {
            Ids::Run { .. } => 0,
            Ids::Bus(following) => following.asks,
        }
    }

    /// A client names this id. Call it before [`Hub::start`]: an id beyond what has been read may be on the bus all the same.
    pub fn note_asked(&mut self, id: &[u8]) {
        let Some(position) = self.position_ahead(id) else { return };
        if let Ids::Bus(Following { asked, ends_reached, asks, .. }) = &mut self.ids
            && asked.len() < ASKED_MAX
            && !asked.contains_key(&position)
        {
            *asks += 1;
            asked.insert(position, Asked { number: *asks, ends_reached: *ends_reached });
        }
    }

    /// True when the stream can't start yet: this process has not read what it remembers of the bus; or the id is beyond
    /// what has been read, and no read that began after the client named it has reached the end of the bus. After that, the
    /// id is not on the bus.
    pub(super) fn must_wait(&self, subscriber: Subscriber, id: &[u8]) -> bool {
        let Ids::Bus(Following { is_loaded, asked, answered_asks, .. }) = &self.ids else { return false };
        let is_local = || self.entries_of(subscriber).all(|entry| entry.name.is_reserved());
        let asked_at = || asked.get(&self.position_ahead(id)?);
        !is_loaded && !is_local() || asked_at().is_some_and(|asked| *answered_asks < asked.number)
    }

    /// The position that an id names, if it is beyond what has been read of the bus.
    fn position_ahead(&self, id: &[u8]) -> Option<Position> {
        let timeline = self.timeline()?;
        let position = Position::of_id(std::str::from_utf8(id).ok()?)?;
        (timeline.place(position, self.head) == Place::Ahead).then_some(position)
    }

    /// The epochs of the bus that have been read, if there is a bus.
    pub(super) fn timeline(&self) -> Option<&Timeline> {
        match &self.ids {
            Ids::Run { .. } => None,
            Ids::Bus(following) => Some(&following.timeline),
        }
    }

    /// True when a publisher's id behind another node's place names the same event here.
    pub(super) fn shares_aliases(&self) -> bool {
        matches!(self.ids, Ids::Run { has_peers: true })
    }

    /// True when positions are those of a bus, which other nodes and later runs resolve too.
    pub fn follows_bus(&self) -> bool {
        matches!(self.ids, Ids::Bus(_))
    }

    /// The place of the next event that does not pass through the bus; `None`: there is no room before the bus's next
    /// position.
    pub fn next_local(&self) -> Option<Sequence> {
        let next = self.head().next();
        (!next.0.is_multiple_of(SEQUENCES_PER_POSITION)).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Topic;
    use crate::hub::{HubLimits, Replay, Start};

    #[test]
    fn local_events_take_no_place_of_the_bus() {
        let mut hub = Hub::of_bus(RunName::from_bits(7), HubLimits::default());
        let first = Sequence(SEQUENCES_PER_POSITION);
        let position = Position { epoch: 1, offset: 0 };
        let previous_end = Sequence::ZERO;
        hub.begin_epoch(Epoch { first: position, sequence: first, earliest: first, previous_end, follows: None });
        hub.head = Sequence(2 * SEQUENCES_PER_POSITION - 2);
        assert_eq!(hub.next_local(), Some(Sequence(2 * SEQUENCES_PER_POSITION - 1)));
        hub.head = hub.head.next();
        assert_eq!(hub.next_local(), None);
        hub.head = hub.head.next();
        assert!(hub.next_local().is_some(), "the bus has another entry");
    }

    #[test]
    fn what_came_before_the_first_position_is_missing_also_from_a_topic_that_a_client_named_before() {
        let mut hub = Hub::of_bus(RunName::from_bits(7), HubLimits::default());
        let (topic, client) = (Topic::new("configured").unwrap(), Subscriber(1));
        hub.reserve(&topic);
        hub.subscribe(client, std::slice::from_ref(&topic)).unwrap();
        assert_eq!(hub.start(client, b"1-3", Replay::Missed), Start::Waiting);
        hub.unsubscribe(client);
        hub.begin_epoch(Epoch {
            first: Position { epoch: 1, offset: 5 },
            sequence: Sequence(9 * SEQUENCES_PER_POSITION),
            earliest: Sequence(4 * SEQUENCES_PER_POSITION),
            previous_end: Sequence::ZERO,
            follows: None,
        });
        hub.set_loaded();
        hub.subscribe(client, &[topic]).unwrap();
        let gaps = |id: &[u8]| match hub.start(client, id, Replay::Missed) {
            Start::Ready(start) => hub.missed_after(client, start.position, &start.owed).len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((gaps(b"1-3"), gaps(b"1-4"), gaps(b"1-5")), (1, 0, 0));
    }
}
