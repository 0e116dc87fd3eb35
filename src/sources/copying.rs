//! Copies: what clients publish over HTTP also goes to readers that are not Fanfare. A copy is due once the event is
//! accepted; it never delays or refuses the publish.

use std::fmt;
use std::sync::Arc;

use crate::event::{Event, EventId, Topic};
use crate::protocol::disconnect::Disconnect;
use crate::sources::channel::{Accepted, PassedOn, Publish, PublishRefusal, Ticket};

/// Takes copies of accepted events.
pub trait TakeCopies: Send + Sync {
    /// Whether events of this topic are copied.
    fn wants(&self, topic: &Topic) -> bool;

    /// Takes a copy of an event that was accepted under this id. Never blocks; what it has no room for, it counts.
    fn take(&self, event: Event, id: &EventId);
}

/// Where copies go, if they go anywhere.
pub type Copies = Option<Arc<dyn TakeCopies>>;

/// The copies that are due when an answer accepts their events, which have their ids.
pub(super) struct DueCopies {
    taker: Arc<dyn TakeCopies>,
    events: Vec<Event>,
}

impl DueCopies {
    /// Of those of these events that are copied.
    pub(super) fn of(events: &[Event], copies: &Copies) -> Option<DueCopies> {
        let taker = copies.as_ref()?;
        let events: Vec<_> = events.iter().filter(|event| taker.wants(&event.topic)).cloned().collect();
        (!events.is_empty()).then(|| DueCopies { taker: Arc::clone(taker), events })
    }

    /// The events are accepted.
    pub(super) fn take(self) {
        for event in self.events {
            if let Some(id) = event.id.clone() {
                self.taker.take(event, &id);
            }
        }
    }
}

/// A publisher that answers at once, and whose events are copied.
pub struct CopyingPublisher {
    publisher: Arc<dyn Publish + Send + Sync>,
    copies: Arc<dyn TakeCopies>,
}

impl CopyingPublisher {
    /// Copies what this publisher accepts.
    pub fn new(publisher: Arc<dyn Publish + Send + Sync>, copies: Arc<dyn TakeCopies>) -> CopyingPublisher {
        CopyingPublisher { publisher, copies }
    }
}

impl Publish for CopyingPublisher {
    fn publish(&self, events: Vec<Event>, ticket: Ticket) -> Result<Accepted, PublishRefusal> {
        let wanted = |event: &Event| self.copies.wants(&event.topic).then(|| event.clone());
        let copies: Vec<_> = events.iter().map(wanted).collect();
        let accepted = self.publisher.publish(events, ticket)?;
        if let Accepted::Now(ids) = &accepted {
            let copies = copies.into_iter().zip(ids);
            copies.for_each(|(event, id)| event.into_iter().for_each(|event| self.copies.take(event, id)));
        }
        Ok(accepted)
    }

    fn fault(&self) -> Option<String> {
        self.publisher.fault()
    }

    fn pass_on(&self, disconnect: &Disconnect, ticket: Ticket) -> Result<PassedOn, PublishRefusal> {
        self.publisher.pass_on(disconnect, ticket)
    }
}

impl fmt::Debug for dyn TakeCopies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakeCopies")
    }
}
