//! The settings of the server and the hub, from the configuration and the limits of this host.

use crate::auth::proxies::TrustedProxies;
use crate::auth::{Tokens, Verifier};
use crate::config::{self, ChannelTable, Config, CorsPolicy, TopicTable};
use crate::event::{RunName, Topic};
use crate::hub::{Hub, HubLimits, TopicPace, TopicRule};
use crate::server::settings::{Cors, Jwt, Proxies, Publishing, Settings};

/// Descriptors that are no connection: listeners, sources, logs, epoll itself, and some to spare.
const DESCRIPTORS_RESERVED: u64 = 64;
/// With fewer descriptors, the server could serve no client.
const DESCRIPTORS_MIN: u64 = DESCRIPTORS_RESERVED + 16;
/// Connections beyond the limit on streams: for health checks, publishers, and refusals that tell clients to come back.
const REQUESTS_RESERVED_MAX: u64 = 256;
/// If descriptors are few, these connections take at most one of this many.
const REQUESTS_RESERVED_SHARE: u64 = 8;

/// Refuses to start with too few descriptors to serve any client.
pub(super) fn check_descriptors(descriptors: u64) -> anyhow::Result<()> {
    anyhow::ensure!(
        descriptors >= DESCRIPTORS_MIN,
        "the limit on open files is {descriptors}: at least {DESCRIPTORS_MIN} are needed, and one more for each \
         connection; raise it with ulimit -n, or LimitNOFILE in a unit"
    );
    Ok(())
}

/// The fewest descriptors that allow this many streams, including those that the server itself needs.
pub(super) fn descriptors_for(streams: u64) -> u64 {
    let wanted = streams + DESCRIPTORS_RESERVED;
    // The first is right where the reserve is a share of the descriptors, the second where it is at its maximum.
    let with_share = (wanted * REQUESTS_RESERVED_SHARE).div_ceil(REQUESTS_RESERVED_SHARE - 1);
    let enough = with_share.min(wanted + REQUESTS_RESERVED_MAX);
    // A share is rounded down, so one less may be enough.
    if streams_allowed(enough - 1) >= streams { enough - 1 } else { enough }
}

/// The streams that this many descriptors allow.
fn streams_allowed(descriptors: u64) -> u64 {
    descriptors.saturating_sub(DESCRIPTORS_RESERVED + requests_reserved(descriptors))
}

fn requests_reserved(descriptors: u64) -> u64 {
    (descriptors / REQUESTS_RESERVED_SHARE).min(REQUESTS_RESERVED_MAX)
}

/// The server's settings, within this many descriptors, and with TLS at this port.
pub(super) fn settings(config: &Config, descriptors: u64, https_port: Option<u16>) -> Settings {
    let streams_allowed = streams_allowed(descriptors);
    let streams_max = config.limits.connections_max.map_or(streams_allowed, u64::from).min(streams_allowed);
    let connections_total_max = streams_max + requests_reserved(descriptors);
    let in_memory = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let tokens = Tokens::new(config.security.publish_tokens.iter().map(config::Secret::expose));
    Settings {
        delivery: config.delivery.clone(),
        topic_rules: config.topics.iter().map(topic_rule).collect(),
        limits: config.limits.clone(),
        drain: config.drain.clone(),
        catch_up_bytes_max: config.history.catch_up_bytes_max,
        streams_max: in_memory(streams_max),
        connections_total_max: in_memory(connections_total_max),
        proxies: Proxies {
            trusted: TrustedProxies::new(config.listen.trusted_proxies.clone()),
            protocol: config.listen.proxy_protocol,
        },
        publishing: match (config.security.dev, tokens.is_empty()) {
            (true, _) => Publishing::Loopback(tokens),
            (false, true) => Publishing::Refused,
            (false, false) => Publishing::Tokens(tokens),
        },
        operators: Tokens::new(config.security.operator_tokens.iter().map(config::Secret::expose)),
        open_reports: config.security.open_reports,
        allowed_hosts: config.security.allowed_hosts.iter().map(|host| host.as_str().to_owned()).collect(),
        jwt: config.security.jwt.as_ref().map(|jwt| Jwt {
            verifier: Verifier::new(jwt.keys.clone(), &jwt.audiences, &jwt.issuers),
            cookie: jwt.cookie.clone(),
            public_topics: jwt.public_topics.clone(),
            denied_tokens_max: jwt.denied_tokens_max as usize,
        }),
        cors: cors(config),
        https_port,
        certificates: config.certificates.iter().map(|it| (it.name.clone(), it.expires_at_s)).collect(),
        ready_requires: required_sources(config),
    }
}

/// The sources without which the server is not ready. Without its bus, a server can't start a stream.
fn required_sources(config: &Config) -> Vec<String> {
    let bus = config.durable_bus().map(|_| "bus".to_owned());
    let redis = config.redis.as_ref().filter(|redis| redis.is_required).map(|_| "redis".to_owned());
    bus.into_iter().chain(redis).collect()
}

fn cors(config: &Config) -> Cors {
    let security = &config.security;
    match &security.cors {
        CorsPolicy::Any => Cors { origins: Vec::new(), any_localhost: security.dev, any: true },
        CorsPolicy::Listed(origins) => Cors {
            origins: origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
            any_localhost: security.dev,
            any: false,
        },
    }
}

/// A hub with the configured limits, in which the topics that the configuration names have reserved places.
pub(super) fn hub(run: RunName, config: &Config) -> Hub {
    let mut hub = match config.durable_bus() {
        Some(_) => Hub::of_bus(run, hub_limits(config)),
        None if config.redis.is_some() => Hub::with_peers(run, hub_limits(config)),
        None => Hub::new(run, hub_limits(config)),
    };
    let delivery = &config.delivery;
    let tables = config.redis.iter().flat_map(|redis| &redis.tables);
    tables.filter_map(ChannelTable::only_topic).for_each(|topic| hub.reserve(&topic));
    let channels = config.redis.iter().flat_map(|redis| redis.channels.iter().chain(&redis.copied_channels));
    channels.chain([&delivery.default_topic, &delivery.dashboard_topic]).for_each(|topic| hub.reserve(topic));
    hub.reserve(&Topic::statistics());
    hub
}

fn topic_rule(table: &TopicTable) -> TopicRule {
    TopicRule {
        pattern: table.pattern.clone(),
        history_events_max: table.history_events_max.map(|max| max as usize),
        history_bytes_max: table.history_bytes_max,
        history_age_max: table.history_age_max,
        pace: TopicPace { interval_floor: table.interval_floor.unwrap_or_default(), latest: table.latest },
    }
}

/// The limits of the hub.
fn hub_limits(config: &Config) -> HubLimits {
    HubLimits {
        topics_max: config.limits.topics_max as usize,
        history_events_max: config.history.events_max.map(|max| max as usize),
        history_bytes_max: config.history.bytes_max,
        history_bytes_total_max: config.history.bytes_total_max,
        history_age_max: config.history.age_max,
        replay_events_max: config.history.replay_events_max.map(|max| max as usize),
        fetch_entries_max: config.durable_bus().map_or(0, |bus| u64::from(bus.fetch_entries_max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_mostly_for_streams() {
        let check = |descriptors: u64, streams: u64| assert_eq!(streams_allowed(descriptors), streams, "{descriptors}");
        check(DESCRIPTORS_MIN, 6);
        check(128, 48);
        check(300, 199);
        check(1024, 832);
        check(2048, 1728);
        check(2049, 1729);
        check(1_048_576, 1_048_256);
    }

    #[test]
    fn descriptors_for_streams_are_the_fewest_that_allow_them() {
        for streams in (1..5000).chain([100_000, 1_000_000]) {
            let descriptors = descriptors_for(streams);
            assert!(streams_allowed(descriptors) >= streams, "{streams} with {descriptors}");
            assert!(streams_allowed(descriptors - 1) < streams, "{streams} with one less than {descriptors}");
        }
    }
}
