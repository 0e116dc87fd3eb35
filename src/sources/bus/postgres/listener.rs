//! Notifications: where the operator allows them, an append wakes the nodes that wait for one, which then need not ask at
//! short intervals. One that is lost, or that comes before its entry can be read, costs only time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::{POLL_INTERVAL, PostgresBus, Session, column, unexpected};
use crate::sources::bus::EngineError;

/// How often a node learns whether appends notify.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Whether this user can learn it: older functions say nothing of it.
const CAN_ASK: &str =
    "SELECT coalesce(has_function_privilege(to_regprocedure('fanfare.notifies()'), 'EXECUTE'), false)";
const NOTIFIES: &str = "SELECT fanfare.notifies()";
const LISTEN: &str = "LISTEN fanfare";
const UNLISTEN: &str = "UNLISTEN fanfare";

/// Whether a connection listens.
#[derive(Default)]
pub(super) struct Listening {
    is_on: bool,
    checked_at: Option<Instant>,
    /// The last wait ended with a notification.
    was_woken: bool,
}

/// Whether appends notify nodes, as far as this user may know.
pub(super) fn notifies(connection: &Connection) -> Result<bool, EngineError> {
    let ask = |sql| {
        let rows = connection.query(sql, &[])?;
        column(rows.first().ok_or_else(|| unexpected("whether it notifies"))?, 0)
    };
    Ok(ask(CAN_ASK)? && ask(NOTIFIES)?)
}

impl PostgresBus {
    /// Begins or ends to listen, as the bus says. What is appended after this call wakes a wait.
    pub(super) fn update_listening(&mut self) -> Result<(), EngineError> {
        self.with_session(|Session { connection, listening, .. }| {
            if listening.checked_at.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
                return Ok(());
            }
            let is_on = notifies(connection)?;
            if is_on != listening.is_on {
                connection.execute(if is_on { LISTEN } else { UNLISTEN })?;
            }
            (listening.is_on, listening.checked_at) = (is_on, Some(Instant::now()));
            Ok(())
        })
    }

    /// Waits for an entry, at most so long: until a notification, or for a moment without them.
    pub(super) fn wait_for_entry(&mut self, wait_max: Duration) {
        match &mut self.session {
            // After one, a moment at most: its entry may not be there yet.
            Some(Session { connection, listening, .. }) if listening.is_on && !listening.was_woken => {
                listening.was_woken = connection.wait_for_notification(wait_max);
            }
            session => {
                session.iter_mut().for_each(|session| session.listening.was_woken = false);
                sleep(POLL_INTERVAL.min(wait_max));
            }
        }
    }
}
