//! The ingest: what the channels of Redis pub/sub carry goes onto a durable bus, appended by the one node that leads.
//!
//! Every node is subscribed. A claim of the lead is one step in Redis: it takes the lease, appends a gap, and
//! publishes a marker on a channel of the bus. The leader appends what it receives after its marker; all others
//! discard what they receive. So each message is appended at most once, in one order, and a gap is where messages are
//! missing:
//!
//! 1. Redis gives messages and markers to all subscribers in one order. So a message precedes a marker or follows it.
//! 2. A node appends only what follows its own marker, and Redis takes it only while the node has the lead. It was
//!    published before it is appended, so it precedes the marker of the next leader.
//! 3. So in the stream, what precedes a marker is before the gap of that claim or missing, and what follows the marker
//!    is after the gap. No message is on both sides.
//! 4. A leader appends in the order in which it receives. When its connection ends or an append fails, it appends
//!    nothing more under that claim; the next claim, of this node or another one, is a gap.
//!
//! A leader that stops leaves without a gap. It publishes a marker of its end, appends what precedes it, and resigns.
//! The other nodes keep what follows the marker, up to a bound, and for a moment only they may take the lead. The first
//! of them to claim it continues: no other node led in between, so what it kept is everything that is missing.
//!
//! A session leads at most once. Absent: any decision by the clock of a node. The lease decides only when another node
//! may try.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{Event, Topic};
use crate::observe::clip::clip;
use crate::redis_address::replies::{Message, Reply, TooLong};
use crate::sources::bus::lead::{Claim, Lead, LeadEngine, Marker};
use crate::sources::bus::{BusBounds, Content, Contents, EngineError, TOGETHER_MAX};
use crate::sources::channel::{Control, GapReason, Leading, Refusal, SourceStatus};
use crate::sources::redis::RedisSettings;
use crate::sources::redis::sink::Sink;
use crate::sources::refused_log::RefusedLog;

/// How long the lead lasts without a renewal.
const LEASE: Duration = Duration::from_secs(5);
/// How often the leader renews it, and how often the others try to take it.
const RENEWAL: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 3);
/// How often the others try while a leader leaves.
const LEAVING_RETRY: Duration = Duration::from_millis(25);
/// How long a leader waits for its marker.
const MARKER_WAIT: Duration = Duration::from_secs(3);
/// What a node keeps after the end of a leader.
const KEPT_CONTENTS_MAX: usize = 16_384;
/// Their bytes.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// The log message for an event that does not fit on the bus.
const REFUSED: &str = "an event from Redis does not fit on the bus";

/// One node's part in the ingest.
pub(super) struct Ingest {
    engine: Box<dyn LeadEngine>,
    /// This node's name on the bus: random, and new at each start.
    node: String,
    marker_channel: String,
    /// What the node is subscribed to, as text.
    feeds: String,
    /// The topics that this can give; none: any.
    topics: Vec<Topic>,
    /// What an event of the bus may have, which may be less than this node's own limits.
    bounds: Arc<BusBounds>,
    status: Arc<SourceStatus>,
    /// The token of this session.
    token: String,
    state: State,
    contents: Contents,
    refused_log: RefusedLog,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Another node leads; tries again at this time.
    StandsBy { claims_at: Instant },
    /// The leader with this token has ended; keeps what follows.
    Keeps { ended: String, claims_at: Instant },
    /// Has the lead, and waits until this time for its marker.
    AwaitsMarker { until: Instant },
    /// Appends what it receives.
    Leads { renews_at: Instant },
    /// Appends what it receives until the marker of its end; whether other nodes receive that marker, too.
    Leaves { hands_over: bool },
    /// Has appended everything up to the marker of its end.
    Left { hands_over: bool },
    /// Appends nothing more: why.
    Lost(String),
}

impl Ingest {
    pub(super) fn new(
        engine: Box<dyn LeadEngine>,
        node: String,
        settings: &RedisSettings,
        bounds: Arc<BusBounds>,
        status: Arc<SourceStatus>,
    ) -> Ingest {
        let (feeds, topics) = settings.feeds();
        Ingest {
            engine,
            node,
            marker_channel: settings.bus.clone(),
            feeds,
            topics,
            bounds,
            status,
            token: String::new(),
            state: State::Lost("no session has begun".to_owned()),
            contents: Contents::default(),
            refused_log: RefusedLog::new(REFUSED),
        }
    }

    /// True while the messages that arrive are this node's own to append, or may become so.
    fn is_taking(&self) -> bool {
        matches!(self.state, State::Keeps { .. } | State::Leads { .. } | State::Leaves { .. })
    }

    fn set_state(&mut self, state: State) {
        self.state = state;
        self.status.set_leading(match self.state {
            State::Leads { .. } | State::Leaves { .. } => Leading::Leads,
            _ => Leading::StandsBy,
        });
    }

    /// Tries to take the lead.
    fn claim(&mut self, now: Instant) -> Result<(), EngineError> {
        let ended = match &self.state {
            State::Keeps { ended, .. } => Some(ended.clone()),
            _ => None,
        };
        let (token, topics) = (&self.token, &self.topics);
        let claim = Claim { token, lease: LEASE, feeds: &self.feeds, topics, ended: ended.as_deref() };
        match self.engine.lead(&claim)? {
            Lead::Begins => {
                self.clear();
                self.set_state(State::AwaitsMarker { until: now + MARKER_WAIT });
            }
            Lead::Continues => {
                tracing::info!(token = self.token, events = self.contents.len(), "leads the ingest: continues");
                self.set_state(State::Leads { renews_at: now + RENEWAL });
                self.flush();
            }
            Lead::OfAnother(leader) if ended.as_ref() == Some(&leader) => {
                self.set_state(State::Keeps { ended: leader, claims_at: now + LEAVING_RETRY });
            }
            Lead::OfAnother(_) => {
                self.clear();
                self.set_state(State::StandsBy { claims_at: now + RENEWAL });
            }
        }
        Ok(())
    }

    fn take_marker(&mut self, marker: Marker<'_>) {
        match (&self.state, marker) {
            (State::AwaitsMarker { .. }, Marker::Leads(token)) if token == self.token => {
                tracing::info!(token, "leads the ingest: begins after a gap");
                // At once: the wait for the marker took a part of the lease.
                self.set_state(State::Leads { renews_at: Instant::now() });
            }
            (State::StandsBy { .. } | State::Keeps { .. }, Marker::Ends(ended)) => {
                self.clear();
                self.set_state(State::Keeps { ended: ended.to_owned(), claims_at: Instant::now() });
            }
            (&State::Leaves { hands_over }, Marker::Ends(ended)) if ended == self.token => {
                self.flush();
                if matches!(self.state, State::Leaves { .. }) {
                    self.set_state(State::Left { hands_over });
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, content: Content) {
        self.contents.push(content);
        self.note_added();
    }

    fn note_added(&mut self) {
        match &self.state {
            State::Keeps { .. }
                if self.contents.len() > KEPT_CONTENTS_MAX || self.contents.bytes() > KEPT_BYTES_MAX =>
            {
                tracing::warn!("more arrived than this node keeps while no node leads the ingest");
                self.clear();
                self.set_state(State::StandsBy { claims_at: Instant::now() });
            }
            State::Leads { .. } | State::Leaves { .. } if self.contents.are_full() => self.flush(),
            _ => {}
        }
    }

    /// Appends, and renews the lease.
    fn append(&mut self, contents: &[Content]) {
        match self.engine.ingest(&self.token, LEASE, contents) {
            Ok(receipts) => receipts
                .iter()
                .filter(|receipt| receipt.is_duplicate)
                .for_each(|_| self.status.count_refused(Refusal::Duplicate)),
            Err(EngineError(error)) => self.set_state(State::Lost(error)),
        }
    }

    fn refuse(&mut self, event: &Event, refusal: Refusal, reason: &str) {
        self.status.count_refused(refusal);
        if self.refused_log.admit() {
            tracing::warn!(topic = &*clip(event.topic.as_str()), reason, "{REFUSED}");
        }
        self.announce_refused(&event.topic);
    }

    fn clear(&mut self) {
        self.contents.take();
    }
}

impl Sink for Ingest {
    fn begin(&mut self, session: NonZeroU64, now: Instant) -> Result<(), String> {
        self.clear();
        // Both connections lead to the server that the address points to now.
        self.engine.disconnect();
        self.token = format!("{}/{session}", self.node);
        self.set_state(State::StandsBy { claims_at: now });
        self.claim(now).map_err(|EngineError(error)| error)
    }

    fn admits(&mut self, reply: &Reply<'_>) -> bool {
        let (Reply::Message(Message { channel, .. }) | Reply::TooLong(TooLong { channel: Some(channel), .. })) = reply
        else {
            return self.is_taking();
        };
        if *channel != self.marker_channel.as_bytes() {
            return self.is_taking();
        }
        if let Reply::Message(Message { pattern: None, payload, .. }) = reply {
            Marker::parse(payload).into_iter().for_each(|marker| self.take_marker(marker));
        }
        false
    }

    fn add_data(&mut self, topic: Topic, data: &str) {
        self.add_event(&Event::message(topic, data));
    }

    fn add_event(&mut self, event: &Event) {
        if !self.bounds.admits(event) {
            self.refuse(event, Refusal::TooLarge, "it is larger than the bus takes");
        } else {
            self.add(Content::Event(event.clone()));
        }
    }

    fn announce_refused(&mut self, topic: &Topic) {
        self.contents.announce_refused(topic);
        self.note_added();
    }

    fn announce_loss(&mut self) {
        // Before this node leads, the gap of its claim is later.
        if self.is_taking() {
            self.add(Content::Gap { reason: GapReason::SourceLost, topics: Vec::new() });
        }
    }

    fn control(&self, _: &Control) {
        // Only the channel of nodes without a durable bus carries requests.
    }

    fn flush(&mut self) {
        if matches!(self.state, State::Keeps { .. }) {
            return;
        }
        let contents = self.contents.take();
        for together in contents.chunks(TOGETHER_MAX) {
            if matches!(self.state, State::Leads { .. } | State::Leaves { .. }) {
                self.append(together);
            }
        }
    }

    fn tend(&mut self, now: Instant) -> Result<(), String> {
        self.refused_log.log_left_out();
        match &self.state {
            State::StandsBy { claims_at } | State::Keeps { claims_at, .. } if now >= *claims_at => {
                self.claim(now).map_err(|EngineError(error)| error)?;
            }
            State::Leads { renews_at } if now >= *renews_at => {
                self.append(&[]);
                if let State::Leads { renews_at } = &mut self.state {
                    *renews_at = now + RENEWAL;
                }
            }
            State::AwaitsMarker { until } if now >= *until => {
                self.set_state(State::Lost("the marker of the lead did not arrive".to_owned()));
            }
            _ => {}
        }
        match &self.state {
            State::Lost(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn is_leaving(&mut self) -> bool {
        if matches!(self.state, State::Leads { .. }) {
            match self.engine.announce_end(&self.token) {
                Ok(receivers) => self.set_state(State::Leaves { hands_over: receivers > 1 }),
                Err(EngineError(error)) => self.set_state(State::Lost(error)),
            }
        }
        matches!(self.state, State::Leaves { .. })
    }

    fn end(&mut self, cause: Option<&str>) {
        self.clear();
        let state = std::mem::replace(&mut self.state, State::Lost("the session is over".to_owned()));
        self.status.set_leading(Leading::StandsBy);
        let hands_over = state == State::Left { hands_over: true };
        let has_left = matches!(state, State::Left { .. });
        let leads = matches!(state, State::AwaitsMarker { .. } | State::Leads { .. } | State::Leaves { .. });
        match cause {
            None if leads || has_left => match self.engine.resign(&self.token, hands_over) {
                Ok(()) => tracing::info!(token = self.token, hands_over, "gave up the lead of the ingest"),
                Err(error) => tracing::warn!(%error, "the lead of the ingest stays until its lease ends"),
            },
            Some(cause) if leads || matches!(state, State::Lost(_)) => {
                tracing::warn!(token = self.token, cause, "lost the lead of the ingest");
                if leads {
                    // Other nodes need not wait for the end of the lease. If Redis does not answer, they do.
                    drop(self.engine.resign(&self.token, false));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
