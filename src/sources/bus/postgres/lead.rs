//! The lead of the ingest on a bus in PostgreSQL. The lease, the gap and the fence are in the database; the markers are on the
//! Redis whose channels are read.
//!
//! A marker is published once the lead is taken. So what the leader before has appended came before the gap, and what follows
//! the marker comes after it. What is between the two is missing, which the gap says.

use std::time::Duration;

use crate::redis_address::RedisAddress;
use crate::redis_address::connection::RedisConnection;
use crate::redis_address::replies::ReplyLimits;
use crate::sources::bus::lead::{Claim, Lead, LeadEngine};
use crate::sources::bus::stored_gap::write_topics;
use crate::sources::bus::{Content, EngineError, Receipt};

use super::{NewEntries, PostgresBus, PostgresSettings, column, read_receipts, unexpected};

const LEAD: &str = "SELECT leads, answer FROM fanfare.lead($1, $2, $3, $4, $5)";
const INGEST: &str = "SELECT at_epoch, at_offset, is_duplicate FROM fanfare.ingest($1, $2, $3, $4, $5, $6, $7, $8)";
const RESIGN: &str = "SELECT fanfare.resign($1, $2)";
/// How long to wait for a connection to Redis, and for a reply.
const TIMEOUT: Duration = Duration::from_secs(3);
/// No message comes on this connection.
const LIMITS: ReplyLimits = ReplyLimits { payload_bytes_max: 0 };

/// A connection to the bus for the lead, and one to the Redis that has the channels.
pub struct PostgresLead {
    bus: PostgresBus,
    redis: RedisAddress,
    marker_channel: String,
    connection: Option<RedisConnection>,
}

impl PostgresLead {
    /// Connects with its first call.
    pub fn new(settings: PostgresSettings, redis: RedisAddress, marker_channel: String) -> PostgresLead {
        PostgresLead { bus: PostgresBus::new(settings), redis, marker_channel, connection: None }
    }

    /// Publishes a marker; returns how many subscribers receive it. A failure ends the connection.
    fn mark(&mut self, marker: &str) -> Result<u64, EngineError> {
        let channel = &self.marker_channel;
        let explain = |error| EngineError(format!("{}: {}", self.redis, self.redis.failure(&error)));
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.redis.open(TIMEOUT, TIMEOUT, LIMITS).map_err(explain)?,
        };
        let answer = connection.ask(redis::cmd("PUBLISH").arg(channel).arg(marker)).map_err(explain)?;
        self.connection = Some(connection);
        let unexpected = |_| EngineError("Redis answered something unexpected instead of a number".to_owned());
        redis::from_redis_value(answer).map_err(unexpected)
    }
}

impl LeadEngine for PostgresLead {
    fn disconnect(&mut self) {
        self.connection = None;
        self.bus.session = None;
    }

    fn lead(&mut self, claim: &Claim<'_>) -> Result<Lead, EngineError> {
        let topics = write_topics(claim.topics).into_bytes();
        let lead = self.bus.with_session(|session| {
            let lease = milliseconds(claim.lease);
            let rows = session.connection.query(LEAD, &[&claim.token, &lease, &claim.feeds, &topics, &claim.ended])?;
            let row = rows.first().ok_or_else(|| unexpected("the lead"))?;
            let answer: String = column(row, 1)?;
            match (column(row, 0)?, &answer[..]) {
                (false, _) => Ok(Lead::OfAnother(answer)),
                (true, "begins") => Ok(Lead::Begins),
                (true, "continues") => Ok(Lead::Continues),
                _ => Err(unexpected("the lead")),
            }
        })?;
        if !matches!(lead, Lead::OfAnother(_)) {
            self.mark(&format!("leads {}", claim.token))?;
        }
        Ok(lead)
    }

    fn ingest(&mut self, token: &str, lease: Duration, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        let (new, lease) = (NewEntries::of(contents), milliseconds(lease));
        self.bus.with_session(|session| {
            let lead: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&token, &lease];
            let parameters: Vec<_> = lead.into_iter().chain(new.parameters()).collect();
            let statement = match session.ingest.take() {
                Some(statement) => statement,
                None => session.connection.prepare(INGEST)?,
            };
            let rows = session.connection.run(&statement, &parameters)?;
            session.ingest = Some(statement);
            read_receipts(&rows, 0, contents.len())
        })
    }

    fn announce_end(&mut self, token: &str) -> Result<u64, EngineError> {
        self.mark(&format!("ends {token}"))
    }

    fn resign(&mut self, token: &str, hands_over: bool) -> Result<(), EngineError> {
        self.bus.with_session(|session| session.connection.query(RESIGN, &[&token, &hands_over]).map(drop))
    }
}

fn milliseconds(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
}
