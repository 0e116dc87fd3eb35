//! The pure work of the hot paths, one named case each, timed by `pure` and counted in instructions by
//! `instructions`.

use std::hint::black_box;
use std::time::Duration;

use fanfare::event::{Broadcast, Event, Frame, Naming, RunName, Sequence, Topic};
use fanfare::hub::{Hub, HubLimits, Replay, Run, RunLimits, Start, Subscriber};
use fanfare::protocol::decoder::Decoder;
use fanfare::protocol::head::{self, HeadLimits};
use fanfare::protocol::publish::{self, PublishLimits};
use fanfare::protocol::target::Target;
use fanfare::protocol::{Parsed, encoder};
use fanfare::redis_address::replies::{Replies, Reply, ReplyLimits};
use fanfare::server::Route;
use fanfare::sources::channel::{ChannelLimits, channel};
use fanfare::sources::sequencer::{Batch, Sequencer};

use super::arena::body;
use super::payload;

/// What is done, again and again.
pub type Work = Box<dyn FnMut()>;

/// A case's name, and how its work is set up.
pub type Case = (&'static str, fn() -> Work);

/// All cases.
pub const ALL: [Case; 15] = [
    ("parse_head_of_a_browser", parse_head),
    ("parse_target", parse_target),
    ("route", route),
    ("parse_publish_100B", || parse_publish(100)),
    ("parse_publish_10KB", || parse_publish(10_000)),
    ("format_event_100B", || format_event(100)),
    ("format_event_10KB", || format_event(10_000)),
    ("read_redis_message_100B", read_redis_message),
    ("sequence_event_100B", sequence_event),
    ("decode_event_100B", decode_event),
    ("subscribe_and_leave", subscribe_and_leave),
    ("append", append),
    ("append_and_walk_1000", append_and_walk),
    ("run_for_10_events_of_3_topics", run_for),
    ("replay_start_of_a_known_id", replay_start),
];

/// Plays the role: does one case's work, this number of times.
pub fn play(arguments: &[String]) {
    let [wanted, times] = arguments else { panic!("case: {arguments:?}") };
    let (_, set_up) = ALL.into_iter().find(|(name, _)| name == wanted).expect("a case");
    let mut work = set_up();
    (0..times.parse().expect("a number")).for_each(|_: u64| work());
}

/// Broadcasts before a case begins: the logs are full, and evict with every append.
const HISTORY: u64 = 1000;
const RUN: u64 = 0x0123_4567_89ab_cdef;

fn parse_head() -> Work {
    const HEAD: &[u8] = b"GET /events?topic=orders&topic=prices HTTP/1.1\r\nHost: live.example.com\r\n\
        Connection: keep-alive\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Safari/537.36\r\n\
        Origin: https://app.example.com\r\nReferer: https://app.example.com/dashboard\r\n\
        Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\nLast-Event-ID: abcdefghijkl-1234\r\n\r\n";
    let limits = HeadLimits { head_bytes_max: 16 << 10, target_bytes_max: 8 << 10, headers_max: 100 };
    Box::new(move || {
        let parsed = head::parse(black_box(HEAD), &limits);
        assert!(matches!(black_box(parsed), Ok(Parsed::Complete { .. })));
    })
}

fn parse_target() -> Work {
    Box::new(|| {
        black_box(Target::parse(black_box("/events?topic=orders&topic=a%2Fb&interval_ms=1000"))).expect("a target");
    })
}

fn route() -> Work {
    const PATHS: [&str; 4] = ["/events", "/dashboard/stream", "/publish", "/health/ready"];
    Box::new(|| {
        for path in PATHS {
            black_box(Route::of(black_box(path), Some("/sse"))).expect("a route");
        }
    })
}

fn parse_publish(payload_bytes: usize) -> Work {
    let body = body(&payload::data(payload_bytes, 0));
    let limits = PublishLimits { topic_bytes_max: 256, data_bytes_max: 1 << 20, batch_max: 1000 };
    Box::new(move || {
        black_box(publish::parse(black_box(body.as_bytes()), &limits)).expect("a body");
    })
}

fn format_event(payload_bytes: usize) -> Work {
    let event = event(topic("bench"), payload_bytes);
    let id = RunName::from_bits(RUN).id(Sequence(1_000_000));
    let mut scratch = Vec::new();
    Box::new(move || {
        scratch.clear();
        encoder::write_event(&mut scratch, id.as_str(), &encoder::Fields::from(black_box(&event)));
        black_box(Frame::from(&scratch[..]));
    })
}

/// What the thread of Redis does with a message until it is one of a batch.
fn read_redis_message() -> Work {
    let mut message = b"*4\r\n$8\r\npmessage\r\n$6\r\nuser.*\r\n$9\r\nuser.4711\r\n$100\r\n".to_vec();
    message.extend_from_slice(payload::data(100, 0).as_bytes());
    message.extend_from_slice(b"\r\n");
    let mut replies = Replies::new(ReplyLimits { payload_bytes_max: 1 << 20 });
    Box::new(move || {
        replies.space()[..message.len()].copy_from_slice(&message);
        replies.filled(message.len());
        assert!(matches!(black_box(replies.next()), Ok(Some(Reply::Message(_)))));
    })
}

/// What follows: it is formatted, numbered and enqueued; and taken out by the loop.
fn sequence_event() -> Work {
    let (outlet, inbox) = channel(ChannelLimits::default(), || {});
    let sequencer = Sequencer::new(RunName::from_bits(RUN), vec![outlet]);
    let (topic, data, mut batch) = (topic("bench"), payload::data(100, 0), Batch::default());
    Box::new(move || {
        sequencer.add(&mut batch, topic.clone(), Naming::Here(None), &encoder::Fields::data(black_box(&data)));
        assert!(sequencer.publish_all(&mut batch));
        inbox.rearm();
        black_box(inbox.next()).expect("it was enqueued");
    })
}

fn decode_event() -> Work {
    let id = RunName::from_bits(RUN).id(Sequence(1_000_000));
    let frame = encoder::event(&event(topic("bench"), 100), &id);
    let mut decoder = Decoder::new();
    Box::new(move || {
        let fed = decoder.feed(black_box(frame.bytes()), |item| {
            black_box(item);
        });
        fed.expect("a small event");
    })
}

fn subscribe_and_leave() -> Work {
    let mut stage = Stage::new(&["bench"], 1000);
    Box::new(move || {
        let newcomer = Subscriber(1000);
        stage.hub.subscribe(newcomer, &stage.topics).expect("there is room");
        stage.hub.unsubscribe(newcomer);
    })
}

fn append() -> Work {
    let mut stage = Stage::new(&["bench"], 0);
    Box::new(move || stage.append(0))
}

/// What a broadcast to 1,000 costs the hub: the rest of it is one send for each.
fn append_and_walk() -> Work {
    let mut stage = Stage::new(&["bench"], 1000);
    let (mut slice, mut run) = (Vec::new(), Run::default());
    Box::new(move || {
        let position = stage.hub.head();
        stage.append(0);
        while let Some(taken) = stage.hub.next_slice(256, Duration::ZERO, &mut slice) {
            stage.hub.run_for_topic(taken.topic, position, LIMITS, &mut run);
            black_box((&slice, &run));
        }
        run.clear();
    })
}

fn run_for() -> Work {
    let stage = Stage::new(&["a", "b", "c"], 1);
    let head = stage.hub.head();
    let mut run = Run::default();
    Box::new(move || {
        run.clear();
        stage.hub.run_for(Subscriber(0), Sequence(head.0 - 10), head, LIMITS, &mut run);
        assert_eq!(black_box(&run).frames().len(), 10);
    })
}

fn replay_start() -> Work {
    let stage = Stage::new(&["a", "b", "c"], 1);
    let id = stage.hub.run().id(Sequence(stage.hub.head().0 - 100));
    Box::new(move || {
        let start = stage.hub.start(Subscriber(0), black_box(id.as_str().as_bytes()), Replay::Missed);
        assert!(matches!(black_box(start), Start::Ready(start) if start.id_is_known));
    })
}

const LIMITS: RunLimits = RunLimits { frames_max: 512, bytes_max: 64 << 10 };

/// A hub with topics whose logs are full, and subscribers of all of them.
struct Stage {
    hub: Hub,
    topics: Vec<Topic>,
    frame: Frame,
}

impl Stage {
    fn new(names: &[&str], subscribers: u32) -> Stage {
        let run = RunName::from_bits(RUN);
        let limits = HubLimits { history_events_max: Some(HISTORY as usize), ..HubLimits::default() };
        let topics: Vec<_> = names.iter().map(|name| topic(name)).collect();
        let frame = encoder::event(&event(topic("bench"), 100), &run.id(Sequence(1)));
        let mut stage = Stage { hub: Hub::new(run, limits), topics, frame };
        for index in 0..HISTORY * names.len() as u64 + 1 {
            stage.append(index as usize % names.len());
        }
        for subscriber in (0..subscribers).map(Subscriber) {
            stage.hub.subscribe(subscriber, &stage.topics).expect("there is room");
        }
        stage
    }

    /// Appends an event to one of the topics.
    fn append(&mut self, topic: usize) {
        let sequence = self.hub.head().next();
        let (topic, frame) = (self.topics[topic].clone(), self.frame.clone());
        self.hub.append(Broadcast { sequence, topic, naming: Naming::Here(None), frame }, Duration::ZERO);
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a topic")
}

fn event(topic: Topic, payload_bytes: usize) -> Event {
    Event::message(topic, payload::data(payload_bytes, 0))
}
