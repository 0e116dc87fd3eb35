//! Whether a Redis server passes on what is published to it: a primary does, a replica and a Sentinel do not.
//!
//! What a client publishes to a replica reaches only that replica's own subscribers. A node there would answer 202 to
//! events that no other node ever receives, so such a Redis counts as down. ROLE reports the role, or INFO where an ACL
//! or a proxy forbids ROLE. Where both are forbidden, the node continues and logs that once.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::{RedisError, RedisResult, Value};

use crate::redis_address::connection::RedisConnection;
use crate::redis_address::{RedisAddress, is_login_refused};

/// Why a Redis server can't be used.
pub(super) const REPLICA: &str =
    "it is a replica, and messages published on a replica reach no other server: use the address of the primary";
const SENTINEL: &str = "it is a Sentinel, which does not relay messages: use the address of the primary";

/// Checks roles; shared by the connections to one Redis.
#[derive(Debug, Default)]
pub(super) struct RoleCheck {
    is_logged: AtomicBool,
}

/// Why a connection can't be used.
#[derive(Debug)]
pub(super) enum RoleError {
    /// The server is not a primary; the text includes what to do about it.
    NotPrimary(&'static str),
    /// The check failed.
    Failed(RedisError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
    Sentinel,
}

impl RoleError {
    /// Its text, safe to log and to show.
    pub(super) fn explain(&self, address: &RedisAddress) -> String {
        match self {
            RoleError::NotPrimary(why) => (*why).to_owned(),
            RoleError::Failed(error) => address.explain(error),
        }
    }
}

impl RoleCheck {
    /// Checks the role of the server at the other end of a connection.
    pub(super) fn check(&self, address: &RedisAddress, connection: &mut RedisConnection) -> Result<(), RoleError> {
        match ask(connection).map_err(RoleError::Failed)? {
            Some(Role::Primary) => Ok(()),
            Some(Role::Replica) => Err(RoleError::NotPrimary(REPLICA)),
            Some(Role::Sentinel) => Err(RoleError::NotPrimary(SENTINEL)),
            None => {
                if !self.is_logged.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %address,
                        "can't read the role of Redis: allow ROLE or INFO, or else a replica is mistaken for a primary"
                    );
                }
                Ok(())
            }
        }
    }
}

/// The role; `None` when the server does not report it.
fn ask(connection: &mut RedisConnection) -> RedisResult<Option<Role>> {
    let role = answered(connection.ask(&redis::cmd("ROLE")))?;
    if let Some(role) = role.as_ref().and_then(of_role) {
        return Ok(Some(role));
    }
    let info = answered(connection.ask(redis::cmd("INFO").arg("replication")))?;
    Ok(info.as_ref().and_then(of_info))
}

/// An answer; `None` when the command was refused.
fn answered(answer: RedisResult<Value>) -> RedisResult<Option<Value>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code().is_some() && !is_login_refused(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The role in the answer to ROLE.
fn of_role(answer: &Value) -> Option<Role> {
    let Value::Array(parts) = answer else { return None };
    let Some(Value::BulkString(role)) = parts.first() else { return None };
    named(role)
}

/// The role in the answer to INFO.
fn of_info(answer: &Value) -> Option<Role> {
    let Value::BulkString(info) = answer else { return None };
    info.split(|byte| *byte == b'\n').find_map(|line| named(line.trim_ascii().strip_prefix(b"role:")?))
}

fn named(role: &[u8]) -> Option<Role> {
    match role {
        b"master" => Some(Role::Primary),
        b"slave" => Some(Role::Replica),
        b"sentinel" => Some(Role::Sentinel),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_of_both_answers() {
        let check = |answer: &[u8], expected: Option<Role>| {
            let value = redis::parse_redis_value(answer).unwrap();
            assert_eq!(of_role(&value).or(of_info(&value)), expected, "{}", answer.escape_ascii());
        };
        check(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", Some(Role::Primary));
        check(b"*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n$9\r\nconnected\r\n:2\r\n", Some(Role::Replica));
        check(b"*2\r\n$8\r\nsentinel\r\n*0\r\n", Some(Role::Sentinel));
        check(b"$27\r\n# Replication\r\nrole:slave\r\n\r\n", Some(Role::Replica));
        check(b"$28\r\n# Replication\r\nrole:master\r\n\r\n", Some(Role::Primary));
        for other in
            [&b"*0\r\n"[..], b"*1\r\n:1\r\n", b":1\r\n", b"$-1\r\n", b"$5\r\nslave\r\n", b"*1\r\n$4\r\nking\r\n"]
        {
            check(other, None);
        }
    }
}
