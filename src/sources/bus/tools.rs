//! What `fanfare bus` does with any bus, and what it shows.

use std::fmt;

use crate::event::timeline::Position;
use crate::sources::bus::EngineError;
use crate::sources::bus::findings::Finding;

/// Installs and examines a bus.
pub trait BusTools {
    /// Installs or replaces the functions. Later ones are only replaced if it `is_forced`.
    fn install(&mut self, is_forced: bool) -> Result<(), EngineError>;

    /// Raises the bytes that topics and events of the bus may have.
    fn raise_bounds(&mut self, topic_bytes: Option<usize>, event_bytes: Option<usize>) -> Result<(), EngineError>;

    /// Lets appends notify nodes, or stops that; an error where an engine needs no notifications.
    fn set_notify(&mut self, is_on: bool) -> Result<(), EngineError>;

    /// What the bus holds.
    fn status(&mut self) -> Result<Status, EngineError>;

    /// Examines the engine and the bus. An error: it can't be reached.
    fn check(&mut self) -> Result<Vec<Finding>, EngineError>;
}

/// What a bus holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The newest entry.
    pub last: Position,
    /// The oldest entry; `None`: there is none.
    pub first: Option<Position>,
    /// How many entries there are.
    pub entries: u64,
    /// The format of the entries.
    pub format: u32,
    /// The bytes that a topic and an event may have; `None`: no node has set them.
    pub bounds: Option<(u64, u64)>,
    /// Why publishing is refused or waits at present, if it does.
    pub held: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { last, first, entries, format, bounds, held } = self;
        let first = first.map_or("-".to_owned(), |first| first.to_string());
        let bounds = bounds.map_or("set by the first node".to_owned(), |(topic, event)| {
            format!("topics of {topic} bytes, events of {event} bytes")
        });
        let held = held.as_ref().map_or(String::new(), |held| format!("\nheld      {held}"));
        write!(
            f,
            "position  {last}\nfirst     {first}\nentries   {entries}\nformat    {format}\nbounds    {bounds}{held}"
        )
    }
}
