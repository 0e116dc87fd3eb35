//! Cursors of sources, in the hash that describes the bus.

use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::{Content, EngineError, Receipt};

use super::{RedisStream, read_receipts, write_with_gap};

/// What the errors of Redis about a function say that it does not have.
const UNKNOWN_FUNCTION: &str = "Function not found";

impl CursorEngine for RedisStream {
    fn cursor(&mut self, source: &str) -> Result<Option<String>, EngineError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.settings.state_key()).arg(format!("cursor:{source}"));
        self.with_connection(|connection| command.query(connection))
    }

    fn append_from(
        &mut self,
        source: &str,
        from: Option<&str>,
        to: &str,
        contents: &[Content],
    ) -> Result<Option<Vec<Receipt>>, EngineError> {
        let mut call = self.settings.call("fanfare_feed");
        call.arg(self.settings.entries_max).arg(self.settings.id_memory.as_millis() as u64);
        call.arg(source).arg(from.unwrap_or_default()).arg(to);
        contents.iter().for_each(|content| write_with_gap(content, &mut call));
        let mut is_older = false;
        let ids: Result<Option<Vec<String>>, _> = self.with_connection(|connection| {
            let ids = call.query(connection);
            is_older =
                ids.as_ref().is_err_and(|error: &redis::RedisError| error.to_string().contains(UNKNOWN_FUNCTION));
            ids
        });
        if is_older {
            let address = &self.settings.address;
            return Err(EngineError(format!(
                "{address}: the functions of the bus are missing there, or older than this Fanfare: run fanfare bus install"
            )));
        }
        ids?.map(|ids| read_receipts(&ids, contents.len())).transpose()
    }
}
