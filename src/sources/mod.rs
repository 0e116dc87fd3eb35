//! Sources: one file and one thread each; they do not depend on the server.
//!
//! A source turns what it receives into [`Event`](crate::event::Event)s and passes them to the one [`sequencer`], which
//! numbers, formats and enqueues them on the [`channel`] of every loop. A source reports what it can't deliver there
//! too, as a gap, so that subscribers learn of the loss.

pub mod channel;
pub mod sequencer;
pub mod thread;

pub mod bus;
pub mod bus_figures;
pub mod copying;
pub mod feed;
pub mod host;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod kafka_figures;
pub mod payload;
pub mod redis;

mod answer;
mod backoff;
mod draft;
mod lanes;
mod refused_log;
mod throttle;

pub use answer::QueueLimits;
pub use backoff::BackoffLimits;
