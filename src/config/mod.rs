//! The configuration, resolved and validated: flag over environment over file over credential over default.
//!
//! `options` declares every option once, `tables` the tables of the file; `layers` merges the layers and keeps the origin of
//! each value; `defaults` adjusts defaults to the options that are set; `check` refuses contradictions; `live` is what a
//! reload may change.
//! The result is plain data. Reads the configuration file and files of secrets and certificates; opens nothing else.

mod bus;
mod check;
mod credentials;
mod defaults;
mod file;
mod jwt;
mod kafka;
mod kafka_flows;
mod layers;
mod live;
mod options;
mod postgres;
mod redis;
mod secret;
mod tables;
mod template;
mod tls;
mod values;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use bus::DurableBusConfig;
pub use file::ConfigFile;
pub use jwt::{JWT_SECRET_VARIABLE, JwtConfig};
pub use kafka::{KafkaBrokers, KafkaBusConfig, KafkaConfig, KafkaSasl, kafka_topic};
pub use kafka_flows::{KEY_PLACE, KafkaCopyRule, KafkaFeed, KafkaFeedsConfig};
pub use layers::{Environment, Flags, Origin, Setting, Settings, variable};
pub use options::{
    DeliveryConfig, DrainConfig, HistoryConfig, IoBackend, IoConfig, LimitsConfig, ListenConfig, LogConfig, LogFormat,
    Options, RedisPayload, RequiredSource, SlowPolicy, TOPICS_PER_SUBSCRIBER_MAX,
};
pub use postgres::PostgresConfig;
pub use redis::RedisConfig;
pub use secret::{PostgresUrl, REDACTED, RedisUrl, Secret, SecretError, SecretFile, read_bounded, redact_url};
pub use tables::{ChannelTable, TABLES_MAX, Tables, TopicTable};
pub use template::template;
pub use tls::{BadPair, ClientListener, Speaks, read_certificates};
pub use values::{
    COUNT_MAX, CorsOrigin, EndpointPath, HostName, LogFilter, Loops, bus_name, channel, count_within, duration,
    duration_text, duration_within, number_within, size, size_text, size_within, topic,
};

use jwt::JwtOptions;
use options::SecurityOptions;

use crate::tls::certificates::Certificates;

/// Holds a token that may publish; read by `fanfare publish` too.
pub const PUBLISH_TOKEN_VARIABLE: &str = "FANFARE_PUBLISH_TOKEN";
/// Holds a token of an operator.
pub const OPERATOR_TOKEN_VARIABLE: &str = "FANFARE_OPERATOR_TOKEN";
/// Holds the password for Redis.
pub const REDIS_PASSWORD_VARIABLE: &str = "FANFARE_REDIS_PASSWORD";
/// Holds the password for Kafka.
pub const KAFKA_PASSWORD_VARIABLE: &str = "FANFARE_KAFKA_PASSWORD";
/// Holds the password for PostgreSQL.
pub const POSTGRES_PASSWORD_VARIABLE: &str = "FANFARE_POSTGRES_PASSWORD";

/// The variables that hold secrets themselves. No flag takes a secret: every user of a host can see its arguments.
const SECRET_VARIABLES: [&str; 6] = [
    PUBLISH_TOKEN_VARIABLE,
    OPERATOR_TOKEN_VARIABLE,
    REDIS_PASSWORD_VARIABLE,
    POSTGRES_PASSWORD_VARIABLE,
    KAFKA_PASSWORD_VARIABLE,
    JWT_SECRET_VARIABLE,
];

/// What `fanfare serve` runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: ListenConfig,
    /// The Redis it bridges, if any.
    pub redis: Option<RedisConfig>,
    /// The PostgreSQL that has its bus or publishes to it, if any.
    pub postgres: Option<PostgresConfig>,
    /// The Kafka that has its bus, or topics that it copies to or reads, if any.
    pub kafka: Option<KafkaConfig>,
    /// What subscribers get, and when.
    pub delivery: DeliveryConfig,
    /// What topics remember.
    pub history: HistoryConfig,
    /// What applies to some topics alone; of several that match a topic, the first one counts.
    pub topics: Vec<TopicTable>,
    /// The limits beyond which it refuses.
    pub limits: LimitsConfig,
    /// Who may do what.
    pub security: SecurityConfig,
    /// The certificates of listeners that speak TLS.
    pub certificates: Certificates,
    /// How it shuts down.
    pub drain: DrainConfig,
    /// How bytes move.
    pub io: IoConfig,
    /// When the kernel gives up a silent peer: from `io`, or derived from `delivery`.
    pub tcp_user_timeout: Duration,
    /// What it logs.
    pub log: LogConfig,
}

impl Config {
    /// The durable bus, if there is one.
    pub fn durable_bus(&self) -> Option<&DurableBusConfig> {
        let in_redis = self.redis.as_ref().and_then(|redis| redis.stream.as_ref());
        let in_postgres = self.postgres.as_ref().and_then(|postgres| postgres.bus.as_ref());
        let in_kafka = self.kafka.as_ref().and_then(|kafka| kafka.bus.as_ref());
        in_redis.or(in_postgres).or(in_kafka.map(|bus| &bus.durable))
    }
}

/// Who may do what.
#[derive(Clone, Debug)]
pub struct SecurityConfig {
    /// `--dev`: publishing on loopback needs no token, pages of localhost may read streams.
    pub dev: bool,
    /// Tokens that may publish.
    pub publish_tokens: Vec<Secret>,
    /// Tokens of operators: for debug view, metrics, statistics, the list of topics, and ending streams.
    pub operator_tokens: Vec<Secret>,
    /// How JSON Web Tokens are checked, if there is a key to check them with: subscribing then needs a token.
    pub jwt: Option<JwtConfig>,
    /// `--open-reports`: metrics, debug view and topics are open to every client.
    pub open_reports: bool,
    /// Names that loopback listeners answer to.
    pub allowed_hosts: Vec<HostName>,
    /// Pages that may read streams.
    pub cors: CorsPolicy,
}

/// Which pages may read streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsPolicy {
    /// Pages of these origins; none by default.
    Listed(Vec<CorsOrigin>),
    /// Pages of any origin.
    Any,
}

/// A configuration with the origin of each value, and warnings.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to run with.
    pub config: Config,
    /// Every option's text and origin.
    pub settings: Settings,
    /// The tables of the configuration file.
    pub tables: Tables,
    /// What is allowed but probably not meant; to be logged once.
    pub warnings: Vec<String>,
}

/// Why there is no configuration. Every error exits with 2, and its message is complete: the option as the user wrote
/// it, its value, and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that its option does not take.
    #[error("{setting}: {reason}")]
    Value {
        /// The option and value as written.
        setting: String,
        /// What is allowed.
        reason: String,
    },
    /// Values that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// A key that is not the name of an option.
    #[error("{place}: unknown key {key}; {advice}")]
    UnknownKey {
        /// The file, or a table of it.
        place: String,
        /// The key.
        key: String,
        /// The nearest known one.
        advice: String,
    },
    /// A table of the file that lacks something.
    #[error("{place}: {reason}")]
    Table {
        /// The table and the file.
        place: String,
        /// What is missing.
        reason: String,
    },
    /// A file that can't be read or is not TOML.
    #[error("configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Loaded {
    /// Resolves a configuration from flags, environment and the file that one of them names.
    pub fn new(flags: &Flags, config_file: Option<&Path>, env: &Environment) -> Result<Loaded, ConfigError> {
        let named_by_env = env.get(&variable("config")).filter(|path| !path.is_empty()).map(Path::new);
        let file = config_file.or(named_by_env).map(ConfigFile::read).transpose()?;
        let settings = Settings::merge(flags, env, file.as_ref())?;
        let tables = Tables::read(file.as_ref())?;
        Loaded::from_settings(settings, tables, env)
    }

    /// Checks the merged layers, and reads the files of secrets.
    fn from_settings(settings: Settings, tables: Tables, env: &Environment) -> Result<Loaded, ConfigError> {
        let options = settings.read()?;
        let mut warnings = layers::misspelt_variables(env);
        check::contradictions(&options, &settings)?;
        check::tables(&options, &settings, &tables)?;
        check::oddities(&options, &settings, env, &mut warnings);
        check::odd_tables(&options, &tables, &mut warnings);
        let config = resolve(options, &settings, &tables, env, &mut warnings)?;
        Ok(Loaded { config, settings, tables, warnings })
    }

    /// The effective configuration as a TOML file that says where each value came from; no secret is in it.
    pub fn to_toml(&self) -> String {
        let mut text =
            "# The effective configuration of fanfare serve; behind each value is where it came from.\n".to_owned();
        text.push_str(&self.settings.to_toml());
        let security = &self.config.security;
        text.push_str("\n# Secrets, which are never shown\n");
        for (what, count) in [("publish", security.publish_tokens.len()), ("operator", security.operator_tokens.len())]
        {
            let _ = writeln!(text, "# {what} tokens: {count}"); // writing to a String can't fail
        }
        let _ = writeln!(text, "# JWT keys: {}", security.jwt.as_ref().map_or(0, |jwt| jwt.keys.len()));
        text.push_str(&self.tables.to_toml());
        text
    }
}

/// The limit on streams in a configuration file, whatever flags and environment say; none if it sets none.
pub fn connections_max(file: &Path) -> Result<Option<u32>, ConfigError> {
    let file = ConfigFile::read(file)?;
    Ok(Settings::merge(&Flags::new(), &Environment::new(), Some(&file))?.read()?.limits.connections_max)
}

/// Turns options into the configuration: reads files of secrets, and groups the options about Redis under it.
fn resolve(
    options: Options,
    settings: &Settings,
    tables: &Tables,
    env: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    let mut secrets = SecretReader { settings, env, warnings };
    Ok(Config {
        redis: options.redis.read(&options.bus, &tables.channels, &mut secrets)?,
        postgres: options.postgres.read(&options.bus, &mut secrets)?,
        kafka: options.kafka.read(&options.bus, &options.kafka_flows, &mut secrets)?,
        topics: tables.topics.iter().map(|table| table.values.clone()).collect(),
        security: security_config(options.security, options.jwt, &mut secrets)?,
        certificates: options.tls.read(&mut secrets)?,
        tcp_user_timeout: options.io.user_timeout_beside(&options.delivery),
        listen: options.listen,
        delivery: options.delivery,
        history: options.history,
        limits: options.limits,
        drain: options.drain,
        io: options.io,
        log: options.log,
    })
}

/// Why an option is refused whose cargo feature is not built in.
pub fn absent_feature(feature: &str) -> String {
    format!("this fanfare was built without the cargo feature {feature}: build it with --features {feature}")
}

fn security_config(
    options: SecurityOptions,
    jwt: JwtOptions,
    secrets: &mut SecretReader<'_>,
) -> Result<SecurityConfig, ConfigError> {
    let mut tokens = |option, file: Option<PathBuf>, variable| {
        let mut tokens = secrets.file(option, file.as_deref(), SecretFile::tokens)?.unwrap_or_default();
        tokens.extend(secrets.variable(variable, Secret::token)?);
        Ok(tokens)
    };
    Ok(SecurityConfig {
        dev: options.dev,
        publish_tokens: tokens("publish-token-file", options.publish_token_file, PUBLISH_TOKEN_VARIABLE)?,
        operator_tokens: tokens("operator-token-file", options.operator_token_file, OPERATOR_TOKEN_VARIABLE)?,
        jwt: jwt.read(secrets)?,
        open_reports: options.open_reports,
        allowed_hosts: options.allowed_hosts,
        cors: match options.cors_origins {
            origins if origins.iter().any(CorsOrigin::is_any) => CorsPolicy::Any,
            origins => CorsPolicy::Listed(origins),
        },
    })
}

/// Reads secrets from the places that options and environment name, and words the errors.
struct SecretReader<'a> {
    settings: &'a Settings,
    env: &'a Environment,
    warnings: &'a mut Vec<String>,
}

impl SecretReader<'_> {
    fn file<T>(
        &mut self,
        option: &str,
        path: Option<&Path>,
        take: fn(&SecretFile) -> Result<T, SecretError>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(path) = path else { return Ok(None) };
        let setting = self.settings.get(option);
        let refused =
            |error: SecretError| ConfigError::Value { setting: setting.to_string(), reason: error.to_string() };
        let file = SecretFile::read(path).map_err(refused)?;
        if file.is_open_to_others {
            self.warnings.push(format!("{setting}: every user of this host may read it; chmod o-r {}", path.display()));
        }
        take(&file).map(Some).map_err(refused)
    }

    /// The password in a file or in a variable.
    fn password(&mut self, option: &str, path: Option<&Path>, variable: &str) -> Result<Option<Secret>, ConfigError> {
        let from_file = self.file(option, path, SecretFile::password)?;
        Ok(from_file.or(self.variable(variable, Secret::password)?))
    }

    fn warn_of_redacted(&mut self, url: &str, file: &str) {
        self.warnings.push(format!("{url} has {REDACTED} for a password, which was redacted: give {file}"));
    }

    fn variable(
        &self,
        name: &str,
        take: fn(&str) -> Result<Secret, SecretError>,
    ) -> Result<Option<Secret>, ConfigError> {
        let Some(text) = self.env.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let refused = |error: SecretError| ConfigError::Value { setting: name.to_owned(), reason: error.to_string() };
        take(text).map(Some).map_err(refused)
    }
}

#[cfg(test)]
mod tests;
