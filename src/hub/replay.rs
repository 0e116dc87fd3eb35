//! Replay: where a stream starts, and the gaps that its subscriber is due.
//!
//! A gap is due if and only if the id that a client names is unknown, or something after its position is gone from one
//! of its topics. Each topic has one such place: the newest position at or before which something of it is missing. The
//! gap is sent at this place in the order, after older remembered events of other topics, and its id is this place. So
//! a client that is disconnected before a gap receives it when it resumes, and a client that is disconnected after it
//! does not receive it twice. Topics with different places have one gap each, in ascending order.
//!
//! On a durable bus, a client may continue on another node, which remembers more. So all topics have one gap there, at the
//! last place, and nothing older is sent before it: no client can be between an event that it received and the gap for an
//! older one.

use crate::event::timeline::Place;
use crate::event::{EventId, Frame, Naming, Sequence, Topic};
use crate::hub::keys::Subscriber;
use crate::hub::topics::TopicEntry;
use crate::hub::{Context, Hub, Run, RunLimits};

/// How much of the past a client asks for (`?replay=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replay {
    /// What it missed since the id it names; nothing if it names no id.
    #[default]
    Missed,
    /// As `Missed`; without an id everything remembered.
    All,
    /// The newest event of each topic, if it is newer than the id it names.
    Latest,
    /// Nothing.
    None,
}

/// Where a stream starts, as far as the hub knows.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// There.
    Ready(StartPoint),
    /// At a position that the hub has not learned yet, because it follows a bus.
    Waiting,
    /// There, and the bus has what the logs no longer hold of it ([`Hub::archived_run_for`]).
    Fetching(StartPoint),
}

/// Where a stream starts.
#[derive(Debug, PartialEq, Eq)]
pub struct StartPoint {
    /// Through here, the subscriber has everything, or did not ask for it, or the opening gap reports that some is
    /// missing.
    pub position: Sequence,
    /// A gap before everything else, at `position`.
    pub opening: Option<MissedGap>,
    /// What it learns about events that its topics have forgotten.
    pub owed: Owed,
    /// True if this server knows the id that the client named.
    pub id_is_known: bool,
}

/// What a subscriber learns about events that its topics have forgotten already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// A position for each of its topics, in the order of its seats: the subscriber did not ask for what is missing
    /// through there, so it gets no gap for it. Empty if it asked for everything.
    pub silent: Box<[Sequence]>,
    /// What is missing through here is reported as gaps, and is no reason to end its stream.
    pub through: Sequence,
    /// The id that it came with.
    pub last_id: Option<EventId>,
}

impl Owed {
    fn silent_through(&self, seat: usize) -> Sequence {
        self.silent.get(seat).copied().unwrap_or_default()
    }
}

/// A gap in what one subscriber receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedGap {
    /// Older remembered events are sent first; the gap's own id is the id of this position.
    pub at: Sequence,
    /// Why.
    pub reason: MissedReason,
    /// The subscribed topics of which something is missing.
    pub topics: Vec<Topic>,
    /// The id that the client came with.
    pub last_id: Option<EventId>,
}

/// Why a subscriber misses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MissedReason {
    /// This server never sent an event with the id, or no longer knows it.
    UnknownId,
    /// The log no longer holds all that came after the id.
    Evicted,
    /// More came after the id than the server replays.
    ReplayLimit,
    /// The subscriber read too slowly, and was moved on to the newest event.
    TooSlow,
}

impl MissedReason {
    /// All of them.
    pub const ALL: [MissedReason; 4] =
        [MissedReason::UnknownId, MissedReason::Evicted, MissedReason::ReplayLimit, MissedReason::TooSlow];

    /// The name in the gap event's data and in metrics.
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
        if self.must_wait(subscriber, last_event_id) {
            return Start::Waiting;
        }
        match self.start_in_archive(subscriber, last_event_id, replay) {
            Some(start) => Start::Fetching(start),
            None => Start::Ready(self.start_point(subscriber, last_event_id, replay)),
        }
    }

    /// A client wants everything after an id of the bus, and not all of it is remembered.
    fn start_in_archive(&self, subscriber: Subscriber, last_event_id: &[u8], replay: Replay) -> Option<StartPoint> {
        let wants_all = matches!(replay, Replay::Missed | Replay::All) && self.follows_bus();
        let id = std::str::from_utf8(last_event_id).ok().filter(|_| wants_all)?;
        let Some(Place::At(position)) = self.place_of(id) else { return None };
        let start = StartPoint { position, opening: None, owed: Owed::default(), id_is_known: true };
        self.can_fetch(subscriber, position).then_some(start)
    }

    fn start_point(&self, subscriber: Subscriber, last_event_id: &[u8], replay: Replay) -> StartPoint {
        match (replay, last_event_id) {
            (Replay::None, _) | (Replay::Missed, b"") => {
                StartPoint { position: self.head(), opening: None, owed: Owed::default(), id_is_known: false }
            }
            // Without an id, the client asks only for what is remembered: what is forgotten is no gap.
            (Replay::All, b"") => self.capped(subscriber, self.start_before_all(subscriber)),
            (Replay::Latest, b"") => self.start_before_all(subscriber),
            (_, id) => {
                let id = std::str::from_utf8(id).ok().and_then(|id| EventId::new(id).ok());
                let position = id.as_ref().and_then(|id| self.position_of(subscriber, id));
                match (id, position) {
                    (Some(id), Some(position)) => {
                        let owed =
                            Owed { through: self.lost_through(subscriber), last_id: Some(id), ..Owed::default() };
                        let start = StartPoint { position, opening: None, owed, id_is_known: true };
                        if replay == Replay::Latest { start } else { self.capped(subscriber, start) }
                    }
                    _ if replay == Replay::Latest => self.start_unknown_at_latest(subscriber),
                    _ => self.capped(subscriber, self.start_unknown(subscriber)),
                }
            }
        }
    }

    fn start_before_all(&self, subscriber: Subscriber) -> StartPoint {
        let silent: Box<[_]> = self.entries_of(subscriber).map(|entry| self.lost_of(entry)).collect();
        let through = silent.iter().copied().max().unwrap_or_default();
        let owed = Owed { silent, through, last_id: None };
        StartPoint { position: self.before_all(subscriber), opening: None, owed, id_is_known: false }
    }

    fn start_unknown(&self, subscriber: Subscriber) -> StartPoint {
        let position = self.before_all(subscriber);
        let topics = self.names_of(subscriber);
        let opening = MissedGap { at: position, reason: MissedReason::UnknownId, topics, last_id: None };
        let owed = Owed { through: self.lost_through(subscriber), ..Owed::default() };
        StartPoint { position, opening: Some(opening), owed, id_is_known: false }
    }

    /// The newest event of a topic replaces everything before it: the gap names only topics that do not remember it.
    fn start_unknown_at_latest(&self, subscriber: Subscriber) -> StartPoint {
        let has_newest =
            |entry: &&TopicEntry| entry.log.newest().is_some_and(|event| event.sequence > self.lost_of(entry));
        let lacking = self.entries_of(subscriber).filter(|entry| !has_newest(entry));
        let topics: Vec<_> = lacking.map(|entry| entry.name.clone()).collect();
        let start = self.start_unknown(subscriber);
        let opening = start.opening.map(|gap| MissedGap { topics, ..gap }).filter(|gap| !gap.topics.is_empty());
        StartPoint { opening, ..start }
    }

    // ---- what is missing ----

    /// The gaps due to a subscriber at `position`, in ascending order: one for each place at which some of its topics
    /// miss something that it is owed.
    pub fn missed_after(&self, subscriber: Subscriber, position: Sequence, owed: &Owed) -> Vec<MissedGap> {
        let entries = self.entries_of(subscriber).enumerate();
        let due = entries.filter(|(seat, entry)| self.lost_of(entry) > position.max(owed.silent_through(*seat)));
        let mut places: Vec<_> = due.map(|(_, entry)| (self.lost_of(entry), entry)).collect();
        places.sort_by_key(|(place, _)| *place);
        if let Some(&(at, _)) = places.last()
            && self.follows_bus()
        {
            let topics = self.names_of_skipped(subscriber, position, owed, at);
            return vec![MissedGap { at, reason: MissedReason::Evicted, topics, last_id: owed.last_id.clone() }];
        }
        let of_place = |places: &[(Sequence, &TopicEntry)]| MissedGap {
            at: places[0].0,
            reason: MissedReason::Evicted,
            topics: places.iter().map(|(_, entry)| entry.name.clone()).collect(),
            last_id: owed.last_id.clone(),
        };
        places.chunk_by(|(one, _), (other, _)| one == other).map(of_place).collect()
    }

    /// The gap due to a subscriber at `position` that is moved on to the newest event. It names the topics that have
    /// anything in between.
    pub fn missed_through_head(&self, subscriber: Subscriber, position: Sequence) -> MissedGap {
        let topics = self.names_of_skipped(subscriber, position, &Owed::default(), self.head());
        MissedGap { at: self.head(), reason: MissedReason::TooSlow, topics, last_id: None }
    }

    fn names_of_skipped(&self, subscriber: Subscriber, after: Sequence, owed: &Owed, through: Sequence) -> Vec<Topic> {
        let entries = self.entries_of(subscriber).enumerate();
        let skipped =
            entries.filter(|(seat, entry)| self.has_anything(entry, after, owed.silent_through(*seat), through));
        skipped.map(|(_, entry)| entry.name.clone()).collect()
    }

    /// The newest position at or before which something of the subscriber's topics is missing.
    pub fn lost_through(&self, subscriber: Subscriber) -> Sequence {
        self.entries_of(subscriber).map(|entry| self.lost_of(entry)).max().unwrap_or_default()
    }

    /// True when one of the subscriber's topics has an event after `position`.
    pub fn has_news_for(&self, subscriber: Subscriber, position: Sequence) -> bool {
        self.entries_of(subscriber).any(|entry| entry.log.last() > position)
    }

    /// The newest position through which a subscriber that has everything through `position` still has everything.
    pub fn reach(&self, subscriber: Subscriber, position: Sequence) -> Sequence {
        let has_anything = |entry| self.has_anything(entry, position, Sequence::ZERO, self.head());
        if self.entries_of(subscriber).any(has_anything) { position } else { self.head() }
    }

    /// True when something after `position` is missing from one of the subscriber's topics.
    pub fn is_evicted(&self, subscriber: Subscriber, position: Sequence) -> bool {
        self.lost_through(subscriber) > position
    }

    /// The newest position at or before which something of a topic is missing.
    fn lost_of(&self, entry: &TopicEntry) -> Sequence {
        entry.log.evicted_through().max(self.loss_forgotten_of(entry))
    }

    /// The newest loss of a topic that the loss log has forgotten.
    pub(super) fn loss_forgotten_of(&self, entry: &TopicEntry) -> Sequence {
        entry.log.loss_forgotten_at().max(self.losses_forgotten_through)
    }

    /// True when something of a topic lies between two positions, or is missing there beyond `silent_through`.
    fn has_anything(&self, entry: &TopicEntry, after: Sequence, silent_through: Sequence, through: Sequence) -> bool {
        let is_within = |position: Sequence| after.max(silent_through) < position && position <= through;
        entry.log.after(after).next().is_some_and(|event| event.sequence <= through)
            || is_within(self.lost_of(entry))
            || self.losses.after(after).any(|loss| loss.sequence <= through && loss.scope.touches(&entry.name))
    }

    /// The newest position before everything that the subscriber's topics remember.
    fn before_all(&self, subscriber: Subscriber) -> Sequence {
        self.entries_of(subscriber).map(|entry| entry.log.evicted_through()).min().unwrap_or_default()
    }

    fn names_of(&self, subscriber: Subscriber) -> Vec<Topic> {
        self.entries_of(subscriber).map(|entry| entry.name.clone()).collect()
    }

    /// The position of the event that an id names, unless there may be two such events.
    ///
    /// A place of this order is exact, and so is a whole id that is the same on all nodes. Otherwise the alias counts. Two
    /// topics may remember it: then the earlier event counts, so that nothing is lost. A topic that has forgotten an event
    /// with that alias makes it unknown: the client may have received that event.
    fn position_of(&self, subscriber: Subscriber, id: &EventId) -> Option<Sequence> {
        match self.place_of(id.as_str()) {
            Some(Place::At(position)) => return Some(position),
            Some(Place::Ahead | Place::Unknown) => return None,
            None => {}
        }
        let alias = id.alias();
        let located = || self.entries_of(subscriber).filter_map(|entry| entry.log.locate_alias(&alias));
        let has_id = |naming: &Naming| matches!(naming, Naming::Elsewhere(whole_id) if whole_id == id);
        if let Some((position, _)) = located().find(|(_, naming)| has_id(naming)) {
            return Some(position);
        }
        let is_ambiguous = |entry: &TopicEntry| {
            let placed = u32::from(entry.log.is_last_evicted(&alias));
            self.forgotten_ids.count(&entry.name, alias.as_str()) > placed
        };
        if self.entries_of(subscriber).any(is_ambiguous) {
            return None;
        }
        let is_meant = |naming: &Naming| match naming {
            _ if alias == *id => true,
            Naming::Here(_) => self.shares_aliases(),
            Naming::Elsewhere(_) => false,
        };
        located().filter(|(_, naming)| is_meant(naming)).map(|(position, _)| position).min()
    }

    /// Narrows a start to the server-wide cap on replayed events.
    fn capped(&self, subscriber: Subscriber, start: StartPoint) -> StartPoint {
        let Some(replay_max) = self.limits().replay_events_max else { return start };
        let remembered: usize = self.entries_of(subscriber).map(|entry| entry.log.after(start.position).len()).sum();
        if remembered <= replay_max {
            return start;
        }
        let logs = self.entries_of(subscriber).flat_map(|entry| entry.log.after(start.position));
        let mut sequences: Vec<_> = logs.map(|entry| entry.sequence).collect();
        sequences.sort_unstable();
        let at = sequences[remembered - replay_max - 1];
        let opening = match start.opening {
            Some(unknown) => MissedGap { at, ..unknown },
            None => {
                let topics = self.names_of_skipped(subscriber, start.position, &start.owed, at);
                MissedGap { at, reason: MissedReason::ReplayLimit, topics, last_id: start.owed.last_id.clone() }
            }
        };
        StartPoint { position: at, opening: Some(opening), ..start }
    }

    // ---- runs with gaps in them ----

    /// Adds to `run` what a subscriber at `after` gets next, with the gaps that are due to it.
    pub fn run_with_gaps(
        &self,
        subscriber: Subscriber,
        after: Sequence,
        owed: &Owed,
        format: impl Fn(&MissedGap) -> Frame,
        limits: RunLimits,
        run: &mut Run,
    ) {
        let mut position = after;
        for gap in self.missed_after(subscriber, after, owed) {
            if !self.follows_bus() {
                self.run_for(subscriber, position, gap.at, limits, run);
                if !run.is_complete() {
                    return;
                }
            }
            if !run.push_gap(&format(&gap), (gap.at, gap.reason), limits) {
                return run.finish(false, position, self.head());
            }
            position = gap.at;
        }
        self.run_for(subscriber, position, self.head(), limits, run);
    }

    /// Adds to `run` a gap that moves the subscriber on to the newest event.
    pub fn run_of_skip(
        &self,
        subscriber: Subscriber,
        after: Sequence,
        format: impl Fn(&MissedGap) -> Frame,
        run: &mut Run,
    ) {
        let gap = self.missed_through_head(subscriber, after);
        run.push_gap(&format(&gap), (gap.at, gap.reason), RunLimits::NONE);
        run.end_at(gap.at);
    }

    /// Adds to `run` only the newest event of each of the subscriber's topics, and the newest loss, if newer than
    /// `after`; and a gap for each topic whose newest event is gone. What does not fit is newer than what fits, so the
    /// next run holds it.
    pub fn latest_run_for(
        &self,
        subscriber: Subscriber,
        after: Sequence,
        owed: &Owed,
        format: impl Fn(&MissedGap) -> Frame,
        limits: RunLimits,
        run: &mut Run,
    ) {
        let mut newest: Vec<(Sequence, Frame, bool)> = Vec::new();
        let mut lacking: Vec<(Sequence, Topic)> = Vec::new();
        for (seat, entry) in self.entries_of(subscriber).enumerate() {
            let event = entry.log.newest().filter(|event| event.sequence > after);
            let loss = self.losses.after(after).rev().find(|loss| loss.scope.touches(&entry.name));
            newest.extend(event.map(|event| (event.sequence, event.frame.clone(), false)));
            newest.extend(loss.map(|loss| (loss.sequence, loss.frame.clone(), false)));
            let lost = self.lost_of(entry);
            if lost > event.map_or(after, |event| event.sequence).max(owed.silent_through(seat)) {
                lacking.push((lost, entry.name.clone()));
            }
        }
        lacking.sort_unstable();
        for places in lacking.chunk_by(|(one, _), (other, _)| one == other) {
            let topics = places.iter().map(|(_, topic)| topic.clone()).collect();
            let gap =
                MissedGap { at: places[0].0, reason: MissedReason::Evicted, topics, last_id: owed.last_id.clone() };
            newest.push((gap.at, format(&gap), true));
        }
        newest.sort_by_key(|(sequence, _, is_gap)| (*sequence, *is_gap));
        newest.dedup_by_key(|(sequence, _, is_gap)| (*sequence, *is_gap));
        let fitted = newest.iter().all(|(sequence, frame, is_gap)| match is_gap {
            true => run.push_gap(frame, (*sequence, MissedReason::Evicted), limits),
            false => run.push(frame, *sequence, Context::Any, limits),
        });
        run.finish(fitted, after, self.head());
    }
}
