//! Reads the facts of which `rules.rs` judges whether a Redis is fit for a bus.

use redis::{Connection, RedisResult};

use crate::sources::bus::EngineError;
use crate::sources::bus::redis_stream::RedisStream;
use crate::sources::bus::redis_stream::rules::Facts;
use crate::sources::bus::tools::BusTools;

/// The commands that a node runs, itself or in a function.
const COMMANDS: [&str; 16] = [
    "fcall",
    "multi",
    "exec",
    "xread",
    "xrevrange",
    "xinfo",
    "xadd",
    "info",
    "exists",
    "time",
    "hmget",
    "hget",
    "hset",
    "hdel",
    "get",
    "set",
];

impl RedisStream {
    pub(super) fn facts(&mut self) -> Result<Facts, EngineError> {
        let mut facts = Facts::default();
        let info: String = self.with_plain_connection(|connection| redis::cmd("INFO").query(connection))?;
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        facts.info = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for name in ["appendfsync", "save", "min-replicas-to-write", "min-replicas-max-lag", "repl-backlog-ttl"] {
            let pair: RedisResult<Vec<String>> = self
                .with_plain_connection(|connection| Ok(redis::cmd("CONFIG").arg("GET").arg(name).query(connection)))?;
            facts.config.extend(
                pair.ok().and_then(|pair| <[String; 2]>::try_from(pair).ok()).map(|[name, value]| (name, value)),
            );
        }
        facts.denied = self.denied()?;
        let key = self.settings.stream_key();
        let bytes = |connection: &mut Connection| {
            Ok(redis::cmd("MEMORY").arg("USAGE").arg(&key).query(connection).ok().flatten())
        };
        facts.stream_bytes = self.with_plain_connection(bytes)?;
        if facts.info.get("role").is_some_and(|role| role == "master") {
            facts.functions = self.functions_version().ok().flatten();
            facts.status = facts.functions.is_some().then(|| self.status().map_err(|error| error.0));
        }
        Ok(facts)
    }

    /// The commands that an ACL denies to this user; `None`: it may not ask that.
    fn denied(&mut self) -> Result<Option<Vec<&'static str>>, EngineError> {
        let (stream, state) = (self.settings.stream_key(), self.settings.state_key());
        self.with_plain_connection(|connection| {
            let Ok(user) = redis::cmd("ACL").arg("WHOAMI").query::<String>(connection) else { return Ok(None) };
            let mut denied = Vec::new();
            for command in COMMANDS {
                let mut dry_run = redis::cmd("ACL");
                dry_run.arg("DRYRUN").arg(&user).arg(command);
                match command {
                    "fcall" => dry_run.arg("fanfare_append").arg(2).arg(&stream).arg(&state),
                    "xread" => dry_run.arg("STREAMS").arg(&stream).arg("0"),
                    "xrevrange" => dry_run.arg(&stream).arg("+").arg("-"),
                    "xinfo" => dry_run.arg("STREAM").arg(&stream),
                    "xadd" => dry_run.arg(&stream).arg("*").arg("a").arg("b"),
                    "exists" => dry_run.arg(&stream),
                    "hmget" | "hget" | "hdel" => dry_run.arg(&state).arg("epoch"),
                    "hset" => dry_run.arg(&state).arg("epoch").arg("1"),
                    "get" => dry_run.arg(format!("{stream}:id:1:a:b")),
                    "set" => dry_run.arg(format!("{stream}:id:1:a:b")).arg("1"),
                    _ => &mut dry_run,
                };
                match dry_run.query::<String>(connection) {
                    Ok(answer) if answer == "OK" => {}
                    Ok(_) => denied.push(command),
                    Err(_) => return Ok(None),
                }
            }
            Ok(Some(denied))
        })
    }
}
