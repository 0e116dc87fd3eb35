//! Where the events of a session go: into this node's own order, or through the one node that leads onto a durable bus.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use crate::event::{Event, Naming, Topic};
use crate::protocol::encoder::Fields;
use crate::redis_address::replies::Reply;
use crate::sources::channel::Control;
use crate::sources::sequencer::{Batch, Sequencer};

/// Takes the events of a session, in order. What was added is handed over with [`Sink::flush`].
pub(super) trait Sink: Send {
    /// A session begins: all its subscriptions are confirmed. An error ends it.
    fn begin(&mut self, session: NonZeroU64, now: Instant) -> Result<(), String>;

    /// Whether a reply of the session concerns this node.
    fn admits(&mut self, reply: &Reply<'_>) -> bool;

    /// Adds an event that has only data.
    fn add_data(&mut self, topic: Topic, data: &str);

    /// Adds an event whose fields a publisher set.
    fn add_event(&mut self, event: &Event);

    /// Adds an event that another node accepted, perhaps under an id that is valid on all nodes.
    fn add_passed_on(&mut self, event: &Event) {
        self.add_event(event);
    }

    /// Adds that a message of a topic was refused because it can't be an event.
    fn announce_refused(&mut self, topic: &Topic);

    /// Adds that events of every topic may be missing.
    fn announce_loss(&mut self);

    /// Passes on an operator's request.
    fn control(&self, control: &Control);

    /// Hands over what was added.
    fn flush(&mut self);

    /// Does what is due, many times in a second. An error ends the session.
    fn tend(&mut self, now: Instant) -> Result<(), String>;

    /// Begins to leave the session to another node. True while messages of this session are still this node's own.
    fn is_leaving(&mut self) -> bool;

    /// The session is over; `cause`: why, unless this node stops.
    fn end(&mut self, cause: Option<&str>);
}

/// This node's own order. Announcements follow what was added before them.
pub(super) struct OwnOrder {
    sequencer: Arc<Sequencer>,
    batch: Batch,
}

impl OwnOrder {
    pub(super) fn new(sequencer: Arc<Sequencer>) -> OwnOrder {
        OwnOrder { sequencer, batch: Batch::default() }
    }
}

impl Sink for OwnOrder {
    fn begin(&mut self, session: NonZeroU64, _: Instant) -> Result<(), String> {
        // What the session before left unfinished does not concern this one.
        self.batch = Batch::default();
        if session > NonZeroU64::MIN {
            self.announce_loss();
        }
        Ok(())
    }

    fn admits(&mut self, _: &Reply<'_>) -> bool {
        true
    }

    fn add_data(&mut self, topic: Topic, data: &str) {
        self.sequencer.add(&mut self.batch, topic, Naming::Here(None), &Fields::data(data));
    }

    fn add_event(&mut self, event: &Event) {
        self.sequencer.add_event(&mut self.batch, event);
    }

    fn add_passed_on(&mut self, event: &Event) {
        self.sequencer.add_passed_on(&mut self.batch, event);
    }

    fn announce_refused(&mut self, topic: &Topic) {
        self.flush();
        self.sequencer.announce_refused(topic);
    }

    fn announce_loss(&mut self) {
        self.flush();
        self.sequencer.announce_loss();
    }

    fn control(&self, control: &Control) {
        self.sequencer.control(control);
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            // If a channel is full, the sequencer announces the gap.
            self.sequencer.publish_all(&mut self.batch);
        }
    }

    fn tend(&mut self, _: Instant) -> Result<(), String> {
        Ok(())
    }

    fn is_leaving(&mut self) -> bool {
        false
    }

    fn end(&mut self, _: Option<&str>) {}
}
