//! The lead of the ingest, in the functions of the bus. Its connection is one that no signal ends: a node that is stopped
//! and continued still leads, unless another node took over.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError};

use crate::redis_address::connection::RedisConnection;
use crate::redis_address::replies::ReplyLimits;
use crate::sources::bus::lead::{Claim, Lead, LeadEngine};
use crate::sources::bus::stored_gap::write_topics;
use crate::sources::bus::{Content, EngineError, Receipt};

use super::{StreamSettings, TIMEOUT, explain, read_receipts, unexpected, write_with_gap};

/// No message comes on this connection.
const LIMITS: ReplyLimits = ReplyLimits { payload_bytes_max: 0 };

/// The channel on which a bus of this name has its markers.
pub fn marker_channel(bus: &str) -> String {
    format!("{{{bus}}}:marker")
}

/// One connection to the bus for the lead.
pub struct RedisLead {
    settings: StreamSettings,
    connection: Option<RedisConnection>,
}

impl RedisLead {
    /// Connects with its first call.
    pub fn new(settings: StreamSettings) -> RedisLead {
        RedisLead { settings, connection: None }
    }

    /// Runs a command; a failure ends the connection, because its next reply could belong to an older command.
    fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, EngineError> {
        let address = &self.settings.address;
        let explain = |error: RedisError| EngineError(explain(address, &error));
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => address.open_for(&self.settings.stream_key(), TIMEOUT, TIMEOUT, LIMITS).map_err(explain)?,
        };
        let answer = connection.ask(command).map_err(explain)?;
        self.connection = Some(connection);
        redis::from_redis_value(answer).map_err(|_| unexpected("an answer of a function"))
    }
}

impl LeadEngine for RedisLead {
    fn disconnect(&mut self) {
        self.connection = None;
    }

    fn lead(&mut self, claim: &Claim<'_>) -> Result<Lead, EngineError> {
        let mut call = self.settings.call("fanfare_lead");
        call.arg(self.settings.entries_max).arg(claim.token).arg(claim.lease.as_millis() as u64);
        call.arg(marker_channel(&self.settings.name)).arg(claim.feeds);
        call.arg(write_topics(claim.topics)).arg(claim.ended.unwrap_or_default());
        let answer: Vec<String> = self.ask(&call)?;
        match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["begins"] => Ok(Lead::Begins),
            ["continues"] => Ok(Lead::Continues),
            ["standby", leader] => Ok(Lead::OfAnother(leader.to_owned())),
            _ => Err(unexpected("the lead")),
        }
    }

    fn ingest(&mut self, token: &str, lease: Duration, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        let mut call = self.settings.call("fanfare_ingest");
        call.arg(self.settings.entries_max).arg(self.settings.id_memory.as_millis() as u64);
        call.arg(token).arg(lease.as_millis() as u64);
        contents.iter().for_each(|content| write_with_gap(content, &mut call));
        let ids: Vec<String> = self.ask(&call)?;
        read_receipts(&ids, contents.len())
    }

    fn announce_end(&mut self, token: &str) -> Result<u64, EngineError> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(marker_channel(&self.settings.name)).arg(format!("ends {token}"));
        self.ask(&publish)
    }

    fn resign(&mut self, token: &str, hands_over: bool) -> Result<(), EngineError> {
        let mut call = self.settings.call("fanfare_resign");
        call.arg(token).arg(if hands_over { "1" } else { "" });
        self.ask(&call)
    }
}
