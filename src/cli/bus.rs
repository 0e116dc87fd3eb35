//! `fanfare bus` as typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{KafkaBrokers, KafkaSasl, bus_name, kafka_topic, number_within, size};

const BUS_HELP: &str = "\
FANFARE_REDIS_PASSWORD holds the password for Redis, FANFARE_POSTGRES_PASSWORD that for PostgreSQL, and FANFARE_KAFKA_PASSWORD \
that for Kafka; no flag does, since every user of a host sees its arguments. Exit codes: 0 done, 1 the server can't be reached, or what was asked for failed, \
2 wrong usage.

Examples:
  fanfare bus install --redis-url redis://127.0.0.1:6379
  fanfare bus install --postgres-url postgres://owner@127.0.0.1/app
  fanfare bus install --print | psql -v ON_ERROR_STOP=1 app
  fanfare bus install --kafka-brokers 127.0.0.1:9092 --kafka-topic fanfare
  fanfare bus check --redis-url redis://127.0.0.1:6379
  fanfare bus status --redis-url redis://127.0.0.1:6379
  fanfare bus hold --redis-url redis://127.0.0.1:6379 -- systemctl restart redis-server
  fanfare serve --redis-url redis://127.0.0.1:6379 --bus redis-stream";

/// `fanfare bus`.
#[derive(Args, Clone, Debug)]
#[command(after_help = BUS_HELP)]
pub struct BusArgs {
    /// What to do with the bus.
    #[command(subcommand)]
    pub action: BusAction,
}

/// What `fanfare bus` does.
#[derive(Subcommand, Clone, Debug)]
pub enum BusAction {
    /// Install the functions that append to the bus, or replace them by this version's; in PostgreSQL, also its tables
    ///
    /// In Kafka, create the topic: one partition, three replicas.
    ///
    /// Upgrade all nodes first: they read the format of their own version and of the one before.
    Install(InstallArgs),
    /// Print what the bus holds: positions, entries, format and bounds
    Status(BusPlace),
    /// Examine Redis, PostgreSQL or Kafka, and the bus: what is wrong, what it means, and what to do
    ///
    /// Exit code 1 if something is wrong.
    Check(CheckArgs),
    /// Refuse publishing while a command restarts Redis or fails over, so that subscribers get no gap
    ///
    /// Publishes are answered 503 until Redis has another replication id and still has all events; at most for 90 seconds.
    Hold(HoldArgs),
}

/// Where a bus is.
#[derive(Args, Clone, Debug)]
pub struct BusPlace {
    /// The Redis that has it: redis://, rediss:// (TLS) or redis+sentinel://
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,

    /// A file whose first line is the password for Redis
    #[arg(long, value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,

    /// The PostgreSQL that has it: postgres://user@host:5432/database, with ?sslmode=require for TLS
    #[arg(long, value_name = "URL", conflicts_with_all = ["redis_url", "name"])]
    pub postgres_url: Option<String>,

    /// A file whose first line is the password for PostgreSQL
    #[arg(long, value_name = "FILE")]
    pub postgres_password_file: Option<PathBuf>,

    /// A file of PEM certificates to verify PostgreSQL with over TLS, instead of this host's own
    #[arg(long, value_name = "FILE")]
    pub postgres_tls_ca: Option<PathBuf>,

    /// The Kafka that has it.
    #[command(flatten)]
    pub kafka: KafkaPlace,

    /// The bus's name in Redis: --bus-name of its nodes
    #[arg(long = "bus-name", value_name = "NAME", default_value = "fanfare", value_parser = bus_name)]
    pub name: String,
}

/// Where a bus in Kafka is.
#[derive(Args, Clone, Debug)]
pub struct KafkaPlace {
    /// Brokers of the Kafka that has it: HOST:PORT, and more of them after commas
    #[arg(long = "kafka-brokers", value_name = "ADDR,…", conflicts_with_all = ["redis_url", "postgres_url", "name"])]
    pub brokers: Option<KafkaBrokers>,

    /// Speak TLS to the brokers
    #[arg(long = "kafka-tls")]
    pub tls: bool,

    /// A file of PEM certificates to verify the brokers with over TLS, instead of this host's own
    #[arg(long = "kafka-tls-ca", value_name = "FILE", requires = "tls")]
    pub tls_ca: Option<PathBuf>,

    /// The user to log in as
    #[arg(long = "kafka-user", value_name = "NAME")]
    pub user: Option<String>,

    /// A file whose first line is the password for Kafka
    #[arg(long = "kafka-password-file", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// How to log in
    #[arg(long = "kafka-sasl", value_name = "MECHANISM", default_value = "scram-sha-512")]
    pub sasl: KafkaSasl,

    /// The topic of Kafka that is the bus
    #[arg(long = "kafka-topic", value_name = "NAME", default_value = "fanfare", value_parser = kafka_topic)]
    pub topic: String,

    /// Replicas of the topic that install creates; with one, a lost disk is a lost bus
    #[arg(long = "kafka-replicas", value_name = "N", default_value = "3", value_parser = clap::value_parser!(i32).range(1..=100))]
    pub replicas: i32,

    /// Accept a topic that may lose acknowledged events, as nodes with --kafka-accept-loss do
    #[arg(long = "kafka-accept-loss")]
    pub accepts_loss: bool,
}

/// `fanfare bus install`.
#[derive(Args, Clone, Debug)]
pub struct InstallArgs {
    /// Where the bus is.
    #[command(flatten)]
    pub place: BusPlace,

    /// Raise the bytes that an event of the bus may have. Unset: --event-bytes of the first node
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub event_bytes: Option<usize>,

    /// Raise the bytes that a topic's name may have. Unset: --topic-bytes of the first node
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub topic_bytes: Option<usize>,

    /// Let appends in PostgreSQL notify the nodes, which then ask less often; off by default. Unset: unchanged
    ///
    /// PREPARE TRANSACTION then fails in transactions that have published.
    #[arg(long, value_name = "on|off", value_parser = on_or_off, conflicts_with_all = ["redis_url", "brokers"])]
    pub notify: Option<bool>,

    /// Install nothing, and print the SQL that installs the bus in PostgreSQL; with --kafka-brokers, the command that
    /// creates the topic
    #[arg(long, conflicts_with_all = ["redis_url", "postgres_url", "force", "event_bytes", "topic_bytes", "notify"])]
    pub print: bool,

    /// Replace functions of a later version
    #[arg(long)]
    pub force: bool,
}

/// `fanfare bus check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Where the bus is.
    #[command(flatten)]
    pub place: BusPlace,

    /// The entries that the bus is to keep: --bus-entries of its nodes
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = number_within(0, u64::MAX))]
    pub entries: u64,

    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fanfare bus hold`.
#[derive(Args, Clone, Debug)]
pub struct HoldArgs {
    /// Where the bus is.
    #[command(flatten)]
    pub place: BusPlace,

    /// What restarts Redis, or makes another server the primary, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("allowed is on or off".to_owned()),
    }
}
