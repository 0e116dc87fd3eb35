//! Reads the facts of which `rules.rs` judges whether a PostgreSQL is fit for a bus.

use crate::sources::bus::EngineError;
use crate::sources::bus::postgres::connection::Connection;
use crate::sources::bus::postgres::rules::Server;
use crate::sources::bus::postgres::state::Facts;
use crate::sources::bus::postgres::{column, unexpected};

/// The settings that decide what a commit is worth, and what the server is.
const SETTINGS: [&str; 7] = [
    "server_version_num",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "server_encoding",
    "max_prepared_transactions",
];

/// The functions that a node calls and that this user may not call; NULL: there is no bus.
const DENIED: &str = "SELECT array_agg(p.oid::regprocedure::text ORDER BY 1) FILTER (
    WHERE NOT has_function_privilege(p.oid, 'EXECUTE') OR NOT has_schema_privilege(n.oid, 'USAGE')) AS denied, count(*)
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname = 'fanfare' AND p.proname IN ('append', 'append_from', 'delete_entries', 'delete_ids', 'holder', 'ingest', 'lead', 'notifies',
    'open', 'read', 'read_cursor', 'resign', 'status')";

/// The standbys that stream, and the oldest transaction of this database, which may be a prepared one, in seconds.
const ACTIVITY: &str = "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_replication),
  (SELECT max(extract(epoch FROM clock_timestamp() - began))::double precision FROM (
    SELECT xact_start FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL
    UNION ALL SELECT prepared FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
  ) transactions (began))";

/// Reads all facts.
pub(super) fn read(connection: &Connection) -> Result<Server, EngineError> {
    let mut server = Server::default();
    for name in SETTINGS {
        let rows = connection.query("SELECT current_setting($1)", &[&name])?;
        let value: String = column(rows.first().ok_or_else(|| unexpected("a setting"))?, 0)?;
        server.settings.insert(name, value);
    }
    let rows = connection.query("SELECT pg_is_in_recovery()", &[])?;
    server.is_standby = column(rows.first().ok_or_else(|| unexpected("its role"))?, 0)?;
    let rows = connection.query(ACTIVITY, &[])?;
    let row = rows.first().ok_or_else(|| unexpected("its activity"))?;
    (server.standbys, server.oldest_seconds) = (column(row, 0)?, column(row, 1)?);
    let rows = connection.query(DENIED, &[])?;
    let row = rows.first().ok_or_else(|| unexpected("rights"))?;
    let denied: Option<Vec<String>> = column(row, 0)?;
    server.denied = (column::<i64>(row, 1)? > 0).then(|| denied.unwrap_or_default());
    if server.denied.as_ref().is_some_and(Vec::is_empty) && !server.is_standby {
        match Facts::read(connection) {
            Ok(facts) => server.bus = Some(Ok(facts)),
            Err(error) => server.bus = Some(Err(error.0)),
        }
    }
    Ok(server)
}
