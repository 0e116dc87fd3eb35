//! A bus in a stream of Redis 7: the engine's order is the stream's, and all appends go through one function in Redis.
//!
//! The function (`functions.lua`) makes ids dense and begins an epoch with a fork. A page is one transaction that reads
//! entries and runs the function's check, so entries and check are of the same time.

mod check;
mod cursor;
mod hold;
mod lead;
mod rules;
mod state;

use std::sync::Arc;
use std::time::Duration;

use redis::{Connection, RedisError, RedisResult, Value};

use crate::event::timeline::Position;
use crate::event::{Event, EventId, EventType};
use crate::protocol::disconnect::Disconnect;
use crate::protocol::publish::PublishLimits;
use crate::redis_address::RedisAddress;
use crate::sources::bus::stored_event::{StoredEvent, refused};
use crate::sources::bus::stored_gap;
use crate::sources::bus::{BusBounds, Content, Engine, EngineError, Entry, Page, Receipt};

pub use hold::{HOLD_WAIT_MAX, Held, Opened};
pub use lead::{RedisLead, marker_channel};

/// The library of functions; `fanfare bus install` loads it.
pub const FUNCTIONS: &str = include_str!("functions.lua");
/// The newest format of entries that this version reads; it also reads the one before.
const FORMAT: u32 = 1;
/// What to do about functions of a version that gives other answers.
const OLDER_FUNCTIONS: &str = "the functions there are of another version: run fanfare bus install of this version";
/// How long to wait for a connection, and for a reply.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where the bus is.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The address of Redis.
    pub address: RedisAddress,
    /// The bus's name: what its keys begin with.
    pub name: String,
    /// Entries that the stream keeps, about.
    pub entries_max: u64,
    /// How long a publisher's id is remembered, to recognize a repeated publish.
    pub id_memory: Duration,
    /// How large a topic's name and an event may be on this node; zeros where it is no node.
    pub limits: PublishLimits,
    /// How large they may be on the bus.
    pub bounds: Arc<BusBounds>,
}

/// One connection to the bus.
pub struct RedisStream {
    settings: StreamSettings,
    connection: Option<Connection>,
}

impl StreamSettings {
    fn stream_key(&self) -> String {
        format!("{{{}}}:events", self.name)
    }

    fn state_key(&self) -> String {
        format!("{{{}}}:bus", self.name)
    }

    /// A call of one of the functions, without its own arguments.
    fn call(&self, function: &str) -> redis::Cmd {
        let mut call = redis::cmd("FCALL");
        call.arg(function).arg(2).arg(self.stream_key()).arg(self.state_key());
        call
    }
}

impl RedisStream {
    /// Connects with its first call.
    pub fn new(settings: StreamSettings) -> RedisStream {
        RedisStream { settings, connection: None }
    }

    /// Runs commands; a failure ends the connection, because its next reply could belong to an older command.
    fn with_connection<T>(&mut self, run: impl FnOnce(&mut Connection) -> RedisResult<T>) -> Result<T, EngineError> {
        if self.connection.is_none() {
            let mut connection = self.connect()?;
            check_eviction(&self.settings.address, &mut connection)?;
            self.connection = Some(connection);
        }
        self.with_plain_connection(run)
    }

    fn connect(&self) -> Result<Connection, EngineError> {
        let address = &self.settings.address;
        let connection = address.connect_for(&self.settings.stream_key(), TIMEOUT, TIMEOUT);
        connection.map_err(|error| EngineError(explain(address, &error)))
    }

    /// The same for a Redis that may not be fit for a bus.
    fn with_plain_connection<T>(
        &mut self,
        run: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, EngineError> {
        let mut connection = self.connection.take().map_or_else(|| self.connect(), Ok)?;
        let explain = |error: RedisError| EngineError(explain(&self.settings.address, &error));
        let outcome = run(&mut connection).map_err(explain)?;
        self.connection = Some(connection);
        Ok(outcome)
    }

    /// Reads the stream with one command, and the last entry's id in the same transaction. The check comes first, so that
    /// a fork that it appends is read, too.
    fn read(&mut self, command: &redis::Cmd) -> Result<(Value, Position), EngineError> {
        let PublishLimits { topic_bytes_max, data_bytes_max, .. } = self.settings.limits;
        let mut check = self.settings.call("fanfare_check");
        check.arg(FORMAT).arg(topic_bytes_max).arg(data_bytes_max);
        let (check, reply): (Value, Value) = self.with_connection(|connection| {
            let mut transaction = redis::pipe();
            transaction.atomic().add_command(check).add_command(command.clone());
            transaction.query(connection)
        })?;
        let (last, topic_bytes, data_bytes): (String, usize, usize) = redis::from_redis_value(check)
            .map_err(|_| EngineError(format!("{}: {OLDER_FUNCTIONS}", self.settings.address)))?;
        self.settings.bounds.set(topic_bytes, data_bytes);
        let last = Position::parse(&last).ok_or_else(|| unexpected("the last entry's id"))?;
        Ok((reply, last))
    }

    /// The bounds of the bus, by which all its nodes read entries: an entry that is larger is a gap on all of them.
    fn limits(&self) -> PublishLimits {
        self.settings.bounds.get()
    }

    /// Only a wake-up: the next page is what counts.
    fn wait_for_entry(&mut self, after: Position, wait: Duration) -> Result<(), EngineError> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        command.arg("STREAMS").arg(self.settings.stream_key()).arg(after.to_string());
        self.with_connection(|connection| command.query::<Value>(connection)).map(drop)
    }
}

impl Engine for RedisStream {
    fn append(&mut self, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        let mut call = self.settings.call("fanfare_append");
        call.arg(self.settings.entries_max).arg(self.settings.id_memory.as_millis() as u64);
        contents.iter().for_each(|content| write(content, &mut call));
        let ids: Vec<String> = self.with_connection(|connection| call.query(connection))?;
        read_receipts(&ids, contents.len())
    }

    fn read_after(&mut self, after: Position, entries_max: usize, wait: Duration) -> Result<Page, EngineError> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(entries_max).arg("STREAMS").arg(self.settings.stream_key()).arg(after.to_string());
        let (streams, last) = self.read(&command)?;
        let entries = entries_of_first(streams, &self.limits())?;
        if entries.is_empty() && last == after && !wait.is_zero() {
            self.wait_for_entry(after, wait)?;
        }
        Ok(Page { entries, last })
    }

    fn read_before(&mut self, before: Option<Position>, entries_max: usize) -> Result<Page, EngineError> {
        let end = before.map_or("+".to_owned(), |before| format!("({before}"));
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.settings.stream_key()).arg(end).arg("-").arg("COUNT").arg(entries_max);
        let (entries, last) = self.read(&command)?;
        let mut entries = read_entries(entries, &self.limits())?;
        entries.reverse();
        Ok(Page { entries, last })
    }
}

/// Refuses a Redis that may evict the bus like any other key. Where CONFIG is forbidden, nothing can be checked.
fn check_eviction(address: &RedisAddress, connection: &mut Connection) -> Result<(), EngineError> {
    let policy = redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query::<Vec<String>>(connection);
    match policy.ok().and_then(|pair| pair.into_iter().nth(1)) {
        Some(policy) if policy.starts_with("allkeys") => Err(EngineError(format!(
            "{address}: with maxmemory-policy {policy}, Redis may evict the bus: set noeviction or a volatile policy"
        ))),
        _ => Ok(()),
    }
}

/// Adds the seven arguments of one entry that may be a gap.
fn write_with_gap(content: &Content, call: &mut redis::Cmd) {
    if let Content::Gap { reason, topics } = content {
        call.arg("").arg(stored_gap::write_topics(topics)).arg(&["", "", "", "", reason.as_str()]);
    } else {
        write(content, call);
        call.arg("");
    }
}

/// Adds the arguments of one entry.
fn write(content: &Content, call: &mut redis::Cmd) {
    let retry = |event: &Event| event.retry.map_or(String::new(), |retry| retry.as_millis().to_string());
    match content {
        Content::Event(event) => call
            .arg(event.topic.as_str())
            .arg(&event.data)
            .arg(event.id.as_ref().map_or("", EventId::as_str))
            .arg(event.event_type.as_ref().map_or("", EventType::as_str))
            .arg(retry(event))
            .arg(""),
        Content::Disconnect(disconnect, node) => {
            call.arg("").arg(disconnect.passed()).arg("").arg("").arg("").arg(node)
        }
        Content::Fork { .. } | Content::Gap { .. } | Content::Refused { .. } | Content::Nothing => {
            unreachable!("nodes append no such entries")
        }
    };
}

// ---- what is read ----

/// The receipts for this number of appended contents.
fn read_receipts(ids: &[String], count: usize) -> Result<Vec<Receipt>, EngineError> {
    let receipts = ids.iter().map(|id| {
        let (is_duplicate, id) = id.strip_prefix('=').map_or((false, &id[..]), |id| (true, id));
        Some(Receipt { position: Position::parse(id)?, is_duplicate })
    });
    let receipts: Option<Vec<_>> = receipts.collect();
    receipts.filter(|receipts| receipts.len() == count).ok_or_else(|| unexpected("the ids of new entries"))
}

/// The entries of the only stream in the reply to XREAD, which is nil if there are none.
fn entries_of_first(streams: Value, limits: &PublishLimits) -> Result<Vec<Entry>, EngineError> {
    match streams {
        Value::Nil => Ok(Vec::new()),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut stream)) if stream.len() == 2 => {
                read_entries(stream.pop().unwrap_or(Value::Nil), limits)
            }
            _ => Err(unexpected("a stream")),
        },
        _ => Err(unexpected("streams")),
    }
}

fn read_entries(entries: Value, limits: &PublishLimits) -> Result<Vec<Entry>, EngineError> {
    let Value::Array(entries) = entries else { return Err(unexpected("entries")) };
    entries.into_iter().map(|entry| read_entry(entry, limits).ok_or_else(|| unexpected("an entry"))).collect()
}

fn read_entry(entry: Value, limits: &PublishLimits) -> Option<Entry> {
    let Value::Array(parts) = entry else { return None };
    let [Value::BulkString(id), Value::Array(fields)] = &parts[..] else { return None };
    let position = Position::parse(std::str::from_utf8(id).ok()?)?;
    Some(Entry { position, content: read_content(fields, limits) })
}

fn read_content(fields: &[Value], limits: &PublishLimits) -> Content {
    let field = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [Value::BulkString(key), Value::BulkString(value)] if key == name.as_bytes() => Some(&value[..]),
            _ => None,
        })
    };
    if let Some(previous) = field("fork") {
        let previous = std::str::from_utf8(previous).ok().and_then(Position::parse);
        return Content::Fork { follows: previous.filter(|_| field("lossless").is_some()) };
    }
    let text = |name: &str| match field(name).map(std::str::from_utf8) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(format!("its field {name} is not UTF-8")),
    };
    let topic = text("t").ok().flatten();
    let read = || -> Result<Content, String> {
        let data = text("d")?.ok_or("it has no field d")?;
        if let Some(reason) = text("gap")? {
            return stored_gap::read(reason, data);
        }
        if let Some(node) = text("n")? {
            let disconnect = Disconnect::parse_passed(data.as_bytes()).ok_or("it is no message that nodes exchange")?;
            return Ok(Content::Disconnect(disconnect.map_err(|error| error.to_string())?, node.to_owned()));
        }
        let retry = text("r")?.map(str::parse).transpose().map_err(|_| "its retry is no number")?;
        let event = StoredEvent {
            topic,
            data,
            id: text("i")?,
            event_type: text("e")?,
            retry: retry.map(Duration::from_millis),
        };
        event.check(limits).map(Content::Event)
    };
    read().unwrap_or_else(|reason| refused(topic, limits, reason))
}

fn unexpected(what: &str) -> EngineError {
    EngineError(format!("Redis answered something unexpected instead of {what}"))
}

/// An error's text, with what to do about it.
fn explain(address: &RedisAddress, error: &RedisError) -> String {
    let text = address.failure(error);
    if text.contains("Function not found") {
        return format!("{address}: the bus is not installed there; run fanfare bus install");
    }
    // The words of the functions themselves, without those of a transaction around them.
    let of_functions = |code: &str| matches!(code, "HELD" | "FORMAT" | "BOUNDS" | "TOOLARGE");
    let errors = error.clone().into_server_errors().unwrap_or_default();
    if let Some(detail) = errors.iter().find(|(_, error)| of_functions(error.code())).and_then(|(_, e)| e.details()) {
        return format!("{address}: {detail}");
    }
    if error.code() == Some("READONLY") {
        return format!("{address}: it is a replica: use the address of the primary");
    }
    text
}
