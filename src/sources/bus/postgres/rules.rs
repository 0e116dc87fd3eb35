//! What is wrong with a PostgreSQL that has a bus, or is to have one: rules over facts. Pure.

use std::collections::HashMap;

use crate::sources::bus::findings::{Finding, note, ok, problem};
use crate::sources::bus::postgres::state::{Facts, own_version};

/// A transaction this old delays the cleaning of the bus's tables, which then grow and get slower.
const OLD_SECONDS: f64 = 600.0;
/// A transaction that holds the bus for so long is not only a slow commit.
const HELD_SECONDS: f64 = 5.0;

/// What PostgreSQL answers.
#[derive(Default)]
pub(super) struct Server {
    /// Settings by name.
    pub(super) settings: HashMap<&'static str, String>,
    pub(super) is_standby: bool,
    /// The standbys that stream from it.
    pub(super) standbys: i64,
    /// The age of the oldest transaction, as far as this user may know.
    pub(super) oldest_seconds: Option<f64>,
    /// The functions that this user may not call; `None`: they are not there.
    pub(super) denied: Option<Vec<String>>,
    /// What the bus holds, or why that is not known.
    pub(super) bus: Option<Result<Facts, String>>,
}

impl Server {
    /// All findings, for a bus that is to keep this number of entries.
    pub(super) fn findings(&self, entries_max: u64) -> Vec<Finding> {
        let mut findings = vec![self.role(), self.encoding(), self.durability(), self.standbys(), self.transactions()];
        findings.push(self.rights());
        match &self.bus {
            None => {}
            Some(Err(error)) => findings.push(problem("bus", error.clone(), "")),
            Some(Ok(facts)) => {
                findings.extend(of_bus(facts, entries_max));
                findings.push(self.notifications(facts.notifies));
            }
        }
        findings
    }

    fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    fn role(&self) -> Finding {
        let number: u32 = self.setting("server_version_num").parse().unwrap_or_default();
        let version = format!("PostgreSQL {}.{}", number / 10_000, number % 10_000);
        match self.is_standby {
            true => problem("server", format!("{version}, a standby: it may lack events"), "name the primary"),
            false if number < 130_000 => problem("server", version, "use PostgreSQL 13 or later"),
            false => ok("server", format!("{version}, a primary")),
        }
    }

    fn encoding(&self) -> Finding {
        match self.setting("server_encoding") {
            "UTF8" => ok("encoding", "UTF8".to_owned()),
            other => {
                problem("encoding", format!("{other}: a bus needs UTF8"), "create the database with ENCODING 'UTF8'")
            }
        }
    }

    fn durability(&self) -> Finding {
        const SUBJECT: &str = "durability";
        match (self.setting("fsync"), self.setting("full_page_writes"), self.setting("synchronous_commit")) {
            ("off", ..) => problem(
                SUBJECT,
                "fsync off: a crash of the host loses what was answered 202, or the whole database".to_owned(),
                "fsync = on",
            ),
            (_, "off", _) => problem(
                SUBJECT,
                "full_page_writes off: a crash of the host may destroy pages".to_owned(),
                "full_page_writes = on, unless the file system writes pages as a whole",
            ),
            (.., level @ ("off" | "local")) => ok(
                SUBJECT,
                format!("synchronous_commit {level}: a transaction that publishes commits with on all the same"),
            ),
            (.., level) => ok(SUBJECT, format!("fsync on, synchronous_commit {level}: a 202 survives a power failure")),
        }
    }

    fn standbys(&self) -> Finding {
        const SUBJECT: &str = "standbys";
        match (self.standbys, self.setting("synchronous_standby_names")) {
            (0, "") => note(
                SUBJECT,
                "none: when this host is lost, so is the bus".to_owned(),
                "a standby, unless backups are enough",
            ),
            (0, _) => problem(
                SUBJECT,
                "none, but synchronous_standby_names is set: every commit waits".to_owned(),
                "start the standby",
            ),
            (count, "") => note(
                SUBJECT,
                format!("{count}, not synchronous: a failover loses what the new primary had not received"),
                "synchronous_standby_names, if that is too much",
            ),
            (count, names) => ok(SUBJECT, format!("{count}; synchronous: {names}")),
        }
    }

    fn transactions(&self) -> Finding {
        match self.oldest_seconds {
            Some(seconds) if seconds > OLD_SECONDS => note(
                "transactions",
                format!(
                    "the oldest is {seconds:.0} s old: deleted rows stay until it ends, and publishing gets slower"
                ),
                "end it, and look for what leaves transactions open",
            ),
            _ => ok("transactions", "none is old".to_owned()),
        }
    }

    fn notifications(&self, is_on: bool) -> Finding {
        const SUBJECT: &str = "notify";
        match (is_on, self.setting("max_prepared_transactions")) {
            (false, _) => ok(SUBJECT, "off: nodes ask for new entries every 20 ms".to_owned()),
            (true, "0") => ok(SUBJECT, "on: appends wake the nodes".to_owned()),
            (true, _) => note(
                SUBJECT,
                "on: PREPARE TRANSACTION fails in a transaction that has published".to_owned(),
                "fanfare bus install --notify off, if applications prepare transactions",
            ),
        }
    }

    fn rights(&self) -> Finding {
        match &self.denied {
            None => problem("functions", "they are not there".to_owned(), "fanfare bus install"),
            Some(denied) if denied.is_empty() => ok("rights", "this user may call all functions of a node".to_owned()),
            Some(denied) => problem(
                "rights",
                format!("this user may not call {}", denied.join(", ")),
                "GRANT USAGE ON SCHEMA fanfare TO role, and EXECUTE ON FUNCTION for each of these",
            ),
        }
    }
}

fn of_bus(facts: &Facts, entries_max: u64) -> Vec<Finding> {
    let own = own_version();
    let functions = match facts.library {
        there if there < own => {
            problem("functions", format!("version {there}: this Fanfare has {own}"), "fanfare bus install")
        }
        there if there > own => {
            note("functions", format!("version {there}: this Fanfare has only {own}"), "use the later Fanfare")
        }
        _ => ok("functions", format!("version {own}")),
    };
    let status = &facts.status;
    let first = status.first.map_or("none".to_owned(), |first| first.to_string());
    let text = format!(
        "format {}, {} entries, from {first} to {}, {} bytes",
        status.format, status.entries, status.last, facts.bytes
    );
    let bus = match status.entries > entries_max.saturating_add(entries_max / 10).saturating_add(10_000) {
        true => note("bus", text, "nodes delete down to --bus-entries: does one run, or is another number given here?"),
        false => ok("bus", text),
    };
    let hold = match &facts.holder {
        Some(holder) if holder.is_prepared => {
            problem("hold", format!("publishing waits: {holder}"), "COMMIT PREPARED or ROLLBACK PREPARED")
        }
        Some(holder) if holder.seconds.is_none_or(|seconds| seconds > HELD_SECONDS) => problem(
            "hold",
            format!("publishing waits: {holder}"),
            "publish last in a transaction; end this one with pg_terminate_backend",
        ),
        _ => ok("hold", "no transaction holds the bus for long".to_owned()),
    };
    vec![functions, bus, hold]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::bus::findings::Verdict;
    use crate::sources::bus::postgres::state::Holder;
    use crate::sources::bus::tools::Status;

    fn good() -> Server {
        let settings = [
            ("server_version_num", "150007"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("synchronous_commit", "on"),
            ("synchronous_standby_names", "s"),
            ("server_encoding", "UTF8"),
            ("max_prepared_transactions", "0"),
        ];
        let facts =
            Facts { status: Status::default(), library: own_version(), bytes: 0, holder: None, notifies: false };
        Server {
            settings: settings.map(|(name, value)| (name, value.to_owned())).into(),
            standbys: 1,
            denied: Some(Vec::new()),
            bus: Some(Ok(facts)),
            ..Server::default()
        }
    }

    #[test]
    fn each_rule_has_its_finding() {
        let check = |change: &dyn Fn(&mut Server), expected: &str| {
            let mut server = good();
            change(&mut server);
            let bad = server.findings(10).into_iter().filter(|finding| finding.verdict != Verdict::Ok);
            let shown: Vec<_> = bad.map(|finding| format!("{:?} {}", finding.verdict, finding.subject)).collect();
            assert_eq!(shown.join(", "), expected);
        };
        let set = |name: &'static str, value: &'static str| {
            move |server: &mut Server| drop(server.settings.insert(name, value.to_owned()))
        };
        let held = |holder: Holder| {
            move |server: &mut Server| {
                let Some(Ok(facts)) = &mut server.bus else { unreachable!() };
                facts.holder = Some(holder.clone());
            }
        };
        let with = |change: fn(&mut Facts)| {
            move |server: &mut Server| server.bus.as_mut().unwrap().as_mut().map(change).unwrap_or_default()
        };
        check(&|_| (), "");
        check(&|server| server.is_standby = true, "Problem server");
        check(&set("server_version_num", "120004"), "Problem server");
        check(&set("server_encoding", "SQL_ASCII"), "Problem encoding");
        check(&set("fsync", "off"), "Problem durability");
        check(&set("full_page_writes", "off"), "Problem durability");
        check(&set("synchronous_commit", "off"), "");
        check(&set("synchronous_standby_names", ""), "Note standbys");
        check(&|server| server.standbys = 0, "Problem standbys");
        check(&|server| server.oldest_seconds = Some(600.0), "");
        check(&|server| server.oldest_seconds = Some(600.1), "Note transactions");
        check(&|server| server.denied = Some(vec!["f".to_owned()]), "Problem rights");
        check(&|server| (server.denied, server.bus) = (None, None), "Problem functions");
        check(&|server| server.bus = Some(Err("x".to_owned())), "Problem bus");
        check(&with(|facts| facts.library = 0), "Problem functions");
        check(&with(|facts| facts.library += 1), "Note functions");
        check(&with(|facts| facts.status.entries = 10_011), "");
        check(&with(|facts| facts.status.entries = 10_012), "Note bus");
        check(&with(|facts| facts.notifies = true), "");
        check(&set("max_prepared_transactions", "5"), "");
        let notifies_beside_prepared = |server: &mut Server| {
            set("max_prepared_transactions", "5")(server);
            with(|facts| facts.notifies = true)(server);
        };
        check(&notifies_beside_prepared, "Note notify");
        check(&held(Holder { seconds: Some(5.0), ..Holder::default() }), "");
        check(&held(Holder { seconds: Some(5.1), ..Holder::default() }), "Problem hold");
        check(&held(Holder::default()), "Problem hold");
        check(&held(Holder { is_prepared: true, seconds: Some(0.0), ..Holder::default() }), "Problem hold");
    }
}
