//! Subscriptions: for each subscriber its topics and its place in each topic's list, so that the cost of leaving does
//! not depend on the number of other subscribers.

use crate::hub::keys::{Subscriber, TopicKey};

/// A topic, and the subscriber's place in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) topic: TopicKey,
    pub(super) index: u32,
}

/// One subscriber's seats. Nearly all subscribers have one topic, which needs no allocation.
#[derive(Debug, Default)]
enum Seats {
    #[default]
    None,
    One(Seat),
    /// Boxed once more for a thin pointer: the vector's own three words would not fit.
    #[allow(clippy::box_collection, reason = "size")]
    Many(Box<Vec<Seat>>),
}

const _: () = assert!(size_of::<Seats>() <= 16);

/// The seats of all subscribers, by slot.
#[derive(Debug, Default)]
pub(super) struct Subscriptions(Vec<Seats>);

impl Subscriptions {
    pub(super) fn seat(&mut self, subscriber: Subscriber, seats: Vec<Seat>) {
        let slot = subscriber.0 as usize;
        if slot >= self.0.len() {
            self.0.resize_with(slot + 1, Seats::default);
        }
        debug_assert!(matches!(self.0[slot], Seats::None), "a slot is reused only once its subscriber left");
        self.0[slot] = match seats[..] {
            [seat] => Seats::One(seat),
            _ => Seats::Many(Box::new(seats)),
        };
    }

    pub(super) fn leave(&mut self, subscriber: Subscriber) -> Vec<Seat> {
        let seats = self.0.get_mut(subscriber.0 as usize).map(std::mem::take).unwrap_or_default();
        match seats {
            Seats::None => Vec::new(),
            Seats::One(seat) => vec![seat],
            Seats::Many(seats) => *seats,
        }
    }

    pub(super) fn of(&self, subscriber: Subscriber) -> &[Seat] {
        match self.0.get(subscriber.0 as usize) {
            None | Some(Seats::None) => &[],
            Some(Seats::One(seat)) => std::slice::from_ref(seat),
            Some(Seats::Many(seats)) => seats,
        }
    }

    /// The subscriber's list entry in `topic` was moved to `index`.
    pub(super) fn moved(&mut self, subscriber: Subscriber, topic: TopicKey, index: u32) {
        let seats = match &mut self.0[subscriber.0 as usize] {
            Seats::None => &mut [],
            Seats::One(seat) => std::slice::from_mut(seat),
            Seats::Many(seats) => &mut seats[..],
        };
        let seat = seats.iter_mut().find(|seat| seat.topic == topic);
        seat.expect("who stands in a topic's list has a seat there").index = index;
    }
}
