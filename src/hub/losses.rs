//! The loss log: losses that a source announced, each stored once, whichever topics it touches.
//!
//! Every subscriber reads it together with the logs of its topics. It is bounded by count, bytes and age. The hub keeps
//! a loss that it forgets as a position: a subscriber before that position is due a gap. Sequences rise from front to
//! back. Independent of subscribers and topic logs.

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::{Frame, Sequence, Topic};

/// Losses that are remembered individually.
pub(super) const LOSSES_MAX: usize = 1024;
/// Bytes of their frames and names of topics. The newest loss is kept whatever its size.
pub(super) const LOSS_BYTES_MAX: usize = 1 << 20;
/// What a loss costs in addition to its frame and its names.
const LOSS_OVERHEAD_BYTES: usize = 64;
/// What a topic's name costs in addition to its text.
const NAME_OVERHEAD_BYTES: usize = 32;

/// The topics that a loss touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LossScope {
    /// Every topic, also those that don't exist yet.
    All,
    /// These, sorted by name.
    Topics(Box<[Topic]>),
}

impl LossScope {
    pub(super) fn new(topics: Option<&[Topic]>) -> LossScope {
        let Some(topics) = topics else { return LossScope::All };
        let mut topics: Box<[Topic]> = topics.into();
        topics.sort_unstable();
        LossScope::Topics(topics)
    }

    pub(super) fn touches(&self, topic: &Topic) -> bool {
        match self {
            LossScope::All => true,
            LossScope::Topics(topics) => topics.binary_search(topic).is_ok(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            LossScope::All => 0,
            LossScope::Topics(topics) => topics.iter().map(|topic| topic.as_str().len() + NAME_OVERHEAD_BYTES).sum(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Loss {
    pub(super) sequence: Sequence,
    pub(super) scope: LossScope,
    pub(super) frame: Frame,
    pub(super) announced_at: Duration,
}

impl Loss {
    fn cost_bytes(&self) -> usize {
        self.frame.len() + self.scope.bytes() + LOSS_OVERHEAD_BYTES
    }
}

#[derive(Debug, Default)]
pub(super) struct LossLog {
    losses: VecDeque<Loss>,
    bytes: usize,
}

impl LossLog {
    pub(super) fn append(&mut self, loss: Loss) {
        debug_assert!(loss.sequence > self.last(), "the channel keeps the sequencer's order");
        self.bytes += loss.cost_bytes();
        self.losses.push_back(loss);
    }

    /// Takes out the oldest loss if there are too many.
    pub(super) fn take_surplus(&mut self) -> Option<Loss> {
        let is_over = self.losses.len() > LOSSES_MAX || self.bytes > LOSS_BYTES_MAX;
        if is_over && self.losses.len() > 1 { self.take_oldest() } else { None }
    }

    /// Takes out the oldest loss if it was announced at `time` or before.
    pub(super) fn take_older(&mut self, time: Duration) -> Option<Loss> {
        self.losses.front().filter(|loss| loss.announced_at <= time)?;
        self.take_oldest()
    }

    fn take_oldest(&mut self) -> Option<Loss> {
        let oldest = self.losses.pop_front()?;
        self.bytes -= oldest.cost_bytes();
        if self.losses.is_empty() {
            self.losses = VecDeque::new();
        }
        Some(oldest)
    }

    /// The newest loss that is remembered; zero if there is none.
    pub(super) fn last(&self) -> Sequence {
        self.losses.back().map_or(Sequence::ZERO, |loss| loss.sequence)
    }

    /// The newest loss at or before `position` that is remembered; zero if there is none.
    pub(super) fn last_through(&self, position: Sequence) -> Sequence {
        let index = self.index_after(position);
        index.checked_sub(1).map_or(Sequence::ZERO, |index| self.losses[index].sequence)
    }

    pub(super) fn after(&self, position: Sequence) -> impl DoubleEndedIterator<Item = &Loss> {
        self.losses.range(self.index_after(position)..)
    }

    fn index_after(&self, position: Sequence) -> usize {
        // In live delivery, the position is nearly always behind every loss.
        if self.last() <= position {
            return self.losses.len();
        }
        self.losses.partition_point(|loss| loss.sequence <= position)
    }

    /// Bytes of all losses, names and bookkeeping included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(sequence: u64, topics: Option<&[Topic]>, bytes: usize) -> Loss {
        let (sequence, scope, frame) = (Sequence(sequence), LossScope::new(topics), vec![b'x'; bytes].into());
        Loss { sequence, scope, frame, announced_at: Duration::from_secs(sequence.0) }
    }

    fn older(log: &mut LossLog, time: u64) -> Vec<u64> {
        std::iter::from_fn(|| log.take_older(Duration::from_secs(time))).map(|loss| loss.sequence.0).collect()
    }

    fn surplus(log: &mut LossLog) -> Vec<u64> {
        std::iter::from_fn(|| log.take_surplus()).map(|loss| loss.sequence.0).collect()
    }

    #[test]
    fn losses_are_forgotten_by_age_and_bytes_and_count() {
        let mut log = LossLog::default();
        for sequence in [1, 3, 5] {
            log.append(loss(sequence, None, 1));
        }
        assert!(older(&mut log, 0).is_empty() && surplus(&mut log).is_empty());
        assert_eq!(older(&mut log, 3), [1, 3]);
        log.append(loss(14, None, LOSS_BYTES_MAX));
        assert_eq!(surplus(&mut log), [5], "the newest stays whatever its size");
        assert_eq!(older(&mut log, 14), [14]);
        assert_eq!((log.bytes(), log.last()), (0, Sequence::ZERO));
        (1..=LOSSES_MAX as u64 + 2).for_each(|sequence| log.append(loss(sequence, None, 1)));
        assert_eq!(surplus(&mut log), [1, 2]);
    }

    #[test]
    fn a_loss_touches_its_topics_and_is_found_by_position() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Topic::new(name).unwrap());
        let mut log = LossLog::default();
        log.append(loss(2, Some(&[c.clone(), a.clone()]), 1));
        log.append(loss(7, None, 1));
        let touching = |topic: &Topic| {
            log.after(Sequence(1))
                .filter(|loss| loss.scope.touches(topic))
                .map(|loss| loss.sequence.0)
                .collect::<Vec<_>>()
        };
        assert_eq!((touching(&a), touching(&b), touching(&c)), (vec![2, 7], vec![7], vec![2, 7]));
        for (position, expected) in [(0, 0), (1, 0), (2, 2), (6, 2), (7, 7), (9, 7)] {
            assert_eq!(log.last_through(Sequence(position)), Sequence(expected), "{position}");
            let after = log.after(Sequence(position)).count();
            assert_eq!(after, [2, 7].iter().filter(|sequence| **sequence > position).count());
        }
    }
}
