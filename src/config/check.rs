//! Constraints between several options. Each refusal names both options as the user wrote them, and the fix.

use std::collections::HashSet;

use super::bus::BusKind;
use super::kafka_flows;
use super::options::{IoBackend, Options, RequiredSource};
use crate::event::glob;
use crate::io::listener::ListenAddress;

use super::tables::{CHANNELS, Table};
use super::tls::{ClientListener, Speaks};
use super::{
    ChannelTable, ConfigError, CorsOrigin, Environment, KAFKA_PASSWORD_VARIABLE, POSTGRES_PASSWORD_VARIABLE,
    REDIS_PASSWORD_VARIABLE, Settings, Tables, TopicTable, absent_feature,
};

/// Refuses options that contradict each other, or that ask for features that are not built.
pub(super) fn contradictions(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let public = || options.listen.public.iter().map(|listener| &listener.address);
    let listeners = || public().chain(&options.listen.admin);
    let has_any_origin = options.security.cors_origins.iter().any(CorsOrigin::is_any);
    let pair = |first: &str, second: &str| (settings.get(first).to_string(), settings.get(second).to_string());

    if options.security.dev && !listeners().all(ListenAddress::is_local) {
        return refuse(
            pair("dev", "listen"),
            "--dev lets every client that reaches a listener publish: listen on loopback",
        );
    }
    if options.security.dev && has_any_origin {
        return refuse(
            pair("dev", "cors-origin"),
            "every page that a browser here opens could publish: name the origins",
        );
    }
    if options.listen.proxy_protocol && options.listen.trusted_proxies.is_empty() {
        let setting = settings.get("proxy-protocol").to_string();
        return Err(ConfigError::Value {
            setting,
            reason: "without a trusted proxy no client could connect: name the proxy with trusted-proxy".into(),
        });
    }
    if options.listen.proxy_protocol && options.security.dev {
        return refuse(
            pair("dev", "proxy-protocol"),
            "whom a proxy speaks for is not on this host, and may not publish",
        );
    }
    if has_any_origin && options.security.cors_origins.len() > 1 {
        let setting = settings.get("cors-origin").to_string();
        return Err(ConfigError::Value {
            setting,
            reason: "* already allows every origin: leave out the others".into(),
        });
    }
    if let Some(twice) = first_repeated(listeners().filter(|address| !is_port_picked(address))) {
        return listened_on_twice(&twice, options, settings);
    }
    tls(options, settings)?;
    user_timeout(options, settings)?;
    if options.history.bytes_max < options.limits.event_bytes_max {
        let reason = "a topic could not remember its largest event: history-bytes must be at least event-bytes";
        return refuse(pair("history-bytes", "event-bytes"), reason);
    }
    if options.history.bytes_total_max < options.history.bytes_max {
        let reason = "history-bytes-total must be at least history-bytes";
        return refuse(pair("history-bytes-total", "history-bytes"), reason);
    }
    let topics =
        [("default-topic", &options.delivery.default_topic), ("dashboard-topic", &options.delivery.dashboard_topic)];
    let channels = options.redis.channels.iter().map(|channel| ("redis-channel", channel));
    let copied = options.redis.copied_channels.iter().map(|channel| ("redis-publish", channel));
    for (name, topic) in topics.into_iter().chain(channels.clone()).chain(copied.clone()) {
        if topic.as_str().len() > options.limits.topic_bytes_max {
            return refuse(pair(name, "topic-bytes"), "the name is longer than topics may be");
        }
    }
    let on_bus = channels.chain(copied).find(|(_, channel)| channel.as_str() == options.redis.bus);
    if let (Some(_), Some((name, _))) = (&options.redis.url, on_bus) {
        return refuse(pair("redis-bus", name), "the bus carries Fanfare's own messages: name another channel");
    }
    if options.redis.url.is_none() && options.redis.ready_requires.contains(&RequiredSource::Redis) {
        let setting = settings.get("ready-requires").to_string();
        return Err(ConfigError::Value { setting, reason: "no redis-url is given, so it would never be ready".into() });
    }
    bus(options, settings)?;
    kafka_flows::check(options, settings)?;
    io_uring(options, settings)
}

/// Checks what listeners with TLS, and those that redirect to them, need.
fn tls(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let first = |speaks| options.listen.public.iter().find(|listener| listener.speaks == speaks);
    let refused = |listener: &ClientListener, reason: &str| {
        let setting = settings.get("listen").with_only(&listener.to_string()).to_string();
        Err(ConfigError::Value { setting, reason: reason.to_owned() })
    };
    match (first(Speaks::Https), first(Speaks::Redirects)) {
        (Some(https), _) if !options.tls.has_certificate() => {
            refused(https, "it needs a certificate: give --tls-certificate and --tls-key")
        }
        (None, Some(redirects)) if !options.tls.has_certificate() => {
            refused(redirects, "there is no listener with TLS to send clients to: add --listen tls:ADDR:PORT")
        }
        _ => Ok(()),
    }
}

/// What the names of a durable bus's own keys and channels begin with.
fn own_prefix(options: &Options) -> String {
    format!("{{{}}}:", options.bus.name)
}

/// Checks what the bus needs, and what it excludes.
fn bus(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let with = |name: &str| (settings.get("bus").to_string(), settings.get(name).to_string());
    if options.postgres.url.is_some() {
        postgres(options, settings)?;
    }
    match (options.bus.kind, &options.redis.url) {
        (Some(BusKind::Postgres), _) => postgres_bus(options, settings),
        (Some(BusKind::Kafka), _) => kafka_bus(options, settings),
        (Some(BusKind::Redis | BusKind::RedisStream), None) => Err(ConfigError::Value {
            setting: settings.get("bus").to_string(),
            reason: "no redis-url is given: it names the Redis that has the bus".into(),
        }),
        (Some(BusKind::Local), Some(_)) => {
            refuse(with("redis-url"), "a server with Redis has its bus there: leave out one of them")
        }
        (Some(BusKind::RedisStream), Some(_)) => channels_beside(options, settings),
        _ => Ok(()),
    }
}

/// Checks the options about channels beside a durable bus.
fn channels_beside(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let with = |name: &str| (settings.get("bus").to_string(), settings.get(name).to_string());
    let excluded = [
        ("redis-bus", "nodes exchange events through the durable bus: leave that out"),
        (
            "redis-publish",
            "the node that reads channels would take the copies for events: leave that out, or keep bus redis for as \
             long as other servers need the copies",
        ),
    ];
    refuse_one("bus", &excluded, settings)?;
    let own = own_prefix(options);
    match options.redis.channels.iter().any(|channel| channel.as_str().starts_with(&own)) {
        true => refuse(with("redis-channel"), &format!("names that begin with {own} belong to the bus")),
        false => Ok(()),
    }
}

/// Checks that what transactions publish has a durable bus to go to.
fn postgres(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let (bus, url) = (settings.get("bus"), settings.get("postgres-url"));
    let refused = |reason: &str| Err(ConfigError::Value { setting: url.to_string(), reason: reason.to_owned() });
    match options.bus.kind.filter(|_| bus.is_explicit()) {
        Some(BusKind::Postgres | BusKind::RedisStream) if cfg!(feature = "postgres") => Ok(()),
        Some(BusKind::Postgres) => Ok(()),
        Some(BusKind::RedisStream) => refused(&absent_feature("postgres")),
        Some(BusKind::Local | BusKind::Redis) => refuse(
            (bus.to_string(), url.to_string()),
            "what transactions publish would be lost or repeated when a server restarts: use bus postgres or redis-stream",
        ),
        Some(BusKind::Kafka) => refuse(
            (bus.to_string(), url.to_string()),
            "this bus has no place for how far PostgreSQL was read: use bus postgres or redis-stream",
        ),
        None => refused("it needs a durable bus: add bus postgres, or bus redis-stream and redis-url"),
    }
}

/// Checks what a bus in PostgreSQL needs, and what it excludes.
fn postgres_bus(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let bus = settings.get("bus").to_string();
    let missing = |reason: &str| Err(ConfigError::Value { setting: bus.clone(), reason: reason.to_owned() });
    if !cfg!(feature = "postgres") {
        return missing(&absent_feature("postgres"));
    }
    if options.postgres.url.is_none() {
        return missing("no postgres-url is given: it names the PostgreSQL that has the bus");
    }
    let with = |name: &str| (bus.clone(), settings.get(name).to_string());
    if settings.get("bus-name").is_explicit() {
        return refuse(with("bus-name"), "the bus of a database is its schema fanfare: leave that out");
    }
    if options.redis.url.is_some() { channels_beside(options, settings) } else { Ok(()) }
}

/// Checks what a bus in Kafka needs, and what it excludes.
fn kafka_bus(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let bus = settings.get("bus").to_string();
    let missing = |reason: &str| Err(ConfigError::Value { setting: bus.clone(), reason: reason.to_owned() });
    if !cfg!(feature = "kafka") {
        return missing(&absent_feature("kafka"));
    }
    if options.kafka.brokers.is_none() {
        return missing("no kafka-brokers are given: they have the bus");
    }
    let excluded = [
        ("redis-url", "no channel of Redis is read beside this bus: leave out one of them"),
        ("bus-name", "kafka-topic names the bus: leave that out"),
        ("bus-entries", "the retention of the topic decides how much it keeps: leave that out"),
        ("bus-id-memory", "Kafka does not recognize an event that is published again: leave that out"),
    ];
    refuse_one("bus", &excluded, settings)
}

/// Refuses tables that contradict the options.
pub(super) fn tables(options: &Options, settings: &Settings, tables: &Tables) -> Result<(), ConfigError> {
    tables.channels.iter().try_for_each(|table| channels_table(table, options, settings))?;
    tables.topics.iter().try_for_each(|table| topics_table(table, options, settings))
}

fn channels_table(table: &Table<ChannelTable>, options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let with = |option: &str| (table.shown("pattern"), settings.get(option).to_string());
    let own = own_prefix(options);
    if options.bus.is_durable() && table.values.pattern.starts_with(&own) {
        return refuse(with("bus-name"), &format!("names that begin with {own} belong to the bus"));
    }
    if options.redis.url.is_some() && table.values.pattern == options.redis.bus {
        return refuse(with("redis-bus"), "the bus carries Fanfare's own messages: name another channel");
    }
    table.check_length(options.limits.topic_bytes_max, &settings.get("topic-bytes").to_string())
}

fn topics_table(table: &Table<TopicTable>, options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let Some(bytes_max) = table.values.history_bytes_max else { return Ok(()) };
    let with = |option: &str| (table.shown("history-bytes"), settings.get(option).to_string());
    if bytes_max < options.limits.event_bytes_max {
        let reason = "such a topic could not remember its largest event: history-bytes must be at least event-bytes";
        return refuse(with("event-bytes"), reason);
    }
    if bytes_max > options.history.bytes_total_max {
        return refuse(with("history-bytes-total"), "history-bytes-total must be at least history-bytes");
    }
    Ok(())
}

/// Warns about tables that have no effect.
pub(super) fn odd_tables(options: &Options, tables: &Tables, warnings: &mut Vec<String>) {
    if options.redis.url.is_none() && !tables.channels.is_empty() {
        warnings.push(format!("[[{CHANNELS}]] has no effect without redis-url"));
    }
    warn_if_hidden(&tables.channels, |table| &table.pattern, warnings);
    warn_if_hidden(&tables.topics, |table| &table.pattern, warnings);
}

/// Warns about a table for one name that an earlier table matches too.
fn warn_if_hidden<T>(tables: &[Table<T>], pattern: impl Fn(&T) -> &str, warnings: &mut Vec<String>) {
    for (index, table) in tables.iter().enumerate() {
        let name = pattern(&table.values);
        let matches = |other: &Table<T>| glob::matches(pattern(&other.values).as_bytes(), name.as_bytes());
        let earlier = tables[..index].iter().position(matches).filter(|_| !glob::is_pattern(name));
        warnings.extend(earlier.map(|earlier| {
            format!("{} has no effect: table {} matches that name and comes first", table.shown("pattern"), earlier + 1)
        }));
    }
}

/// Warns about settings that are allowed but have no effect.
pub(super) fn oddities(options: &Options, settings: &Settings, env: &Environment, warnings: &mut Vec<String>) {
    let kafka = ["kafka-brokers", "kafka-tls", "kafka-tls-ca", "kafka-user", "kafka-password-file", "kafka-sasl"];
    let has_kafka = options.bus.kind == Some(BusKind::Kafka);
    let of_engines = [
        (
            options.postgres.url.is_some(),
            "postgres-url",
            &["postgres-password-file", "postgres-tls-ca"][..],
            Some(POSTGRES_PASSWORD_VARIABLE),
        ),
        (has_kafka, "bus kafka", &["kafka-topic", "kafka-accept-loss"][..], None),
        (
            has_kafka || options.kafka_flows.are_given(),
            "bus kafka, kafka-publish or kafka-consume",
            &kafka[..],
            Some(KAFKA_PASSWORD_VARIABLE),
        ),
    ];
    for (has_effect, what, names, variable) in of_engines {
        if !has_effect {
            let given = names.iter().map(|name| settings.get(name)).filter(|setting| setting.is_explicit());
            warnings.extend(given.map(|setting| format!("{setting} has no effect without {what}")));
            if let Some(variable) = variable.filter(|variable| env.contains_key(*variable)) {
                warnings.push(format!("{variable} has no effect without {what}"));
            }
        }
    }
    kafka_flows::oddities(options, settings, warnings);
    if options.redis.url.is_some() {
        return without_channels(options, settings, warnings);
    }
    for name in [
        "redis-password-file",
        "redis-tls-ca",
        "redis-channel",
        "redis-pattern",
        "redis-payload",
        "redis-bus",
        "redis-publish",
    ] {
        let setting = settings.get(name);
        if setting.is_explicit() {
            warnings.push(format!("{setting} has no effect without redis-url"));
        }
    }
    if env.contains_key(REDIS_PASSWORD_VARIABLE) {
        warnings.push(format!("{REDIS_PASSWORD_VARIABLE} has no effect without redis-url"));
    }
}

/// Warns about settings for channels beside a durable bus that reads none.
fn without_channels(options: &Options, settings: &Settings, warnings: &mut Vec<String>) {
    let is_explicit = |name: &&str| settings.get(name).is_explicit();
    let has_channels = ["redis-channel", "redis-pattern"].iter().any(is_explicit);
    if options.bus.is_durable() && !has_channels {
        for name in ["redis-payload", "ready-requires"].into_iter().filter(is_explicit) {
            let setting = settings.get(name);
            warnings.push(format!("{setting} has no effect: with a durable bus, no channel is read but those named"));
        }
    }
}

/// Checks the kernel's timeout for a peer against the server's own timeouts.
fn user_timeout(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let Some(user_timeout) = options.io.tcp_user_timeout else { return Ok(()) };
    let with = |name: &str| (settings.get(name).to_string(), settings.get("tcp-user-timeout").to_string());
    if options.delivery.stall_timeout >= user_timeout {
        let reason = "the kernel would close slow subscribers before they count as stalled: \
                      tcp-user-timeout must exceed stall-timeout";
        return refuse(with("stall-timeout"), reason);
    }
    if 2 * options.delivery.heartbeat_interval > user_timeout {
        let reason = "a network that is away for one heartbeat would close its subscribers before the next: \
                      tcp-user-timeout must be at least twice heartbeat, or unset";
        return refuse(with("heartbeat"), reason);
    }
    Ok(())
}

fn io_uring(options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    if options.io.backend != IoBackend::IoUring || cfg!(feature = "io-uring") {
        return Ok(());
    }
    Err(ConfigError::Value { setting: settings.get("io").to_string(), reason: absent_feature("io-uring") })
}

pub(super) fn refuse((first, second): (String, String), reason: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Contradiction(format!("{first} and {second}: {reason}")))
}

/// Refuses the first of these options that is given beside the option `with`, with its reason.
fn refuse_one(with: &str, excluded: &[(&str, &str)], settings: &Settings) -> Result<(), ConfigError> {
    match excluded.iter().find(|(name, _)| settings.get(name).is_explicit()) {
        Some((name, reason)) => refuse((settings.get(with).to_string(), settings.get(name).to_string()), reason),
        None => Ok(()),
    }
}

fn is_port_picked(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(address) if address.port() == 0)
}

/// Refuses an address that is in both lists of listeners, or twice in one.
fn listened_on_twice(twice: &str, options: &Options, settings: &Settings) -> Result<(), ConfigError> {
    let is_it = |address: &ListenAddress| address.to_string() == twice;
    let lists = [
        ("listen", options.listen.public.iter().any(|listener| is_it(&listener.address))),
        ("admin-listen", options.listen.admin.iter().any(is_it)),
    ];
    let naming = lists.into_iter().filter(|(_, has_it)| *has_it);
    let named: Vec<String> = naming.map(|(name, _)| settings.get(name).with_only(twice).to_string()).collect();
    match named.as_slice() {
        [public, admin] => refuse((public.clone(), admin.clone()), "an address can be listened on only once"),
        _ => Err(ConfigError::Value { setting: named.concat(), reason: "the address is given twice".into() }),
    }
}

fn first_repeated<'a>(addresses: impl Iterator<Item = &'a ListenAddress>) -> Option<String> {
    let mut seen = HashSet::new();
    addresses.map(ToString::to_string).find(|address| !seen.insert(address.clone()))
}
