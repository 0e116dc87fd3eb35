//! The ledger: what one subscriber is owed, what it received, and how each message counts.
//!
//! Messages are numbered 1, 2, 3 … in the order of their intended send times. The rules:
//!
//! - **Owed.** A message is owed to a subscriber starting with the first whose intended send time lies after the moment
//!   when the client read its `200`. Earlier messages may arrive (they were in transit, or are history), but once one
//!   has arrived, all after it are owed too. Where the send times are not known (another program publishes), the first
//!   message that arrives decides.
//! - **Lost**: owed, never received, and not announced by a gap. **Duplicated**: received again. **Disordered**:
//!   received after a later one; it is then not lost. **Corrupted**: received with other bytes; it takes the place of
//!   the expected one, so it is not counted as lost too.
//! - **Gap.** An `event: gap` announces everything missing between the last message before it and the first after it:
//!   announced, not lost. It may also rewind ("everything remembered"): messages that arrive again in ascending order
//!   directly after it are repeated, not duplicated. A gap that neither skips nor rewinds is a needless gap.
//! - **Reconnecting** with a Last-Event-ID does not change what is owed: the gapless sequence goes on. Without an id
//!   (the server sends no ids, or `--no-resume`), messages sent before the new `200` are missed, not lost.
//! - **Unconfirmed** messages (publishing failed, or no subscriber was reported) are not owed. The server may still accept
//!   one after it accepted later ones, so they are never disordered, but late.
//! - At the end, owed messages missing from an open subscriber are lost; from one that is away they are *unresolved*.
//!
//! A ledger is 24 bytes unless messages are missing. It handles neither payloads nor sockets.

use std::ops::RangeInclusive;

use super::counters::Counters;

/// One subscriber's account.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The next number of the gapless sequence; 0 before the first message.
    next: u32,
    /// The lowest number that can be a duplicate: lower numbers have never been received.
    first: u32,
    standing: Standing,
    /// Numbers below `next` that have not arrived, as ascending, separate ranges. Almost always empty: boxed, to cost 8
    /// bytes.
    #[allow(clippy::box_collection)]
    missing: Option<Box<Vec<RangeInclusive<u32>>>>,
}

const _: () = assert!(size_of::<Ledger>() <= 24);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Standing {
    /// No stream was ever open.
    #[default]
    Never,
    /// Open, without a message yet. `owed_from` 0: unknown, the first message decides.
    Fresh { owed_from: u32 },
    /// The next message is `next`.
    Following,
    /// A gap arrived: any number may follow.
    AfterGap,
    /// After a gap, receiving earlier messages again; the last such number.
    Repeating { last: u32 },
    /// Reconnected without an id to resume from.
    Rejoined { owed_from: u32 },
}

/// What messages missing at the end of the sequence mean for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// It is connected: they are lost.
    Owed,
    /// It is away: unresolved.
    Away,
    /// It does not read, on purpose: they are not judged.
    Unjudged,
}

/// How many ranges of missing numbers one subscriber may keep; beyond that, the oldest are lost for good.
const MISSING_RANGES_MAX: usize = 4096;

impl Ledger {
    /// A stream opened: `owed_from` is the first message sent afterwards, `resumed` whether the request named the last
    /// event id (or no message had arrived that could have had one).
    pub fn open(&mut self, owed_from: u32, resumed: bool) {
        self.standing = match self.standing {
            Standing::Never => Standing::Fresh { owed_from },
            Standing::Fresh { .. } if !resumed => Standing::Fresh { owed_from },
            // A gap at the very end of the last connection still covers what follows.
            Standing::AfterGap => Standing::AfterGap,
            same if resumed => same,
            _ => Standing::Rejoined { owed_from },
        };
    }

    /// A valid message arrived. True if it counts as delivered: the first time that it arrived.
    pub fn record(&mut self, number: u32, counters: &mut Counters) -> bool {
        match self.standing {
            Standing::Following if number == self.next => self.next += 1,
            Standing::Following => return self.out_of_sequence(number, counters),
            Standing::Never | Standing::Fresh { .. } => self.start(number),
            Standing::AfterGap if self.next == 0 => self.follow(number, number),
            Standing::AfterGap if number < self.next => {
                counters.repeated_events += 1;
                self.standing = Standing::Repeating { last: number };
                return self.forget_missing(number);
            }
            Standing::AfterGap => {
                let announced = number - self.next;
                counters.announced_lost_events += u64::from(announced);
                counters.needless_gap_events += u64::from(announced == 0);
                self.follow(self.first, number);
            }
            Standing::Repeating { last } if number > last && number < self.next => {
                counters.repeated_events += 1;
                self.standing = Standing::Repeating { last: number };
                return self.forget_missing(number);
            }
            Standing::Repeating { .. } => {
                self.standing = Standing::Following;
                return self.record(number, counters);
            }
            // Without ids the server can't know what this client has: sending it again is not the server's fault.
            Standing::Rejoined { .. } if number < self.next => {
                counters.repeated_events += 1;
                return self.forget_missing(number);
            }
            Standing::Rejoined { owed_from } => {
                let owed_from = if owed_from == 0 { number } else { owed_from.clamp(self.next, number) };
                counters.missed_while_away_events += u64::from(owed_from - self.next);
                self.miss(owed_from, number, counters);
                self.follow(self.first, number);
            }
        }
        true
    }

    /// A message of this test arrived with other bytes than were sent.
    pub fn record_corrupted(&mut self, counters: &mut Counters) {
        counters.corrupted_events += 1;
        match self.standing {
            Standing::Following => self.next += 1,
            Standing::Fresh { owed_from } if owed_from > 0 => self.start(owed_from),
            _ => {}
        }
    }

    /// An `event: gap` arrived.
    pub fn record_gap(&mut self, counters: &mut Counters) {
        counters.gap_events += 1;
        if self.standing == Standing::AfterGap {
            counters.needless_gap_events += 1;
        }
        self.standing = Standing::AfterGap;
    }

    /// True when no message up to `through` is still to arrive, except `unconfirmed` ones.
    pub fn is_settled(&self, through: u32, unconfirmed: &[RangeInclusive<u32>]) -> bool {
        let nothing_missing = self.missing.as_ref().is_none_or(|ranges| without(ranges, unconfirmed).is_empty());
        nothing_missing && without(&[self.owed_from()..=through], unconfirmed).is_empty()
    }

    /// Closes the account after `through` messages in all, and returns the ranges that were lost. `unconfirmed` is
    /// ascending, with separate ranges.
    pub fn close(
        &mut self,
        through: u32,
        unconfirmed: &[RangeInclusive<u32>],
        tail: Tail,
        counters: &mut Counters,
    ) -> Vec<RangeInclusive<u32>> {
        let mut lost = self.missing.take().map_or_else(Vec::new, |ranges| without(&ranges, unconfirmed));
        let owed_from = self.owed_from();
        let still_owed = without(&[owed_from..=through], unconfirmed);
        if tail != Tail::Unjudged {
            let passed_over = count(&without(&[self.next.max(1)..=through.min(owed_from - 1)], unconfirmed));
            match self.standing {
                Standing::AfterGap => counters.announced_lost_events += passed_over,
                Standing::Rejoined { .. } => counters.missed_while_away_events += passed_over,
                _ => {}
            }
        }
        match tail {
            Tail::Owed => lost.extend(still_owed),
            Tail::Away => counters.unresolved_events += count(&still_owed),
            Tail::Unjudged => {}
        }
        counters.lost_events += count(&lost);
        lost
    }

    /// The first message of the end of the sequence that must still arrive; `u32::MAX` if there is none.
    fn owed_from(&self) -> u32 {
        match self.standing {
            Standing::Never | Standing::AfterGap | Standing::Fresh { owed_from: 0 } => u32::MAX,
            Standing::Fresh { owed_from } => owed_from,
            Standing::Following | Standing::Repeating { .. } => self.next,
            Standing::Rejoined { owed_from: 0 } => u32::MAX,
            Standing::Rejoined { owed_from } => owed_from.max(self.next),
        }
    }

    fn start(&mut self, number: u32) {
        let owed_from = match self.standing {
            Standing::Fresh { owed_from } if owed_from > 0 => owed_from.min(number),
            _ => number,
        };
        if owed_from < number {
            self.missing.get_or_insert_default().push(owed_from..=number - 1);
        }
        self.follow(owed_from, number);
    }

    fn follow(&mut self, first: u32, number: u32) {
        self.first = first;
        self.next = number + 1;
        self.standing = Standing::Following;
    }

    fn out_of_sequence(&mut self, number: u32, counters: &mut Counters) -> bool {
        if number > self.next {
            self.miss(self.next, number, counters);
            self.next = number + 1;
            return true;
        }
        let came_late = self.forget_missing(number) || number < self.first;
        if came_late {
            counters.disordered_events += 1;
        } else {
            counters.duplicated_events += 1;
        }
        came_late
    }

    /// Records that `from..to` has not arrived.
    fn miss(&mut self, from: u32, to: u32, counters: &mut Counters) {
        if from >= to {
            return;
        }
        let ranges = self.missing.get_or_insert_default();
        if ranges.len() == MISSING_RANGES_MAX {
            counters.lost_events += count(&ranges[..1]);
            ranges.remove(0);
        }
        ranges.push(from..=to - 1);
    }

    /// Removes `number` from the missing ones; false if it was not missing.
    fn forget_missing(&mut self, number: u32) -> bool {
        let Some(ranges) = self.missing.as_mut() else { return false };
        let Some(index) = ranges.iter().position(|range| range.contains(&number)) else { return false };
        let range = ranges.remove(index);
        if number < *range.end() {
            ranges.insert(index, number + 1..=*range.end());
        }
        if *range.start() < number {
            ranges.insert(index, *range.start()..=number - 1);
        }
        if ranges.is_empty() {
            self.missing = None;
        }
        true
    }
}

/// The numbers in `ranges` that are not in `taken`; both hold ascending, separate ranges.
fn without(ranges: &[RangeInclusive<u32>], taken: &[RangeInclusive<u32>]) -> Vec<RangeInclusive<u32>> {
    let mut left = Vec::new();
    for range in ranges {
        let mut from = *range.start();
        for hole in taken.iter().filter(|hole| hole.end() >= range.start() && hole.start() <= range.end()) {
            if from < *hole.start() {
                left.push(from..=hole.start() - 1);
            }
            from = hole.end().saturating_add(1);
        }
        if from <= *range.end() {
            left.push(from..=*range.end());
        }
    }
    left
}

fn count(ranges: &[RangeInclusive<u32>]) -> u64 {
    ranges.iter().filter(|range| !range.is_empty()).map(|range| u64::from(range.end() - range.start()) + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Step {
        Open(u32),
        Resume(u32),
        Got(u32),
        Bent,
        Gap,
    }
    use Step::{Bent, Gap, Got, Open, Resume};

    /// Plays `steps`, closes an open ledger after 9 messages with 100..=101 unconfirmed, and compares the counters
    /// that are not zero, in the order of the report.
    fn check(steps: &[Step], expected: &[(&str, u64)]) {
        check_closed(steps, Tail::Owed, &[100..=101], expected);
    }

    fn check_closed(steps: &[Step], tail: Tail, unconfirmed: &[RangeInclusive<u32>], expected: &[(&str, u64)]) {
        let mut ledger = Ledger::default();
        let mut counters = Counters::default();
        for step in steps {
            match *step {
                Open(owed_from) => ledger.open(owed_from, false),
                Resume(owed_from) => ledger.open(owed_from, true),
                Got(number) => counters.delivered_events += u64::from(ledger.record(number, &mut counters)),
                Bent => ledger.record_corrupted(&mut counters),
                Gap => ledger.record_gap(&mut counters),
            }
        }
        ledger.close(9, unconfirmed, tail, &mut counters);
        let counted: Vec<_> = counters.pairs().into_iter().filter(|(_, value)| *value > 0).collect();
        assert_eq!(counted, expected);
    }

    fn got(numbers: std::ops::RangeInclusive<u32>) -> Vec<Step> {
        numbers.map(Got).collect()
    }

    fn story(parts: &[&[Step]]) -> Vec<Step> {
        parts.concat()
    }

    #[test]
    fn each_fault_has_its_name() {
        check(&story(&[&[Open(1)], &got(1..=9)]), &[("delivered_events", 9)]);
        check(&story(&[&[Open(1)], &got(1..=3), &got(5..=9)]), &[("delivered_events", 8), ("lost_events", 1)]);
        check(&story(&[&[Open(1)], &got(1..=3), &got(3..=9)]), &[("delivered_events", 9), ("duplicated_events", 1)]);
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Got(5), Got(4)], &got(6..=9)]),
            &[("delivered_events", 9), ("disordered_events", 1)],
        );
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Bent], &got(5..=9)]),
            &[("delivered_events", 8), ("corrupted_events", 1)],
        );
    }

    #[test]
    fn the_first_and_last_messages_are_expected_too() {
        check(&story(&[&[Open(1)], &got(3..=9)]), &[("delivered_events", 7), ("lost_events", 2)]);
        check(&story(&[&[Open(1)], &got(1..=7)]), &[("delivered_events", 7), ("lost_events", 2)]);
        check(&[Open(1)], &[("lost_events", 9)]);
        check(&story(&[&[Open(1), Bent], &got(2..=9)]), &[("delivered_events", 8), ("corrupted_events", 1)]);
    }

    #[test]
    fn a_late_client_must_receive_what_is_sent_after_it_connected() {
        check(&story(&[&[Open(5)], &got(5..=9)]), &[("delivered_events", 5)]);
        check(&story(&[&[Open(5)], &got(4..=9)]), &[("delivered_events", 6)]);
        check(&story(&[&[Open(5)], &got(6..=9)]), &[("delivered_events", 4), ("lost_events", 1)]);
        check(&story(&[&[Open(0)], &got(6..=9)]), &[("delivered_events", 4)]);
        check(&[Open(10)], &[]);
    }

    #[test]
    fn a_resumed_client_continues_where_it_stopped() {
        check(&story(&[&[Open(1)], &got(1..=3), &[Resume(8)], &got(4..=9)]), &[("delivered_events", 9)]);
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Resume(8)], &got(8..=9)]),
            &[("delivered_events", 5), ("lost_events", 4)],
        );
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Resume(8)], &got(3..=9)]),
            &[("delivered_events", 9), ("duplicated_events", 1)],
        );
        // Dropped before the first event: the preamble's id stands for everything since the first opening.
        check(&story(&[&[Open(1), Resume(8)], &got(8..=9)]), &[("delivered_events", 2), ("lost_events", 7)]);
    }

    #[test]
    fn without_an_id_a_client_misses_what_was_sent_while_it_was_away() {
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Open(8)], &got(8..=9)]),
            &[("delivered_events", 5), ("missed_while_away_events", 4)],
        );
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Open(8), Got(9)]]),
            &[("delivered_events", 4), ("lost_events", 1), ("missed_while_away_events", 4)],
        );
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Open(8)]]),
            &[("delivered_events", 3), ("lost_events", 2), ("missed_while_away_events", 4)],
        );
    }

    #[test]
    fn a_gap_announces_what_is_missing_around_it() {
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Gap], &got(6..=9)]),
            &[("delivered_events", 7), ("gap_events", 1), ("announced_lost_events", 2)],
        );
        check(
            &story(&[&[Open(1)], &got(1..=3), &[Gap], &got(4..=9)]),
            &[("delivered_events", 9), ("gap_events", 1), ("needless_gap_events", 1)],
        );
        check(
            &story(&[&[Open(1)], &got(1..=5), &[Gap], &got(4..=9)]),
            &[("delivered_events", 9), ("gap_events", 1), ("repeated_events", 2)],
        );
        check(
            &story(&[&[Open(1)], &got(1..=7), &[Gap]]),
            &[("delivered_events", 7), ("gap_events", 1), ("announced_lost_events", 2)],
        );
        // It covers the place where it is, not a loss before it.
        check(
            &story(&[&[Open(1)], &got(1..=3), &got(5..=6), &[Gap], &got(8..=9)]),
            &[("delivered_events", 7), ("lost_events", 1), ("gap_events", 1), ("announced_lost_events", 1)],
        );
    }

    #[test]
    fn unconfirmed_messages_are_expected_of_no_client() {
        let steps = story(&[&[Open(1)], &got(1..=3), &got(6..=8)]);
        check_closed(&steps, Tail::Owed, &[4..=5, 9..=9], &[("delivered_events", 6)]);
        check_closed(&steps, Tail::Owed, &[5..=5, 9..=9], &[("delivered_events", 6), ("lost_events", 1)]);
    }

    #[test]
    fn the_last_messages_are_unresolved_for_clients_that_are_away() {
        let steps = story(&[&[Open(1)], &got(1..=3), &got(5..=7)]);
        check_closed(&steps, Tail::Away, &[], &[("delivered_events", 6), ("lost_events", 1), ("unresolved_events", 2)]);
        check_closed(&steps, Tail::Unjudged, &[], &[("delivered_events", 6), ("lost_events", 1)]);
    }

    #[test]
    fn a_settled_client_awaits_no_message() {
        let mut ledger = Ledger::default();
        let mut counters = Counters::default();
        assert!(ledger.is_settled(2, &[]));
        ledger.open(1, false);
        assert!(!ledger.is_settled(2, &[]));
        ledger.record(2, &mut counters);
        assert!(!ledger.is_settled(2, &[]), "1 is still missing");
        assert!(ledger.is_settled(2, &[1..=1]));
        assert!(ledger.is_settled(3, &[1..=1, 3..=3]));
        ledger.record(1, &mut counters);
        assert!(ledger.is_settled(2, &[]));
    }
}
