//! Redis pub/sub: channels and patterns become topics, and a bus carries what clients publish from node to node.
//!
//! ```text
//!  PUBLISH news ─▶ subscriber ─▶ intake: subscriptions (which delivery counts) ─▶ payload (events) ─▶ sequencer
//!  POST /publish ─▶ publisher ─▶ PUBLISH fanfare:bus ─▶ every node's subscriber, this one's included
//!                            └─▶ PUBLISH topic, if copied ─▶ servers that are not Fanfare
//! ```
//!
//! Pub/sub keeps nothing, so the promise is not that nothing is lost but that no loss is silent. Sessions, one
//! connection with all its subscriptions each, are numbered from 1; between two of them everything may be missing.
//!
//! Invariant: *a publish that is answered Ok was handed to this node's sequencer before: it is in the channel, or the
//! channel was full and a gap is.* For any other node, which may lose its subscription on its own:
//!
//! 1. A session is live once every subscription of its connection is confirmed. A publish is sent only while a session
//!    of this node is live, and is Ok only when that session's subscriber has read it back (`echo`). When the session
//!    ends first (`CLIENT KILL TYPE pubsub`, also long before its backlog is read and the end shows), it is refused.
//! 2. A node whose session was subscribed when Redis executed the PUBLISH reads the message there, or that session
//!    ends first. A node without a session at that time misses it.
//! 3. Whenever a node's session ends, its next one announces a gap once all its subscriptions are confirmed: after
//!    everything that Redis executed between the two sessions, and before everything that it delivers itself.
//!
//! All of this holds of what one primary executes: a replica executes a PUBLISH for its own subscribers only. So both
//! connections ask for the role of what they lead to before they are used (`role`), and the publisher's asks again at
//! every interval of pings. When it finds a replica it ends the session. Until then, up to one interval after a primary
//! was demoted in place, its nodes may answer Ok to what other nodes miss.
//!
//! So each event that was published after a node's first session began reaches that node, or a gap stands in its place.
//! A refusal may be of an event that was delivered all the same: its client repeats it under the same id, which a
//! topic takes once.
//!
//! What clients publish to a topic that is in `copied_channels` also goes to the channel of that name, for readers that
//! are not Fanfare (`copies`): in one transaction with its bus message, so that there is both or neither, and so that
//! every node knows its own cluster's copies from what others publish on the same channel.
//!
//! Absent: streams (a source of their own), sharded pub/sub, any wait without a bound, a fatal error.

pub mod bus;
pub mod glob;
pub mod payload;

mod answer;
mod backoff;
mod copies;
mod echo;
mod gathering;
mod intake;
mod publisher;
mod queue;
mod role;
mod subscriber;
mod subscriptions;
mod topics;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::event::RunName;
use crate::protocol::publish::PublishLimits;
use crate::redis_address::RedisAddress;
use crate::redis_address::replies::ReplyLimits;
use crate::sources::channel::{Outlet, SourceStatus};
use crate::sources::redis::copies::Copies;
use crate::sources::redis::echo::Echoes;
use crate::sources::redis::publisher::Publisher;
use crate::sources::redis::role::RoleCheck;
use crate::sources::redis::subscriber::Subscriber;
use crate::sources::sequencer::Sequencer;
use crate::sources::thread::SourceThread;

pub use answer::QueueLimits;
pub use backoff::BackoffLimits;
pub use payload::Payload;
pub use queue::RedisPublisher;

/// What to bridge, and how patiently.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub address: RedisAddress,
    /// Channels to subscribe to; each is a topic.
    pub channels: Vec<String>,
    /// Patterns of channels to subscribe to, in the order in which they win.
    pub patterns: Vec<String>,
    /// What the messages of channels and patterns hold.
    pub payload: Payload,
    /// The channel on which nodes pass on what clients publish.
    pub bus: String,
    /// Topics whose events, when clients publish them, are copied to the channel of the same name.
    pub copied_channels: Vec<String>,
    /// How large a topic's name, an event and a batch may be.
    pub limits: PublishLimits,
    /// How large the body of a client's publish may be, from which follows what the bus carries.
    pub body_bytes_max: usize,
    /// How much may wait for Redis to take it.
    pub queue: QueueLimits,
    /// How long is too long.
    pub timing: RedisTiming,
}

/// How long to wait for Redis.
#[derive(Clone, Copy, Debug)]
pub struct RedisTiming {
    /// For a connection, each address of a name counted apart.
    pub connect_timeout: Duration,
    /// For any one answer. Silence for longer counts as down.
    pub reply_timeout: Duration,
    /// Silence after which a connection is pinged.
    pub ping_interval: Duration,
    /// Between attempts to connect.
    pub backoff: BackoffLimits,
}

impl RedisSettings {
    /// How much of what Redis says is read.
    fn reply_limits(&self) -> ReplyLimits {
        ReplyLimits { payload_bytes_max: bus::message_bytes_max(&self.limits, self.body_bytes_max) }
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

/// The bridge's two threads; dropped, they stop, within about a second even when Redis hangs.
pub struct RedisHandle {
    queue: queue::Queue,
    subscriber: SourceThread,
    publisher: SourceThread,
}

/// Starts the bridge. A Redis that can't be reached is no error: it is tried again for ever.
pub fn spawn(settings: RedisSettings, sequencer: Arc<Sequencer>, status: Arc<SourceStatus>) -> io::Result<RedisHandle> {
    let settings = Arc::new(settings);
    let echoes = Arc::new(Echoes::default());
    let run = RunName::from_bits(getrandom::u64().map_err(io::Error::other)?);
    let copies = Copies::new(&settings.copied_channels, settings.payload);
    let (queue, jobs) = queue::Queue::new(run, settings.queue, copies, Arc::clone(&echoes));
    let roles = Arc::new(RoleCheck::default());
    let shared = (Arc::clone(&settings), Arc::clone(&echoes), Arc::clone(&status), Arc::clone(&roles));
    let mut publisher = Publisher::new(shared.0, shared.1, shared.2, shared.3, jobs);
    let mut subscriber = Subscriber::new(settings, sequencer, Arc::clone(&status), echoes, roles);
    let lost = {
        let status = Arc::clone(&status);
        move |error| status.set_down(error)
    };
    // Events arrive all the same, and only the subscriber would say that they do, with its next session.
    let failed = move |error| status.set_error(error);
    Ok(RedisHandle {
        queue,
        subscriber: SourceThread::spawn("redis-subscribe", lost, move |stop| subscriber.run(stop))?,
        publisher: SourceThread::spawn("redis-publish", failed, move |stop| publisher.run(stop))?,
    })
}

impl RedisHandle {
    /// The way onto the bus for one loop's clients; what becomes of their events is told to `outlet`.
    pub fn publisher(&self, outlet: Outlet) -> RedisPublisher {
        RedisPublisher::new(self.queue.clone(), outlet)
    }

    /// Asks both threads to stop, without waiting: the drop that follows finds them ended.
    pub fn ask_to_stop(&mut self) {
        self.subscriber.ask_to_stop();
        self.publisher.ask_to_stop();
    }
}

impl Drop for RedisHandle {
    fn drop(&mut self) {
        // Before the fields' own drops wait, one after the other.
        self.ask_to_stop();
    }
}
