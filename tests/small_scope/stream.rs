//! A stream over the hub, without a server: what the server would send a subscriber, one frame at a time.
//!
//! This is the only part of the test that uses the hub's interface for subscribers. `src/server/stream.rs` and `transmit.rs` are
//! what it stands for.

use std::collections::VecDeque;

use fanfare::event::archive::PageKey;
use fanfare::event::{Frame, Sequence, Topic};
use fanfare::hub::{Hub, MissedGap, Owed, Replay, Run, RunLimits, Start, StartPoint, Subscriber};

const ONE_FRAME: RunLimits = RunLimits { frames_max: 1, bytes_max: usize::MAX };

/// How a client asks for its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) replay: Replay,
    /// `latest=1`
    pub(crate) latest: bool,
    /// It has a pace, so that it is never closed for being behind.
    pub(crate) is_paced: bool,
}

/// What a stream brings next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The bytes of a frame.
    Frame(String),
    /// Nothing more for now.
    Nothing,
    /// A page of the bus has to be fetched first.
    Page(PageKey),
    /// The subscriber is too far behind: the server closes the stream.
    Closed,
}

/// One stream.
pub(crate) struct Stream {
    subscriber: Subscriber,
    wish: Wish,
    queue: VecDeque<String>,
    position: Sequence,
    owed: Option<Owed>,
    /// It continues from pages of the bus, until it reaches what the logs hold.
    is_fetching: bool,
}

impl Stream {
    /// Opens a stream; also tells which id its preamble has.
    #[allow(dead_code, reason = "with a bus, a position may not be known yet")]
    pub(crate) fn open(hub: &mut Hub, slot: u32, topics: &[Topic], wish: Wish, id: &str) -> (Stream, Option<String>) {
        Stream::try_open(hub, slot, topics, wish, id).expect("it knows every position")
    }

    /// The same, where the hub may not know yet where the stream starts.
    pub(crate) fn try_open(
        hub: &mut Hub,
        slot: u32,
        topics: &[Topic],
        wish: Wish,
        id: &str,
    ) -> Option<(Stream, Option<String>)> {
        let subscriber = Subscriber(slot);
        hub.subscribe(subscriber, topics).expect("there is room for the topics");
        let replay = match wish.replay {
            Replay::Missed if wish.latest && !id.is_empty() => Replay::Latest,
            Replay::All if wish.latest => Replay::Latest,
            replay => replay,
        };
        hub.note_asked(id.as_bytes());
        let (start, is_fetching) = match hub.start(subscriber, id.as_bytes(), replay) {
            Start::Ready(start) => (start, false),
            Start::Fetching(start) => (start, true),
            Start::Waiting => {
                hub.unsubscribe(subscriber);
                return None;
            }
        };
        let preamble_id = match &start {
            StartPoint { id_is_known: true, .. } => Some(id.to_owned()),
            StartPoint { opening: Some(_), .. } => None,
            StartPoint { position, .. } => Some(hub.id_of(*position).to_string()),
        };
        let mut stream = Stream {
            subscriber,
            wish,
            queue: start.opening.iter().map(|gap| text_of(&format_gap(gap))).collect(),
            position: start.position,
            owed: None,
            is_fetching,
        };
        if wish.replay == Replay::Latest {
            let mut run = Run::default();
            hub.latest_run_for(subscriber, start.position, &start.owed, format_gap, RunLimits::NONE, &mut run);
            stream.queue.extend(run.frames().iter().map(text_of));
            stream.position = hub.head();
        } else {
            stream.owed = Some(start.owed).filter(|owed| owed.through > start.position);
        }
        Some((stream, preamble_id))
    }

    /// What it brings next.
    pub(crate) fn next(&mut self, hub: &Hub) -> Next {
        if let Some(frame) = self.queue.pop_front() {
            return Next::Frame(frame);
        }
        self.is_fetching &= hub.is_evicted(self.subscriber, self.position);
        if self.is_fetching {
            return self.next_in_archive(hub);
        }
        let owed_through = self.owed.as_ref().map_or(self.position, |owed| owed.through);
        if hub.is_evicted(self.subscriber, self.position.max(owed_through)) {
            let is_excused = self.wish.is_paced || self.wish.latest || self.position < owed_through;
            if !is_excused {
                return Next::Closed;
            }
            self.owed.get_or_insert_default().through = hub.lost_through(self.subscriber);
        }
        let mut run = Run::default();
        let (after, owed) = (self.position, self.owed.clone());
        match owed {
            _ if self.wish.latest => {
                let owed = owed.unwrap_or_default();
                hub.latest_run_for(self.subscriber, after, &owed, format_gap, ONE_FRAME, &mut run);
            }
            Some(owed) => hub.run_with_gaps(self.subscriber, after, &owed, format_gap, ONE_FRAME, &mut run),
            None => hub.run_for(self.subscriber, after, hub.head(), ONE_FRAME, &mut run),
        }
        self.position = if run.is_complete() { run.through() } else { run.position(0) };
        let position = self.position;
        self.owed.take_if(|owed| owed.through <= position);
        run.frames().first().map_or(Next::Nothing, |frame| Next::Frame(text_of(frame)))
    }

    fn next_in_archive(&mut self, hub: &Hub) -> Next {
        let mut run = Run::default();
        let missing = hub.archived_run_for(self.subscriber, self.position, format_gap, ONE_FRAME, &mut run);
        self.position = run.through();
        match (run.frames().first(), missing) {
            (Some(frame), _) => Next::Frame(text_of(frame)),
            (None, Some(key)) => Next::Page(key),
            (None, None) => self.next(hub),
        }
    }

    /// The stream is over.
    pub(crate) fn close(self, hub: &mut Hub) {
        hub.unsubscribe(self.subscriber);
    }
}

/// The gap as this test writes it: `gap PLACE {JSON}`.
fn format_gap(gap: &MissedGap) -> Frame {
    let topics: Vec<_> = gap.topics.iter().map(|topic| format!("{:?}", topic.as_str())).collect();
    let (at, reason) = (gap.at, gap.reason.as_str());
    Frame::from(format!(r#"gap {at} {{"reason":"{reason}","topics":[{}]}}"#, topics.join(",")).into_bytes())
}

fn text_of(frame: &Frame) -> String {
    String::from_utf8(frame.bytes().to_vec()).expect("frames of this test are text")
}
