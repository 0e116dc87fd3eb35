//! Faults for real: the real binary, with peers, a broker and a host that fail it in every way. Each test has a subscriber
//! that behaves, which loses nothing or gets a gap. Each failure is counted, and the memory that it took is freed.
//!
//! Killed and restarted brokers, exhausted descriptors and stalled readers are in `tests/blackbox`.

#[path = "../support/mod.rs"]
mod support;

mod host;
mod peers;
mod redis;
