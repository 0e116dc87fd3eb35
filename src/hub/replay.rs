//! Replay: where a stream starts, and whether its subscriber must be told of a gap.
//!
//! A gap is due if and only if the id that a client names is unknown, or something after it is gone from the log of
//! one of its topics. It stands at its place in the order: after what is still remembered from before the loss,
//! before everything that followed. So a client that drops in between is told once, and of nothing twice.

use crate::event::{EventId, Sequence, Topic};
use crate::hub::Hub;
use crate::hub::keys::Subscriber;

/// How much of the past a client asks for (`?replay=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replay {
    /// What it missed since the id it names; nothing when it names none.
    #[default]
    Missed,
    /// As `Missed`; without an id everything remembered.
    All,
    /// The newest event of each topic, if it is newer than the id it names.
    Latest,
    /// Nothing.
    None,
}

/// Where a stream starts.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    /// The subscriber has everything through here, or does not want it.
    pub position: Sequence,
    /// What it must be told before it is brought beyond a certain position.
    pub gap: Option<MissedGap>,
    /// The id the client named is one this server knows.
    pub id_is_known: bool,
}

/// A gap in what one subscriber receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedGap {
    /// What is remembered from before goes first; the gap's own id is this position's.
    pub at: Sequence,
    /// Why.
    pub reason: MissedReason,
    /// The subscribed topics of which something is missing.
    pub topics: Vec<Topic>,
    /// The last id that is sure.
    pub last_id: Option<EventId>,
}

impl MissedGap {
    /// This gap with an older one in it, which was not told yet: its reason and its last sure id stand.
    #[must_use]
    pub fn with(mut self, older: MissedGap) -> MissedGap {
        let unnamed = older.topics.into_iter().filter(|topic| !self.topics.contains(topic));
        let unnamed: Vec<_> = unnamed.collect();
        self.topics.extend(unnamed);
        MissedGap { reason: older.reason, last_id: older.last_id, ..self }
    }
}

/// Why a subscriber misses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MissedReason {
    /// The id names nothing that this server ever sent, or no longer knows.
    UnknownId,
    /// The log no longer holds all that came after the id.
    Evicted,
    /// More came after the id than the server replays.
    ReplayLimit,
    /// It read too slowly, and was moved on to the newest.
    TooSlow,
}

impl MissedReason {
    /// All of them.
    pub const ALL: [MissedReason; 4] =
        [MissedReason::UnknownId, MissedReason::Evicted, MissedReason::ReplayLimit, MissedReason::TooSlow];

    /// As it stands in the gap event's data and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            MissedReason::UnknownId => "unknown_id",
            MissedReason::Evicted => "evicted",
            MissedReason::ReplayLimit => "replay_limit",
            MissedReason::TooSlow => "too_slow",
        }
    }
}

impl Hub {
    /// Where the stream of `subscriber`, which has its seats already, starts.
    ///
    /// `last_event_id` is what the client sent: any bytes, empty meaning none (WHATWG HTML 9.2.4).
    pub fn start(&self, subscriber: Subscriber, last_event_id: &[u8], replay: Replay) -> Start {
        let fresh = |position| Start { position, gap: None, id_is_known: false };
        match (replay, last_event_id) {
            (Replay::None, _) | (Replay::Missed, b"") => fresh(self.head()),
            (Replay::All, b"") => self.capped(subscriber, fresh(self.before_all(subscriber))),
            (Replay::Latest, b"") => fresh(self.before_all(subscriber)),
            (_, id) => {
                let id = std::str::from_utf8(id).ok().and_then(|id| EventId::new(id).ok());
                let position = id.as_ref().and_then(|id| self.position_of(subscriber, id));
                let start = match (id, position) {
                    (Some(id), Some(position)) => {
                        let gap = self.missed_since(subscriber, position, MissedReason::Evicted, Some(&id));
                        Start { position, gap, id_is_known: true }
                    }
                    _ => Start { gap: Some(self.missed_all(subscriber)), ..fresh(self.before_all(subscriber)) },
                };
                if replay == Replay::Latest { Start { gap: None, ..start } } else { self.capped(subscriber, start) }
            }
        }
    }

    /// The gap due to a subscriber at `position`, if something after it is gone from one of its topics' logs.
    pub fn missed_since(
        &self,
        subscriber: Subscriber,
        position: Sequence,
        reason: MissedReason,
        last_id: Option<&EventId>,
    ) -> Option<MissedGap> {
        let missing: Vec<_> = self.evictions_of(subscriber).filter(|(_, through)| *through > position).collect();
        let at = missing.iter().map(|(_, through)| *through).max()?;
        let topics = missing.iter().map(|(entry, _)| entry.name.clone()).collect();
        Some(MissedGap { at, reason, topics, last_id: last_id.cloned() })
    }

    /// The gap due to a subscriber that is moved on to the newest event, whatever it missed.
    pub fn missed_through_head(&self, subscriber: Subscriber) -> MissedGap {
        let topics = self.entries_of(subscriber).map(|entry| entry.name.clone()).collect();
        MissedGap { at: self.head(), reason: MissedReason::TooSlow, topics, last_id: None }
    }

    /// True when something after `position` is gone from the log of one of the subscriber's topics.
    pub fn is_evicted(&self, subscriber: Subscriber, position: Sequence) -> bool {
        self.evicted_through(subscriber) > position
    }

    /// The newest position before everything that the subscriber's topics remember.
    fn before_all(&self, subscriber: Subscriber) -> Sequence {
        self.entries_of(subscriber).map(|entry| entry.log.evicted_through()).min().unwrap_or_default()
    }

    fn missed_all(&self, subscriber: Subscriber) -> MissedGap {
        let at = self.evicted_through(subscriber);
        let topics = self.entries_of(subscriber).map(|entry| entry.name.clone()).collect();
        MissedGap { at, reason: MissedReason::UnknownId, topics, last_id: None }
    }

    /// Two topics may hold the same publisher's id: then the earlier counts, so that nothing is lost.
    fn position_of(&self, subscriber: Subscriber, id: &EventId) -> Option<Sequence> {
        let foreign = self.entries_of(subscriber).filter_map(|entry| entry.log.position_of_foreign(id.as_str())).min();
        let own = || self.run().position(id.as_str()).filter(|position| *position <= self.head());
        foreign.or_else(own)
    }

    /// Narrows a start to the server-wide cap on replayed events; an event in two topics' logs counts twice.
    fn capped(&self, subscriber: Subscriber, start: Start) -> Start {
        let Some(replay_max) = self.limits().replay_events_max else { return start };
        let remembered: usize = self.entries_of(subscriber).map(|entry| entry.log.after(start.position).len()).sum();
        if remembered <= replay_max {
            return start;
        }
        let logs = self.entries_of(subscriber).flat_map(|entry| entry.log.after(start.position));
        let mut sequences: Vec<_> = logs.map(|entry| entry.sequence).collect();
        sequences.sort_unstable();
        let cut = sequences[remembered - replay_max - 1];
        let named = start.gap.as_ref().map(|gap| (gap.reason, gap.last_id.clone()));
        let (reason, last_id) = named.unwrap_or((MissedReason::ReplayLimit, None));
        let at = start.gap.as_ref().map_or(cut, |gap| gap.at.max(cut));
        let topics = self.entries_of(subscriber).map(|entry| entry.name.clone()).collect();
        let gap = MissedGap { at, reason, topics, last_id };
        Start { position: cut, gap: Some(gap), ..start }
    }
}
