//! Topic log: the events that a topic still remembers. Never copies frame bytes. Independent of sockets and the clock.
//!
//! It is both the replay history and the queue of every slow subscriber. Sequences rise from front to back. The log has
//! forgotten every event at or before `evicted_through`, and holds every event after it. Absent: losses that a source
//! announced; the hub's loss log has those, for all topics.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::event::{EventId, Frame, Naming, Sequence};
use crate::hub::Context;

/// What an entry costs in addition to its frame and id: its place here and in the index of ids.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 128;
/// Bytes after which a segment ends: less than a half of deflate's window.
const SEGMENT_BYTES: u32 = 16 << 10;
/// Silence after which a segment ends. Heartbeats may have come in between, so few subscribers have all of it.
const SEGMENT_SILENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: Sequence,
    pub(super) naming: Naming,
    pub(super) frame: Frame,
    pub(super) appended_at: Duration,
    /// Bytes of the frames before it in its segment.
    preceding_bytes: u32,
}

impl Entry {
    pub(super) fn new(sequence: Sequence, naming: Naming, frame: Frame, appended_at: Duration) -> Entry {
        Entry { sequence, naming, frame, appended_at, preceding_bytes: 0 }
    }

    /// What a subscriber that gets every event of this log got before it.
    pub(super) fn context(&self) -> Context {
        Context::Segment(self.preceding_bytes)
    }

    /// Bytes of its segment before the entry that follows it at `now`: none, if a segment begins there.
    fn preceding_bytes_of_next(&self, now: Duration) -> u32 {
        let bytes = self.preceding_bytes.saturating_add(u32::try_from(self.frame.len()).unwrap_or(u32::MAX));
        let is_over = bytes >= SEGMENT_BYTES || now.saturating_sub(self.appended_at) >= SEGMENT_SILENCE;
        if is_over { 0 } else { bytes }
    }

    pub(super) fn cost_bytes(&self) -> usize {
        // An id is in the frame, and once more in entry and index, which may share it.
        let id_bytes = match &self.naming {
            Naming::Here(id) => id.as_ref().map_or(0, |id| id.as_str().len()),
            Naming::Elsewhere(id) => id.as_str().len(),
        };
        self.frame.len() + id_bytes + ENTRY_OVERHEAD_BYTES
    }
}

#[derive(Debug)]
pub(super) struct TopicLog {
    entries: VecDeque<Entry>,
    bytes: usize,
    appended: u64,
    aliases: HashMap<EventId, Sequence>,
    evicted_through: Sequence,
    /// The newest loss of this topic alone that the loss log has forgotten.
    loss_forgotten_at: Sequence,
    /// The position of the newest event, or of the newest loss that the loss log has forgotten, whichever is later.
    changed_at: Sequence,
    last_evicted: Option<Naming>,
}

impl TopicLog {
    /// An empty log; what came at or before `floor` counts as evicted.
    pub(super) fn new(floor: Sequence) -> TopicLog {
        TopicLog {
            entries: VecDeque::new(),
            bytes: 0,
            appended: 0,
            aliases: HashMap::new(),
            evicted_through: floor,
            loss_forgotten_at: Sequence::ZERO,
            changed_at: floor,
            last_evicted: None,
        }
    }

    pub(super) fn append(&mut self, mut entry: Entry) {
        debug_assert!(entry.sequence > self.last(), "the channel keeps the sequencer's order");
        entry.preceding_bytes = self.newest().map_or(0, |newest| newest.preceding_bytes_of_next(entry.appended_at));
        self.bytes += entry.cost_bytes();
        self.appended += 1;
        if let Some(alias) = entry.naming.alias() {
            self.aliases.insert(alias, entry.sequence);
        }
        self.changed_at = entry.sequence;
        self.entries.push_back(entry);
    }

    pub(super) fn evict_oldest(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost_bytes();
        self.evicted_through = entry.sequence;
        if let Some(alias) = entry.naming.alias() {
            self.aliases.remove(&alias);
        }
        self.last_evicted = Some(entry.naming.clone());
        if self.entries.is_empty() {
            // A topic that has become quiet releases the memory of its busy time.
            self.entries = VecDeque::new();
            self.aliases = HashMap::new();
        }
        Some(entry)
    }

    /// True when it remembers no event, and of the last one nothing but its position.
    pub(super) fn is_forgotten(&self) -> bool {
        self.entries.is_empty() && self.last_evicted.as_ref().is_none_or(|naming| naming.alias().is_none())
    }

    /// What came at or before `position` is missing.
    pub(super) fn begin_after(&mut self, position: Sequence) {
        match self.entries.is_empty() {
            true => self.evicted_through = self.evicted_through.max(position),
            false => self.loss_forgotten_at = self.loss_forgotten_at.max(position),
        }
        self.changed_at = self.changed_at.max(position);
    }

    /// Records that the loss log has forgotten a loss of this topic.
    pub(super) fn note_forgotten_loss(&mut self, position: Sequence) {
        self.loss_forgotten_at = self.loss_forgotten_at.max(position);
        self.changed_at = self.changed_at.max(position);
    }

    /// The place and the naming of the event with this alias, if it is remembered or was evicted last. Of two such
    /// events, the earlier one.
    pub(super) fn locate_alias(&self, alias: &EventId) -> Option<(Sequence, &Naming)> {
        if self.is_last_evicted(alias) {
            return Some((self.evicted_through, self.last_evicted.as_ref()?));
        }
        self.find_alias(alias.as_str()).map(|entry| (entry.sequence, &entry.naming))
    }

    /// True when the event that was evicted last had this alias.
    pub(super) fn is_last_evicted(&self, alias: &EventId) -> bool {
        self.last_evicted.as_ref().and_then(Naming::alias).as_ref() == Some(alias)
    }

    /// The event with exactly this sequence, if it is remembered.
    pub(super) fn find(&self, sequence: Sequence) -> Option<&Entry> {
        self.entries.get(self.index_after(sequence).wrapping_sub(1)).filter(|entry| entry.sequence == sequence)
    }

    /// The event with this alias, if it is remembered.
    pub(super) fn find_alias(&self, alias: &str) -> Option<&Entry> {
        self.find(*self.aliases.get(alias)?)
    }

    /// The index of the first entry after `position`.
    pub(super) fn index_after(&self, position: Sequence) -> usize {
        // Live delivery needs the newest few: check these before searching.
        const NEWEST: usize = 4;
        let near = self.entries.iter().rev().take(NEWEST).take_while(|entry| entry.sequence > position).count();
        if near < NEWEST {
            return self.entries.len() - near;
        }
        self.entries.partition_point(|entry| entry.sequence <= position)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    pub(super) fn after(&self, position: Sequence) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.range(self.index_after(position)..)
    }

    /// The frames of a segment before the entry at `position`, as far as they are remembered, the newest first.
    pub(super) fn segment_before(&self, position: Sequence) -> impl Iterator<Item = &Frame> {
        let index = self.index_after(position).saturating_sub(1);
        let begins = |entry: &Entry| entry.preceding_bytes == 0;
        let mut is_over = self.entries.get(index).is_none_or(begins);
        self.entries.range(..index.min(self.entries.len())).rev().map_while(move |entry| {
            let is_of_it = !is_over;
            is_over |= begins(entry);
            is_of_it.then_some(&entry.frame)
        })
    }

    pub(super) fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(super) fn newest(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// The newest of the entries that must be evicted to free this many events and bytes.
    pub(super) fn newest_of_oldest(&self, mut events: usize, mut bytes: usize) -> Option<Sequence> {
        let goes = |entry: &&Entry| {
            let goes = events > 0 || bytes > 0;
            events = events.saturating_sub(1);
            bytes = bytes.saturating_sub(entry.cost_bytes());
            goes
        };
        self.entries.iter().take_while(goes).last().map(|entry| entry.sequence)
    }

    /// The newest sequence this topic ever had.
    pub(super) fn last(&self) -> Sequence {
        self.entries.back().map_or(self.evicted_through, |entry| entry.sequence)
    }

    pub(super) fn evicted_through(&self) -> Sequence {
        self.evicted_through
    }

    /// The newest loss of this topic alone that the loss log has forgotten; zero if there is none.
    pub(super) fn loss_forgotten_at(&self) -> Sequence {
        self.loss_forgotten_at
    }

    /// A subscriber at this position, or beyond, is due nothing of this topic but what the loss log has.
    pub(super) fn changed_at(&self) -> Sequence {
        self.changed_at
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many events it has ever had.
    pub(super) fn appended(&self) -> u64 {
        self.appended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(u64, Option<&str>)]) -> TopicLog {
        let mut log = TopicLog::new(Sequence(2));
        for (sequence, id) in entries {
            let naming = Naming::Here(id.map(|id| EventId::new(id).unwrap()));
            log.append(Entry::new(Sequence(*sequence), naming, vec![b'x'].into(), Duration::ZERO));
        }
        log
    }

    fn position_of(log: &TopicLog, id: &str) -> Option<Sequence> {
        log.locate_alias(&EventId::new(id).unwrap()).map(|(position, _)| position)
    }

    #[test]
    fn index_after_agrees_with_a_plain_scan() {
        let log = log(&[3, 5, 6, 9, 12, 13, 20, 21].map(|n| (n, None)));
        for position in (0..25).map(Sequence) {
            let naive = log.entries.iter().take_while(|entry| entry.sequence <= position).count();
            assert_eq!(log.index_after(position), naive, "{position}");
            assert_eq!(log.find(position).is_some(), log.entries.iter().any(|entry| entry.sequence == position));
        }
    }

    #[test]
    fn the_last_evicted_id_is_still_a_known_position() {
        let mut log = log(&[(3, Some("a")), (4, Some("b")), (7, Some("c"))]);
        assert_eq!(position_of(&log, "a"), Some(Sequence(3)));
        log.evict_oldest();
        log.evict_oldest();
        assert_eq!(log.evicted_through(), Sequence(4));
        let check = |id, expected: Option<u64>| assert_eq!(position_of(&log, id), expected.map(Sequence), "{id}");
        check("a", None);
        check("b", Some(4));
        check("c", Some(7));
        assert!(log.find_alias("b").is_none() && log.find_alias("c").is_some());
    }

    #[test]
    fn of_two_events_with_one_id_the_earlier_counts() {
        let mut log = log(&[(3, Some("a")), (4, None)]);
        log.evict_oldest();
        let entry = log.entries[0].frame.clone();
        let id = EventId::new("a").ok();
        log.append(Entry::new(Sequence(9), Naming::Here(id), entry, Duration::ZERO));
        assert_eq!(position_of(&log, "a"), Some(Sequence(3)));
    }

    #[test]
    fn a_segment_ends_after_some_bytes_or_a_silence_and_is_known_as_far_as_it_is_remembered() {
        let mut log = TopicLog::new(Sequence(0));
        let append = |log: &mut TopicLog, bytes: u32, at_ms| {
            let (sequence, frame) = (log.last().next(), vec![b'x'; bytes as usize].into());
            log.append(Entry::new(sequence, Naming::Here(None), frame, Duration::from_millis(at_ms)));
            log.newest().unwrap().preceding_bytes
        };
        let preceding = [
            (SEGMENT_BYTES - 2, 0),
            (1, 4_000),
            (1, 4_000),
            (7, 4_000),
            (SEGMENT_BYTES + 1, 4_000),
            (1, 4_000),
            (1, 8_999),
            (1, 13_999),
        ]
        .map(|(bytes, at_ms)| append(&mut log, bytes, at_ms));
        assert_eq!(preceding, [0, SEGMENT_BYTES - 2, SEGMENT_BYTES - 1, 0, 7, 0, 1, 0]);
        let check = |log: &TopicLog, position, expected: &[usize]| {
            let before: Vec<_> = log.segment_before(Sequence(position)).map(Frame::len).collect();
            assert_eq!(before, expected, "before {position}");
        };
        let first = SEGMENT_BYTES as usize - 2;
        check(&log, 1, &[]);
        check(&log, 3, &[1, first]);
        check(&log, 4, &[]);
        check(&log, 5, &[7]);
        check(&log, 6, &[]);
        check(&log, 7, &[1]);
        check(&log, 8, &[]);
        log.evict_oldest();
        check(&log, 2, &[]);
        check(&log, 3, &[1]);
    }

    #[test]
    fn bytes_return_to_zero() {
        let mut log = log(&[(3, Some("a")), (4, None)]);
        assert!(log.bytes() > 2 * ENTRY_OVERHEAD_BYTES);
        while log.evict_oldest().is_some() {}
        assert_eq!((log.bytes(), log.last(), log.len()), (0, Sequence(4), 0));
    }
}
