//! One connection to PostgreSQL, used by one thread that waits for each answer, for a bounded time.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Error, Row, Statement};

use crate::sources::bus::EngineError;
use crate::sources::bus::postgres::PostgresAddress;
use crate::sources::bus::postgres::address::{CONNECT_TIMEOUT, text_of};

/// How long to wait for an answer: longer than PostgreSQL itself works on it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What all connections of Fanfare begin with. A statement that waits for a lock needs the newest data after it, and no
/// statement is worth being compiled.
const SESSION: &str = "SET jit = off; SET statement_timeout = '3s'; SET lock_timeout = '2s'; SET client_min_messages = warning; \
    SET default_transaction_isolation = 'read committed'";

/// An open connection, which makes progress only while its owner waits for it.
pub(super) struct Connection {
    client: Client,
    runtime: Runtime,
    /// Set by a notification, and by the end of the connection.
    woken: Arc<Notify>,
    address: PostgresAddress,
}

impl Connection {
    pub(super) fn open(address: &PostgresAddress) -> Result<Connection, EngineError> {
        let failed = |error: &dyn std::fmt::Display| EngineError(format!("{address}: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        let timeout = ANSWER_TIMEOUT + address.addresses_max() * CONNECT_TIMEOUT;
        let woken = Arc::<Notify>::default();
        let connected = runtime.block_on(within(timeout, async {
            let (client, connection) = address.config().connect(address.tls()).await?;
            tokio::spawn(drive(connection, Arc::clone(&woken)));
            client.batch_execute(SESSION).await?;
            Ok(client)
        }));
        let client = connected.map_err(|error| explain(address, error))?;
        Ok(Connection { client, runtime, woken, address: address.clone() })
    }

    /// False once the server has ended it, which is noticed only while the connection makes progress.
    pub(super) fn is_open(&self) -> bool {
        self.runtime.block_on(async {
            // The first lets the runtime look at the socket, the second lets the connection read from it.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        });
        !self.client.is_closed()
    }

    /// Runs one statement.
    pub(super) fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, EngineError> {
        self.wait_for(async { self.client.query(sql, parameters).await })
    }

    /// Prepares a statement that is run often.
    pub(super) fn prepare(&self, sql: &str) -> Result<Statement, EngineError> {
        self.wait_for(self.client.prepare(sql))
    }

    /// Runs a prepared statement.
    pub(super) fn run(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, EngineError> {
        self.wait_for(async { self.client.query(statement, parameters).await })
    }

    /// Runs a script of several statements.
    pub(super) fn execute(&self, script: &str) -> Result<(), EngineError> {
        self.wait_for(self.client.batch_execute(script))
    }

    /// Waits until a notification has come or the connection has ended, at most so long. False: nothing happened.
    pub(super) fn wait_for_notification(&self, wait_max: Duration) -> bool {
        self.runtime.block_on(async { tokio::time::timeout(wait_max, self.woken.notified()).await.is_ok() })
    }

    fn wait_for<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, EngineError> {
        self.runtime.block_on(within(ANSWER_TIMEOUT, answer)).map_err(|error| explain(&self.address, error))
    }
}

/// Makes a connection's progress, until it ends with an error that the client's next call reports.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, woken: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(_) = message {
            woken.notify_one();
        }
    }
    drop(connection);
    woken.notify_one();
}

/// Why there is no answer.
enum Failure {
    Error(Box<Error>),
    TimedOut(Duration),
}

async fn within<T>(timeout: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer.map_err(|error| Failure::Error(Box::new(error))),
        Err(_) => Err(Failure::TimedOut(timeout)),
    }
}

/// An error's text, with what to do about it.
fn explain(address: &PostgresAddress, failure: Failure) -> EngineError {
    let error = match failure {
        Failure::Error(error) => error,
        Failure::TimedOut(timeout) => return EngineError(format!("{address}: no answer in {} s", timeout.as_secs())),
    };
    let Some(refusal) = error.as_db_error() else { return EngineError(format!("{address}: {}", text_of(&error))) };
    let text = refusal.message();
    let advice = match *refusal.code() {
        SqlState::UNDEFINED_FUNCTION => {
            return EngineError(format!(
                "{address}: the functions of the bus there are older than this Fanfare: run fanfare bus install"
            ));
        }
        SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME => {
            return EngineError(format!("{address}: the bus is not installed there; run fanfare bus install"));
        }
        SqlState::LOCK_NOT_AVAILABLE => {
            return EngineError(format!(
                "{address}: another transaction has published and has not ended, so it holds the bus: see fanfare bus status"
            ));
        }
        SqlState::INSUFFICIENT_PRIVILEGE => "; grant what docs/scaling.md lists",
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "; check --postgres-password-file or FANFARE_POSTGRES_PASSWORD"
        }
        _ => "",
    };
    EngineError(format!("{address}: {text}{advice}"))
}
