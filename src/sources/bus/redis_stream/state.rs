//! What is stored beside the bus: the version of the functions, the format of the entries, and their bounds.

use redis::Value;

use crate::event::timeline::Position;
use crate::sources::bus::EngineError;
use crate::sources::bus::findings::Finding;
use crate::sources::bus::redis_stream::{FORMAT, FUNCTIONS, RedisStream, unexpected};
use crate::sources::bus::tools::{BusTools, Status};

/// The version of the functions of this Fanfare.
pub(super) fn own_version() -> u32 {
    let version = FUNCTIONS.lines().find_map(|line| line.strip_prefix("local LIBRARY = ")?.parse().ok());
    version.expect("the functions have a version")
}

impl BusTools for RedisStream {
    fn install(&mut self, is_forced: bool) -> Result<(), EngineError> {
        let own = own_version();
        match self.functions_version()? {
            Some(there) if there > own && !is_forced => Err(EngineError(format!(
                "{}: the functions there have version {there}, which a later Fanfare has installed; this one has {own}: \
                 use the later one, or --force",
                self.settings.address
            ))),
            _ => self.with_connection(|connection| {
                redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(FUNCTIONS).query(connection)
            }),
        }
    }

    fn raise_bounds(&mut self, topic_bytes: Option<usize>, event_bytes: Option<usize>) -> Result<(), EngineError> {
        let text = |bytes: Option<usize>| bytes.map_or(String::new(), |bytes| bytes.to_string());
        let mut call = self.settings.call("fanfare_bounds");
        call.arg(text(topic_bytes)).arg(text(event_bytes));
        self.with_connection(|connection| call.query(connection))
    }

    fn set_notify(&mut self, _: bool) -> Result<(), EngineError> {
        Err(EngineError("Redis wakes the nodes by itself: --notify is for a bus in PostgreSQL".to_owned()))
    }

    fn status(&mut self) -> Result<Status, EngineError> {
        let (info, last) = self.read(redis::cmd("XINFO").arg("STREAM").arg(self.settings.stream_key()))?;
        let field = |name: &str| match &info {
            Value::Array(parts) => parts.chunks_exact(2).find_map(|pair| match pair {
                [Value::BulkString(key), value] if key == name.as_bytes() => Some(value.clone()),
                _ => None,
            }),
            _ => None,
        };
        let first = match field("first-entry") {
            Some(Value::Array(entry)) => match entry.first() {
                Some(Value::BulkString(id)) => std::str::from_utf8(id).ok().and_then(Position::parse),
                _ => None,
            },
            _ => None,
        };
        let entries = field("length").and_then(|length| redis::from_redis_value(length).ok());
        let entries = entries.ok_or_else(|| unexpected("a stream"))?;
        let mut command = redis::cmd("HMGET");
        command.arg(self.settings.state_key()).arg("format").arg("topic_bytes").arg("event_bytes").arg("held_at");
        type State = (Option<u32>, Option<u64>, Option<u64>, Option<u64>);
        let (format, topic, event, held_at): State = self.with_connection(|connection| command.query(connection))?;
        Ok(Status {
            last,
            first,
            entries,
            format: format.unwrap_or(FORMAT),
            bounds: topic.zip(event),
            held: held_at.map(|_| "publishing is refused: fanfare bus hold runs".to_owned()),
        })
    }

    fn check(&mut self) -> Result<Vec<Finding>, EngineError> {
        let entries_max = self.settings.entries_max;
        Ok(self.facts()?.findings(entries_max))
    }
}

impl RedisStream {
    /// The version of the functions that are there; 0 if they have none.
    pub fn functions_version(&mut self) -> Result<Option<u32>, EngineError> {
        let version = self.with_connection(|connection| {
            match redis::cmd("FCALL").arg("fanfare_version").arg(0).query::<(u32, u32)>(connection) {
                Err(error) if error.to_string().contains("Function not found") => Ok(None),
                version => version.map(Some),
            }
        })?;
        if let Some((version, _)) = version {
            return Ok(Some(version));
        }
        // The first ones had no version.
        match self.status() {
            Err(error) if error.0.contains("not installed") => Ok(None),
            _ => Ok(Some(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_append_the_format_that_is_read() {
        assert!(FUNCTIONS.contains(&format!("local FORMAT = {FORMAT}\n")));
        assert!(own_version() >= 1);
    }
}
