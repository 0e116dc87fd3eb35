//! Streams: who becomes a subscriber, where its stream starts, at what pace it goes, and who is told to come later.

use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use super::connection::{CompactPeer, Connection, Flags, Phase};
use super::pace::Pace;
use super::refusal::Refusal;
use super::transmit::{Laggard, Reach, gap_frame};
use super::wheel::Tick;
use super::{CloseReason, Jitter, Server};
use crate::event::{EventId, Frame, STATISTICS_TOPIC, Sequence, Topic};
use crate::hub::{MissedGap, Replay, Run, RunLimits, Start, Subscriber};
use crate::io::Io;
use crate::protocol::head::{Method, RequestHead};
use crate::protocol::response::{self, Response};
use crate::protocol::{encoder, target::Target};

/// The longest `interval_ms` that a client may ask for.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// What a client asks of a stream beyond its topics.
#[derive(Debug)]
struct Wishes {
    replay: Replay,
    interval: Duration,
    latest: bool,
}

impl Wishes {
    fn read(target: &Target, interval_floor: Duration) -> Result<Wishes, String> {
        let replay = match target.get("replay") {
            None | Some("missed") => Replay::Missed,
            Some("all") => Replay::All,
            Some("latest") => Replay::Latest,
            Some("none") => Replay::None,
            Some(other) => return Err(format!("replay={other:?}: allowed are all, latest, none and missed")),
        };
        let interval = match target.get("interval_ms").map(|text| (text, text.parse().map(Duration::from_millis))) {
            None => Duration::ZERO,
            Some((_, Ok(interval))) if interval <= INTERVAL_MAX => interval,
            Some((text, _)) => {
                return Err(format!("interval_ms={text:?}: allowed are 0 to {}", INTERVAL_MAX.as_millis()));
            }
        };
        let latest = match target.get("latest") {
            None | Some("0" | "false") => false,
            Some("1" | "true" | "") => true,
            Some(other) => return Err(format!("latest={other:?}: allowed are 0 and 1")),
        };
        Ok(Wishes { replay, interval: interval.max(interval_floor), latest })
    }

    /// What of the past it wants. A subscriber that gets only the newest ever needs no cap.
    fn past(&self, last_event_id: &[u8]) -> Replay {
        match self.replay {
            Replay::Missed if self.latest && !last_event_id.is_empty() => Replay::Latest,
            Replay::All if self.latest => Replay::Latest,
            replay => replay,
        }
    }
}

/// The first frames of streams that start now: one for each of 64 reconnection times, shared by all.
#[derive(Debug, Default)]
pub(super) struct Preambles {
    position: Sequence,
    frames: Vec<Option<Frame>>,
}

impl Preambles {
    const COUNT: u64 = 64;

    fn get(&mut self, position: Sequence, id: &EventId, retry: Duration, jitter: &mut Jitter) -> Frame {
        if self.position != position || self.frames.is_empty() {
            self.position = position;
            self.frames = vec![None; Preambles::COUNT as usize];
        }
        let choice = jitter.next() % Preambles::COUNT;
        let frame = &mut self.frames[choice as usize];
        frame.get_or_insert_with(|| encoder::preamble(spread(retry, choice), id)).clone()
    }
}

/// One of 64 times between 80 and 120 percent of `retry`: browsers add no jitter of their own.
fn spread(retry: Duration, choice: u64) -> Duration {
    retry * (800 + 400 * choice as u32 / (Preambles::COUNT as u32 - 1)) / 1000
}

impl<I: Io> Server<I> {
    /// Answers a request for a stream of `topics`, or of the topics that its query names.
    pub(super) fn open_stream(&mut self, slot: u32, head: &RequestHead, topics: Option<Topic>) {
        // Who shows no token is told so before anything that it names is looked at.
        let holder = match self.holder_of_stream(slot, head) {
            Ok(holder) => holder,
            Err(response) => return self.respond(slot, head, response),
        };
        let topics = match topics.map_or_else(|| self.named_topics(slot, head), |topic| Ok(vec![topic])) {
            Ok(topics) => topics,
            Err(response) => return self.respond(slot, head, response),
        };
        let wishes = match Wishes::read(&head.target, self.settings.delivery.interval_floor) {
            Ok(wishes) => wishes,
            Err(detail) => return self.respond_problem(slot, head, 400, "Bad parameter", &detail),
        };
        let credential = match self.may_subscribe(slot, head, holder, &topics) {
            Ok(credential) => credential,
            Err(response) => return self.respond(slot, head, response),
        };
        if head.method == Method::Head {
            return self.respond_stream_head(slot, head);
        }
        let client = self.client(slot, head);
        if let Some(refusal) = self.refusal(slot, client) {
            return self.refuse_stream(slot, head, refusal);
        }
        if self.hub.subscribe(Subscriber(slot), &topics).is_err() {
            return self.refuse_stream(slot, head, Refusal::TopicLimit);
        }
        if let Some(credential) = credential {
            self.connections[slot as usize].flags.set(Flags::HAS_CREDENTIAL);
            self.credentials.insert(slot, credential);
        }
        self.give_to_client(slot, client);
        self.start_stream(slot, head, &wishes, topics.len());
    }

    /// The tick at which the wall's clock will show a time, as it goes now: a stream's end is not moved when it is set.
    pub(super) fn tick_of_unix(&self, time: Duration) -> Tick {
        let now = self.io.unix_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        Tick::of(self.now).after(time.saturating_sub(now))
    }

    fn named_topics(&mut self, slot: u32, head: &RequestHead) -> Result<Vec<Topic>, Response> {
        let (mut topics, mut known) = (Vec::new(), HashSet::new());
        for name in head.target.get_all("topic") {
            if !known.insert(name) {
                continue;
            }
            self.check_topic_count(known.len())?;
            topics.push(match name {
                STATISTICS_TOPIC => Topic::statistics(),
                name => self.check_topic(name).map_err(|detail| response::problem(400, "Bad topic", &detail))?,
            });
        }
        if topics.is_empty() {
            topics.push(self.settings.default_topic.clone());
        }
        if self.connections[slot as usize].flags.has(Flags::ADMIN) && !topics.iter().all(Topic::is_reserved) {
            let detail = format!("of streams, the admin listener has only that of {STATISTICS_TOPIC}");
            return Err(response::problem(403, "Not here", &detail));
        }
        Ok(topics)
    }

    /// Refuses who names more topics than one may have.
    pub(super) fn check_topic_count(&mut self, count: usize) -> Result<(), Response> {
        let topics_max = self.settings.limits.topics_per_subscriber_max;
        if count <= topics_max {
            return Ok(());
        }
        let refusal = Refusal::TopicsPerSubscriber;
        self.count_refusal(refusal);
        let detail = format!("{}: at most {topics_max}", refusal.detail());
        Err(response::problem(refusal.status(), "Too many topics", &detail))
    }

    fn check_topic(&mut self, name: &str) -> Result<Topic, String> {
        let bytes_max = self.settings.limits.publish.topic_bytes_max;
        if name.len() > bytes_max {
            self.count_refusal(Refusal::TopicBytes);
            return Err(format!("{}: at most {bytes_max} bytes", Refusal::TopicBytes.detail()));
        }
        check_exact(name)?;
        Topic::new(name).map_err(|error| format!("the topic's name {error}"))
    }

    fn refusal(&self, slot: u32, client: CompactPeer) -> Option<Refusal> {
        let connection = &self.connections[slot as usize];
        if self.is_closing_streams() {
            Some(Refusal::Draining)
        } else if connection.flags.has(Flags::ON_SPARE) {
            Some(Refusal::Descriptors)
        } else if connection.flags.has(Flags::ADMIN) {
            None
        } else if self.streams >= self.settings.limits.streams_max {
            Some(Refusal::StreamLimit)
        } else if self.is_over_address_limit(slot, client) {
            Some(Refusal::AddressLimit)
        } else {
            None
        }
    }

    /// An EventSource gives up for ever on anything but 200: it gets one that only tells it when to come back.
    fn refuse_stream(&mut self, slot: u32, head: &RequestHead, refusal: Refusal) {
        self.count_refusal(refusal);
        let retry = self.jitter.around(self.settings.delivery.retry);
        if head.accepts_event_stream {
            let mut bytes = self.stream_head(head, true);
            bytes.extend_from_slice(encoder::retry_only(retry).bytes());
            return self.write_response(slot, bytes, Some(CloseReason::Refused));
        }
        let mut problem = response::problem(refusal.status(), "Come back later", refusal.detail());
        problem.headers.push(("Retry-After", retry.as_secs_f64().ceil().max(1.0).to_string()));
        self.respond(slot, head, problem);
    }

    fn start_stream(&mut self, slot: u32, head: &RequestHead, wishes: &Wishes, topic_count: usize) {
        let subscriber = Subscriber(slot);
        let last_event_id = last_event_id(head);
        let start = self.hub.start(subscriber, last_event_id, wishes.past(last_event_id));
        // A `100 Continue` may be half written still.
        let mut laggard = self.laggards.remove(&slot).unwrap_or_else(|| Laggard::new(Vec::new(), self.now));
        laggard.push(self.stream_head(head, false).into());
        self.push_preamble(&mut laggard, &start, last_event_id);
        if let Some(opening) = &start.opening {
            self.counters.gaps.count(opening.reason.as_str());
            laggard.push(gap_frame(&self.hub, opening));
        }
        let position = if wishes.replay == Replay::Latest {
            self.push_latest(&mut laggard, subscriber, &start);
            self.hub.head()
        } else {
            laggard.owed = Some(start.owed).filter(|owed| owed.through > start.position);
            start.position
        };

        let retires_at = self.retirement(slot);
        let connection = &mut self.connections[slot as usize];
        connection.phase = Phase::Streaming;
        connection.retires_at = retires_at;
        connection.delivered_through = position;
        connection.since = Tick::of(self.now);
        if topic_count > 1 {
            connection.flags.set(Flags::SEVERAL_TOPICS);
        }
        if wishes.latest {
            connection.flags.set(Flags::LATEST);
        }
        if wishes.latest || !wishes.interval.is_zero() {
            connection.flags.set(Flags::PACED);
            self.paces.insert(slot, Pace::new(wishes.interval));
        }
        self.streams += 1;
        self.counters.streams += 1;

        let behind = position < self.hub.head();
        self.transmit_with(slot, laggard, Reach::Unsent);
        // The rest of a replay goes out under the budget for catching up; what is blocked waits to be writable.
        let connection = &mut self.connections[slot as usize];
        if behind && matches!(connection.phase, Phase::Streaming) {
            connection.flags.set(Flags::REPLAYING);
            if !connection.flags.has(Flags::BLOCKED) {
                self.queue_catching_up(slot);
            }
        }
    }

    /// The newest event of each topic, all of them at once: what follows is live.
    fn push_latest(&mut self, laggard: &mut Laggard, subscriber: Subscriber, start: &Start) {
        let mut run = Run::default();
        let format = |gap: &MissedGap| gap_frame(&self.hub, gap);
        self.hub.latest_run_for(subscriber, start.position, &start.owed, format, RunLimits::NONE, &mut run);
        run.gaps_among(0..run.frames().len()).for_each(|reason| self.counters.gaps.count(reason.as_str()));
        // One frame, so that one send takes it, however many topics there are.
        if !run.is_empty() {
            laggard.push(run.frames().iter().flat_map(Frame::bytes).copied().collect::<Vec<_>>().into());
        }
    }

    /// The `retry:` and, as the position from which a drop before the first event is resumed, the `id:`.
    fn push_preamble(&mut self, laggard: &mut Laggard, start: &Start, last_event_id: &[u8]) {
        let retry = self.settings.delivery.retry;
        let named = std::str::from_utf8(last_event_id).ok().and_then(|id| EventId::new(id).ok());
        let frame = match named.filter(|_| start.id_is_known) {
            // A source's own id means something to other nodes too, so it is not replaced by ours.
            Some(id) => encoder::preamble(self.jitter.around(retry), &id),
            // The gap's own id follows at once.
            None if start.opening.is_some() => encoder::retry_only(self.jitter.around(retry)),
            None => {
                let id = self.hub.run().id(start.position);
                self.preambles.get(start.position, &id, retry, &mut self.jitter)
            }
        };
        laggard.push(frame);
    }

    /// Sends what a stream has not received yet, before it ends in good order.
    pub(super) fn flush_stream(&mut self, slot: u32) {
        let Connection { phase, flags, delivered_through, .. } = &self.connections[slot as usize];
        let is_behind = *delivered_through < self.hub.head() && !flags.has(Flags::BLOCKED);
        if is_behind && matches!(phase, Phase::Streaming) {
            self.transmit(slot);
        }
    }

    /// Ends a stream in good order, with a last word.
    pub(super) fn end_stream(&mut self, slot: u32, last_word: Frame, reason: CloseReason) {
        if !matches!(self.connections[slot as usize].phase, Phase::Streaming) {
            return;
        }
        self.say(slot, last_word);
        if !matches!(self.connections[slot as usize].phase, Phase::Streaming) {
            return;
        }
        if self.laggards.contains_key(&slot) {
            // It takes nothing now: it will find the end, and its last id, when it reads on.
            self.close(slot, reason);
        } else {
            self.streams -= 1;
            self.hub.unsubscribe(Subscriber(slot));
            self.linger(slot, reason);
        }
    }
}

/// Refuses a name that looks like a pattern: it would match no other topic, and nobody would be told.
pub(super) fn check_exact(name: &str) -> Result<(), String> {
    match name.contains('*') {
        true => {
            Err(format!("the topic {name:?} has a *: names are exact, there are no patterns here; name each topic"))
        }
        false => Ok(()),
    }
}

/// The header, else the query's parameter under any of the names in use; empty when there is none.
fn last_event_id(head: &RequestHead) -> &[u8] {
    let in_query = || ["last_event_id", "lastEventId", "lastEventID"].iter().find_map(|name| head.target.get(name));
    head.last_event_id.as_deref().or_else(|| in_query().map(str::as_bytes)).unwrap_or_default()
}

impl<I: Io> Server<I> {
    /// The head of a stream's response, with what its origin may know.
    fn stream_head(&mut self, head: &RequestHead, closing: bool) -> Vec<u8> {
        let cors = self.cors_headers(head);
        let extra: Vec<_> = cors.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let date = self.date.at(self.io.unix_time());
        response::stream_head(&extra, head.minor_version, date, closing)
    }

    /// A stream asked for by HEAD: the head it would have.
    fn respond_stream_head(&mut self, slot: u32, head: &RequestHead) {
        let bytes = self.stream_head(head, true);
        self.write_response(slot, bytes, Some(CloseReason::Answered));
    }
}
