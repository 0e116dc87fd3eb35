//! An event as an engine has it: anything may have written it, so nothing of it is checked yet.

use std::time::Duration;

use crate::event::{Event, EventId, EventType, Topic};
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::Content;

/// The fields of an entry that is to be an event.
pub(super) struct StoredEvent<'a> {
    pub(super) topic: Option<&'a str>,
    pub(super) data: &'a str,
    /// The publisher's own id.
    pub(super) id: Option<&'a str>,
    pub(super) event_type: Option<&'a str>,
    pub(super) retry: Option<Duration>,
}

impl StoredEvent<'_> {
    /// The event, if all nodes with these limits can deliver it.
    pub(super) fn check(&self, limits: &PublishLimits) -> Result<Event, String> {
        limits
            .check_data(self.data.as_bytes())
            .map_err(|bytes| format!("its data has {bytes} bytes: an event may have {}", limits.data_bytes_max))?;
        let topic = self.topic.filter(|name| name.len() <= limits.topic_bytes_max);
        let topic = topic.ok_or("it has no topic, or a longer one than allowed")?;
        Ok(Event {
            topic: Topic::new(topic).map_err(|error| format!("its topic {error}"))?,
            id: self.id.map(EventId::of_publisher).transpose().map_err(|error| format!("its id {error}"))?,
            event_type: self.event_type.map(EventType::new).transpose().map_err(|error| format!("its type {error}"))?,
            data: self.data.to_owned(),
            retry: self.retry,
        })
    }
}

/// The content of an entry whose reading failed: a gap of its topic, if that can be read.
pub(super) fn refused(topic: Option<&str>, limits: &PublishLimits, reason: String) -> Content {
    let topic = topic.filter(|name| name.len() <= limits.topic_bytes_max);
    Content::Refused { topic: topic.and_then(|name| Topic::new(name).ok()), reason }
}
