//! Events and bytes by topic in the last minutes. Bounded: topics beyond [`TOPICS_MAX`] are summed up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::Topic;

/// Topics with figures of their own; one that was silent for the longest window makes room for another.
pub const TOPICS_MAX: usize = 50;
/// What one slot counts: windows are exact to this.
const SLOT: Duration = Duration::from_secs(10);
/// How long the windows are, in minutes.
pub const WINDOWS_MINUTES: [u64; 3] = [1, 5, 60];
const SLOTS_PER_MINUTE: u64 = 60 / SLOT.as_secs();
const SLOTS: u64 = 60 * SLOTS_PER_MINUTE;

/// Events, and the bytes of their data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Events.
    pub events: u64,
    /// Bytes of their data.
    pub bytes: u64,
}

/// What went one way.
#[derive(Debug)]
pub struct Windows {
    /// The start of the clock.
    started_at: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Topic, Series>,
    others: Series,
}

/// What each topic had in each of the windows, and the sum of the topics beyond the bound.
#[derive(Debug, PartialEq, Eq)]
pub struct WindowsReport {
    /// In the order of their names.
    pub topics: Vec<(Topic, [Volume; 3])>,
    /// The others.
    pub others: [Volume; 3],
}

/// The slots of the longest window, as a ring.
#[derive(Debug)]
struct Series {
    slots: Box<[Volume]>,
    newest: u64,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { started_at: Instant::now(), state: Mutex::default() }
    }
}

impl Windows {
    /// Counts an event of now.
    pub fn add(&self, topic: &Topic, bytes: usize) {
        let slot = slot_at(self.started_at.elapsed());
        self.state.lock().unwrap_or_else(PoisonError::into_inner).add(topic, bytes, slot);
    }

    /// What there is now.
    pub fn report(&self) -> WindowsReport {
        let slot = slot_at(self.started_at.elapsed());
        self.state.lock().unwrap_or_else(PoisonError::into_inner).report(slot)
    }
}

/// The number of the slot at this time; none is 0, which is before all of them.
fn slot_at(elapsed: Duration) -> u64 {
    elapsed.as_secs() / SLOT.as_secs() + SLOTS
}

impl State {
    fn add(&mut self, topic: &Topic, bytes: usize, slot: u64) {
        if !self.topics.contains_key(topic) {
            if self.topics.len() >= TOPICS_MAX {
                self.topics.retain(|_, series| series.newest + SLOTS > slot);
            }
            if self.topics.len() < TOPICS_MAX {
                self.topics.insert(topic.clone(), Series::default());
            }
        }
        self.topics.get_mut(topic).unwrap_or(&mut self.others).add(bytes, slot);
    }

    fn report(&self, slot: u64) -> WindowsReport {
        let mut topics: Vec<_> = self.topics.iter().map(|(topic, series)| (topic.clone(), series.sums(slot))).collect();
        topics.retain(|(_, [.., longest])| longest.events > 0);
        topics.sort_by(|(one, _), (other, _)| one.cmp(other));
        WindowsReport { topics, others: self.others.sums(slot) }
    }
}

impl Default for Series {
    fn default() -> Series {
        Series { slots: vec![Volume::default(); SLOTS as usize].into(), newest: 0 }
    }
}

impl Series {
    fn add(&mut self, bytes: usize, slot: u64) {
        for passed in (self.newest + 1..=slot).take(SLOTS as usize) {
            self.slots[(passed % SLOTS) as usize] = Volume::default();
        }
        self.newest = self.newest.max(slot);
        let volume = &mut self.slots[(slot % SLOTS) as usize];
        volume.events += 1;
        volume.bytes += bytes as u64;
    }

    fn sums(&self, slot: u64) -> [Volume; 3] {
        WINDOWS_MINUTES.map(|minutes| {
            let first = slot + 1 - minutes * SLOTS_PER_MINUTE;
            let slots = (first..=self.newest.min(slot)).map(|slot| self.slots[(slot % SLOTS) as usize]);
            slots.fold(Volume::default(), |sum, slot| Volume {
                events: sum.events + slot.events,
                bytes: sum.bytes + slot.bytes,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn events(report: &WindowsReport, name: &str) -> Option<[u64; 3]> {
        let found = report.topics.iter().find(|(topic, _)| topic.as_str() == name);
        found.map(|(_, volumes)| volumes.map(|volume| volume.events))
    }

    #[test]
    fn an_event_leaves_one_window_after_the_other() {
        let mut state = State::default();
        let at = |seconds| slot_at(Duration::from_secs(seconds));
        state.add(&topic("a"), 7, at(0));
        state.add(&topic("a"), 5, at(59));
        let report = state.report(at(59));
        assert_eq!(report.topics[0].1, [Volume { events: 2, bytes: 12 }; 3]);
        let check = |seconds, expected| assert_eq!(events(&state.report(at(seconds)), "a"), expected, "{seconds}");
        check(60, Some([1, 2, 2]));
        check(109, Some([1, 2, 2]));
        check(110, Some([0, 2, 2]));
        check(300, Some([0, 1, 2]));
        check(3600, Some([0, 0, 1]));
        check(3650, None);
        // A ring that was passed more than once forgets all of it.
        state.add(&topic("a"), 1, at(100_000));
        assert_eq!(events(&state.report(at(100_000)), "a"), Some([1, 1, 1]));
    }

    #[test]
    fn topics_beyond_the_bound_are_summed_up_until_another_was_silent() {
        let mut state = State::default();
        let at = |seconds| slot_at(Duration::from_secs(seconds));
        for number in 0..TOPICS_MAX + 2 {
            state.add(&topic(&format!("t{number}")), 1, at(number as u64 * 10));
        }
        let report = state.report(at(600));
        assert_eq!((report.topics.len(), report.others[2]), (TOPICS_MAX, Volume { events: 2, bytes: 2 }));
        // The first topic was silent for an hour now, and the second one not yet.
        state.add(&topic("late"), 1, at(3600));
        let report = state.report(at(3600));
        assert_eq!((events(&report, "late"), events(&report, "t0")), (Some([1, 1, 1]), None));
        state.add(&topic("later"), 1, at(3600));
        assert_eq!(state.report(at(3600)).others[0], Volume { events: 1, bytes: 1 });
    }
}
