//! Fair queueing (Demers, Keshav and Shenker, SIGCOMM 1989): of the connections that wait, the next is the one whose
//! visit would end first if all were visited at once, each at the same speed. So a connection that needs little is
//! served after the visit in progress, however many connections ask for much.
//!
//! Times are of a virtual clock, which shows when the latest visit began. A visit begins where the connection's last
//! one ended, or now if the clock is past that: time that a connection did not use is not saved up. How long a visit
//! takes is known afterwards; it is expected to take as long as the last one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::io::Token;
use crate::server::shrink::shrink_map;
use crate::server::slot_map::SlotMap;

#[derive(Debug, Default)]
pub(super) struct FairQueue {
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// By slot.
    accounts: SlotMap<Account>,
    clock: Duration,
    arrivals: u64,
}

/// In the order in which they are visited.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    /// When the visit is expected to end.
    ends: Duration,
    arrival: u64,
    begins: Duration,
    token: Token,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// When its last visit ended; during a visit, when this began.
    used_until: Duration,
    last_took: Duration,
}

impl FairQueue {
    pub(super) fn push(&mut self, token: Token) {
        let account = self.accounts.get(&token.slot).copied().unwrap_or_default();
        let begins = account.used_until.max(self.clock);
        self.arrivals += 1;
        let ends = begins + account.last_took;
        self.waiting.push(Reverse(Waiting { ends, arrival: self.arrivals, begins, token }));
    }

    pub(super) fn pop(&mut self) -> Option<Token> {
        let Reverse(Waiting { begins, token, .. }) = self.waiting.pop()?;
        self.clock = self.clock.max(begins);
        // If the connection has closed meanwhile, the account is that of the slot's next client, or there is none.
        if let Some(account) = self.accounts.get_mut(&token.slot) {
            account.used_until = account.used_until.max(begins);
        }
        Some(token)
    }

    /// Charges a connection for a visit, also for the one after which it comes to this queue.
    pub(super) fn charge(&mut self, slot: u32, took: Duration) {
        let account = self.accounts.entry(slot).or_insert(Account { used_until: self.clock, last_took: took });
        account.used_until += took;
        account.last_took = took;
    }

    /// Forgets what a connection was charged.
    pub(super) fn forget(&mut self, slot: u32) {
        self.accounts.remove(&slot);
    }

    /// Frees the memory that departed connections took.
    pub(super) fn shrink(&mut self) {
        shrink_map(&mut self.accounts);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn token(slot: u32) -> Token {
        Token { slot, generation: 0 }
    }

    impl FairQueue {
        fn next_slot(&self) -> u32 {
            self.waiting.peek().expect("a connection waits").0.token.slot
        }
    }

    /// Visits the next connection for a while; it has more to read if `again`.
    fn visit(queue: &mut FairQueue, took: Duration, again: bool) -> u32 {
        let token = queue.pop().expect("a connection waits");
        queue.charge(token.slot, took);
        if again {
            queue.push(token);
        }
        token.slot
    }

    #[test]
    fn connections_that_cost_the_same_take_turns() {
        let mut queue = FairQueue::default();
        (0..3).for_each(|slot| queue.push(token(slot)));
        let visited: Vec<_> = (0..6).map(|_| visit(&mut queue, MS, true)).collect();
        assert_eq!(visited, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_connection_that_needs_little_waits_for_one_visit_and_not_for_a_round() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|slot| queue.push(token(slot)));
        (0..1000).for_each(|_| _ = visit(&mut queue, MS, true));
        for _ in 0..10 {
            queue.push(token(100));
            let mut before = 0;
            while queue.next_slot() != 100 {
                visit(&mut queue, MS, true);
                before += 1;
            }
            assert!(before <= 1, "{before} visits before its own");
            visit(&mut queue, MS / 10, false);
            (0..50).for_each(|_| _ = visit(&mut queue, MS, true));
        }
    }

    #[test]
    fn time_is_shared_equally_whatever_one_visit_costs() {
        let mut queue = FairQueue::default();
        (0..2).for_each(|slot| queue.push(token(slot)));
        let mut received = [Duration::ZERO; 2];
        for _ in 0..1000 {
            let slot = queue.next_slot();
            let cost = MS * (1 + 9 * slot);
            visit(&mut queue, cost, true);
            received[slot as usize] += cost;
        }
        assert!(received[0].abs_diff(received[1]) <= 10 * MS, "{received:?}");
    }

    #[test]
    fn time_that_was_not_used_is_not_saved_up() {
        let mut queue = FairQueue::default();
        queue.push(token(0));
        (0..1000).for_each(|_| _ = visit(&mut queue, MS, true));
        queue.push(token(1));
        let visited: Vec<_> = (0..6).map(|_| visit(&mut queue, MS, true)).collect();
        assert_eq!(visited, [1, 0, 1, 0, 1, 0], "the newcomer is not owed the time before it came");
    }

    #[test]
    fn the_next_client_of_a_slot_owes_nothing() {
        let mut queue = FairQueue::default();
        (0..2).for_each(|slot| queue.push(token(slot)));
        visit(&mut queue, 100 * MS, false);
        queue.forget(0);
        queue.push(token(0));
        assert_eq!([visit(&mut queue, MS, false), visit(&mut queue, MS, false)], [1, 0]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_connection_that_closed_while_it_waited_leaves_no_account() {
        let mut queue = FairQueue::default();
        queue.charge(0, MS);
        queue.push(token(0));
        queue.forget(0);
        assert_eq!(queue.pop(), Some(token(0)));
        assert!(queue.accounts.is_empty());
    }
}
