//! Streams: what each subscriber receives, and when. Live delivery, replay, pace, heartbeats, and the end of a stream.
//!
//! ```text
//!  walk ─▶ a shared run to all subscribers at the same position (deliver)
//!    └──▶ a subscriber with a pace, several topics, or a half-written frame ─▶ its own run (transmit)
//!  writable again, or replaying ─▶ catch up, within a budget
//!  older than the logs ─▶ pages of a durable bus (fetch), then catch up
//! ```
//!
//! Invariant: a stream's position only rises, and every event of its topics up to it was sent or begun, or is covered
//! by a gap that is owed.
//!
//! Not here: HTTP, sockets, and which client may subscribe to what.

mod age;
mod catch_up;
pub(super) mod credentials;
mod deliver;
mod eviction;
mod fetch;
mod fetch_queue;
mod heartbeat;
pub(super) mod open;
mod pace;
mod preambles;
mod slow;
pub(super) mod sweep;
mod transmit;

use std::collections::VecDeque;
use std::sync::Arc;

use super::shrink::shrink_map;
use super::slot_map::SlotMap;
use crate::event::{Frame, Sequence};
use crate::hub::{Hub, Owed, Run, Subscriber};
use crate::io::{Sent, Socket, Token};
use crate::protocol::encoder;
use crate::sources::channel::FetchPage;
use credentials::Credentials;
use fetch_queue::Fetches;
use pace::Paces;
use preambles::Preambles;

/// What streams need beyond their connection. Most streams have no entry here.
pub(super) struct Streams {
    /// Gaps that are not sent yet.
    owed: SlotMap<Owed>,
    paces: Paces,
    pub(super) credentials: Credentials,
    /// Subscribers that will be closed for being slow, a few in each turn.
    closing: VecDeque<Token>,
    fetches: Fetches,
    preambles: Preambles,
    heartbeat: Frame,
    /// Heartbeats that this turn may still send.
    heartbeats_left: usize,
    scratch: Scratch,
}

/// Buffers that every turn reuses.
#[derive(Default)]
struct Scratch {
    slice: Vec<Subscriber>,
    run: Run,
    /// The connections that one run is sent to, by slot, and their sockets.
    batch: Vec<(u32, Socket)>,
    outcomes: Vec<Sent>,
    /// Where a slice's shortest run ended that did not reach the newest event.
    cut_at: Option<Sequence>,
}

impl Streams {
    /// `bus` fetches what logs no longer hold, if there is a durable bus.
    pub(super) fn new(bus: Option<Arc<dyn FetchPage + Send + Sync>>) -> Streams {
        Streams {
            owed: SlotMap::default(),
            paces: Paces::new(),
            credentials: Credentials::default(),
            closing: VecDeque::new(),
            fetches: Fetches::new(bus),
            preambles: Preambles::default(),
            heartbeat: encoder::HEARTBEAT.into(),
            heartbeats_left: 0,
            scratch: Scratch::default(),
        }
    }

    /// True while there is work that needs no further readiness.
    pub(super) fn has_work(&self) -> bool {
        !self.closing.is_empty()
    }

    /// When the next pace's interval ends.
    pub(super) fn next_pace(&self) -> Option<std::time::Duration> {
        self.paces.next()
    }

    /// Removes the stream of a slot, if it has one.
    pub(super) fn remove(&mut self, slot: u32, hub: &mut Hub) {
        self.owed.remove(&slot);
        self.paces.remove(slot);
        self.fetches.remove(slot);
        self.credentials.remove(slot);
        hub.unsubscribe(Subscriber(slot));
    }

    /// Makes the first frames of streams be formatted again, for another reconnection time.
    pub(super) fn forget_preambles(&mut self) {
        self.preambles = Preambles::default();
    }

    /// Frees the memory that departed streams took.
    pub(super) fn shrink(&mut self) {
        shrink_map(&mut self.owed);
        self.paces.shrink();
        self.credentials.shrink();
    }
}
