//! A hold of the bus: while Redis restarts or fails over as planned, it takes no events, so that none can be lost.
//!
//! The one process that made a hold opens the bus again, on one server, once. `functions.lua` has the proof.

use std::time::Duration;

use crate::event::timeline::Position;
use crate::sources::bus::EngineError;
use crate::sources::bus::redis_stream::{RedisStream, unexpected};

/// For how long a hold may be opened without a loss. Much shorter than the time after which Redis ends it by itself.
pub const HOLD_WAIT_MAX: Duration = Duration::from_secs(90);
/// How long to wait until the replicas have the hold.
const REPLICAS_WAIT: Duration = Duration::from_secs(2);

/// A hold that was made.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The newest entry.
    pub last: Position,
    /// How many connected replicas there are.
    pub replicas: u64,
    /// How many of them have the hold.
    pub replicas_reached: u64,
}

/// The state of a hold after an attempt to open the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The server is another process than before, or another server, and has everything. The fork is here.
    Forked(Position),
    /// It is the same server as before. The hold remains, unless it was given up.
    Unchanged,
    /// The server has not the hold, so it may lack what was published before it. It ends the hold with a loss.
    Lost,
}

impl RedisStream {
    /// Refuses appends until the bus is opened with the token, and waits for the replicas to have that.
    pub fn hold(&mut self, token: &str) -> Result<Held, EngineError> {
        let last = self.call("fanfare_hold", &[token])?;
        let last = Position::parse(&last).ok_or_else(|| unexpected("the last entry's id"))?;
        let held = self.with_connection(|connection| {
            let info: String = redis::cmd("INFO").arg("replication").query(connection)?;
            let replicas = info.lines().find_map(|line| line.strip_prefix("connected_slaves:")?.parse().ok());
            let replicas: u64 = replicas.unwrap_or_default();
            let wait_ms = REPLICAS_WAIT.as_millis() as u64;
            let replicas_reached = redis::cmd("WAIT").arg(replicas).arg(wait_ms).query(connection)?;
            Ok(Held { last, replicas, replicas_reached })
        });
        if held.is_err() {
            // Or publishing would be refused until the hold ends by itself.
            let _ = self.open(token, true);
        }
        held
    }

    /// Opens a held bus if it is on another server than before, or on the same one if the hold is given up.
    pub fn open(&mut self, token: &str, is_given_up: bool) -> Result<Opened, EngineError> {
        let fork = self.call("fanfare_open", &[token, if is_given_up { "1" } else { "0" }])?;
        match &fork[..] {
            "unchanged" => Ok(Opened::Unchanged),
            "lost" => Ok(Opened::Lost),
            fork => Position::parse(fork).map(Opened::Forked).ok_or_else(|| unexpected("the fork's id")),
        }
    }

    fn call(&mut self, function: &str, arguments: &[&str]) -> Result<String, EngineError> {
        let mut call = self.settings.call(function);
        call.arg(arguments);
        self.with_connection(|connection| call.query(connection))
    }
}
