//! The options of `fanfare serve`: each declared here once, with its name, default, bounds and help.
//!
//! A field's `id` is the flag's name, the file's key and, as `FANFARE_<ID>`, the environment's variable; its comment is
//! the flag's help; the group `reloadable` holds what a reload changes. `layers` parses every layer's text with these
//! declarations, so no option has two parsers. The server reads these records as they are.
//! Constraints between several options are in `check`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Command, ValueEnum};

use super::bus::BusOptions;
use super::jwt::JwtOptions;
use super::kafka::KafkaOptions;
use super::kafka_flows::KafkaFlowOptions;
use super::postgres::PostgresOptions;
use super::secret::RedisUrl;
use super::tls::{ClientListener, TlsOptions};
use super::values::{
    COUNT_MAX, CorsOrigin, EndpointPath, HostName, LogFilter, Loops, channel, count_within, duration_within,
    exact_topic, size_within, topic,
};
use crate::auth::proxies::TrustedProxy;
use crate::event::{TOPIC_BYTES_MAX, Topic};
use crate::io::listener::ListenAddress;
use crate::io::socket_options::USER_TIMEOUT_MIN;
use crate::protocol::head::HeadLimits;
use crate::protocol::publish::PublishLimits;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Events in one publish.
pub(super) const BATCH_MAX: usize = 1000;

/// Bounded, because each visit of a stream merges the logs of its topics.
pub const TOPICS_PER_SUBSCRIBER_MAX: u32 = 500;

/// The group of the options that a reload changes; it reads their files again too. The others take effect with a restart.
pub(super) const RELOADABLE: &str = "reloadable";

/// Every option, before what they say together is checked and the secrets' files are read.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    pub(super) listen: ListenConfig,
    #[command(flatten)]
    pub(super) tls: TlsOptions,
    #[command(flatten)]
    pub(super) redis: RedisOptions,
    #[command(flatten)]
    pub(super) bus: BusOptions,
    #[command(flatten)]
    pub(super) postgres: PostgresOptions,
    #[command(flatten)]
    pub(super) kafka: KafkaOptions,
    #[command(flatten)]
    pub(super) kafka_flows: KafkaFlowOptions,
    #[command(flatten)]
    pub(super) delivery: DeliveryConfig,
    #[command(flatten)]
    pub(super) history: HistoryConfig,
    #[command(flatten)]
    pub(super) limits: LimitsConfig,
    #[command(flatten)]
    pub(super) security: SecurityOptions,
    #[command(flatten)]
    pub(super) jwt: JwtOptions,
    #[command(flatten)]
    pub(super) drain: DrainConfig,
    #[command(flatten)]
    pub(super) io: IoConfig,
    #[command(flatten)]
    pub(super) log: LogConfig,
}

impl Options {
    /// Declares every option on a command.
    pub fn declare_on(command: Command) -> Command {
        Options::augment_args(command.group(ArgGroup::new(RELOADABLE).multiple(true)))
    }
}

/// Where the server listens.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Listening")]
pub struct ListenConfig {
    /// Where subscribers connect: ADDR:PORT, tls:ADDR:PORT or unix:PATH; repeatable. Port 0 picks a free one
    ///
    /// Names are not looked up, but localhost is 127.0.0.1. tls: speaks HTTPS, with --tls-certificate and --tls-key;
    /// redirect:ADDR:PORT sends clients to the first of those. A unix socket spares a proxy on the same host its
    /// ephemeral ports. SSE_PORT in the environment sets the port alone; SSE_HOST is a public name and sets nothing.
    #[arg(id = "listen", long, value_name = "ADDR", default_value = "127.0.0.1:3001")]
    pub public: Vec<ClientListener>,

    /// Where health, metrics and the debug view answer outside all stream limits, also while draining; repeatable
    #[arg(id = "admin-listen", long, value_name = "ADDR")]
    pub admin: Vec<ListenAddress>,

    /// A proxy that the server trusts to name the client: an address, a network, or unix; repeatable
    ///
    /// The server reads Forwarded, X-Forwarded-For and the PROXY protocol from these proxies only, and uses the client's
    /// address in limits and logs. unix means every client that may open a unix socket of --listen.
    #[arg(id = "trusted-proxy", long, value_name = "CIDR|unix")]
    pub trusted_proxies: Vec<TrustedProxy>,

    /// Serve --listen only to trusted proxies, which must speak the PROXY protocol (version 1 or 2)
    #[arg(
        id = "proxy-protocol", long, action = clap::ArgAction::Set, value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true,
        hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub proxy_protocol: bool,

    /// Connections that the kernel may hold until they are accepted; net.core.somaxconn caps it
    #[arg(id = "backlog", long, value_name = "N", default_value = "65535", value_parser = count_within(1, 1 << 20))]
    pub backlog: u32,
}

/// The options about Redis as given; [`super::RedisConfig`] is what remains of them when there is a URL.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Redis")]
pub(super) struct RedisOptions {
    /// The Redis to subscribe to: redis://, rediss:// (TLS), unix:// or redis+sentinel://; also from REDIS_URL
    ///
    /// redis+sentinel://host,host/mymaster names Sentinels, and the primary that they watch.
    ///
    /// A password in it is never shown, but arguments are visible to every user of the host: prefer the environment,
    /// or --redis-password-file.
    #[arg(id = "redis-url", long, value_name = "URL")]
    pub(super) url: Option<RedisUrl>,

    /// A file whose first line is the password for Redis; FANFARE_REDIS_PASSWORD holds the password itself
    #[arg(id = "redis-password-file", long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,

    /// A file of PEM certificates to verify a rediss:// server with, instead of this host's own
    #[arg(id = "redis-tls-ca", long, value_name = "FILE")]
    pub(super) tls_ca: Option<PathBuf>,

    /// A channel to subscribe to; its name is the topic; repeatable
    ///
    /// With --bus redis-stream, there is no default, and one node at a time reads the channels for all nodes.
    #[arg(id = "redis-channel", long, value_name = "NAME", default_value = "dashboard_updates", value_parser = exact_topic)]
    pub(super) channels: Vec<Topic>,

    /// A pattern of channels to subscribe to, such as orders.*, beside --redis-channel and its default; repeatable
    #[arg(id = "redis-pattern", long, value_name = "GLOB", value_parser = topic)]
    pub(super) patterns: Vec<Topic>,

    /// The format of messages: the data itself, or the JSON that POST /publish takes
    #[arg(id = "redis-payload", long, value_name = "FORMAT", default_value = "raw")]
    pub(super) payload: RedisPayload,

    /// The channel on which Fanfare nodes exchange what clients publish over HTTP
    #[arg(id = "redis-bus", long, value_name = "NAME", default_value = "fanfare:bus", value_parser = channel)]
    pub(super) bus: String,

    /// A topic whose events, when published over HTTP, also go to the Redis channel of its name; repeatable
    ///
    /// For the servers that Fanfare replaces, as long as both run. --redis-payload sets the payload's format. Fanfare
    /// nodes deliver such an event once, whether or not they subscribe to the channel.
    #[arg(id = "redis-publish", long, value_name = "CHANNEL", value_parser = exact_topic)]
    pub(super) copied_channels: Vec<Topic>,

    /// A source without which /health/ready answers 503 (by default it says "degraded"); repeatable
    #[arg(id = "ready-requires", long, value_name = "SOURCE")]
    pub(super) ready_requires: Vec<RequiredSource>,
}

/// What subscribers get, and when.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryConfig {
    /// The topic of GET /events when none is named
    #[arg(id = "default-topic", long, value_name = "NAME", default_value = "dashboard_updates", value_parser = exact_topic)]
    pub default_topic: Topic,

    /// The topic of GET /dashboard/stream
    #[arg(id = "dashboard-topic", long, value_name = "NAME", default_value = "dashboard_updates", value_parser = exact_topic)]
    pub dashboard_topic: Topic,

    /// One more path that streams the default topic; also from SSE_ENDPOINT
    #[arg(id = "stream-endpoint", long, value_name = "PATH")]
    pub stream_endpoint: Option<EndpointPath>,

    /// How long clients wait before they reconnect (jitter is added); also from SSE_RETRY_INTERVAL, in milliseconds
    #[arg(id = "retry", group = RELOADABLE, long, value_name = "TIME", default_value = "3s",
          value_parser = duration_within(100 * MS, HOUR))]
    pub retry: Duration,

    /// Send a comment after this much silence, so that proxies keep the stream open and dead clients are detected
    #[arg(id = "heartbeat", group = RELOADABLE, long, value_name = "TIME", default_value = "30s",
          value_parser = duration_within(SECOND, HOUR))]
    pub heartbeat_interval: Duration,

    /// Compress streams with gzip for clients that accept it; each event once, for all of them
    ///
    /// The length of what is sent then depends on its content: an attacker who chooses a part of a topic's events, and sees
    /// how long they become, learns about the rest (CRIME, BREACH).
    #[arg(
        id = "compress", group = RELOADABLE, long, action = clap::ArgAction::Set, value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true,
        hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub compress: bool,

    /// A subscriber that accepts no byte for this long is slow
    #[arg(id = "stall-timeout", group = RELOADABLE, long, value_name = "TIME", default_value = "30s",
          value_parser = duration_within(SECOND, HOUR))]
    pub stall_timeout: Duration,

    /// What happens to a slow subscriber: it is closed and resumes, or it skips to the newest event with a gap
    #[arg(id = "slow-policy", group = RELOADABLE, long, value_name = "POLICY", default_value = "close")]
    pub slow_policy: SlowPolicy,

    /// Deliver to each subscriber at most once per interval, everything pending at once; 0s delivers at once
    #[arg(id = "interval-floor", group = RELOADABLE, long, value_name = "TIME", default_value = "0s",
          value_parser = duration_within(Duration::ZERO, HOUR))]
    pub interval_floor: Duration,
}

/// What a topic remembers, for replays and for subscribers that lag.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "History")]
pub struct HistoryConfig {
    /// Maximum events that a topic remembers. Unset: as many as --history-bytes allows
    #[arg(id = "history-events", long, value_name = "N", value_parser = history_events())]
    pub events_max: Option<u32>,

    /// Maximum bytes that a topic remembers; at least one largest event
    #[arg(id = "history-bytes", long, value_name = "SIZE", default_value = "16MiB", value_parser = history_bytes())]
    pub bytes_max: usize,

    /// Maximum bytes that all topics together remember
    #[arg(id = "history-bytes-total", long, value_name = "SIZE", default_value = "64MiB",
          value_parser = size_within(KIB, 1024 * GIB))]
    pub bytes_total_max: usize,

    /// How long an event is remembered
    #[arg(id = "history-age", long, value_name = "TIME", default_value = "5m", value_parser = history_age())]
    pub age_max: Duration,

    /// Maximum events of one replay; a client that missed more gets a gap and the newest ones. Unset: no limit
    #[arg(id = "replay-max", long, value_name = "N", value_parser = count_within(0, COUNT_MAX))]
    pub replay_events_max: Option<u32>,

    /// Bytes per turn of the loop for replays and laggards, after live delivery
    #[arg(id = "catch-up-bytes", group = RELOADABLE, long, value_name = "SIZE", default_value = "1MiB",
          value_parser = size_within(4 * KIB, GIB))]
    pub catch_up_bytes_max: usize,
}

pub(super) fn history_events() -> impl Fn(&str) -> Result<u32, String> + Clone {
    count_within(1, COUNT_MAX)
}

pub(super) fn history_bytes() -> impl Fn(&str) -> Result<usize, String> + Clone {
    size_within(KIB, 16 * GIB)
}

pub(super) fn history_age() -> impl Fn(&str) -> Result<Duration, String> + Clone {
    duration_within(SECOND, 365 * DAY)
}

/// The limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitsConfig {
    /// Maximum open streams; a few more connections are accepted, to refuse clients and answer health checks.
    /// Unset: as many as the limit on open files allows
    #[arg(id = "max-connections", group = RELOADABLE, long, value_name = "N", value_parser = count_within(1, COUNT_MAX))]
    pub connections_max: Option<u32>,

    /// Maximum open connections per client address. Unset: no limit, since behind a proxy all have the same address
    #[arg(id = "max-connections-per-ip", group = RELOADABLE, long, value_name = "N", value_parser = count_within(1, COUNT_MAX))]
    pub connections_per_ip_max: Option<u32>,

    /// Maximum connections accepted per second. Unset: no limit
    #[arg(id = "accept-rate", group = RELOADABLE, long, value_name = "N", value_parser = count_within(1, COUNT_MAX))]
    pub accepts_per_second_max: Option<u32>,

    /// Close each stream before it gets older than this, so that balancers spread clients anew. Unset: never
    ///
    /// Each stream ends at a random time between half of it and all of it. Its client returns within a second and
    /// resumes where it was.
    #[arg(id = "max-connection-age", group = RELOADABLE, long, value_name = "TIME", value_parser = duration_within(SECOND, 365 * DAY))]
    pub connection_age_max: Option<Duration>,

    /// Maximum size of a request's head
    #[arg(id = "head-bytes", group = RELOADABLE, long, value_name = "SIZE", default_value = "16KiB", value_parser = size_within(KIB, MIB))]
    pub head_bytes_max: usize,

    /// Maximum header lines of a request
    #[arg(id = "max-headers", group = RELOADABLE, long, value_name = "N", default_value = "100", value_parser = count_within(1, 10_000))]
    pub headers_max: u32,

    /// Maximum time for a request's head to arrive
    #[arg(id = "head-timeout", group = RELOADABLE, long, value_name = "TIME", default_value = "10s",
          value_parser = duration_within(100 * MS, HOUR))]
    pub head_timeout: Duration,

    /// Maximum size of a request's body
    #[arg(id = "body-bytes", group = RELOADABLE, long, value_name = "SIZE", default_value = "1MiB", value_parser = size_within(KIB, GIB))]
    pub body_bytes_max: usize,

    /// Maximum time for a request's body to arrive
    #[arg(id = "body-timeout", group = RELOADABLE, long, value_name = "TIME", default_value = "30s",
          value_parser = duration_within(100 * MS, HOUR))]
    pub body_timeout: Duration,

    /// Close a connection that sends no request for this long
    #[arg(id = "idle-timeout", group = RELOADABLE, long, value_name = "TIME", default_value = "75s",
          value_parser = duration_within(100 * MS, DAY))]
    pub idle_timeout: Duration,

    /// Maximum requests of one connection that wait for their answers
    #[arg(id = "max-pipelined", group = RELOADABLE, long, value_name = "N", default_value = "1000",
          value_parser = count_within(1, COUNT_MAX))]
    pub pipelined_max: u32,

    /// Maximum bytes of all answers that clients have not read yet
    #[arg(id = "answer-bytes", group = RELOADABLE, long, value_name = "SIZE", default_value = "64MiB",
          value_parser = size_within(64 * KIB, 1024 * GIB))]
    pub answer_bytes_max: usize,

    /// Maximum topics of one subscriber
    #[arg(id = "topics-per-subscriber", group = RELOADABLE, long, value_name = "N", default_value = "64",
          value_parser = count_within(1, TOPICS_PER_SUBSCRIBER_MAX))]
    pub topics_per_subscriber_max: u32,

    /// Maximum length of a topic's name
    #[arg(id = "topic-bytes", long, value_name = "SIZE", default_value = "256",
          value_parser = size_within(1, TOPIC_BYTES_MAX))]
    pub topic_bytes_max: usize,

    /// Maximum topics with published events; as many again may exist only because subscribers name them
    #[arg(id = "max-topics", long, value_name = "N", default_value = "100000",
          value_parser = count_within(1, COUNT_MAX))]
    pub topics_max: u32,

    /// Maximum size of an event's data
    #[arg(id = "event-bytes", long, value_name = "SIZE", default_value = "256KiB",
          value_parser = size_within(KIB, GIB))]
    pub event_bytes_max: usize,

    /// Maximum events per second that one token may publish over HTTP; a second's worth may come at once. Unset:
    /// no limit
    #[arg(id = "publish-rate", group = RELOADABLE, long, value_name = "N", value_parser = count_within(1, COUNT_MAX))]
    pub publishes_per_second_max: Option<u32>,
}

impl LimitsConfig {
    /// The limits of a request's head.
    pub fn head(&self) -> HeadLimits {
        HeadLimits {
            head_bytes_max: self.head_bytes_max,
            target_bytes_max: self.head_bytes_max / 2,
            headers_max: self.headers_max as usize,
        }
    }

    /// The limits of one publish, from any source.
    pub fn publish(&self) -> PublishLimits {
        PublishLimits {
            topic_bytes_max: self.topic_bytes_max,
            data_bytes_max: self.event_bytes_max,
            batch_max: BATCH_MAX,
        }
    }
}

/// The options about who may do what, as given; [`super::SecurityConfig`] holds the tokens themselves.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Security")]
pub(super) struct SecurityOptions {
    /// To try Fanfare out: open POST /publish without a token on loopback, and publish statistics of this host
    #[arg(
        id = "dev", long, action = clap::ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true, hide_possible_values = true,
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(super) dev: bool,

    /// A file of tokens that may publish: one per line, several for a rotation; FANFARE_PUBLISH_TOKEN holds one itself
    #[arg(id = "publish-token-file", group = RELOADABLE, long, value_name = "FILE")]
    pub(super) publish_token_file: Option<PathBuf>,

    /// A file of tokens for debug view, metrics and list of topics; FANFARE_OPERATOR_TOKEN holds one itself
    #[arg(id = "operator-token-file", group = RELOADABLE, long, value_name = "FILE")]
    pub(super) operator_token_file: Option<PathBuf>,

    /// Open metrics, debug view, topics and the snapshot of all of them to all clients, on public listeners too
    ///
    /// By default they are open only where the server listens on loopback alone and no proxy is configured; elsewhere an
    /// operator's token or --admin-listen opens them to operators.
    #[arg(
        id = "open-reports", group = RELOADABLE, long, action = clap::ArgAction::Set, value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true,
        hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(super) open_reports: bool,

    /// A host name that listeners on loopback answer to, in addition to localhost and addresses; repeatable
    ///
    /// Other names are refused there, since a web page can make its own name point at this host (DNS rebinding). Needed
    /// for a proxy on this host that passes on the public name and is no --trusted-proxy.
    #[arg(id = "allowed-host", group = RELOADABLE, long, value_name = "NAME")]
    pub(super) allowed_hosts: Vec<HostName>,

    /// An origin whose pages may read streams, such as https://app.example.com; repeatable
    ///
    /// `*` allows every page that a visitor opens to read the streams, also from inside your network: use it for
    /// public data only.
    #[arg(id = "cors-origin", group = RELOADABLE, long, value_name = "ORIGIN")]
    pub(super) cors_origins: Vec<CorsOrigin>,
}

/// How the server goes away on SIGTERM.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Drain")]
pub struct DrainConfig {
    /// How long a drain first only answers 503 on /health/ready, so that balancers stop sending clients
    #[arg(id = "drain-notice", group = RELOADABLE, long, value_name = "TIME", default_value = "0s",
          value_parser = duration_within(Duration::ZERO, HOUR))]
    pub notice: Duration,

    /// Time over which a drain closes all streams evenly; the stop timeout of the service must exceed both together
    #[arg(id = "drain", group = RELOADABLE, long, value_name = "TIME", default_value = "10s",
          value_parser = duration_within(Duration::ZERO, HOUR))]
    pub duration: Duration,
}

/// How bytes move.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "IO")]
pub struct IoConfig {
    /// How sends reach the kernel: epoll, one system call each; io_uring, one for each batch; auto is epoll
    ///
    /// Where the kernel or a container forbids io_uring, epoll replaces it and the log says why.
    #[arg(id = "io", long, value_name = "BACKEND", default_value = "auto")]
    pub backend: IoBackend,

    /// Event loops, each with a thread of its own; auto is one for each core that this process may use
    ///
    /// One loop serves most hosts. Several share the connections evenly, and each delivers to its own.
    #[arg(id = "loops", long, value_name = "N", default_value = "1", value_parser = Loops::read)]
    pub loops: Loops,

    /// Maximum unsent bytes per connection in the kernel (TCP_NOTSENT_LOWAT)
    ///
    /// A subscriber that does not read occupies at most this and one packet of 64 KiB in the kernel.
    #[arg(id = "unsent-bytes", long, value_name = "SIZE", default_value = "16KiB",
          value_parser = size_within(4 * KIB, 64 * MIB))]
    pub unsent_bytes_max: usize,

    /// A fixed send buffer per connection (SO_SNDBUF). Unset: the kernel tunes it; 16KiB for a unix socket
    ///
    /// It also bounds what is sent and not acknowledged yet, so a small one makes large events slow: one round trip
    /// for each buffer. Unset, the third number of net.ipv4.tcp_wmem is the bound.
    #[arg(id = "send-buffer", long, value_name = "SIZE", value_parser = size_within(4 * KIB, 64 * MIB))]
    pub send_buffer_bytes: Option<usize>,

    /// The kernel closes a connection when sent bytes stay unacknowledged for this long
    ///
    /// Unset: twice the longer of --heartbeat and --stall-timeout, at least 2 minutes. Heartbeats
    /// are such bytes, so a peer that vanished is closed too.
    #[arg(id = "tcp-user-timeout", long, value_name = "TIME",
          value_parser = duration_within(USER_TIMEOUT_MIN, DAY))]
    pub tcp_user_timeout: Option<Duration>,
}

impl IoConfig {
    /// The user timeout that is set, or else one derived from `delivery`: the kernel closes no connection that the
    /// server still waits for.
    pub(super) fn user_timeout_beside(&self, delivery: &DeliveryConfig) -> Duration {
        let follows = 2 * delivery.heartbeat_interval.max(delivery.stall_timeout);
        self.tcp_user_timeout.unwrap_or(follows.max(USER_TIMEOUT_UNSET_MIN))
    }
}

/// The least user timeout when none is set. It suits any usual heartbeat.
const USER_TIMEOUT_UNSET_MIN: Duration = Duration::from_secs(120);

/// What is written to standard error.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct LogConfig {
    /// trace, debug, info, warn, error, off, or directives such as info,fanfare::sources=debug; also from LOG_LEVEL
    #[arg(id = "log-level", group = RELOADABLE, long, value_name = "LEVEL", default_value = "info")]
    pub filter: LogFilter,

    /// One line of text, or one JSON object, per entry
    #[arg(id = "log-format", long, value_name = "FORMAT", default_value = "text")]
    pub format: LogFormat,
}

/// What a Redis message's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RedisPayload {
    /// The event's data, as it is.
    Raw,
    /// The JSON object that POST /publish takes.
    Envelope,
}

/// A source that readiness may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RequiredSource {
    /// The Redis pub/sub subscription.
    Redis,
}

/// What happens to a subscriber whose next event is forgotten. (A stalled one is always closed.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SlowPolicy {
    /// Is closed with a reason; its client reconnects and resumes.
    Close,
    /// Skips to the newest event, and receives a gap event.
    Skip,
}

/// How sends reach the kernel. Readiness comes from epoll in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IoBackend {
    /// The one that takes less CPU: epoll.
    Auto,
    /// A system call for each send.
    Epoll,
    /// A system call for each batch of sends.
    #[value(name = "io_uring")]
    IoUring,
}

/// How a log entry looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line of text.
    Text,
    /// A JSON object.
    Json,
}
