//! A few figures that one thread writes once a second and others read: the loop's own, and the kernel's figures of the
//! process, which a separate thread reads (`process`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// The figures. Each is read alone: together they are from about the same moment.
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
    /// Connections whose last send the kernel took only in part, or not at all.
    pub lagging_subscribers: Figure,
    /// Connections, topics, and events in their logs: what most memory is for.
    pub held: Figure,
    /// Bytes of memory that are resident; 0 where the kernel does not report them.
    pub resident_bytes: Figure,
    /// Open descriptors; 0 where that is not known.
    pub open_descriptors: Figure,
    /// What `--dev` measures on this host; null without it.
    host: Mutex<Value>,
}

impl Live {
    /// Notes what was measured on this host.
    pub fn set_host(&self, measured: Value) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = measured;
    }

    /// What was measured on this host.
    pub fn host(&self) -> Value {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One figure.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Its last value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Its last value, unless there is none.
    pub fn known(&self) -> Option<u64> {
        Some(self.get()).filter(|value| *value > 0)
    }

    /// Notes its value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
