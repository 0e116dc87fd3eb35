//! Cursors of sources, in a table beside the bus.

use tokio_postgres::types::ToSql;

use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::{Content, EngineError, Receipt};

use super::{NewEntries, PostgresBus, column, read_receipts, unexpected};

const CURSOR: &str = "SELECT fanfare.read_cursor($1)";
const APPEND_FROM: &str = "SELECT is_moved, at_epoch, at_offset, is_duplicate \
    FROM fanfare.append_from($1, $2, $3, $4, $5, $6, $7, $8, $9)";

impl CursorEngine for PostgresBus {
    fn cursor(&mut self, source: &str) -> Result<Option<String>, EngineError> {
        self.with_session(|session| {
            let rows = session.connection.query(CURSOR, &[&source])?;
            column(rows.first().ok_or_else(|| unexpected("a cursor"))?, 0)
        })
    }

    fn append_from(
        &mut self,
        source: &str,
        from: Option<&str>,
        to: &str,
        contents: &[Content],
    ) -> Result<Option<Vec<Receipt>>, EngineError> {
        let new = NewEntries::of(contents);
        self.with_session(|session| {
            let statement = match session.append_from.take() {
                Some(statement) => statement,
                None => session.connection.prepare(APPEND_FROM)?,
            };
            let cursors: [&(dyn ToSql + Sync); 3] = [&source, &from, &to];
            let parameters: Vec<_> = cursors.into_iter().chain(new.parameters()).collect();
            let rows = session.connection.run(&statement, &parameters)?;
            session.append_from = Some(statement);
            let (first, appended) = rows.split_first().ok_or_else(|| unexpected("a cursor"))?;
            match column(first, 0)? {
                true => read_receipts(appended, 1, contents.len()).map(Some),
                false => Ok(None),
            }
        })
    }
}
