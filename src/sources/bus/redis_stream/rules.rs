//! What is wrong with a Redis that has a bus, or is to have one: rules over facts. Pure.

use std::collections::HashMap;

use crate::sources::bus::findings::{Finding, note, ok, problem};
use crate::sources::bus::redis_stream::state::own_version;
use crate::sources::bus::tools::Status;

/// Above this part of its memory, Redis may soon refuse events.
const FULL_PERCENT: u64 = 90;

/// What Redis answers; `None` where it refuses to.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The fields of INFO.
    pub(super) info: HashMap<String, String>,
    /// Settings by name.
    pub(super) config: HashMap<String, String>,
    /// Commands that the user may not run.
    pub(super) denied: Option<Vec<&'static str>>,
    /// The version of the functions.
    pub(super) functions: Option<u32>,
    /// What the bus holds, or why that is not known.
    pub(super) status: Option<Result<Status, String>>,
    /// What the stream takes in memory.
    pub(super) stream_bytes: Option<u64>,
}

impl Facts {
    /// All findings, for a bus that is to keep this number of entries.
    pub(super) fn findings(&self, entries_max: u64) -> Vec<Finding> {
        let mut findings =
            vec![self.role(), self.eviction(), self.memory(), self.persistence(), self.replicas(), self.backlog()];
        findings.push(self.rights());
        findings.push(self.installed());
        findings.extend(self.stream(entries_max));
        findings
    }

    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.info(name).parse().unwrap_or_default()
    }

    fn config(&self, name: &str) -> Option<&str> {
        self.config.get(name).map(String::as_str)
    }

    fn role(&self) -> Finding {
        let version = self.info("redis_version");
        let major: u64 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
        match self.info("role") {
            "master" if major >= 7 => ok("server", format!("Redis {version}, a primary")),
            "master" => problem("server", format!("Redis {version} has no functions"), "use Redis 7 or later"),
            role => problem(
                "server",
                format!("its role is {role}: it may lack events"),
                "name the primary, or its Sentinels",
            ),
        }
    }

    fn eviction(&self) -> Finding {
        match self.info("maxmemory_policy") {
            policy if policy.starts_with("allkeys") => problem(
                "eviction",
                format!("maxmemory-policy {policy}: Redis may evict the bus, and nodes refuse to use it"),
                "CONFIG SET maxmemory-policy noeviction, or a volatile policy",
            ),
            policy => ok("eviction", format!("maxmemory-policy {policy}: Redis never evicts the bus")),
        }
    }

    fn memory(&self) -> Finding {
        let (used, max) = (self.number("used_memory"), self.number("maxmemory"));
        let bus = self.stream_bytes.map_or(String::new(), |bytes| format!(", about {bytes} of them for the bus"));
        match max {
            0 => ok("memory", format!("{used} bytes are used{bus}; maxmemory is not set")),
            _ if used >= max / 100 * FULL_PERCENT => problem(
                "memory",
                format!("{used} of {max} bytes are used{bus}: when they are full, Redis refuses events"),
                "raise maxmemory, or lower --bus-entries",
            ),
            _ => ok("memory", format!("{used} of {max} bytes are used{bus}")),
        }
    }

    fn persistence(&self) -> Finding {
        const SUBJECT: &str = "persistence";
        let is_aof = self.info("aof_enabled") == "1";
        if is_aof && self.info("aof_last_write_status") != "ok" {
            return problem(SUBJECT, "the last write to the AOF failed".to_owned(), "see the log of Redis");
        }
        match (is_aof, self.config("appendfsync"), self.config("save")) {
            (true, Some("always"), _) => {
                ok(SUBJECT, "AOF, fsync always: what is answered 202 survives a power failure".to_owned())
            }
            (true, fsync, _) => note(
                SUBJECT,
                format!(
                    "AOF, fsync {}: a power failure, or a crash during a slow fsync, loses what was answered 202 in the last seconds",
                    fsync.unwrap_or("unknown (allow CONFIG GET)")
                ),
                "appendfsync always, if that is too much",
            ),
            (false, _, Some("")) => note(
                SUBJECT,
                "none: each restart loses all events, and the bus".to_owned(),
                "appendonly yes, unless only the newest events matter",
            ),
            (false, ..) => note(
                SUBJECT,
                "snapshots: a crash loses what was answered 202 since the last one".to_owned(),
                "appendonly yes",
            ),
        }
    }

    fn replicas(&self) -> Finding {
        const SUBJECT: &str = "replicas";
        let replicas = self.number("connected_slaves");
        let is_behind = |n: u64| !self.info(&format!("slave{n}")).contains("state=online");
        if let Some(n) = (0..replicas).find(|n| is_behind(*n)) {
            return problem(
                SUBJECT,
                format!("slave{n} is not in sync: {}", self.info(&format!("slave{n}"))),
                "wait, or see its log",
            );
        }
        match (replicas, self.config("min-replicas-to-write")) {
            (0, Some("0") | None) => note(
                SUBJECT,
                "none: when this host is lost, so is the bus".to_owned(),
                "a replica and three Sentinels, unless an AOF on this host is enough",
            ),
            (0, Some(needed)) => problem(
                SUBJECT,
                format!("none, but min-replicas-to-write is {needed}: Redis refuses events"),
                "start a replica",
            ),
            (_, Some("0")) => note(
                SUBJECT,
                format!("{replicas}: a primary that is cut off from them accepts events that are lost later"),
                "CONFIG SET min-replicas-to-write 1",
            ),
            (_, needed) => ok(
                SUBJECT,
                format!(
                    "{replicas}; {} must have answered in the last {} s. A failover loses what the new primary had not received",
                    needed.unwrap_or("unknown (allow CONFIG GET): how many"),
                    self.config("min-replicas-max-lag").unwrap_or("?"),
                ),
            ),
        }
    }

    fn backlog(&self) -> Finding {
        match self.config("repl-backlog-ttl") {
            Some("0") => {
                ok("backlog", "repl-backlog-ttl 0: the replication id stays when replicas disconnect".to_owned())
            }
            Some(seconds) => note(
                "backlog",
                format!(
                    "repl-backlog-ttl {seconds}: when all replicas are away for that many seconds, the bus forks, which is a gap"
                ),
                "CONFIG SET repl-backlog-ttl 0",
            ),
            None => note("backlog", "repl-backlog-ttl is unknown".to_owned(), "allow +config|get, or set it to 0"),
        }
    }

    fn rights(&self) -> Finding {
        match &self.denied {
            None => note("rights", "unknown".to_owned(), "allow +acl|whoami and +acl|dryrun to this user"),
            Some(denied) if denied.is_empty() => ok("rights", "this user may run all commands of a node".to_owned()),
            Some(denied) => {
                let denied: Vec<_> = denied.iter().map(|command| format!("+{command}")).collect();
                problem(
                    "rights",
                    "an ACL denies commands of a node, or their keys".to_owned(),
                    &format!("allow {}", denied.join(" ")),
                )
            }
        }
    }

    fn installed(&self) -> Finding {
        let own = own_version();
        match self.functions {
            None => problem("functions", "they are not there, or can't be called".to_owned(), "fanfare bus install"),
            Some(there) if there < own => {
                problem("functions", format!("version {there}: this Fanfare has {own}"), "fanfare bus install")
            }
            Some(there) if there > own => {
                note("functions", format!("version {there}: this Fanfare has only {own}"), "use the later Fanfare")
            }
            Some(_) => ok("functions", format!("version {own}")),
        }
    }

    fn stream(&self, entries_max: u64) -> Vec<Finding> {
        let status = match &self.status {
            None => return Vec::new(),
            Some(Err(error)) => return vec![problem("bus", error.clone(), "")],
            Some(Ok(status)) => status,
        };
        let Status { last, first, entries, format, .. } = status;
        let first = first.map_or("none".to_owned(), |first| first.to_string());
        let text = format!("format {format}, {entries} entries, from {first} to {last}");
        let mut findings = vec![match *entries {
            // MAXLEN is approximate: whole nodes of the stream are trimmed.
            entries if entries > entries_max.saturating_add(entries_max / 10).saturating_add(1000) => {
                note("bus", text, "the next event trims it to --bus-entries of its node; is another number given here?")
            }
            _ => ok("bus", text),
        }];
        if status.held.is_some() {
            let advice = "wait for fanfare bus hold, or two minutes";
            findings.push(note(
                "hold",
                "publishing is refused until Redis has restarted or failed over".to_owned(),
                advice,
            ));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::bus::findings::Verdict;

    /// Facts of a good Redis, but for these fields, which are named as Redis names them.
    fn check(fields: &str, expected: &str) {
        let good = "redis_version:7.0.15 role:master maxmemory_policy:noeviction used_memory:5 maxmemory:0 aof_enabled:1 \
            aof_last_write_status:ok connected_slaves:1 slave0:state=online";
        let pairs = |text: &str| -> HashMap<String, String> {
            text.split_whitespace()
                .filter_map(|field| field.split_once(':'))
                .map(|(k, v)| (k.into(), v.into()))
                .collect()
        };
        let mut facts = Facts {
            info: pairs(good),
            config: pairs(
                "appendfsync:always save: min-replicas-to-write:1 min-replicas-max-lag:10 repl-backlog-ttl:0",
            ),
            denied: Some(Vec::new()),
            functions: Some(own_version()),
            status: Some(Ok(Status::default())),
            stream_bytes: None,
        };
        for (name, value) in pairs(fields) {
            let settings = if facts.config.contains_key(&name) { &mut facts.config } else { &mut facts.info };
            settings.insert(name, value);
        }
        let bad = facts.findings(10).into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        let shown: Vec<_> = bad.map(|finding| format!("{:?} {}", finding.verdict, finding.subject)).collect();
        assert_eq!(shown.join(", "), expected, "{fields}");
    }

    #[test]
    fn each_rule_has_its_finding() {
        check("", "");
        check("redis_version:6.2.0", "Problem server");
        check("role:slave", "Problem server");
        check("maxmemory_policy:allkeys-lfu", "Problem eviction");
        check("maxmemory_policy:volatile-lru", "");
        check("used_memory:899 maxmemory:1000", "");
        check("used_memory:900 maxmemory:1000", "Problem memory");
        check("aof_last_write_status:err", "Problem persistence");
        check("appendfsync:everysec", "Note persistence");
        check("aof_enabled:0", "Note persistence");
        check("connected_slaves:0", "Problem replicas");
        check("connected_slaves:0 min-replicas-to-write:0", "Note replicas");
        check("min-replicas-to-write:0", "Note replicas");
        check("slave0:state=wait_bgsave", "Problem replicas");
        check("repl-backlog-ttl:3600", "Note backlog");
    }
}
