//! What is stored beside the bus: the version of the functions, the format of the entries, and their bounds.

use crate::event::timeline::Position;
use crate::sources::bus::EngineError;
use crate::sources::bus::findings::Finding;
use crate::sources::bus::postgres::connection::Connection;
use crate::sources::bus::postgres::listener::notifies;
use crate::sources::bus::postgres::{OPEN, PostgresBus, SCHEMA, check, column, open, position, unexpected};
use crate::sources::bus::tools::{BusTools, Status};

/// Lets a script replace functions of a later version.
const FORCE: &str = "SET fanfare.force = 'on'";

/// The version of the functions of this Fanfare.
pub(super) fn own_version() -> u32 {
    let version = |line: &str| line.strip_prefix("SET LOCAL fanfare.library = '")?.strip_suffix("';")?.parse().ok();
    SCHEMA.lines().find_map(version).expect("the functions have a version")
}

/// A transaction that holds the bus: it has published and has not ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Holder {
    /// The process, or the name of the prepared transaction.
    pub(super) name: String,
    pub(super) is_prepared: bool,
    /// Since its beginning, as far as this user may know.
    pub(super) seconds: Option<f64>,
    /// What it does, and the application.
    pub(super) activity: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.seconds.map_or("an unknown time".to_owned(), |seconds| format!("{seconds:.1} s"));
        match self.is_prepared {
            true => write!(f, "by the prepared transaction {:?}, for {seconds}", self.name),
            false => write!(f, "by the transaction of process {}, for {seconds}{}", self.name, self.activity),
        }
    }
}

impl BusTools for PostgresBus {
    fn install(&mut self, is_forced: bool) -> Result<(), EngineError> {
        let connection = Connection::open(&self.settings.address)?;
        if is_forced {
            connection.execute(FORCE)?;
        }
        connection.execute(SCHEMA)?;
        // The first epoch begins.
        open(&connection, OPEN, &self.settings).map(drop)
    }

    fn raise_bounds(&mut self, topic_bytes: Option<usize>, event_bytes: Option<usize>) -> Result<(), EngineError> {
        let bytes = |bytes: Option<usize>| bytes.map(|bytes| i32::try_from(bytes).unwrap_or(i32::MAX));
        let connection = Connection::open(&self.settings.address)?;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&bytes(topic_bytes), &bytes(event_bytes)];
        connection.query("SELECT fanfare.raise_bounds($1, $2)", &parameters).map(drop)
    }

    fn set_notify(&mut self, is_on: bool) -> Result<(), EngineError> {
        Connection::open(&self.settings.address)?.query("SELECT fanfare.set_notify($1)", &[&is_on]).map(drop)
    }

    fn status(&mut self) -> Result<Status, EngineError> {
        let connection = Connection::open(&self.settings.address)?;
        Ok(Facts::read(&connection)?.status)
    }

    fn check(&mut self) -> Result<Vec<Finding>, EngineError> {
        let connection = Connection::open(&self.settings.address)?;
        Ok(check::read(&connection)?.findings(self.settings.entries_max))
    }
}

/// What the bus itself says.
pub(super) struct Facts {
    pub(super) status: Status,
    pub(super) library: u32,
    /// What the table of entries takes on disk.
    pub(super) bytes: i64,
    pub(super) holder: Option<Holder>,
    /// Appends notify nodes.
    pub(super) notifies: bool,
}

impl Facts {
    pub(super) fn read(connection: &Connection) -> Result<Facts, EngineError> {
        let rows = connection.query("SELECT * FROM fanfare.status()", &[])?;
        let row = rows.first().ok_or_else(|| unexpected("what the bus holds"))?;
        let number = |index| column::<i64>(row, index);
        let optional = |index| Ok::<_, EngineError>(column::<Option<i32>>(row, index)?.map(|bytes| bytes as u64));
        let first = match column::<Option<i64>>(row, 5)? {
            Some(epoch) => Some(position(epoch, number(6)?)?),
            None => None,
        };
        let last = match column::<Option<i64>>(row, 4)? {
            Some(offset) => position(number(3)?, offset)?,
            None => Position::default(),
        };
        let holder = read_holder(connection)?;
        let status = Status {
            last,
            first,
            entries: number(7)?.max(0) as u64,
            format: column::<i32>(row, 1)? as u32,
            bounds: optional(8)?.zip(optional(9)?),
            held: holder.as_ref().map(|holder| format!("publishing waits: the bus is held {holder}")),
        };
        Ok(Facts {
            status,
            library: column::<i32>(row, 0)? as u32,
            bytes: number(10)?,
            holder,
            notifies: notifies(connection)?,
        })
    }
}

fn read_holder(connection: &Connection) -> Result<Option<Holder>, EngineError> {
    let rows = connection.query("SELECT * FROM fanfare.holder()", &[])?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (pid, prepared): (Option<i32>, Option<String>) = (column(row, 0)?, column(row, 1)?);
    let (state, application): (Option<String>, Option<String>) = (column(row, 3)?, column(row, 4)?);
    let application = application.filter(|name| !name.is_empty()).map(|name| format!("application {name:?}"));
    let activity = [state, application].into_iter().flatten().map(|word| format!(", {word}")).collect();
    Ok(Some(Holder {
        is_prepared: pid.is_none(),
        name: pid.map_or(prepared.unwrap_or_default(), |pid| pid.to_string()),
        seconds: column(row, 2)?,
        activity,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::bus::postgres::FORMAT;

    #[test]
    fn the_functions_append_the_format_that_is_read() {
        assert!(SCHEMA.contains(&format!("\nSET LOCAL fanfare.format = '{FORMAT}';\n")));
        assert!(own_version() >= 1);
    }
}
