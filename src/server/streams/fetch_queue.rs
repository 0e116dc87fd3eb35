//! Which streams wait for which pages of a durable bus, and the pages that are to be requested.
//!
//! Streams that need the same page wait together.
//!
//! Invariant: a waiting stream is in [`Fetches::waits`] and in the set of its page. A page is requested while a stream
//! waits for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::event::archive::PageKey;
use crate::server::slot_map::SlotMap;
use crate::sources::channel::FetchPage;

/// Requests that are not answered yet; the others wait here.
const UNDER_WAY_MAX: usize = 8;

/// Which streams wait for which pages.
pub(super) struct Fetches {
    /// None without a durable bus.
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

    /// A stream waits for a page.
    pub(super) fn wait(&mut self, slot: u32, key: PageKey) {
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
    pub(super) fn take_waiting(&mut self, key: PageKey) -> BTreeSet<u32> {
        self.under_way -= 1;
        self.request();
        let streams = self.waiting.remove(&key).unwrap_or_default();
        for slot in &streams {
            self.waits.remove(slot);
        }
        streams
    }

    /// A stream has ended.
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::timeline::Position;

    #[derive(Default)]
    struct Bus(Mutex<Vec<u64>>);

    impl FetchPage for Bus {
        fn fetch(&self, key: PageKey) {
            self.0.lock().unwrap().push(key.first().offset / 64);
        }
    }

    fn page(index: u64) -> PageKey {
        PageKey::of(Position { epoch: 7, offset: 64 * index }, 0)
    }

    #[test]
    fn streams_share_a_request_and_only_some_requests_are_under_way() {
        let bus = Arc::new(Bus::default());
        let mut fetches = Fetches::new(Some(Arc::clone(&bus) as _));
        (0..30).for_each(|slot| fetches.wait(slot, page(u64::from(slot) / 2)));
        fetches.wait(3, page(1));
        assert_eq!(*bus.0.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7], "as many as may be under way");
        fetches.remove(3);
        fetches.remove(16);
        fetches.remove(17);
        assert_eq!(fetches.take_waiting(page(0)), BTreeSet::from([0, 1]));
        assert_eq!(fetches.take_waiting(page(1)), BTreeSet::from([2]));
        assert_eq!(bus.0.lock().unwrap()[8..], [9, 10], "8 is needed by no stream any more");
        fetches.wait(0, page(9));
        assert_eq!(fetches.take_waiting(page(9)), BTreeSet::from([0, 18, 19]));
    }

    #[test]
    fn streams_that_come_and_go_leave_nothing() {
        let mut fetches = Fetches::new(Some(Arc::new(Bus::default())));
        for slot in 0..10_000 {
            fetches.wait(slot, page(slot.into()));
            fetches.remove(slot);
        }
        assert!(fetches.waiting.is_empty() && fetches.waits.is_empty() && fetches.queue.len() <= UNDER_WAY_MAX);
    }
}
