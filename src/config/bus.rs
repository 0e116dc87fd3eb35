//! The options about the bus, whichever engine has it.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{bus_name, count_within, duration_within};

/// The options about the bus as given; [`DurableBusConfig`] is what remains of them when it is durable.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Bus")]
pub(super) struct BusOptions {
    /// Where the order of events is kept. Unset: redis with --redis-url, else local
    #[arg(id = "bus", long, value_name = "BUS")]
    pub(super) kind: Option<BusKind>,

    /// What the keys of a redis-stream bus begin with: {NAME}:events and others
    #[arg(id = "bus-name", long, value_name = "NAME", default_value = "fanfare", value_parser = bus_name)]
    pub(super) name: String,

    /// About how many entries a durable bus keeps; in Kafka, the retention of the topic decides
    #[arg(id = "bus-entries", long, value_name = "N", default_value = "1000000", value_parser = count_within(1, u32::MAX))]
    pub(super) entries: u32,

    /// How long a durable bus recognizes an event that is published again under the same id; in Kafka, it never does
    #[arg(id = "bus-id-memory", long, value_name = "TIME", default_value = "10m",
          value_parser = duration_within(Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600)))]
    pub(super) id_memory: Duration,

    /// How many older entries of a durable bus a client that returns may receive, beyond what the server remembers
    #[arg(id = "bus-fetch-entries", long, value_name = "N", default_value = "100000",
          value_parser = count_within(0, u32::MAX))]
    pub(super) fetch_entries: u32,
}

/// Where the order of events is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BusKind {
    /// In this process; a restart forgets it.
    Local,
    /// In this process; the nodes on one Redis exchange events through its pub/sub, which keeps nothing.
    Redis,
    /// In a stream of Redis 7, which all nodes read: a restart forgets nothing.
    RedisStream,
    /// In a table of PostgreSQL, which all nodes read: a restart forgets nothing.
    Postgres,
    /// In a topic of Kafka, which all nodes read: a restart forgets nothing.
    Kafka,
}

/// A durable bus.
#[derive(Clone, Debug)]
pub struct DurableBusConfig {
    /// What its keys in Redis begin with.
    pub name: String,
    /// About how many entries it keeps.
    pub entries_max: u64,
    /// How long it remembers publishers' ids.
    pub id_memory: Duration,
    /// How many of its older entries are fetched for one client.
    pub fetch_entries_max: u32,
}

impl BusOptions {
    /// True if restarts forget nothing.
    pub(super) fn is_durable(&self) -> bool {
        matches!(self.kind, Some(BusKind::RedisStream | BusKind::Postgres))
    }

    /// The bus, if it is of this kind.
    pub(super) fn of(&self, kind: BusKind) -> Option<DurableBusConfig> {
        (self.kind == Some(kind)).then(|| DurableBusConfig {
            name: self.name.clone(),
            entries_max: self.entries.into(),
            id_memory: self.id_memory,
            fetch_entries_max: self.fetch_entries,
        })
    }
}
