//! The whole way from layers to configuration, in one process: precedence, refusals, contradictions, the printed file.

use std::os::unix::fs::PermissionsExt;

use super::tables::{channel_keys, topic_keys};
use super::*;
use crate::event::Topic;

mod tables;

/// Loads from flags (`--name value` pairs), variables and a file's text.
fn load(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> Result<Loaded, ConfigError> {
    let mut given = Flags::new();
    for (name, text) in flags {
        given.entry((*name).to_owned()).or_default().push((*text).to_owned());
    }
    let env: Environment = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file).unwrap();
    Loaded::new(&given, (!file.is_empty()).then(|| path.path()), &env)
}

#[test]
fn the_defaults_are_a_configuration() {
    let loaded = load(&[], &[], "").unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(loaded.config.listen.public[0].to_string(), "127.0.0.1:3001");
    assert!(loaded.config.redis.is_none());
    assert!(!loaded.config.security.dev);
    assert_eq!(loaded.config.security.cors, CorsPolicy::Listed(Vec::new()));
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let check = |flags: &[(&str, &str)], env: &[(&str, &str)], file: &str, expected: &str, line: &str| {
        let loaded = load(flags, env, file).unwrap();
        assert_eq!(duration_text(loaded.config.delivery.retry), expected);
        assert!(loaded.to_toml().contains(line), "{line:?} is not in\n{}", loaded.to_toml());
    };
    let (flag, own, former) = (("retry", "4s"), ("FANFARE_RETRY", "5s"), ("SSE_RETRY_INTERVAL", "6000"));
    let file = "retry = \"7s\"";
    check(&[flag], &[own, former], file, "4s", "retry = \"4s\" # --retry");
    check(&[], &[own, former], file, "5s", "retry = \"5s\" # FANFARE_RETRY");
    check(&[], &[former], file, "6s", "retry = \"6000ms\" # SSE_RETRY_INTERVAL");
    check(&[], &[("FANFARE_RETRY", "")], file, "7s", "retry = \"7s\" # /");
    check(&[], &[], "", "3s", "retry = \"3s\" # default");
}

#[test]
fn lists_come_from_every_layer() {
    let check = |flags: &[(&str, &str)], env: &[(&str, &str)], file: &str, expected: &[&str]| {
        let listeners = load(flags, env, file).unwrap().config.listen.public;
        assert_eq!(listeners.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    };
    let file = "listen = [\"[::]:80\", \"unix:/run/f.sock\"]";
    check(&[("listen", "127.0.0.1:1"), ("listen", "unix:/a,b")], &[], file, &["127.0.0.1:1", "unix:/a,b"]);
    check(&[], &[("FANFARE_LISTEN", "127.0.0.1:1, unix:/a")], file, &["127.0.0.1:1", "unix:/a"]);
    check(&[], &[("SSE_PORT", "8080")], file, &["[::]:8080", "unix:/run/f.sock"]);
    check(&[], &[("SSE_PORT", "8080"), ("SSE_HOST", "sse.example.com")], "", &["127.0.0.1:8080"]);
    check(&[], &[], "listen = \"127.0.0.1:2\"", &["127.0.0.1:2"]);
}

#[test]
fn the_replaced_systems_variables_are_read() {
    let env = [
        ("SSE_ENDPOINT", "/sse"),
        ("REDIS_URL", "redis://redis:6379/1"),
        ("LOG_LEVEL", "DEBUG"),
        ("FANFARE_DEV", "yes"),
        ("FANFARE_MAX_CONNECTIONS", "10"),
    ];
    let config = load(&[], &env, "").unwrap().config;
    assert_eq!(config.delivery.stream_endpoint.unwrap().as_str(), "/sse");
    assert_eq!(config.redis.unwrap().url.expose(), "redis://redis:6379/1");
    assert_eq!(config.log.filter.directives(), "debug");
    assert_eq!(config.limits.connections_max, Some(10));
    assert!(config.security.dev);
}

#[test]
fn off_unsets_what_a_lower_layer_set() {
    let env = [("REDIS_URL", "redis://redis")];
    assert!(load(&[("redis-url", "off")], &env, "").unwrap().config.redis.is_none());
    assert!(load(&[], &env, "max-connections = \"off\"").unwrap().config.limits.connections_max.is_none());
}

#[test]
fn a_refusal_names_the_option_as_written_its_value_and_what_is_allowed() {
    let check = |flags: &[(&str, &str)], env: &[(&str, &str)], file: &str, words: &[&str]| {
        let error = load(flags, env, file).expect_err(words[0]).to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    check(&[("heartbeat", "0s")], &[], "", &["--heartbeat 0s: ", "1s to 1h"]);
    check(&[("retry", "3")], &[], "", &["--retry 3: ", "unit", "3s"]);
    check(&[], &[("FANFARE_HEARTBEAT", "2h")], "", &["FANFARE_HEARTBEAT=2h: ", "1s to 1h"]);
    check(&[], &[("SSE_PORT", "http")], "", &["SSE_PORT=http: ", "0 to 65535"]);
    check(&[], &[("SSE_RETRY_INTERVAL", "3s")], "", &["SSE_RETRY_INTERVAL=3s: "]);
    check(&[("trusted-proxy", "10.0.0.1/8")], &[], "", &["--trusted-proxy 10.0.0.1/8: ", "10.0.0.0/8"]);
    check(&[], &[], "slow-policy = \"drop\"", &["slow-policy = \"drop\" in /", "close or skip"]);
    check(&[("topics-per-subscriber", "501")], &[], "", &["--topics-per-subscriber 501: ", "from 1 to 500"]);
    check(&[], &[], "max-topics = 0", &["max-topics = 0 in /", "from 1 to"]);
    check(&[], &[], "retry = 1.5", &["retry = 1.5 in /", "one text in quotes"]);
    check(&[], &[], "retry = [\"1s\"]", &["retry = [\"1s\"] in /", "one text in quotes"]);
    check(&[], &[], "listen = []", &["listen = [] in /", "at least one"]);
    check(&[], &[], "history_bytes = 1", &["unknown key history_bytes", "did you mean history-bytes?"]);
    check(&[], &[], "[redis]\nurl = 1", &["unknown key redis; "]);
    check(&[], &[], "a = ", &["configuration file /", "line 1: "]);
    if cfg!(not(feature = "io-uring")) {
        check(&[("io", "io_uring")], &[], "", &["--io io_uring: ", "cargo feature io-uring"]);
    }
    check(&[("io", "kqueue")], &[], "", &["--io kqueue: ", "auto or epoll or io_uring"]);
    for bad in ["0", "65", "all", "-1"] {
        check(&[("loops", bad)], &[], "", &["--loops", bad, "auto or a number from 1 to 64"]);
    }
    check(&[("dev", "maybe")], &[], "", &["--dev maybe: "]);
    check(&[("publish-token-file", "/no/such")], &[], "", &["--publish-token-file /no/such: No such file"]);
    check(&[], &[("FANFARE_PUBLISH_TOKEN", "a b")], "", &["FANFARE_PUBLISH_TOKEN: ", "visible ASCII"]);
    check(&[], &[("FANFARE_CONFIG", "/no/such")], "", &["configuration file /no/such: No such file"]);
}

#[test]
fn contradictions_name_both_sides() {
    let check = |flags: &[(&str, &str)], words: &[&str]| {
        let error = load(flags, &[], "").expect_err(words[0]).to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    check(&[("dev", "true"), ("listen", "0.0.0.0:1")], &["--dev and ", "--listen 0.0.0.0:1", "loopback"]);
    check(&[("dev", "true"), ("admin-listen", "[::]:1")], &["--dev and ", "loopback"]);
    check(&[("dev", "true"), ("cors-origin", "*")], &["--cors-origin *"]);
    check(&[("cors-origin", "*"), ("cors-origin", "http://a")], &["--cors-origin *, http://a"]);
    check(&[("admin-listen", "127.0.0.1:3001")], &["listen 127.0.0.1:3001 (the default)", "--admin-listen"]);
    let both =
        [("listen", "127.0.0.1:1"), ("listen", "[::1]:2"), ("admin-listen", "[::1]:2"), ("admin-listen", "[::1]:3")];
    check(&both, &["--listen [::1]:2 and --admin-listen [::1]:2: "]);
    check(&[("listen", "[::1]:2"), ("listen", "[::1]:2")], &["--listen [::1]:2: the address is given twice"]);
    check(&[("proxy-protocol", "true")], &["--proxy-protocol", "trusted-proxy"]);
    let behind = ("trusted-proxy", "127.0.0.1");
    check(&[("dev", "true"), ("proxy-protocol", "true"), behind], &["--dev and ", "--proxy-protocol"]);
    let user_timeout = ("tcp-user-timeout", "1m");
    check(&[("stall-timeout", "60s"), user_timeout], &["--stall-timeout 60s", "--tcp-user-timeout 1m"]);
    check(&[("heartbeat", "31s"), user_timeout], &["--heartbeat 31s", "--tcp-user-timeout 1m", "at least twice"]);
    check(&[("history-bytes", "64KiB"), ("event-bytes", "65KiB")], &["--history-bytes 64KiB", "--event-bytes 65KiB"]);
    check(
        &[("history-bytes-total", "512KiB"), ("event-bytes", "1MiB")],
        &["history-bytes 512KiB (follows history-bytes-total)", "--event-bytes 1MiB"],
    );
    check(&[("topic-bytes", "10")], &["default-topic dashboard_updates", "--topic-bytes 10"]);
    for option in ["default-topic", "dashboard-topic", "redis-channel", "redis-publish"] {
        check(&[(option, "orders.*")], &[&format!("--{option} orders.*"), "names are exact"]);
    }
    check(&[("ready-requires", "redis")], &["--ready-requires redis", "redis-url"]);
    check(&[("redis-url", "redis://h"), ("redis-bus", "dashboard_updates")], &["--redis-bus", "redis-channel"]);
    check(
        &[("redis-url", "redis://h"), ("redis-bus", "a"), ("redis-publish", "a")],
        &["--redis-bus a", "--redis-publish a", "another channel"],
    );
    let on_bus = |option, value| [("redis-url", "redis://h"), ("bus", "redis-stream"), (option, value)];
    check(&on_bus("redis-bus", "a"), &["--bus redis-stream", "--redis-bus a", "through the durable bus"]);
    check(&on_bus("redis-publish", "a"), &["--bus redis-stream", "--redis-publish a", "copies"]);
    let in_postgres = |option, value| [("postgres-url", "postgres://h/d"), ("bus", "postgres"), (option, value)];
    if cfg!(feature = "postgres") {
        check(&[("bus", "postgres")], &["--bus postgres", "no postgres-url"]);
        let beside = |option, value| [&in_postgres("redis-url", "redis://h")[..], &[(option, value)]].concat();
        check(&beside("redis-bus", "a"), &["--bus postgres", "--redis-bus a", "through the durable bus"]);
        check(&beside("redis-publish", "a"), &["--bus postgres", "--redis-publish a", "copies"]);
        check(&beside("redis-channel", "{fanfare}:marker"), &["--redis-channel {fanfare}:marker", "belong to the bus"]);
        check(&in_postgres("bus-name", "a"), &["--bus postgres", "--bus-name a", "schema fanfare"]);
        check(&in_postgres("postgres-tls-ca", "/no/such"), &["--postgres-tls-ca /no/such", "No such file"]);
    } else {
        check(&in_postgres("bus-name", "fanfare"), &["--bus postgres", "cargo feature postgres"]);
    }
    let in_kafka = |option, value| [("kafka-brokers", "h:1"), ("bus", "kafka"), (option, value)];
    if cfg!(feature = "kafka") {
        check(&[("bus", "kafka")], &["--bus kafka", "no kafka-brokers"]);
        check(&in_kafka("redis-url", "redis://h"), &["--bus kafka", "--redis-url", "leave out one"]);
        check(&in_kafka("bus-name", "a"), &["--bus kafka", "--bus-name a", "kafka-topic"]);
        check(&in_kafka("bus-entries", "9"), &["--bus kafka", "--bus-entries 9", "retention"]);
        check(&in_kafka("bus-id-memory", "1m"), &["--bus kafka", "--bus-id-memory 1m", "published again"]);
        check(&in_kafka("kafka-tls-ca", "/no/such"), &["--kafka-tls-ca /no/such", "add kafka-tls"]);
        check(&in_kafka("kafka-user", "u"), &["--kafka-user u", "no password"]);
    } else {
        check(&in_kafka("bus-name", "fanfare"), &["--bus kafka", "cargo feature kafka"]);
        for name in ["kafka-publish", "kafka-consume"] {
            check(&[("kafka-brokers", "h:1"), (name, "a")], &[&format!("--{name} a"), "cargo feature kafka"]);
        }
    }
    check(&in_kafka("kafka-topic", "a/b"), &["--kafka-topic a/b", "letters, digits"]);
    check(&[("kafka-brokers", "u:hunter2@h")], &["--kafka-brokers", "HOST:PORT"]);
    let beside = |bus| [("postgres-url", "postgres://h/d"), ("redis-url", "redis://h"), ("bus", bus)];
    check(&beside("redis"), &["--bus redis", "--postgres-url", "use bus postgres or redis-stream"]);
    check(&beside("local"), &["--bus local", "--postgres-url", "use bus postgres or redis-stream"]);
    check(&beside("redis-stream")[..2], &["--postgres-url", "it needs a durable bus"]);
    check(&beside("redis-stream")[..1], &["--postgres-url", "it needs a durable bus"]);
    if cfg!(feature = "postgres") {
        let config = load(&beside("redis-stream"), &[], "").unwrap().config;
        assert!(config.redis.is_some_and(|redis| redis.stream.is_some()));
        assert!(config.postgres.is_some_and(|postgres| postgres.bus.is_none()));
    } else {
        check(&beside("redis-stream"), &["--postgres-url", "cargo feature postgres"]);
    }
    check(&[("postgres-url", "mysql://h/d")], &["--postgres-url", "postgres://"]);
    check(
        &[("postgres-url", "postgres://u:hunter2@h/d?sslmode=prefer")],
        &["u:***@h", "sslmode is disable, or require"],
    );
    check(&on_bus("redis-channel", "{fanfare}:marker"), &["--redis-channel {fanfare}:marker", "belong to the bus"]);
}

#[test]
fn a_durable_bus_reads_the_channels_that_are_named() {
    let check = |flags: &[(&str, &str)], channels: &[&str], patterns: &[&str]| {
        let flags = [&[("redis-url", "redis://h"), ("bus", "redis-stream")], flags].concat();
        let redis = load(&flags, &[], "").unwrap().config.redis.unwrap();
        assert_eq!(redis.channels.iter().map(Topic::as_str).collect::<Vec<_>>(), channels, "{flags:?}");
        assert_eq!(redis.patterns.iter().map(Topic::as_str).collect::<Vec<_>>(), patterns, "{flags:?}");
    };
    check(&[], &[], &[]);
    check(&[("redis-channel", "dashboard_updates")], &["dashboard_updates"], &[]);
    check(&[("redis-pattern", "a.*")], &[], &["a.*"]);
}

#[test]
fn the_user_timeout_follows_heartbeat_and_stall_timeout() {
    let check = |flags: &[(&str, &str)], seconds: u64| {
        assert_eq!(load(flags, &[], "").unwrap().config.tcp_user_timeout.as_secs(), seconds, "{flags:?}");
    };
    check(&[], 120);
    check(&[("heartbeat", "60s")], 120);
    check(&[("heartbeat", "10m")], 1200);
    check(&[("stall-timeout", "90s")], 180);
    check(&[("heartbeat", "30s"), ("tcp-user-timeout", "60s")], 60);
    check(&[("heartbeat", "1s"), ("stall-timeout", "1s"), ("tcp-user-timeout", "4s")], 4);
}

#[test]
fn what_is_odd_is_allowed_with_a_warning() {
    let check = |flags: &[(&str, &str)], env: &[(&str, &str)], words: &str| {
        let warnings = load(flags, env, "").unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{warnings:?} lacks {words:?}");
    };
    check(&[("redis-channel", "a")], &[], "--redis-channel a has no effect");
    check(&[("redis-publish", "a")], &[], "--redis-publish a has no effect");
    let on_bus = |option, value| [("redis-url", "redis://h"), ("bus", "redis-stream"), (option, value)];
    check(&on_bus("redis-payload", "envelope"), &[], "--redis-payload envelope has no effect");
    check(&on_bus("ready-requires", "redis"), &[], "--ready-requires redis has no effect");
    check(&[("redis-tls-ca", "/no/such")], &[], "--redis-tls-ca /no/such has no effect");
    check(&[("postgres-tls-ca", "/no/such")], &[], "--postgres-tls-ca /no/such has no effect without postgres-url");
    check(&[], &[("FANFARE_POSTGRES_PASSWORD", "x")], "FANFARE_POSTGRES_PASSWORD has no effect without postgres-url");
    check(&[("kafka-topic", "t")], &[], "--kafka-topic t has no effect without bus kafka");
    check(&[("kafka-group", "g")], &[], "--kafka-group g has no effect without kafka-consume");
    check(&[("kafka-user", "u")], &[("FANFARE_KAFKA_PASSWORD", "x")], "FANFARE_KAFKA_PASSWORD has no effect");
    check(&[("jwt-audience", "a")], &[], "--jwt-audience a has no effect without jwt-key-file");
    check(&[], &[("FANFARE_HEARTBEET", "1s")], "did you mean FANFARE_HEARTBEAT?");
    check(&[("redis-url", "redis://:***@h")], &[], "redis-password-file");
    let kubernetes = [("FANFARE_SERVICE_HOST", "10.0.0.1"), ("FANFARE_PORT", "tcp://10.0.0.1:3001")];
    assert_eq!(load(&[], &kubernetes, "").unwrap().warnings, [""; 0]);
}

#[test]
fn a_key_that_makes_tokens_and_is_readable_by_all_users_gets_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str, is_warned_of: bool| {
        let path = folder.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let warnings = load(&[("jwt-key-file", path.to_str().unwrap())], &[], "").unwrap().warnings;
        assert_eq!(warnings.iter().any(|warning| warning.contains("every user of this host")), is_warned_of, "{text}");
    };
    check(&"x".repeat(32), true);
    let secret = "A".repeat(86);
    check(&format!(r#"{{"kty":"oct","k":"{secret}"}}"#), true);
    check(&format!(r#"{{"kty":"oct","alg":"HS384","k":"{secret}"}}"#), true);
    check(&format!(r#"{{"kty":"oct","alg":"HS512","k":"{secret}"}}"#), true);
    check(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#, false);
}

#[test]
fn secrets_come_from_files_and_the_environment_and_are_never_printed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# tokens\nhunter2-a\nhunter2-b\n").unwrap();
    let path = file.path().to_str().unwrap();
    let flags = [("publish-token-file", path), ("redis-url", "redis://me:hunter2@host"), ("redis-password-file", path)];
    let loaded = load(&flags, &[("FANFARE_PUBLISH_TOKEN", "hunter2-c")], "").unwrap();
    let tokens: Vec<&str> = loaded.config.security.publish_tokens.iter().map(Secret::expose).collect();
    assert_eq!(tokens, ["hunter2-a", "hunter2-b", "hunter2-c"]);
    assert!(!loaded.to_toml().contains("hunter2"), "{}", loaded.to_toml());
    assert!(!format!("{:?}", loaded.config).contains("hunter2"));
    assert!(loaded.to_toml().contains("redis-url = \"redis://me:***@host\" # --redis-url"));

    let error = load(&[("redis-url", "http://me:hunter2@host")], &[], "").unwrap_err().to_string();
    assert!(error.contains("--redis-url http://me:***@host: "), "{error:?}");
    let error = load(&[], &[], "redis-url = \"redis://me:hunter2@host").unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error:?}");
}

#[test]
fn the_printed_configuration_loads_to_the_same_configuration() {
    let check = |flags: &[(&str, &str)]| {
        let values = |loaded: &Loaded| format!("{:?}", loaded.config);
        let first = load(flags, &[], "").unwrap();
        let again = load(&[], &[], &first.to_toml()).unwrap_or_else(|error| panic!("{error}\n{}", first.to_toml()));
        assert_eq!(values(&again), values(&first));
    };
    check(&[]);
    check(&[("listen", "127.0.0.1:0"), ("listen", "unix:/run/\"odd\" name"), ("admin-listen", "[::1]:9")]);
    check(&[("redis-url", "off"), ("max-connections", "100"), ("retry", "1500ms"), ("dev", "true")]);
    check(&[("redis-url", "rediss://host/2"), ("redis-pattern", "a.*"), ("ready-requires", "redis")]);
    check(&[("redis-url", "redis://host"), ("redis-publish", "a"), ("redis-publish", "b")]);
    check(&[("default-topic", "007"), ("dashboard-topic", "true"), ("log-level", "info,fanfare=debug")]);
    check(&[("trusted-proxy", "10.0.0.0/8"), ("trusted-proxy", "unix"), ("proxy-protocol", "true")]);
    check(&[("history-bytes", "2MB"), ("cors-origin", "https://a.example"), ("stream-endpoint", "/sse")]);
}

#[test]
fn the_template_names_every_option_and_loads_to_the_defaults() {
    let template = template();
    let commented = |line: &&str| line.starts_with('#') && line.as_bytes().get(1).is_some_and(u8::is_ascii_lowercase);
    let options: Vec<&str> = template.lines().filter(commented).map(|line| &line[1..]).collect();
    assert_eq!(options.len(), layers::command().get_arguments().count(), "{template}");
    let defaults = load(&[], &[], &template).unwrap();
    let uncommented = load(&[], &[], &options.join("\n")).unwrap_or_else(|error| panic!("{error}\n{template}"));
    assert_eq!(format!("{:?}", uncommented.config), format!("{:?}", defaults.config));
    assert!(template.lines().all(|line| line.len() <= 120), "{template}");
    // The examples of tables, uncommented.
    let is_of_a_table = |line: &&str| line.starts_with("#[[") || line.starts_with("#  ");
    let tables: Vec<&str> = template.lines().filter(is_of_a_table).map(|line| &line[1..]).collect();
    let loaded = load(&[("redis-url", "redis://h")], &[], &tables.join("\n")).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let (channels, topics) = (&loaded.config.redis.unwrap().tables, &loaded.config.topics);
    assert_eq!((channels[0].pattern.as_str(), channels[0].payload), ("rails:*", Some(RedisPayload::Envelope)));
    assert_eq!(
        (topics[0].pattern.as_str(), topics[0].history_events_max, topics[0].latest),
        ("prices.*", Some(100), true)
    );
    assert_eq!(tables.len(), 2 + channel_keys().get_arguments().count() + topic_keys().get_arguments().count());
}

#[test]
fn the_bounds_in_the_description_of_the_routes_are_the_largest_that_options_may_set() {
    let description: serde_json::Value = serde_json::from_str(include_str!("../../web/openapi.json")).unwrap();
    let check = |pointer: &str, expected: usize| {
        assert_eq!(
            description.pointer(pointer).and_then(serde_json::Value::as_u64),
            Some(expected as u64),
            "{pointer}"
        );
    };
    let publish = "/paths/~1publish/post/requestBody/content/application~1json";
    check(&format!("{publish}/schema/oneOf/1/maxItems"), options::BATCH_MAX);
    check("/components/schemas/Published/oneOf/1/properties/ids/maxItems", options::BATCH_MAX);
    for topics in ["StreamTopics", "SnapshotTopics"] {
        check(&format!("/components/parameters/{topics}/schema/maxItems"), TOPICS_PER_SUBSCRIBER_MAX as usize);
    }
}
