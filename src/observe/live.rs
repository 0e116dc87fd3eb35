//! A few of the loop's figures where other threads can read them; the loop writes them once a second.

use std::sync::atomic::{AtomicU64, Ordering};

/// The figures. Each is read alone: together they are of about the same moment.
#[derive(Debug, Default)]
pub struct Live {
    /// Open connections, streams among them.
    pub connections: Figure,
    /// Open streams.
    pub streams: Figure,
    /// Events that reached the logs.
    pub broadcasts: Figure,
    /// Events handed to the kernel whole, once for each subscriber.
    pub delivered_events: Figure,
    /// Bytes handed to the kernel.
    pub sent_bytes: Figure,
    /// Subscribers with something half written, or behind.
    pub lagging_subscribers: Figure,
}

/// One figure.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Its last value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes its value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
