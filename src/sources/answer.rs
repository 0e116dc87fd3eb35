//! The publishes that have no answer yet, and the limits on them.
//!
//! Invariant: a publish counts against the bounds from the time it is taken until it is answered. It is answered
//! exactly once; dropping it also answers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sources::channel::{Message, Outlet, PublishRefusal, Published, Ticket};
use crate::sources::copying::DueCopies;

/// Limits on the publishes without an answer.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Publishes; a batch is one.
    pub publishes_max: usize,
    /// Their bytes, on the bus and as copies. A larger publish passes when it has the queue to itself.
    pub bytes_max: usize,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits { publishes_max: 4096, bytes_max: 16 << 20 }
    }
}

/// The answer that one ticket waits for. Dropped without an outcome, it sends a refusal.
pub(super) struct Answer {
    outlet: Option<Outlet>,
    ticket: Ticket,
    copies: Option<DueCopies>,
    _charge: Option<Charge>,
}

impl Answer {
    pub(super) fn new(outlet: Outlet, ticket: Ticket, charge: Option<Charge>) -> Answer {
        Answer { outlet: Some(outlet), ticket, copies: None, _charge: charge }
    }

    /// With what is copied once the publish is accepted.
    pub(super) fn with_copies(mut self, copies: Option<DueCopies>) -> Answer {
        self.copies = copies;
        self
    }

    pub(super) fn give(mut self, outcome: Result<Published, PublishRefusal>) {
        self.send(outcome);
    }

    /// For a ticket that gets its outcome another way.
    pub(super) fn forget(mut self) {
        self.outlet = None;
    }

    fn send(&mut self, outcome: Result<Published, PublishRefusal>) {
        if let Some(outlet) = self.outlet.take() {
            let copies = self.copies.take().filter(|_| outcome.is_ok());
            copies.into_iter().for_each(DueCopies::take);
            outlet.send(Message::Published { ticket: self.ticket, outcome });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(Err(PublishRefusal::BrokerDown));
    }
}

/// The publishes without an answer, counted.
#[derive(Debug, Default)]
pub(super) struct Load {
    publishes: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    /// Publishes that count now, and their bytes.
    pub(super) fn taken(&self) -> (usize, usize) {
        (self.publishes.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// One publish's share of the load, given back when dropped.
pub(super) struct Charge {
    load: Arc<Load>,
    bytes: usize,
}

impl Charge {
    pub(super) fn take(load: &Arc<Load>, limits: QueueLimits, bytes: usize) -> Option<Charge> {
        let publishes = load.publishes.fetch_add(1, Ordering::Relaxed);
        let bytes_before = load.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Made first, so that its drop gives back a charge that does not fit.
        let charge = Charge { load: Arc::clone(load), bytes };
        let fits = publishes < limits.publishes_max && (publishes == 0 || bytes_before + bytes <= limits.bytes_max);
        fits.then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.load.publishes.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
