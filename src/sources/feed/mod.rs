//! A feed: what a log that keeps its entries carries, such as a bus in PostgreSQL, goes onto the bus of this node. All nodes
//! run it, and one of them, the leader, appends.
//!
//! ```text
//!  Engine::read_after ─▶ follower ─▶ feed ─▶ CursorEngine::append_from     the log, and the bus of this node
//! ```
//!
//! The bus stores the cursor: how far the log was read, and by which node. Each append moves it, in the same step, and so
//! does a node that takes the lead. So whatever happens to nodes or servers, the next append continues where the last one
//! ended, and what another node has appended meanwhile is not appended again. A leader with nothing to append moves the
//! cursor all the same, now and then: that shows the others that it works.
//!
//! Invariant: the follower's proof begins at the cursor, so what the log no longer has of it, or may have lost, is a gap on
//! the bus. Absent: any decision by a clock but when another node may try to lead.

mod cursor;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Topic;
use crate::event::timeline::Position;
use crate::observe::clip::clip;
use crate::sources::backoff::{Backoff, BackoffLimits};
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::follower::{Follower, Loss, Step};
use crate::sources::bus::{BusBounds, Content, Engine, EngineError, Entry, Page, TOGETHER_BYTES_MAX};
use crate::sources::channel::{GapReason, Leading, Refusal, SourceStatus};
use crate::sources::feed::cursor::Cursor;
use crate::sources::refused_log::RefusedLog;
use crate::sources::thread::{SourceThread, Stop};
use crate::sources::throttle::LogThrottle;

/// Entries of one page.
const ENTRIES_MAX: usize = 64;
/// How long the leader waits for the next entry, and so the longest time until it notices a stop.
const READ_WAIT: Duration = Duration::from_millis(200);
/// How often a leader with nothing to append moves the cursor, at least.
const BEAT_INTERVAL: Duration = Duration::from_millis(400);
/// How often the other nodes look at the cursor.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
/// How long the cursor stands still before another node takes the lead.
const LEAD_WAIT: Duration = Duration::from_millis(1200);
/// The log message for an entry that does not become an event on the bus.
const REFUSED: &str = "an event does not fit on the bus";

/// What is fed, and by whom.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// The name of the log, under which the bus stores the cursor.
    pub source: &'static str,
    /// This node's name on the bus: random, and new at each start.
    pub node: String,
    /// What the bus takes, which may be less than the log has.
    pub bounds: Arc<BusBounds>,
    /// Delays between attempts.
    pub backoff: BackoffLimits,
}

/// Starts the feed's thread. A server that can't be reached is not an error.
pub fn spawn(
    settings: FeedSettings,
    log: Box<dyn Engine>,
    bus: Box<dyn CursorEngine>,
    status: Arc<SourceStatus>,
) -> io::Result<SourceThread> {
    let lost = {
        let status = Arc::clone(&status);
        move |error| status.set_down(error)
    };
    let (mut feed, started_at) = (Feed::new(settings, log, bus, status), Instant::now());
    SourceThread::spawn("feed", lost, move |stop| run(&mut feed, started_at, stop))
}

/// Feeds until asked to stop.
fn run(feed: &mut Feed, started_at: Instant, stop: &Stop) {
    let (mut backoff, mut log) = (Backoff::new(feed.settings.backoff), LogThrottle::default());
    loop {
        let pause = match feed.turn(started_at.elapsed()) {
            Ok(pause) => {
                backoff.reset();
                log.reset();
                pause
            }
            Err(error) => {
                if let Some(swallowed) = log.permit(Instant::now()) {
                    let source = feed.settings.source;
                    tracing::warn!(source, %error, swallowed, "what is published there does not reach the bus for now");
                }
                backoff.next_delay(getrandom::u64().unwrap_or_default())
            }
        };
        let is_asked = if pause.is_zero() { stop.is_asked() } else { stop.wait(pause) };
        if is_asked {
            return feed.resign();
        }
    }
}

/// One node's part.
pub struct Feed {
    settings: FeedSettings,
    log: Box<dyn Engine>,
    bus: Box<dyn CursorEngine>,
    status: Arc<SourceStatus>,
    state: State,
    refused_log: RefusedLog,
}

enum State {
    /// Another node leads, as far as this one knows.
    StandsBy(Option<Seen>),
    /// Appends what follows.
    Leads(Lead),
}

/// The cursor of another node, and when this node saw it first.
struct Seen {
    cursor: String,
    at: Duration,
}

struct Lead {
    follower: Follower,
    cursor: Cursor,
    beats_at: Duration,
    /// The last page was not the end of the log.
    is_behind: bool,
}

impl Feed {
    /// A node that stands by.
    pub fn new(
        settings: FeedSettings,
        log: Box<dyn Engine>,
        bus: Box<dyn CursorEngine>,
        status: Arc<SourceStatus>,
    ) -> Feed {
        status.set_leading(Leading::StandsBy);
        Feed { settings, log, bus, status, state: State::StandsBy(None), refused_log: RefusedLog::new(REFUSED) }
    }

    /// Reads and appends a page, or looks whether another node does. Returns how long to wait until the next turn. `now` is
    /// the time since any one moment.
    pub fn turn(&mut self, now: Duration) -> Result<Duration, EngineError> {
        self.refused_log.log_left_out();
        let outcome = match std::mem::replace(&mut self.state, State::StandsBy(None)) {
            State::StandsBy(seen) => self.stand_by(seen, now),
            State::Leads(lead) => self.lead(lead, now),
        };
        let leads = matches!(self.state, State::Leads(_));
        self.status.set_leading(if leads { Leading::Leads } else { Leading::StandsBy });
        match outcome {
            Ok(()) => {
                self.status.set_up();
                Ok(if leads { Duration::ZERO } else { LOOK_INTERVAL })
            }
            Err(error) => {
                if self.status.is_up() {
                    self.status.count_reconnect();
                }
                self.status.set_down(error.to_string());
                Err(error)
            }
        }
    }

    /// Takes the lead if no other node has it. Only a node that can read the log does.
    fn stand_by(&mut self, seen: Option<Seen>, now: Duration) -> Result<(), EngineError> {
        let stored = self.bus.cursor(self.settings.source)?;
        let newest = self.log.read_before(None, 1)?.last;
        let cursor = stored.as_deref().and_then(Cursor::parse);
        let is_free = match (&cursor, &stored, &seen) {
            (Some(cursor), ..) if cursor.node.as_ref().is_none_or(|node| *node == self.settings.node) => true,
            (_, Some(stored), Some(seen)) if seen.cursor == *stored => now >= seen.at + LEAD_WAIT,
            (_, stored, _) => stored.is_none(),
        };
        if is_free {
            return self.claim(stored.as_deref(), cursor, newest, now);
        }
        let is_same = |seen: &Seen| Some(&seen.cursor) == stored.as_ref();
        let seen = seen.filter(is_same).or_else(|| stored.map(|cursor| Seen { cursor, at: now }));
        self.state = State::StandsBy(seen);
        Ok(())
    }

    /// Moves the cursor from what is stored to one of this node. Without a cursor, the feed begins at the newest entry, and
    /// what was before may be missing on the bus.
    fn claim(
        &mut self,
        stored: Option<&str>,
        cursor: Option<Cursor>,
        newest: Position,
        now: Duration,
    ) -> Result<(), EngineError> {
        let source = self.settings.source;
        let begins = cursor.is_none().then_some(Content::Gap { reason: GapReason::SourceLost, topics: Vec::new() });
        let cursor = cursor.unwrap_or(Cursor { position: newest, node: None, beat: 0 });
        let own = cursor.moved_to(cursor.position, Some(&self.settings.node));
        if self.bus.append_from(source, stored, &own.to_string(), begins.as_slice())?.is_none() {
            return Ok(());
        }
        tracing::info!(source, position = %own.position, begins_with_gap = begins.is_some(), "leads the feed");
        let follower = Follower::after(own.position);
        self.state = State::Leads(Lead { follower, cursor: own, beats_at: now + BEAT_INTERVAL, is_behind: true });
        Ok(())
    }

    /// Appends the next page. After an error, the cursor shows whether this node still leads.
    fn lead(&mut self, mut lead: Lead, now: Duration) -> Result<(), EngineError> {
        let wait = if lead.is_behind { Duration::ZERO } else { READ_WAIT };
        // What is old is deleted once everything was read.
        if !lead.is_behind {
            self.log.tidy();
        }
        let read = lead.cursor.position;
        let Page { entries, last } = self.log.read_after(read, ENTRIES_MAX, wait)?;
        lead.is_behind = entries.last().is_some_and(|entry| entry.position < last);
        let mut is_leader = true;
        if entries.is_empty() && last == read {
            if now >= lead.beats_at {
                is_leader = self.append(&mut lead, read, &[], now)?;
            }
        } else {
            for entries in pieces(entries) {
                let mut steps = Vec::new();
                lead.follower.take(Page { entries, last }, &mut steps);
                let contents: Vec<_> = steps.into_iter().filter_map(|step| self.content(step)).collect();
                let reached = lead.follower.read().unwrap_or(last);
                is_leader = is_leader && self.append(&mut lead, reached, &contents, now)?;
            }
        }
        if is_leader {
            self.state = State::Leads(lead);
        } else {
            tracing::warn!(source = self.settings.source, position = %read, "lost the lead of the feed to another node");
        }
        Ok(())
    }

    /// Appends and moves the cursor; false: another node has moved it.
    fn append(
        &mut self,
        lead: &mut Lead,
        reached: Position,
        contents: &[Content],
        now: Duration,
    ) -> Result<bool, EngineError> {
        let (from, to) = (&lead.cursor, lead.cursor.moved_to(reached, Some(&self.settings.node)));
        let receipts =
            self.bus.append_from(self.settings.source, Some(&from.to_string()), &to.to_string(), contents)?;
        let Some(receipts) = receipts else { return Ok(false) };
        let duplicates = receipts.iter().filter(|receipt| receipt.is_duplicate);
        duplicates.for_each(|_| self.status.count_refused(Refusal::Duplicate));
        lead.cursor = to;
        lead.beats_at = now + BEAT_INTERVAL;
        Ok(true)
    }

    /// Gives up the lead, so that another node need not wait.
    fn resign(&mut self) {
        let State::Leads(lead) = std::mem::replace(&mut self.state, State::StandsBy(None)) else { return };
        self.status.set_leading(Leading::StandsBy);
        let (source, free) = (self.settings.source, lead.cursor.moved_to(lead.cursor.position, None));
        match self.bus.append_from(source, Some(&lead.cursor.to_string()), &free.to_string(), &[]) {
            Ok(_) => tracing::info!(source, position = %free.position, "gave up the lead of the feed"),
            Err(error) => tracing::warn!(source, %error, "other nodes take the lead of the feed a moment later"),
        }
    }

    // ---- what is appended ----

    /// What the bus gets of a step.
    fn content(&mut self, step: Step) -> Option<Content> {
        match step {
            Step::Event(_, position, event) => {
                self.status.count_received();
                if self.settings.bounds.admits(&event) {
                    return Some(Content::Event(event));
                }
                let reason = "it is larger than the bus takes";
                Some(self.refuse(Refusal::TooLarge, position, Some(event.topic), reason))
            }
            Step::Gap(_, position, Loss::Refused(topic, reason)) => {
                self.status.count_received();
                Some(self.refuse(Refusal::Malformed, position, topic, &reason))
            }
            Step::Gap(_, position, loss @ (Loss::Fork | Loss::Trimmed)) => {
                let source = self.settings.source;
                tracing::warn!(source, %position, ?loss, "events may be missing that the bus never had");
                Some(Content::Gap { reason: GapReason::SourceLost, topics: Vec::new() })
            }
            Step::Gap(_, _, Loss::Announced(reason, topics)) => Some(Content::Gap { reason, topics }),
            // Which streams to end concerns the nodes of that bus.
            Step::Begin(_) | Step::Disconnect(..) => None,
        }
    }

    fn refuse(&mut self, refusal: Refusal, position: Position, topic: Option<Topic>, reason: &str) -> Content {
        self.status.count_refused(refusal);
        if self.refused_log.admit() {
            let (topic, reason) = (topic.as_ref().map_or("unknown", Topic::as_str), clip(reason));
            tracing::warn!(source = self.settings.source, %position, topic = &*clip(topic), reason = &*reason, "{REFUSED}");
        }
        Content::Gap { reason: GapReason::Refused, topics: topic.into_iter().collect() }
    }
}

/// The entries in pieces that are appended together; one piece even if there are none.
fn pieces(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut pieces = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.content.bytes();
        if bytes > TOGETHER_BYTES_MAX && pieces.last().is_some_and(|piece| !piece.is_empty()) {
            bytes = entry.content.bytes();
            pieces.push(Vec::new());
        }
        pieces.last_mut().expect("there is one").push(entry);
    }
    pieces
}

#[cfg(test)]
mod tests;
