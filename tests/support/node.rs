//! A node without its server: the Redis source, the sequencer, and the channel that a loop would read.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfare::event::{Event, EventId, RunName, Topic};
use fanfare::protocol::publish::PublishLimits;
use fanfare::redis_address::RedisAddress;
use fanfare::sources::channel::{
    Accepted, ChannelLimits, GapReason, GapScope, Inbox, Message, Publish, PublishRefusal, SourceStatus, Ticket,
    channel,
};
use fanfare::sources::redis::{self as source, Payload, RedisHandle, RedisPublisher, RedisSettings, RedisTiming};
use fanfare::sources::sequencer::Sequencer;
use fanfare::sources::{BackoffLimits, QueueLimits};

use super::wait::{DEADLINE, wait_until};

/// What a loop received.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Event { topic: String, id: String, data: String },
    Gap { reason: GapReason, topics: Option<Vec<String>> },
    Published { ticket: u64, outcome: Result<(), PublishRefusal> },
}

/// One node.
pub struct Node {
    pub status: Arc<SourceStatus>,
    publisher: RedisPublisher,
    inbox: Inbox,
    /// One that was read, and waits for the events before it.
    answer: RefCell<Option<Message>>,
    woken: crossbeam_channel::Receiver<()>,
    pub handle: RedisHandle,
}

impl Node {
    pub fn start(settings: RedisSettings) -> Node {
        static RUNS: AtomicU64 = AtomicU64::new(1);
        let (wake, woken) = crossbeam_channel::bounded(1);
        let limits = ChannelLimits { messages_max: 1 << 20, bytes_max: 1 << 30 };
        let (outlet, inbox) = channel(limits, move || _ = wake.try_send(()));
        let run = RunName::from_bits(RUNS.fetch_add(1, Ordering::Relaxed));
        let sequencer = Sequencer::new(run, vec![outlet.clone()]);
        let status = SourceStatus::new("redis");
        let handle = source::spawn(settings, sequencer, Arc::clone(&status)).unwrap();
        Node { status, publisher: handle.publisher(outlet, None), inbox, answer: RefCell::default(), woken, handle }
    }

    /// One that is subscribed.
    pub fn start_up(settings: RedisSettings) -> Node {
        let node = Node::start(settings);
        node.wait_up();
        node
    }

    pub fn wait_up(&self) {
        wait_until("the source is up", || self.status.is_up());
    }

    pub fn wait_down(&self) {
        wait_until("the source is down", || !self.status.is_up());
    }

    pub fn next(&self) -> Heard {
        loop {
            self.inbox.rearm();
            if let Some(message) = self.next_message() {
                return heard(message);
            }
            self.woken.recv_timeout(DEADLINE).expect("a message arrives");
        }
    }

    pub fn heard_so_far(&self) -> impl Iterator<Item = Heard> {
        std::iter::from_fn(|| self.next_message()).map(heard)
    }

    /// An answer was given behind the events that it is about: those come first, though they have a lane of their own.
    fn next_message(&self) -> Option<Message> {
        let mut answer = self.answer.borrow_mut();
        if answer.is_none() {
            *answer = self.inbox.next_urgent();
        }
        self.inbox.next().or_else(|| answer.take())
    }

    pub fn next_event(&self) -> (String, String) {
        match self.next() {
            Heard::Event { topic, data, .. } => (topic, data),
            other => panic!("an event was expected, not {other:?}"),
        }
    }

    pub fn publish(&self, events: Vec<Event>, ticket: u64) -> Result<Vec<String>, PublishRefusal> {
        match self.publisher.publish(events, Ticket(ticket))? {
            Accepted::Later(ids) => Ok(ids.iter().map(EventId::to_string).collect()),
            Accepted::Now(_) => panic!("only a broker's answer is an answer"),
        }
    }
}

pub fn heard(message: Message) -> Heard {
    match message {
        Message::Broadcast(broadcast) => {
            let frame = String::from_utf8(broadcast.frame.bytes().to_vec()).unwrap();
            let lines: Vec<_> = frame.lines().filter_map(|line| line.strip_prefix("data:")).collect();
            let data = lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n");
            let id = frame.lines().find_map(|line| line.strip_prefix("id: ")).expect("a frame has an id").to_owned();
            Heard::Event { topic: broadcast.topic.to_string(), id, data }
        }
        Message::Gap(gap) => {
            let topics = match gap.scope {
                GapScope::All => None,
                GapScope::Topics(lost) => lost.seal().map(|topics| topics.iter().map(Topic::to_string).collect()),
            };
            Heard::Gap { reason: gap.reason, topics }
        }
        Message::Published { ticket, outcome } => Heard::Published { ticket: ticket.0, outcome: outcome.map(drop) },
        message @ (Message::Control(_)
        | Message::Epoch(..)
        | Message::Loaded
        | Message::EndOfBus(_)
        | Message::Page(_)) => {
            panic!("unexpected: {message:?}")
        }
    }
}

pub fn settings(url: &str) -> RedisSettings {
    RedisSettings {
        address: RedisAddress::new(url, None).unwrap(),
        rules: Vec::new(),
        channels: vec!["news".to_owned()],
        patterns: Vec::new(),
        payload: Payload::Raw,
        bus: "fanfare:bus".to_owned(),
        copied_channels: Vec::new(),
        limits: PublishLimits { topic_bytes_max: 64, data_bytes_max: 1000, batch_max: 100 },
        body_bytes_max: 16 << 10,
        queue: QueueLimits::default(),
        timing: RedisTiming {
            backoff: BackoffLimits { delay_min: Duration::from_millis(10), delay_max: Duration::from_millis(200) },
            ..RedisTiming::default()
        },
    }
}

pub fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub fn event(topic: &str, data: &str) -> Event {
    Event::message(Topic::new(topic).unwrap(), data)
}

pub fn pair(topic: &str, data: &str) -> (String, String) {
    (topic.to_owned(), data.to_owned())
}

pub fn source_lost() -> Heard {
    Heard::Gap { reason: GapReason::SourceLost, topics: None }
}

pub fn refused(topic: &str) -> Heard {
    Heard::Gap { reason: GapReason::Refused, topics: Some(strings(&[topic])) }
}

pub fn published(redis: &mut redis::Connection, channel: impl redis::ToRedisArgs, payload: impl redis::ToRedisArgs) {
    redis::cmd("PUBLISH").arg(channel).arg(payload).query::<()>(redis).unwrap();
}
