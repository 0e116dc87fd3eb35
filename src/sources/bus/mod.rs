//! A durable bus: the one order of events that all nodes read, kept by an engine outside of this process.
//!
//! ```text
//!  POST /publish ─▶ publisher ─▶ Engine::append ─▶ the engine's order
//!                                                        │
//!  loop ◀─ channel ◀─ reader ◀─ follower ◀─ Engine::read_after
//!               ◀─ fetcher (what the loop no longer remembers) ◀─ Engine::read_after
//! ```
//!
//! What other sources carry, such as channels of Redis pub/sub, is appended by the one node that has the [`lead`]. A source
//! that keeps its entries needs no lead: the bus stores a [`cursor`] with what is appended from it.
//!
//! An [`Engine`] is one file: it appends, and it reads pages of entries. Everything else is the same for all engines. A
//! [`follower::Follower`] turns pages into what the loop gets: it proves that no entry was skipped, and puts a gap where
//! one was. A node has nothing that is not on the bus, so a node that restarts reads its history back from there, and a
//! client that returns with an older id gets the rest from there.
//!
//! Invariants: offsets are dense in an epoch, so a page that does not continue where the last one ended shows a loss.
//! An engine whose own offsets skip proves that nothing is there, and fills them ([`Content::Nothing`]).
//! An engine that may have lost entries begins a new epoch with a fork, which is a gap at the same place for all nodes,
//! unless the fork itself says that nothing was lost.
//! An append is answered when the engine has it. Absent: any decision of one node that another node could make
//! differently, such as which event is a duplicate.

pub mod cursor;
pub mod findings;
pub mod follower;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod lead;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod redis_stream;
pub mod tools;

mod contents;
mod fetcher;
mod publisher;
mod reader;
mod reader_thread;
mod stored_event;
mod stored_gap;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::event::timeline::Position;
use crate::event::{Event, Frame, Topic};
use crate::protocol::disconnect::Disconnect;
use crate::protocol::encoder::{self, Fields};
use crate::protocol::publish::PublishLimits;
use crate::sources::answer::QueueLimits;
use crate::sources::backoff::BackoffLimits;
use crate::sources::bus::fetcher::Fetcher;
use crate::sources::bus::reader_thread::ReaderThread;
use crate::sources::channel::{GapReason, Outlet, SourceStatus};
use crate::sources::copying::Copies;
use crate::sources::thread::SourceThread;

pub use contents::Contents;
pub use fetcher::{PageRequests, fetch_page};
pub use publisher::{Appender, BusPublisher, Job};
pub use reader::{Reader, Turn};

/// Contents that are appended together; a publish with more goes alone.
pub(super) const TOGETHER_MAX: usize = 256;
/// Their bytes, likewise.
pub(super) const TOGETHER_BYTES_MAX: usize = 1 << 20;

/// An entry of the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub position: Position,
    /// What it is.
    pub content: Content,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An event; its id, if it has one, is the publisher's own.
    Event(Event),
    /// Streams to end on every node, and the node that passed this on.
    Disconnect(Disconnect, String),
    /// The first entry of an epoch.
    Fork {
        /// The last entry before it, if it is proven that the engine acknowledged none after that one. Otherwise, entries
        /// may have been lost.
        follows: Option<Position>,
    },
    /// Events are missing here that never reached the bus.
    Gap {
        /// Why.
        reason: GapReason,
        /// Their topics; none: any.
        topics: Vec<Topic>,
    },
    /// Something that is not an event, in this topic or in an unknown one.
    Refused {
        /// The topic, if it can be read.
        topic: Option<Topic>,
        /// Why.
        reason: String,
    },
    /// Nothing for subscribers: a mark of the engine's own, or an offset that the engine has skipped, which is proven to
    /// hold nothing.
    Nothing,
}

/// Entries in order, and what else the engine holds at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The newest entry that the engine has ever held, even if it is trimmed.
    pub last: Position,
}

/// Where an event was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where the event is.
    pub position: Position,
    /// True: it is there already, under the same publisher's id.
    pub is_duplicate: bool,
}

/// Why an engine did not answer. The text is safe to log and to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// An engine that keeps the order. One instance serves one thread; every call is bounded in time.
pub trait Engine: Send {
    /// Appends events and disconnects, and returns a receipt for each. After an error they may be there all the same; in
    /// Kafka, perhaps only the first of them.
    fn append(&mut self, contents: &[Content]) -> Result<Vec<Receipt>, EngineError>;

    /// The oldest entries after a position, at most `entries_max`. If there are none, waits up to `wait` for one.
    fn read_after(&mut self, after: Position, entries_max: usize, wait: Duration) -> Result<Page, EngineError>;

    /// The newest entries before a position, or of all, at most `entries_max`, in ascending order.
    fn read_before(&mut self, before: Option<Position>, entries_max: usize) -> Result<Page, EngineError>;

    /// Does what is due of the nodes' own part in keeping the engine small, such as a batch of deletions. The thread that
    /// calls it about once a second delivers no new events.
    fn tidy(&mut self) {}

    /// Takes what a client library has collected. The threads that append and that fetch call it about once a second while they
    /// have nothing to do.
    fn rest(&mut self) {}
}

impl Content {
    /// Of a fork: the last entry before it, if nothing was lost.
    fn follows(&self) -> Option<Position> {
        match self {
            Content::Fork { follows } => *follows,
            _ => None,
        }
    }

    /// About what it takes in memory, and on the way.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Content::Event(event) => event.topic.as_str().len() + event.data.len(),
            Content::Gap { topics, .. } => topics.iter().map(|topic| topic.as_str().len()).sum(),
            _ => 0,
        }
    }
}

/// How large topics and events on a bus may be: what the bus itself says, once it was asked. Nodes whose own bounds are
/// larger publish nothing larger, because other nodes could not deliver it.
#[derive(Debug)]
pub struct BusBounds {
    topic_bytes_max: AtomicUsize,
    data_bytes_max: AtomicUsize,
}

impl Default for BusBounds {
    fn default() -> BusBounds {
        BusBounds { topic_bytes_max: usize::MAX.into(), data_bytes_max: usize::MAX.into() }
    }
}

impl BusBounds {
    /// Takes what the bus says.
    pub fn set(&self, topic_bytes_max: usize, data_bytes_max: usize) {
        self.topic_bytes_max.store(topic_bytes_max, Ordering::Relaxed);
        self.data_bytes_max.store(data_bytes_max, Ordering::Relaxed);
    }

    /// Whether the bus takes an event of this size.
    pub fn admits(&self, event: &Event) -> bool {
        let limits = self.get();
        event.topic.as_str().len() <= limits.topic_bytes_max && limits.check_data(event.data.as_bytes()).is_ok()
    }

    fn get(&self) -> PublishLimits {
        PublishLimits {
            topic_bytes_max: self.topic_bytes_max.load(Ordering::Relaxed),
            data_bytes_max: self.data_bytes_max.load(Ordering::Relaxed),
            batch_max: usize::MAX,
        }
    }
}

/// What is the same for all engines.
#[derive(Clone, Debug)]
pub struct BusSettings {
    /// This node's name on the bus: random, and new at each start.
    pub node: String,
    /// How much of the bus a node loads at its start: as much as it remembers.
    pub load_bytes_max: usize,
    /// How much may wait to be appended.
    pub queue: QueueLimits,
    /// What the bus takes; its engine sets them.
    pub bounds: Arc<BusBounds>,
    /// Delays between attempts to read.
    pub backoff: BackoffLimits,
}

/// The frame of an event of the bus.
fn event_frame(position: Position, event: &Event, scratch: &mut Vec<u8>) -> Frame {
    let id = position.id(event.id.as_ref());
    scratch.clear();
    encoder::write_event(scratch, id.as_str(), &Fields::from(event));
    Frame::from(&scratch[..])
}

/// The bus's threads. Dropping the handle stops them.
pub struct BusHandle {
    reader: SourceThread,
    appender: SourceThread,
    fetcher: SourceThread,
}

/// Starts a bus for these loops, with one engine for each thread. An engine that can't be reached is not an error. Each loop
/// has its access, in their order.
pub fn spawn(
    settings: BusSettings,
    engine: impl Fn() -> Box<dyn Engine>,
    copies: Copies,
    outlets: Vec<Outlet>,
    status: Arc<SourceStatus>,
) -> io::Result<(BusHandle, Vec<(BusPublisher, PageRequests)>)> {
    let settings = Arc::new(settings);
    let (publisher, jobs) = BusPublisher::new(Arc::clone(&settings), Arc::clone(&status), outlets[0].clone());
    let publishers: Vec<_> = outlets.iter().map(|outlet| publisher.for_loop(outlet.clone())).collect();
    let (page_requests, requests) = PageRequests::new(&outlets);
    let backoff = settings.backoff;
    let mut fetcher = Fetcher::new(engine(), requests, Arc::clone(&status), backoff);
    let mut reader = ReaderThread::new(Reader::new(engine(), settings, outlets, Arc::clone(&status)), backoff);
    let mut appender = Appender::new(engine(), jobs, Arc::clone(&status)).with_copies(copies);
    let lost = {
        let status = Arc::clone(&status);
        move |error| status.set_down(error)
    };
    let failed = move |error| status.set_error(error);
    let failed_to_fetch = failed.clone();
    let handle = BusHandle {
        reader: SourceThread::spawn("bus-read", lost, move |stop| reader.run(stop))?,
        appender: SourceThread::spawn("bus-append", failed, move |stop| appender.run(stop))?,
        fetcher: SourceThread::spawn("bus-fetch", failed_to_fetch, move |stop| fetcher.run(stop))?,
    };
    Ok((handle, publishers.into_iter().zip(page_requests).collect()))
}

impl Drop for BusHandle {
    fn drop(&mut self) {
        // Stop all before the drops of the fields wait, one after the other.
        self.reader.ask_to_stop();
        self.appender.ask_to_stop();
        self.fetcher.ask_to_stop();
    }
}
