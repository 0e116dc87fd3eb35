//! Redis pub/sub: channels and patterns become topics, and a bus carries what clients publish from node to node.
//!
//! ```text
//!  PUBLISH news ─▶ subscriber ─▶ intake: subscriptions (which delivery counts) ─▶ mapping (topic, format)
//!                                                                              ─▶ payload (events) ─▶ sequencer
//!  POST /publish ─▶ publisher ─▶ PUBLISH fanfare:bus ─▶ every node's subscriber, this one's included
//!                            └─▶ PUBLISH topic, if copied ─▶ servers that are not Fanfare
//! ```
//!
//! Pub/sub stores nothing, so the guarantee is not that no event is lost, but that every loss is announced. A session
//! is one connection with all its subscriptions. Sessions are numbered from 1; between two of them everything may be
//! missing.
//!
//! Invariant: *a publish that is answered Ok was handed to this node's sequencer before: its event is in the channel,
//! or the channel was full and a gap is there.* For any other node, which may lose its subscription independently:
//!
//! 1. A session is live once every subscription of its connection is confirmed. A publish is sent only while a session
//!    of this node is live, and is Ok only when that session's subscriber has read it back (`echo`). When the session
//!    ends first (`CLIENT KILL TYPE pubsub`, also long before its backlog is read and the end shows), the publish is
//!    refused.
//! 2. A node whose session was subscribed when Redis executed the PUBLISH reads the message there, or that session
//!    ends first. A node without a session at that time misses it.
//! 3. Whenever a node's session ends, its next one announces a gap once all its subscriptions are confirmed: after
//!    everything that Redis executed between the two sessions, and before everything that it delivers itself.
//!
//! All of this holds for what one primary executes: a replica executes a PUBLISH for its own subscribers only. So both
//! connections check the role of their Redis before they are used (`role`), and the publisher checks again at every
//! ping interval. When it finds a replica it ends the session. Until then, for up to one interval after a primary was
//! demoted in place, its nodes may answer Ok to events that other nodes miss.
//!
//! So each event that was published after a node's first session began reaches that node, or a gap is in its place. A
//! refused event may have been delivered all the same: the client repeats it under the same id, and a topic accepts
//! each id once.
//!
//! What clients publish to a topic that is in `copied_channels` also goes to the channel of that name, for readers that
//! are not Fanfare (`copies`). The copy is in one transaction with its bus message, so that Redis executes both or
//! neither, and so that every node can distinguish its cluster's copies from other messages on the same channel.
//!
//! Beside a durable bus, one node at a time appends what the channels carry to that bus ([`spawn_ingest`], `ingest`);
//! there is no publisher then, and the settings' `bus` is the channel of that bus's markers.
//!
//! Absent: Redis streams (they would be a source of their own), sharded pub/sub, any wait without a bound, a fatal
//! error.

pub mod bus;

mod copies;
mod echo;
mod gathering;
mod ingest;
mod intake;
mod mapping;
mod publisher;
mod queue;
mod role;
mod sink;
mod subscriber;
mod subscriptions;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::event::template::Template;
use crate::event::{RunName, Topic};
use crate::protocol::publish::PublishLimits;
use crate::redis_address::RedisAddress;
use crate::redis_address::replies::ReplyLimits;
use crate::sources::bus::BusBounds;
use crate::sources::bus::lead::LeadEngine;
use crate::sources::channel::{Outlet, SourceStatus};
use crate::sources::copying;
pub use crate::sources::payload::Payload;
use crate::sources::redis::copies::Copies;
use crate::sources::redis::echo::Echoes;
use crate::sources::redis::ingest::Ingest;
use crate::sources::redis::publisher::Publisher;
use crate::sources::redis::role::RoleCheck;
use crate::sources::redis::sink::OwnOrder;
use crate::sources::redis::subscriber::Subscriber;
use crate::sources::sequencer::Sequencer;
use crate::sources::thread::SourceThread;
use crate::sources::{BackoffLimits, QueueLimits};

pub use queue::RedisPublisher;

/// Beyond this, a gap does not list the topics that channels give: it is one of all topics.
const FEEDS_BYTES_MAX: usize = 64 << 10;

/// What to bridge, and which limits apply.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// The address of Redis.
    pub address: RedisAddress,
    /// What to subscribe to, and what becomes of the messages; the first rule that matches a channel decides.
    pub rules: Vec<ChannelRule>,
    /// More channels to subscribe to; each is a topic.
    pub channels: Vec<String>,
    /// More patterns of channels to subscribe to, in order of precedence.
    pub patterns: Vec<String>,
    /// The format of messages, unless a rule says something else.
    pub payload: Payload,
    /// The channel on which nodes pass on what clients publish.
    pub bus: String,
    /// Topics whose events, when clients publish them, are copied to the channel of the same name.
    pub copied_channels: Vec<String>,
    /// How large a topic's name, an event and a batch may be.
    pub limits: PublishLimits,
    /// How large the body of a client's publish may be. The limit for bus messages follows from it.
    pub body_bytes_max: usize,
    /// How much may wait to be sent to Redis.
    pub queue: QueueLimits,
    /// Timeouts and intervals.
    pub timing: RedisTiming,
}

/// What becomes of the messages of some channels.
#[derive(Clone, Debug)]
pub struct ChannelRule {
    /// A channel's name, or a pattern.
    pub pattern: String,
    /// Makes their topic; none: the channel's name is the topic.
    pub topic: Option<Template>,
    /// Their format; none: as of all channels.
    pub payload: Option<Payload>,
}

/// How long to wait for Redis.
#[derive(Clone, Copy, Debug)]
pub struct RedisTiming {
    /// For a connection; each address of a name has its own timeout.
    pub connect_timeout: Duration,
    /// For any one answer. After a longer silence, Redis counts as down.
    pub reply_timeout: Duration,
    /// Silence after which a connection is pinged.
    pub ping_interval: Duration,
    /// Delays between attempts to connect.
    pub backoff: BackoffLimits,
}

impl RedisSettings {
    /// How long the messages are that the bridge reads from Redis.
    fn reply_limits(&self) -> ReplyLimits {
        ReplyLimits { payload_bytes_max: bus::message_bytes_max(&self.limits, self.body_bytes_max) }
    }

    /// What is subscribed to and what becomes of it, as text, and the topics that this can give; none: any.
    fn feeds(&self) -> (String, Vec<Topic>) {
        let (mut channels, patterns) = self.subscribed();
        channels.sort();
        let topics =
            self.rules.iter().map(|rule| (&rule.pattern, rule.topic.as_ref().map(|topic| format!("{topic:?}"))));
        let topics: Vec<_> = topics.filter(|(_, topic)| topic.is_some()).collect();
        let feeds = serde_json::json!({ "channels": channels, "patterns": patterns, "topics": topics }).to_string();
        match patterns.is_empty() && feeds.len() <= FEEDS_BYTES_MAX {
            true => {
                let topics = channels.iter().map(|channel| self.topic_of(channel.as_bytes()));
                (feeds, topics.collect::<Result<_, _>>().unwrap_or_default())
            }
            false => (feeds, Vec::new()),
        }
    }
}

impl Default for RedisTiming {
    fn default() -> RedisTiming {
        RedisTiming {
            connect_timeout: Duration::from_secs(3),
            reply_timeout: Duration::from_secs(3),
            ping_interval: Duration::from_secs(5),
            backoff: BackoffLimits { delay_min: Duration::from_millis(100), delay_max: Duration::from_secs(10) },
        }
    }
}

/// The bridge's two threads. Dropping the handle stops them within about a second, even when Redis hangs.
pub struct RedisHandle {
    queue: queue::Queue,
    subscriber: SourceThread,
    publisher: SourceThread,
}

/// Starts the bridge. A Redis that can't be reached is not an error: the bridge keeps trying to connect.
pub fn spawn(settings: RedisSettings, sequencer: Arc<Sequencer>, status: Arc<SourceStatus>) -> io::Result<RedisHandle> {
    let settings = Arc::new(settings);
    let echoes = Arc::new(Echoes::default());
    let run = RunName::from_bits(getrandom::u64().map_err(io::Error::other)?);
    let copies = Copies::new(&settings.copied_channels, |channel| settings.payload_in(channel));
    let (queue, jobs) = queue::Queue::new(run, settings.queue, copies, Arc::clone(&echoes));
    let roles = Arc::new(RoleCheck::default());
    let shared = (Arc::clone(&settings), Arc::clone(&echoes), Arc::clone(&status), Arc::clone(&roles));
    let mut publisher = Publisher::new(shared.0, shared.1, shared.2, shared.3, jobs);
    let mut subscriber =
        Subscriber::new(settings, Box::new(OwnOrder::new(sequencer)), Arc::clone(&status), echoes, roles);
    let lost = {
        let status = Arc::clone(&status);
        move |error| status.set_down(error)
    };
    // Not down: events still arrive, and only the subscriber's next session would set the status up again.
    let failed = move |error| status.set_error(error);
    Ok(RedisHandle {
        queue,
        subscriber: SourceThread::spawn("redis-subscribe", lost, move |stop| subscriber.run(stop))?,
        publisher: SourceThread::spawn("redis-publish", failed, move |stop| publisher.run(stop))?,
    })
}

/// Starts an ingest: `engine` appends to the durable bus, on which this node is called `node`.
pub fn spawn_ingest(
    settings: RedisSettings,
    node: String,
    engine: Box<dyn LeadEngine>,
    bounds: Arc<BusBounds>,
    status: Arc<SourceStatus>,
) -> io::Result<SourceThread> {
    let ingest = Ingest::new(engine, node, &settings, bounds, Arc::clone(&status));
    let (settings, sink) = (Arc::new(settings), Box::new(ingest));
    let mut subscriber = Subscriber::new(settings, sink, Arc::clone(&status), Arc::default(), Arc::default());
    let lost = move |error| status.set_down(error);
    SourceThread::spawn("redis-ingest", lost, move |stop| subscriber.run(stop))
}

impl RedisHandle {
    /// Accepts publishes of one loop's clients for the bus; `outlet` receives the outcomes. What is accepted is copied.
    pub fn publisher(&self, outlet: Outlet, copies: copying::Copies) -> RedisPublisher {
        RedisPublisher::new(self.queue.clone(), outlet, copies)
    }

    /// Asks both threads to stop, without waiting, so that the drop that follows finds them ended.
    pub fn ask_to_stop(&mut self) {
        self.subscriber.ask_to_stop();
        self.publisher.ask_to_stop();
    }
}

impl Drop for RedisHandle {
    fn drop(&mut self) {
        // Stop both before the drops of the fields wait, one after the other.
        self.ask_to_stop();
    }
}
