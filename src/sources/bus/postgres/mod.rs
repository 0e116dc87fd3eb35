//! A bus in a table of PostgreSQL: the engine's order is the table's, and all appends go through one function there,
//! which applications call inside their own transactions.
//!
//! The functions (`schema.sql`) make offsets dense, and begin an epoch with a fork. A page is one statement that reads the
//! state of the bus and entries in one snapshot. A reader that follows the bus asks again at short intervals, or when it
//! is notified.

mod address;
mod check;
mod connection;
mod cursor;
mod lead;
mod listener;
mod rules;
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Row, Statement};

use crate::event::timeline::Position;
use crate::event::{Event, EventId, EventType};
use crate::protocol::disconnect::Disconnect;
use crate::protocol::publish::PublishLimits;
use crate::sources::bus::stored_event::{StoredEvent, refused};
use crate::sources::bus::stored_gap;
use crate::sources::bus::{BusBounds, Content, Engine, EngineError, Entry, Page, Receipt};
use crate::sources::throttle::LogThrottle;

use connection::Connection;
use listener::Listening;

pub use address::{AddressError, PostgresAddress};
pub use lead::PostgresLead;

/// What creates the tables and functions; `fanfare bus install` runs it.
pub const SCHEMA: &str = include_str!("schema.sql");
/// The newest format of entries that this version reads; it also reads the one before.
const FORMAT: u32 = 1;
/// How often a node that follows the bus asks for new entries, unless it is notified.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often a node deletes what is old, unless there is more.
const DELETE_INTERVAL: Duration = Duration::from_secs(1);
/// The most rows that are deleted in one transaction.
const DELETED_MAX: i64 = 2000;
/// What deletes rows. Each is a statement of its own: one that fails does not keep the other from its work.
const DELETE: [&str; 2] = ["SELECT fanfare.delete_entries($1)", "SELECT fanfare.delete_ids($1)"];
const READ: &str = "SELECT * FROM fanfare.read($1, $2, $3, $4)";
const APPEND: &str = "SELECT at_epoch, at_offset, is_duplicate FROM fanfare.append($1, $2, $3, $4, $5, $6)";
/// As a node of the bus.
const OPEN: &str = "SELECT topic_bytes, event_bytes FROM fanfare.open($1, $2, $3, $4, $5)";
/// For a feed, whatever the bounds are: what does not fit where it goes is refused there.
const OPEN_TO_FEED: &str = "SELECT o.topic_bytes, o.event_bytes FROM fanfare.status() s, \
    fanfare.open($1, greatest($2, s.topic_bytes), greatest($3, s.event_bytes), $4, $5) o";

/// Where the bus is.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// The address of PostgreSQL.
    pub address: PostgresAddress,
    /// Entries that the bus keeps, about.
    pub entries_max: u64,
    /// How long a publisher's id is remembered, to recognize a repeated publish.
    pub id_memory: Duration,
    /// How large a topic's name and an event may be on this node; zeros where it is no node.
    pub limits: PublishLimits,
    /// How large they may be on the bus.
    pub bounds: Arc<BusBounds>,
}

/// One connection to the bus.
pub struct PostgresBus {
    settings: PostgresSettings,
    /// The statement that opens the bus.
    open: &'static str,
    session: Option<Session>,
    delete_at: Option<Instant>,
    delete_log: LogThrottle,
}

/// A connection on which the bus is open.
struct Session {
    connection: Connection,
    read: Statement,
    append: Statement,
    /// Prepared when it is needed: functions of an older version may lack it.
    append_from: Option<Statement>,
    /// Likewise.
    ingest: Option<Statement>,
    listening: Listening,
    /// The bounds of the bus when it was opened.
    bounds: (i32, i32),
}

/// Entries, and whether the bus has to be opened before they count.
struct ReadPage {
    page: Page,
    is_current: bool,
}

impl PostgresBus {
    /// Connects with its first call.
    pub fn new(settings: PostgresSettings) -> PostgresBus {
        PostgresBus { settings, open: OPEN, session: None, delete_at: None, delete_log: LogThrottle::default() }
    }

    /// One that is read to feed another bus.
    pub fn to_feed(settings: PostgresSettings) -> PostgresBus {
        PostgresBus { open: OPEN_TO_FEED, ..PostgresBus::new(settings) }
    }

    /// Runs statements; a failure ends the connection, because its next answer could belong to an older statement. One that
    /// the server has ended is replaced first.
    fn with_session<T>(&mut self, run: impl FnOnce(&mut Session) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let open = self.session.take().filter(|session| session.connection.is_open());
        let mut session = open.map_or_else(|| self.connect(), Ok)?;
        let outcome = run(&mut session)?;
        self.session = Some(session);
        Ok(outcome)
    }

    fn connect(&self) -> Result<Session, EngineError> {
        let connection = Connection::open(&self.settings.address)?;
        let bounds = open(&connection, self.open, &self.settings)?;
        let (read, append) = (connection.prepare(READ)?, connection.prepare(APPEND)?);
        Ok(Session {
            connection,
            read,
            append,
            append_from: None,
            ingest: None,
            listening: Listening::default(),
            bounds,
        })
    }

    /// Reads a page, after a fork if one is due.
    fn read(&mut self, is_after: bool, from: Position, entries_max: usize) -> Result<Page, EngineError> {
        let (settings, statement) = (self.settings.clone(), self.open);
        self.with_session(|session| {
            let read = session.read(is_after, from, entries_max, &settings)?;
            if read.is_current {
                return Ok(read.page);
            }
            session.bounds = open(&session.connection, statement, &settings)?;
            let read = session.read(is_after, from, entries_max, &settings)?;
            match read.is_current {
                true => Ok(read.page),
                false => Err(EngineError(format!("{}: the bus changes while it is read", settings.address))),
            }
        })
    }

    /// Deletes a batch of old rows. True: there are more.
    fn delete(&mut self, statement: &str) -> Result<bool, EngineError> {
        self.with_session(|session| {
            let rows = session.connection.query(statement, &[&DELETED_MAX])?;
            column(rows.first().ok_or_else(|| unexpected("what was deleted"))?, 0)
        })
    }
}

impl Engine for PostgresBus {
    fn append(&mut self, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        let new = NewEntries::of(contents);
        self.with_session(|session| {
            let rows = session.connection.run(&session.append, &new.parameters())?;
            read_receipts(&rows, 0, contents.len())
        })
    }

    fn read_after(&mut self, after: Position, entries_max: usize, wait: Duration) -> Result<Page, EngineError> {
        let deadline = Instant::now() + wait;
        loop {
            if !wait.is_zero() {
                self.update_listening()?;
            }
            let page = self.read(true, after, entries_max)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !page.entries.is_empty() || page.last != after || left.is_zero() {
                return Ok(page);
            }
            self.wait_for_entry(left);
        }
    }

    fn read_before(&mut self, before: Option<Position>, entries_max: usize) -> Result<Page, EngineError> {
        let before = before.unwrap_or(Position { epoch: u64::MAX, offset: u64::MAX });
        self.read(false, before, entries_max)
    }

    fn tidy(&mut self) {
        let now = Instant::now();
        if self.delete_at.is_some_and(|at| now < at) {
            return;
        }
        let outcomes = DELETE.map(|statement| self.delete(statement));
        let has_more = outcomes.contains(&Ok(true));
        self.delete_at = (!has_more).then(|| now + DELETE_INTERVAL);
        match outcomes.into_iter().find_map(Result::err) {
            None => self.delete_log.reset(),
            Some(error) => {
                if let Some(swallowed) = self.delete_log.permit(now) {
                    tracing::warn!(%error, swallowed, "old entries of the bus can't be deleted");
                }
            }
        }
    }
}

impl Session {
    fn read(
        &self,
        is_after: bool,
        from: Position,
        entries_max: usize,
        settings: &PostgresSettings,
    ) -> Result<ReadPage, EngineError> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let entries_max = number(entries_max as u64);
        let rows =
            self.connection.run(&self.read, &[&is_after, &number(from.epoch), &number(from.offset), &entries_max])?;
        let state = rows.first().ok_or_else(|| unexpected("the state of the bus"))?;
        let bounds = (column::<Option<i32>>(state, 2)?.unwrap_or(0), column::<Option<i32>>(state, 3)?.unwrap_or(0));
        let is_of_format = (FORMAT - 1..=FORMAT).contains(&(column::<i32>(state, 1)? as u32));
        let is_current = column(state, 0)? && bounds == self.bounds && is_of_format;
        let last = match column(state, 5)? {
            Some(offset) => position(column(state, 4)?, offset)?,
            None => Position::default(),
        };
        let limits = settings.bounds.get();
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(epoch) = column(row, 6)? {
                let position = position(epoch, column(row, 7)?)?;
                entries.push(Entry { position, content: read_content(row, &limits) });
            }
        }
        Ok(ReadPage { page: Page { entries, last }, is_current })
    }
}

/// Opens the bus: it gets its first bounds from a node, and a fork if one is due. Returns its bounds.
fn open(connection: &Connection, statement: &str, settings: &PostgresSettings) -> Result<(i32, i32), EngineError> {
    let bytes = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    let (topic_bytes, data_bytes) = (bytes(settings.limits.topic_bytes_max), bytes(settings.limits.data_bytes_max));
    let entries_max = i64::try_from(settings.entries_max).unwrap_or(i64::MAX);
    let id_memory = i64::try_from(settings.id_memory.as_millis()).unwrap_or(i64::MAX);
    let parameters: [&(dyn ToSql + Sync); 5] = [&(FORMAT as i32), &topic_bytes, &data_bytes, &entries_max, &id_memory];
    let rows = connection.query(statement, &parameters)?;
    let row = rows.first().ok_or_else(|| unexpected("the bounds of the bus"))?;
    let (topic_bytes, data_bytes): (i32, i32) = (column(row, 0)?, column(row, 1)?);
    if topic_bytes > 0 {
        settings.bounds.set(topic_bytes as usize, data_bytes as usize);
    }
    Ok((topic_bytes, data_bytes))
}

// ---- what is written ----

/// The arguments of the function that appends: for each entry, an element of each.
#[derive(Default)]
struct NewEntries<'a> {
    topics: Vec<Option<&'a str>>,
    datas: Vec<Vec<u8>>,
    ids: Vec<Option<&'a str>>,
    event_types: Vec<Option<&'a str>>,
    retries: Vec<Option<i64>>,
    nodes: Vec<Option<&'a str>>,
}

impl<'a> NewEntries<'a> {
    fn of(contents: &'a [Content]) -> NewEntries<'a> {
        let mut new = NewEntries::default();
        contents.iter().for_each(|content| new.add(content));
        new
    }

    fn add(&mut self, content: &'a Content) {
        let (event, event_type, node, data) = match content {
            Content::Event(event) => {
                (Some(event), event.event_type.as_ref().map(EventType::as_str), None, event.data.clone().into_bytes())
            }
            Content::Disconnect(disconnect, node) => (None, None, Some(&node[..]), disconnect.passed().into()),
            Content::Gap { reason, topics } => {
                (None, Some(reason.as_str()), None, stored_gap::write_topics(topics).into())
            }
            Content::Fork { .. } | Content::Refused { .. } | Content::Nothing => {
                unreachable!("nodes append no such entries")
            }
        };
        let retry = |event: &Event| Some(i64::try_from(event.retry?.as_millis()).unwrap_or(i64::MAX));
        self.topics.push(event.map(|event| event.topic.as_str()));
        self.datas.push(data);
        self.ids.push(event.and_then(|event| event.id.as_ref()).map(EventId::as_str));
        self.event_types.push(event_type);
        self.retries.push(event.and_then(retry));
        self.nodes.push(node);
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.topics, &self.datas, &self.ids, &self.event_types, &self.retries, &self.nodes]
    }
}

// ---- what is read ----

/// The receipts for this number of appended contents, in three columns beginning with this one.
fn read_receipts(rows: &[Row], first: usize, count: usize) -> Result<Vec<Receipt>, EngineError> {
    if rows.len() != count {
        return Err(unexpected("the ids of new entries"));
    }
    let receipt = |row: &Row| {
        let position = position(column(row, first)?, column(row, first + 1)?)?;
        Ok(Receipt { position, is_duplicate: column(row, first + 2)? })
    };
    rows.iter().map(receipt).collect()
}

fn read_content(row: &Row, limits: &PublishLimits) -> Content {
    let text = |index: usize| column::<Option<&str>>(row, index).map_err(|error| error.0);
    let topic = text(9).ok().flatten();
    let read = || -> Result<Content, String> {
        let data: &[u8] = column(row, 10).map_err(|error| error.0)?;
        match text(8)?.unwrap_or_default() {
            "event" => {
                let retry: Option<i64> = column(row, 13).map_err(|error| error.0)?;
                let retry = retry.map(u64::try_from).transpose().map_err(|_| "its retry is negative")?;
                let event = StoredEvent {
                    topic,
                    data: std::str::from_utf8(data).map_err(|_| "its data is not UTF-8")?,
                    id: text(12)?,
                    event_type: text(11)?,
                    retry: retry.map(Duration::from_millis),
                };
                event.check(limits).map(Content::Event)
            }
            "fork" => Ok(Content::Fork { follows: None }),
            "gap" => stored_gap::read(text(11)?.unwrap_or_default(), &String::from_utf8_lossy(data)),
            "disconnect" => {
                let disconnect = Disconnect::parse_passed(data).ok_or("it is no message that nodes exchange")?;
                let disconnect = disconnect.map_err(|error| error.to_string())?;
                Ok(Content::Disconnect(disconnect, text(14)?.unwrap_or_default().to_owned()))
            }
            _ => Err("it is of an unknown kind".to_owned()),
        }
    };
    read().unwrap_or_else(|reason| refused(topic, limits, reason))
}

fn position(epoch: i64, offset: i64) -> Result<Position, EngineError> {
    let number = |number: i64| u64::try_from(number).map_err(|_| unexpected("a position"));
    Ok(Position { epoch: number(epoch)?, offset: number(offset)? })
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, EngineError> {
    row.try_get(index).map_err(|_| unexpected("a column"))
}

fn unexpected(what: &str) -> EngineError {
    EngineError(format!("PostgreSQL answered something unexpected instead of {what}"))
}
