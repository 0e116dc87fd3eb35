//! Whether a Redis passes on what is published to it: a primary does, a replica and a Sentinel do not.
//!
//! What a client publishes to a replica reaches that replica's own subscribers and nobody else. A node there would answer
//! 202 to events that no other node ever hears of, so such a Redis counts as down. ROLE tells, or INFO where an ACL or a
//! proxy forbids ROLE. Where both are forbidden, the node goes on and the log says so once.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::{RedisError, RedisResult, Value};

use crate::redis_address::connection::RedisConnection;
use crate::redis_address::{RedisAddress, is_login_refused};

/// Why a Redis is of no use.
pub(super) const REPLICA: &str =
    "it is a replica, and what is published there reaches no other server: use the address of the primary";
const SENTINEL: &str = "it is a Sentinel, which passes no messages on: use the address of the primary";

/// Asks for roles; shared by the connections to one Redis.
#[derive(Debug, Default)]
pub(super) struct RoleCheck {
    is_complained_of: AtomicBool,
}

/// Why a connection does not serve.
#[derive(Debug)]
pub(super) enum RoleError {
    /// What it leads to is no primary, and what to do about it.
    NotPrimary(&'static str),
    /// It failed.
    Failed(RedisError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
    Sentinel,
}

impl RoleError {
    /// Its text, as safe to log as it is to show.
    pub(super) fn explain(&self, address: &RedisAddress) -> String {
        match self {
            RoleError::NotPrimary(why) => (*why).to_owned(),
            RoleError::Failed(error) => address.explain(error),
        }
    }
}

impl RoleCheck {
    /// Asks what is at the other end of a connection.
    pub(super) fn check(&self, address: &RedisAddress, connection: &mut RedisConnection) -> Result<(), RoleError> {
        match ask(connection).map_err(RoleError::Failed)? {
            Some(Role::Primary) => Ok(()),
            Some(Role::Replica) => Err(RoleError::NotPrimary(REPLICA)),
            Some(Role::Sentinel) => Err(RoleError::NotPrimary(SENTINEL)),
            None => {
                if !self.is_complained_of.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %address,
                        "Redis does not tell its role: allow ROLE or INFO, or a replica is taken for a primary"
                    );
                }
                Ok(())
            }
        }
    }
}

/// The role; none: it is not told.
fn ask(connection: &mut RedisConnection) -> RedisResult<Option<Role>> {
    let role = answered(connection.ask(&redis::cmd("ROLE")))?;
    if let Some(role) = role.as_ref().and_then(of_role) {
        return Ok(Some(role));
    }
    let info = answered(connection.ask(redis::cmd("INFO").arg("replication")))?;
    Ok(info.as_ref().and_then(of_info))
}

/// An answer; none: it was refused.
fn answered(answer: RedisResult<Value>) -> RedisResult<Option<Value>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code().is_some() && !is_login_refused(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the answer to ROLE says.
fn of_role(answer: &Value) -> Option<Role> {
    let Value::Array(parts) = answer else { return None };
    let Some(Value::BulkString(role)) = parts.first() else { return None };
    named(role)
}

/// What the answer to INFO says.
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
