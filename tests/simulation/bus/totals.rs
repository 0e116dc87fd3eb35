//! What was checked: counts that show whether a run meant anything.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of one world, or of many, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    counts: BTreeMap<&'static str, u64>,
    /// By reason.
    gaps: BTreeMap<String, u64>,
}

/// What is counted, in the order of the report.
const NAMES: [&str; 26] = [
    "worlds",
    "nodes",
    "clients",
    "connections",
    "streams",
    "resumed",
    "compressed",
    "moved to another node",
    "waited for a node",
    "cuts",
    "restarts",
    "entries on the bus",
    "acknowledged",
    "duplicates",
    "publishes repeated",
    "trims",
    "losses with a fork",
    "deletions",
    "returns to an older copy",
    "refused entries",
    "disconnects",
    "outages",
    "heartbeats with a position",
    "acknowledged and lost",
    "pages fetched",
    "events received",
];

impl Totals {
    pub(crate) fn count(&mut self, name: &'static str) {
        self.count_many(name, 1);
    }

    pub(crate) fn count_many(&mut self, name: &'static str, count: usize) {
        assert!(NAMES.contains(&name), "{name}");
        *self.counts.entry(name).or_default() += count as u64;
    }

    /// Something was received.
    pub(crate) fn count_received(&mut self, event_type: &str, data: &str) {
        if event_type != "gap" {
            return self.count("events received");
        }
        let json: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        *self.gaps.entry(json["reason"].as_str().unwrap_or("none").to_owned()).or_default() += 1;
    }

    pub(crate) fn gaps(&self) -> u64 {
        self.gaps.values().sum()
    }

    pub(crate) fn add(&mut self, other: &Totals) {
        other.counts.iter().for_each(|(name, count)| *self.counts.entry(name).or_default() += count);
        other.gaps.iter().for_each(|(reason, count)| *self.gaps.entry(reason.clone()).or_default() += count);
    }

    /// What never happened, though the worlds are made so that it does.
    pub(crate) fn never(&self) -> Vec<&'static str> {
        let is_zero = |name: &&str| self.counts.get(name).is_none_or(|count| *count == 0);
        let reasons = ["unknown_id", "evicted", "bus_forked", "bus_trimmed", "event_refused"];
        let gaps = reasons.into_iter().filter(|reason| !self.gaps.contains_key(*reason));
        NAMES.into_iter().filter(is_zero).chain(gaps).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in NAMES {
            write!(f, "{} {name}, ", self.counts.get(name).unwrap_or(&0))?;
        }
        write!(f, "gaps:")?;
        self.gaps.iter().try_for_each(|(reason, count)| write!(f, " {count} {reason}"))
    }
}
