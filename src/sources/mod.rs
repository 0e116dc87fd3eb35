//! Sources: one file and one thread each; they know nothing of the server.
//!
//! A source turns what it hears into [`Event`](crate::event::Event)s and hands them to the one [`sequencer`], which
//! numbers, formats and enqueues them on the [`channel`] of every loop. What a source can't deliver it reports
//! there too, as a gap: subscribers are told, never left guessing.

pub mod channel;
pub mod sequencer;
pub mod thread;

pub mod host;
pub mod redis;

mod draft;
mod throttle;
