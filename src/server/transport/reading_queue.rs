//! The order in which connections are read.
//!
//! Connections are in classes, and a turn of the loop visits the classes in order: operators first, then first requests
//! (a health check's, a new client's), then the others, and last those that took more than their share of the visit
//! before, because they send requests faster than the server answers, or expensive ones. So these delay the others by
//! no more than the visit in progress. A turn makes at least one visit in each class but the last, which has only an
//! eighth of the time while events go out, and half of it while its requests are expensive. The last class is a
//! [`FairQueue`]: a connection that exceeded its share once, such as a publisher's, does not wait for a round of them.
//!
//! Invariant: a connection with [`Flags::READABLE`] is in the queue, or is being answered and returns to it after that.

use std::collections::VecDeque;
use std::time::Duration;

use super::connection::Flags;
use super::fair_queue::FairQueue;
use crate::io::Token;

/// The classes, in the order in which they are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Came through the admin listener.
    Operator,
    /// Sends its first request, or has the spare descriptor.
    First,
    /// Took no more than its share of its last visit.
    Light,
    /// Took more.
    Heavy,
}

impl Class {
    pub(crate) const ALL: [Class; 4] = [Class::Operator, Class::First, Class::Light, Class::Heavy];

    pub(crate) fn of(flags: Flags) -> Class {
        if flags.has(Flags::ADMIN) {
            Class::Operator
        } else if flags.has(Flags::HEAVY) {
            Class::Heavy
        } else if flags.has(Flags::FRESH) || flags.has(Flags::ON_SPARE) {
            Class::First
        } else {
            Class::Light
        }
    }
}

/// The connections that may have something to read.
#[derive(Debug, Default)]
pub(crate) struct ReadingQueue {
    /// In order of arrival.
    classes: [VecDeque<Token>; Class::Heavy as usize],
    heavy: FairQueue,
}

impl ReadingQueue {
    pub(crate) fn push(&mut self, class: Class, token: Token) {
        match class {
            Class::Heavy => self.heavy.push(token),
            _ => self.classes[class as usize].push_back(token),
        }
    }

    pub(crate) fn pop(&mut self, class: Class) -> Option<Token> {
        match class {
            Class::Heavy => self.heavy.pop(),
            _ => self.classes[class as usize].pop_front(),
        }
    }

    /// Charges a heavy connection for the visit that ends now.
    pub(crate) fn charge(&mut self, slot: u32, took: Duration) {
        self.heavy.charge(slot, took);
    }

    /// Forgets what a connection was charged: it is heavy no more, or closed.
    pub(crate) fn forget_charge(&mut self, slot: u32) {
        self.heavy.forget(slot);
    }

    pub(crate) fn count(&self, class: Class) -> usize {
        match class {
            Class::Heavy => self.heavy.len(),
            _ => self.classes[class as usize].len(),
        }
    }

    /// Frees the memory that departed connections took.
    pub(crate) fn shrink(&mut self) {
        self.heavy.shrink();
    }

    /// True if a connection waits that every turn may visit.
    pub(crate) fn has_light(&self) -> bool {
        self.classes.iter().any(|class| !class.is_empty())
    }

    /// True if a connection waits that took more than its share before.
    pub(crate) fn has_heavy(&self) -> bool {
        !self.heavy.is_empty()
    }
}
