//! What was checked: counts that show whether a run of the simulation meant anything.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of one world, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) worlds: u64,
    pub(crate) clients: u64,
    pub(crate) connections: u64,
    /// Streams that a client got a preamble of.
    pub(crate) streams: u64,
    /// Those among them that were asked for with an id.
    pub(crate) resumes: u64,
    /// Those among them that are compressed.
    pub(crate) compressed: u64,
    /// Connections that were cut while they received.
    pub(crate) cuts: u64,
    pub(crate) restarts: u64,
    /// Events that were published under an id that an older event has.
    pub(crate) reused_ids: u64,
    pub(crate) events: u64,
    /// By reason.
    pub(crate) gaps: BTreeMap<String, u64>,
}

impl Census {
    /// Something was received.
    pub(crate) fn count(&mut self, event_type: &str, data: &str) {
        if event_type != "gap" {
            self.events += 1;
            return;
        }
        let json: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        *self.gaps.entry(json["reason"].as_str().unwrap_or("none").to_owned()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Census) {
        self.worlds += other.worlds;
        self.clients += other.clients;
        self.connections += other.connections;
        self.streams += other.streams;
        self.resumes += other.resumes;
        self.compressed += other.compressed;
        self.cuts += other.cuts;
        self.restarts += other.restarts;
        self.reused_ids += other.reused_ids;
        self.events += other.events;
        other.gaps.iter().for_each(|(reason, count)| *self.gaps.entry(reason.clone()).or_default() += count);
    }

    /// What never happened, though the worlds are made so that it does.
    pub(crate) fn never(&self) -> Vec<&'static str> {
        let counts = [
            ("resume", self.resumes),
            ("compressed stream", self.compressed),
            ("cut", self.cuts),
            ("restart", self.restarts),
            ("reused id", self.reused_ids),
            ("event", self.events),
        ];
        let reasons = ["unknown_id", "evicted", "replay_limit", "too_slow", "source_lost", "event_refused"];
        let gaps = reasons.map(|reason| (reason, self.gaps.get(reason).copied().unwrap_or(0)));
        counts.into_iter().chain(gaps).filter(|(_, count)| *count == 0).map(|(what, _)| what).collect()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Census {
            worlds,
            clients,
            connections,
            streams,
            resumes,
            compressed,
            cuts,
            restarts,
            reused_ids,
            events,
            gaps,
        } = self;
        write!(
            f,
            "{worlds} worlds, {clients} clients, {connections} connections, {streams} streams ({resumes} resumed, {compressed} compressed), "
        )?;
        write!(f, "{cuts} cuts, {restarts} restarts, {reused_ids} reused ids, {events} events received, gaps:")?;
        gaps.iter().try_for_each(|(reason, count)| write!(f, " {count} {reason}"))
    }
}
