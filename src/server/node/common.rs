//! What the loops of a node have in common: numbers that every loop reads and changes, and the last figures of each. Locks are
//! held for microseconds, so no turn waits for another's work.
//!
//! Invariants: a place is taken before what it is for, and given back by the loop that has it. What is counted here is
//! counted once, whichever loop it is on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::address_counts::AddressCounts;
use super::figures::Figures;
use super::history::History;
use super::publish_rates::PublishRates;
use crate::server::allowance::Allowance;
use crate::server::transport::answers::WaitingAnswers;

/// A loop that has not turned for this long hangs. Each turns once a second at least.
const HANGING_AFTER: Duration = Duration::from_secs(10);
/// A loop that has not turned for this long gets no connections from others.
const STALLING_AFTER: Duration = Duration::from_secs(3);
/// A connection is handed to the emptiest loop if its own has more by one in this many.
const UNEVEN_SHARE: usize = 32;

/// Shared by all loops of a node.
#[derive(Debug)]
pub(crate) struct Common {
    loops: Box<[LoopState]>,
    /// Connections of all loops, closed ones that are not reaped among them.
    connections: AtomicUsize,
    streams: AtomicUsize,
    /// Connections by address, while that is limited.
    pub(crate) addresses: AddressCounts<u32>,
    pub(crate) answers: WaitingAnswers,
    /// Accepts of public listeners.
    pub(crate) accepts: Allowance,
    pub(crate) publish_rates: PublishRates,
    /// Topics that exist only because subscribers name them, in the hubs of all loops.
    pub(crate) subscribed_topics: Arc<AtomicUsize>,
    /// The statistics of the last minutes.
    pub(crate) history: History,
    /// How many loops have closed, in a drain, all streams but those of statistics.
    drained: AtomicUsize,
}

/// What all loops see of one.
#[derive(Debug, Default)]
struct LoopState {
    connections: AtomicUsize,
    /// When it last reported that it turns, in milliseconds; [`LEFT`]: it has ended.
    alive_at_ms: AtomicU64,
    /// What it left last.
    figures: Mutex<Option<Arc<Figures>>>,
}

const LEFT: u64 = u64::MAX;

impl Common {
    pub(super) fn new(loops: usize) -> Common {
        Common {
            loops: (0..loops).map(|_| LoopState::default()).collect(),
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            addresses: AddressCounts::default(),
            answers: WaitingAnswers::default(),
            drained: AtomicUsize::new(0),
            accepts: Allowance::default(),
            publish_rates: PublishRates::default(),
            subscribed_topics: Arc::default(),
            history: History::default(),
        }
    }

    pub(super) fn loop_count(&self) -> usize {
        self.loops.len()
    }

    // ---- places ----

    /// True while a connection may take a place.
    pub(crate) fn has_place(&self, max: usize) -> bool {
        self.connections.load(Ordering::Relaxed) < max
    }

    /// Takes a place for a connection, if there are fewer than `max`.
    pub(crate) fn take_place(&self, max: usize) -> bool {
        take_below(&self.connections, max)
    }

    pub(crate) fn give_back_place(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a place for a stream, if there are fewer than `max`.
    pub(crate) fn take_stream(&self, max: usize) -> bool {
        take_below(&self.streams, max)
    }

    pub(crate) fn give_back_stream(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Open streams of all loops.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    // ---- which loop a connection goes to ----

    /// The loop that gets a connection that this loop has accepted.
    pub(super) fn loop_for_next(&self, own: usize, now: Duration) -> usize {
        let count = |index: usize| self.loops[index].connections.load(Ordering::Relaxed);
        let since = now.saturating_sub(STALLING_AFTER).as_millis() as u64;
        let turns = |index: &usize| {
            let alive_at_ms = self.loops[*index].alive_at_ms.load(Ordering::Relaxed);
            *index == own || (alive_at_ms != LEFT && alive_at_ms >= since)
        };
        let Some(emptiest) = (0..self.loops.len()).filter(turns).min_by_key(|index| count(*index)) else { return own };
        let least = count(emptiest);
        if count(own) > least + least / UNEVEN_SHARE { emptiest } else { own }
    }

    /// A loop gets a connection.
    pub(super) fn count_connection(&self, index: usize) {
        self.loops[index].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A loop's connection is gone.
    pub(super) fn uncount_connection(&self, index: usize) {
        self.loops[index].connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The connections of each loop.
    pub(crate) fn connections_by_loop(&self) -> Vec<usize> {
        self.loops.iter().map(|state| state.connections.load(Ordering::Relaxed)).collect()
    }

    // ---- whether loops turn ----

    /// A loop turns.
    pub(super) fn note_alive(&self, index: usize, now: Duration) {
        self.loops[index].alive_at_ms.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// A loop has ended.
    pub(super) fn note_left(&self, index: usize) {
        self.loops[index].alive_at_ms.store(LEFT, Ordering::Relaxed);
    }

    /// How many loops should turn, and have not for a while.
    pub(crate) fn hanging_loops(&self, now: Duration) -> usize {
        let since = now.saturating_sub(HANGING_AFTER).as_millis() as u64;
        self.loops.iter().filter(|state| state.alive_at_ms.load(Ordering::Relaxed) < since).count()
    }

    /// A loop has closed all streams but those of statistics. Each reports that once.
    pub(crate) fn note_drained(&self) {
        self.drained.fetch_add(1, Ordering::Relaxed);
    }

    /// True once all loops have.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed) >= self.loops.len()
    }

    // ---- figures ----

    /// Leaves a loop's figures for all others.
    pub(super) fn leave(&self, index: usize, figures: Figures) {
        *self.last_figures(index) = Some(Arc::new(figures));
    }

    /// The last figures of a loop.
    pub(super) fn figures_of(&self, index: usize) -> Option<Arc<Figures>> {
        self.last_figures(index).clone()
    }

    fn last_figures(&self, index: usize) -> MutexGuard<'_, Option<Arc<Figures>>> {
        self.loops[index].figures.lock().expect("nothing panics while it exchanges a pointer")
    }
}

fn take_below(count: &AtomicUsize, max: usize) -> bool {
    let more = |count: usize| (count < max).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The connections of each loop after `accepted` at these loops.
    fn spread(loops: usize, accepted: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let common = Common::new(loops);
        for own in accepted {
            common.count_connection(common.loop_for_next(own, Duration::ZERO));
        }
        common.connections_by_loop()
    }

    #[test]
    fn the_fullest_loop_has_at_most_a_tenth_more_than_the_emptiest() {
        assert_eq!(spread(2, [0; 4]), [2, 2]);
        assert_eq!(spread(1, [0; 100]), [100]);
        for loops in [2, 3, 4, 16] {
            for total in [loops * 10, 1000, 10_000] {
                let counts = spread(loops, std::iter::repeat_n(0, total));
                let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
                assert!(most * 10 <= least * 11, "{counts:?}");
                assert_eq!(counts.iter().sum::<usize>(), total);
            }
        }
    }

    #[test]
    fn a_loop_that_has_left_or_does_not_turn_gets_no_connection() {
        let common = Common::new(3);
        let at = Duration::from_secs;
        common.note_left(1);
        common.note_alive(2, at(1));
        (0..10).for_each(|_| common.count_connection(common.loop_for_next(0, at(5))));
        assert_eq!(common.connections_by_loop(), [10, 0, 0]);
        common.note_alive(2, at(5));
        assert_eq!(common.loop_for_next(0, at(6)), 2);
    }

    #[test]
    fn a_loop_hangs_that_has_not_turned_for_a_while() {
        let common = Common::new(3);
        let at = Duration::from_secs;
        (0..3).for_each(|index| common.note_alive(index, at(5)));
        assert_eq!(common.hanging_loops(at(15)), 0);
        common.note_alive(0, at(15));
        assert_eq!(common.hanging_loops(at(16)), 2);
        common.note_left(1);
        assert_eq!(common.hanging_loops(at(16)), 1, "one that has left need not turn");
    }

    #[test]
    fn places_are_taken_up_to_the_limit_by_all_loops_together() {
        let common = Common::new(4);
        let taken = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| common.take_place(1500) && common.take_stream(1200)).count();
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((taken, common.streams(), common.has_place(1500)), (1200, 1200, false));
        common.give_back_place();
        assert!(common.take_place(1500) && !common.take_place(1500));
    }
}
