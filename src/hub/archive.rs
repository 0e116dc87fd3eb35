//! The archive: what the logs no longer hold, in pages that were fetched from a durable bus.
//!
//! The pages in memory are a cache: one that is dropped can be fetched again. A subscriber reads pages, one after the
//! other, until it reaches what the logs of all its topics hold.
//!
//! Invariants: the cache is bounded by bytes, except for its newest page. An archived run ends where the logs begin, so an
//! event is in one of them only.

use std::collections::{HashMap, VecDeque};

use crate::event::archive::{ArchivedEntry, Page, PageKey};
use crate::event::timeline::{Place, Position, SEQUENCES_PER_POSITION};
use crate::event::{Frame, Sequence};
use crate::hub::topics::TopicEntry;
use crate::hub::{Context, Hub, MissedGap, MissedReason, Run, RunLimits, Subscriber};

/// Bytes of pages in memory.
const BYTES_MAX: usize = 32 << 20;
/// Pages that one run reads, so that a subscriber of quiet topics does not prolong a turn.
const PAGES_PER_RUN: usize = 16;

/// The pages in memory.
#[derive(Debug, Default)]
pub(super) struct Archive {
    pages: HashMap<PageKey, Page>,
    /// In the order in which they came.
    order: VecDeque<PageKey>,
    bytes: usize,
    /// Everything at or before it is gone from the bus, too.
    lost_through: Option<Position>,
    /// How often the engine has returned to an older copy.
    history: u32,
    taken_back: Option<TakenBack>,
}

/// Places whose positions the engine has taken back: nothing can be fetched for a stream that stands at one of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct TakenBack {
    /// The first of them.
    pub(super) from: Sequence,
    /// The last of them.
    pub(super) through: Sequence,
    /// Where such a stream continues, after a gap.
    pub(super) place: Sequence,
}

impl Archive {
    /// Forgets the pages, which hold what the engine had before.
    pub(super) fn take_back(&mut self, taken: TakenBack) {
        let from = self.taken_back.map_or(taken.from, |earlier| earlier.from.min(taken.from));
        *self = Archive {
            history: self.history.wrapping_add(1),
            taken_back: Some(TakenBack { from, ..taken }),
            ..Archive::default()
        };
    }

    fn add(&mut self, page: Page) {
        let key = page.key;
        self.bytes += page.bytes();
        if let Some(old) = self.pages.insert(key, page) {
            self.bytes -= old.bytes();
            self.order.retain(|other| *other != key);
        }
        self.order.push_back(key);
        while self.bytes > BYTES_MAX && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|key| self.pages.remove(&key));
            self.bytes -= oldest.map_or(0, |page| page.bytes());
        }
    }
}

impl Hub {
    /// A page came from the bus.
    pub fn add_page(&mut self, page: Page) {
        self.archive.lost_through = self.archive.lost_through.max(page.lost_through);
        self.archive.add(page);
    }

    /// For a stream at a place, everything through this one is gone from the bus. It may be beyond what this node has read.
    fn lost_from_bus(&self, position: Sequence) -> Sequence {
        let is_inside = |taken: &TakenBack| taken.from <= position && position <= taken.through;
        let taken_back = self.archive.taken_back.filter(is_inside).map(|taken| taken.place);
        let lost = self.archive.lost_through.and_then(|lost| self.sequence_in_archive(lost));
        lost.max(taken_back).unwrap_or_default()
    }

    /// Whether a subscriber that has everything through `position` gets the rest from the bus: it is missing here, all
    /// topics are on the bus, and there is not too much of it.
    pub(super) fn can_fetch(&self, subscriber: Subscriber, position: Sequence) -> bool {
        let positions = self.lost_through(subscriber).0.saturating_sub(position.0) / SEQUENCES_PER_POSITION;
        let remembered = || self.entries_of(subscriber).map(|entry| entry.log.after(position).len()).sum::<usize>();
        let replay_max = self.limits().replay_events_max;
        positions > 0
            && positions <= self.limits().fetch_entries_max
            && replay_max.is_none_or(|max| positions <= max.saturating_sub(remembered()) as u64)
            && self.entries_of(subscriber).all(|entry| !entry.name.is_reserved())
    }

    /// Adds to `run` what a subscriber at `after` gets next from the archive. Returns the page that has to be fetched before
    /// it continues, if one has.
    pub fn archived_run_for(
        &self,
        subscriber: Subscriber,
        after: Sequence,
        format: impl Fn(&MissedGap) -> Frame,
        limits: RunLimits,
        run: &mut Run,
    ) -> Option<PageKey> {
        let end = self.lost_through(subscriber);
        let mut position = after;
        let mut missing = None;
        for _ in 0..PAGES_PER_RUN {
            let lost = self.lost_from_bus(position).min(end);
            if position < lost {
                let gap = self.gap_in_archive(subscriber, position, lost);
                if !run.push_gap(&format(&gap), (lost, gap.reason), limits) {
                    break;
                }
                position = lost;
            }
            let Some(next) = self.position_after(position).filter(|_| position < end) else { break };
            let key = PageKey::of(next, self.archive.history);
            let Some(page) = self.archive.pages.get(&key).filter(|page| page.through >= next || page.epoch_ended)
            else {
                missing = Some(key);
                break;
            };
            let (reached, fitted) = self.run_of_page(subscriber, page, (position, end), limits, run);
            position = reached;
            if !fitted {
                break;
            }
            if page.epoch_ended && position < end {
                if let Some(gap) = self.gap_at_end_of_epoch(subscriber, page, (position, end)) {
                    if !run.push_gap(&format(&gap), (gap.at, gap.reason), limits) {
                        break;
                    }
                    position = gap.at;
                }
                let last =
                    self.timeline().and_then(|timeline| timeline.last_place_of(key.first().epoch)).unwrap_or(position);
                position = last.clamp(position, end);
            }
        }
        run.stop_at(position);
        missing
    }

    /// Adds a page's entries between two positions; returns how far it came, and whether all fitted.
    fn run_of_page(
        &self,
        subscriber: Subscriber,
        page: &Page,
        (after, end): (Sequence, Sequence),
        limits: RunLimits,
        run: &mut Run,
    ) -> (Sequence, bool) {
        let mut reached = after;
        for ArchivedEntry { position, topics, frame } in &page.entries {
            let Some(sequence) = self.sequence_in_archive(*position) else { continue };
            if sequence <= after || sequence > end {
                continue;
            }
            let is_due = |entry: &TopicEntry| topics.is_empty() || topics.contains(&entry.name);
            if self.entries_of(subscriber).any(is_due) && !run.push(frame, sequence, Context::Any, limits) {
                return (reached, false);
            }
            reached = sequence;
        }
        let page_end = match page.through.epoch == page.key.first().epoch {
            true => self.sequence_in_archive(page.through).unwrap_or(end),
            // It has no entry of its epoch.
            false => after,
        };
        (page_end.clamp(after, end), true)
    }

    /// The engine's epoch ended before what this node has read of it.
    fn gap_at_end_of_epoch(
        &self,
        subscriber: Subscriber,
        page: &Page,
        (after, end): (Sequence, Sequence),
    ) -> Option<MissedGap> {
        let timeline = self.timeline()?;
        let read_through = timeline.end_of(page.key.first().epoch).unwrap_or(self.head).min(end);
        let is_lost = read_through > after && timeline.position_at(read_through) > Some(page.through);
        is_lost.then(|| self.gap_in_archive(subscriber, after, read_through))
    }

    /// Something between two places is neither here nor on the bus.
    fn gap_in_archive(&self, subscriber: Subscriber, after: Sequence, lost: Sequence) -> MissedGap {
        let topics = self.entries_of(subscriber).map(|entry| entry.name.clone()).collect();
        MissedGap { at: lost, reason: MissedReason::Evicted, topics, last_id: Some(self.id_of(after)) }
    }

    /// The first position after a place.
    fn position_after(&self, sequence: Sequence) -> Option<Position> {
        self.timeline()?.position_at(Sequence((sequence.0 / SEQUENCES_PER_POSITION + 1) * SEQUENCES_PER_POSITION))
    }

    fn sequence_in_archive(&self, position: Position) -> Option<Sequence> {
        match self.timeline()?.place(position, Sequence(u64::MAX)) {
            Place::At(sequence) => Some(sequence),
            Place::Ahead | Place::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::timeline::Epoch;
    use crate::event::{Broadcast, Naming, RunName, Topic};
    use crate::hub::HubLimits;

    /// The place that many positions after the beginning.
    fn place(slot: u64) -> Sequence {
        Sequence(slot * SEQUENCES_PER_POSITION)
    }

    fn begin(hub: &mut Hub, first: &str, slot: u64, (earliest, previous_end): (u64, u64)) {
        let (first, sequence) = (Position::parse(first).unwrap(), place(slot));
        let (earliest, previous_end) = (place(earliest), place(previous_end));
        hub.begin_epoch(Epoch { first, sequence, earliest, previous_end, follows: None });
    }

    /// What a stream at a place gets from the archive: the places of its gaps, and the page that it needs.
    fn archived(hub: &Hub, at: Sequence) -> (usize, Sequence, Option<PageKey>) {
        let mut run = Run::default();
        let missing = hub.archived_run_for(Subscriber(1), at, |_| vec![b'x'].into(), RunLimits::NONE, &mut run);
        (run.frames().len(), run.through(), missing)
    }

    #[test]
    fn a_stream_whose_place_the_engine_has_taken_back_continues_after_a_gap() {
        let limits = HubLimits { history_events_max: Some(1), fetch_entries_max: 1000, ..HubLimits::default() };
        let mut hub = Hub::of_bus(RunName::from_bits(7), limits);
        let topic = Topic::new("t").unwrap();
        begin(&mut hub, "7-40", 100, (60, 0));
        hub.subscribe(Subscriber(1), std::slice::from_ref(&topic)).unwrap();
        begin(&mut hub, "9-0", 200, (200, 110));
        // The engine is an older copy: 7-50 is its last entry, and what was 9-0 to 9-5 will be something else.
        begin(&mut hub, "7-50", 300, (250, 205));
        for slot in [301, 302] {
            let (topic, frame) = (topic.clone(), vec![b'x'].into());
            hub.append(
                Broadcast { sequence: place(slot), topic, naming: Naming::Here(None), frame },
                Default::default(),
            );
        }
        let page = |text: &str| Some(PageKey::of(Position::parse(text).unwrap(), 1));
        assert_eq!(archived(&hub, place(203)), (1, place(300), page("7-51")));
        assert_eq!(archived(&hub, place(290)), (0, place(290), page("7-41")), "both copies have 7-40");
    }
}
