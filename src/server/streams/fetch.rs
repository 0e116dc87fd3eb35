//! Streams that continue from pages of a durable bus, because the logs no longer hold what they need next.
//!
//! A stream sends what the hub's archive holds. When it needs a page that is not in memory, it waits for it; streams that need
//! the same page wait together. Once it reaches what the logs hold, it is a stream like any other.
//!
//! Invariant: a waiting stream is in [`Fetches::waits`] and in the set of its page. A page is requested while a stream
//! waits for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::Streams;
use super::transmit::{RUN_LIMITS, gap_frame};
use crate::event::archive::PageKey;
use crate::hub::{Hub, MissedGap, Subscriber};
use crate::io::Io;
use crate::server::node::Node;
use crate::server::slot_map::SlotMap;
use crate::server::transport::Transport;
use crate::server::transport::connection::{Flags, StreamMode};
use crate::sources::channel::FetchPage;

/// Requests that are not answered yet; the others wait here.
const UNDER_WAY_MAX: usize = 8;

/// Which streams wait for which pages.
pub(super) struct Fetches {
    bus: Option<Arc<dyn FetchPage + Send + Sync>>,
    waits: SlotMap<PageKey>,
    waiting: HashMap<PageKey, BTreeSet<u32>>,
    /// Pages to be requested, in order. One that is no longer needed is skipped.
    queue: VecDeque<PageKey>,
    under_way: usize,
}

impl Fetches {
    pub(super) fn new(bus: Option<Arc<dyn FetchPage + Send + Sync>>) -> Fetches {
        Fetches { bus, waits: SlotMap::default(), waiting: HashMap::new(), queue: VecDeque::new(), under_way: 0 }
    }

    fn wait(&mut self, slot: u32, key: PageKey) {
        if self.waits.get(&slot) == Some(&key) {
            return;
        }
        self.remove(slot);
        self.waits.insert(slot, key);
        let streams = self.waiting.entry(key).or_default();
        if streams.is_empty() {
            self.queue.push_back(key);
        }
        streams.insert(slot);
        self.request();
    }

    fn request(&mut self) {
        let Some(bus) = &self.bus else { return };
        while self.under_way < UNDER_WAY_MAX {
            let Some(key) = self.queue.pop_front() else { return };
            if self.waiting.contains_key(&key) {
                self.under_way += 1;
                bus.fetch(key);
            }
        }
    }

    /// A page came: the streams that waited for it, in order.
    fn take_waiting(&mut self, key: PageKey) -> BTreeSet<u32> {
        self.under_way -= 1;
        self.request();
        let streams = self.waiting.remove(&key).unwrap_or_default();
        for slot in &streams {
            self.waits.remove(slot);
        }
        streams
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let Some(key) = self.waits.remove(&slot) else { return };
        let Some(streams) = self.waiting.get_mut(&key) else { return };
        streams.remove(&slot);
        if streams.is_empty() {
            self.waiting.remove(&key);
            // Streams that come and go must not fill the queue.
            if self.queue.len() > 2 * self.waiting.len() + UNDER_WAY_MAX {
                self.queue.retain(|key| self.waiting.contains_key(key));
            }
        }
    }
}

impl Streams {
    /// A page is in the hub's archive: the streams that waited for it continue.
    pub(crate) fn note_page<I: Io>(&mut self, key: PageKey, transport: &mut Transport<I>) {
        for slot in self.fetches.take_waiting(key) {
            if !transport.at(slot).flags.has(Flags::BLOCKED) {
                transport.queue_catching_up(slot);
            }
        }
    }

    /// Sends one run of the archive to a stream, or waits for a page.
    pub(super) fn catch_up_from_archive<I: Io>(
        &mut self,
        slot: u32,
        transport: &mut Transport<I>,
        hub: &Hub,
        node: &mut Node,
    ) {
        let (subscriber, stream) = (Subscriber(slot), transport.at_mut(slot).stream_mut());
        let Some(stream) = stream else { return };
        let after = stream.delivered_through;
        if !hub.is_evicted(subscriber, after) {
            stream.mode.clear(StreamMode::FETCHING);
            return transport.queue_catching_up(slot);
        }
        let outbox = transport.take_outbox(slot, node.now);
        let Some(outbox) = transport.unless_blocked(slot, outbox, node) else { return };
        let mut run = std::mem::take(&mut self.scratch.run);
        run.clear();
        outbox.unsent().iter().for_each(|frame| run.push_unlogged(frame.clone(), after));
        let format = |gap: &MissedGap| gap_frame(hub, gap);
        let missing = hub.archived_run_for(subscriber, after, format, RUN_LIMITS, &mut run);
        let is_empty = run.is_empty();
        self.send_run(slot, outbox, &run, transport, node);
        run.clear();
        self.scratch.run = run;
        match missing {
            Some(key) if is_empty => self.fetches.wait(slot, key),
            _ if transport.stream(slot).is_some() && !transport.at(slot).flags.has(Flags::BLOCKED) => {
                transport.queue_catching_up(slot);
            }
            _ => {}
        }
    }
}
