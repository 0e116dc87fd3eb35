//! The Redis source against a real redis-server, from the publisher to the channel into the loop.
//!
//! Each test has a server of its own. What it waits for is something that arrives, or a state; never time.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fanfare::event::glob;
use fanfare::redis_address::RedisAddress;
use fanfare::sources::channel::{GapReason, PublishRefusal};
use fanfare::sources::redis::{Payload, RedisSettings, RedisTiming};

use support::certificates;
use support::node::{Heard, Node, event, pair, published, refused, settings, source_lost, strings};
use support::redis::RedisServer;
use support::wait::{DEADLINE, wait_until};

mod support;

fn refusals(node: &Node) -> HashMap<&'static str, u64> {
    node.status.refused().into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn raw_payloads_arrive_unchanged_and_refused_ones_cause_a_gap() {
    let redis = RedisServer::start();
    let url = format!("unix://{}", redis.socket().display());
    let node = Node::start_up(RedisSettings { patterns: strings(&["p.*"]), ..settings(&url) });
    let mut client = redis.connect();
    published(&mut client, "news", "{\"a\": 1.0}");
    published(&mut client, "p.ä", "two\nlines");
    assert_eq!(node.next_event(), pair("news", "{\"a\": 1.0}"));
    assert_eq!(node.next_event(), pair("p.ä", "two\nlines"));
    published(&mut client, "news", b"\xff\xfe");
    assert_eq!(node.next(), refused("news"));
    published(&mut client, "p.x", vec![b'x'; 1001]);
    published(&mut client, format!("p.{}", "t".repeat(64)), "no such topic");
    published(&mut client, b"p.\xff", "no such topic");
    assert_eq!(node.next(), refused("p.x"));
    published(&mut client, "news", vec![b'x'; 1000]);
    assert_eq!(node.next_event(), pair("news", &"x".repeat(1000)));
    assert_eq!(refusals(&node), HashMap::from([("not_utf8", 1), ("too_large", 1), ("malformed", 2)]));
    assert_eq!(node.status.received(), 7);
}

#[test]
fn envelopes_are_events_with_all_their_fields() {
    let redis = RedisServer::start();
    let node = Node::start_up(RedisSettings { payload: Payload::Envelope, ..settings(&redis.url("redis", "")) });
    let mut client = redis.connect();
    published(&mut client, "news", r#"{"id":"own-1","event":"tick","data":{"b":1.10}}"#);
    let Heard::Event { topic, id, data } = node.next() else { panic!("an event") };
    assert_eq!((&*topic, &*data), ("news", r#"{"b":1.10}"#));
    assert!(id.ends_with("-1~own-1"), "{id}");
    published(&mut client, "news", r#"{"topic":"other","data":1}"#);
    assert_eq!(node.next(), refused("news"));
    published(&mut client, "news", r#"[{"topic":"news","data":"a"},{"topic":"news","data":"b"}]"#);
    assert_eq!([node.next_event(), node.next_event()], [pair("news", "a"), pair("news", "b")]);
    assert_eq!(refusals(&node), HashMap::from([("malformed", 1)]));
}

#[test]
fn overlapping_subscriptions_deliver_once() {
    let redis = RedisServer::start();
    let patterns = strings(&["news.*", "*.[a-c]", "n*", "fan*", "*"]);
    let channels = strings(&["news.a", "fanfare:bus"]);
    let node = Node::start_up(RedisSettings { channels, patterns, ..settings(&redis.url("redis", "")) });
    let mut client = redis.connect();
    let names = ["news.a", "news.b", "x.c", "n", "other", "fan:x"];
    for name in names {
        published(&mut client, name, "x");
        assert_eq!(node.next_event(), pair(name, "x"));
    }
    published(&mut client, "fanfare:bus", r#"[{"topic":"bussed","data":1}]"#);
    assert_eq!(node.next_event(), pair("bussed", "1"));
    published(&mut client, "news.a", "last");
    assert_eq!(node.next_event(), pair("news.a", "last"));
    // Deliveries beyond the first: 4 of news.a, 3 of news.b, 1 each of x.c, n and fan:x, 2 of the bus's. What
    // follows news.a's own delivery, also of the last message, is still on its way.
    wait_until("every delivery is counted", || refusals(&node) == HashMap::from([("overlapping", 4 + 3 + 3 + 2 + 4)]));
}

#[test]
fn patterns_match_as_the_server_matches() {
    let redis = RedisServer::start();
    let mut client = redis.connect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 33) as usize % below
    };
    let mut word = |alphabet: &[u8], length_max: usize| -> Vec<u8> {
        (0..draw(length_max + 1)).map(|_| alphabet[draw(alphabet.len())]).collect()
    };
    let mut names: Vec<_> = (0..400).map(|_| word(b"abz-]^[\\*\x80\xff", 4)).collect();
    names.retain(|name| !name.is_empty());
    names.iter().for_each(|name| redis::cmd("SET").arg(name).arg(1).query(&mut client).unwrap());
    for _ in 0..5000 {
        let pattern = word(b"aabz--]]^[[\\**?\x80\xff", 9);
        let mut expected: Vec<Vec<u8>> = redis::cmd("KEYS").arg(&pattern).query(&mut client).unwrap();
        let mut matching: Vec<_> = names.iter().filter(|name| glob::matches(&pattern, name)).cloned().collect();
        matching.sort();
        matching.dedup();
        expected.sort();
        assert_eq!(matching, expected, "{}", pattern.escape_ascii());
    }
}

#[test]
fn a_redis_that_is_killed_and_returns_is_one_gap() {
    let mut redis = RedisServer::start();
    let url = redis.url("redis", "");
    redis.kill();
    let node = Node::start(settings(&url));
    wait_until("the first attempt failed", || node.status.last_error().is_some());
    assert_eq!(node.publish(vec![event("t", "x")], 1), Err(PublishRefusal::BrokerDown));
    redis.restart();
    node.wait_up();
    published(&mut redis.connect(), "news", "first");
    assert_eq!(node.next_event(), pair("news", "first"), "a first connection is no loss");
    for round in 1..=3 {
        redis.kill();
        node.wait_down();
        redis.restart();
        node.wait_up();
        published(&mut redis.connect(), "news", "again");
        assert_eq!([node.next(), node.next()].map(|heard| heard == source_lost()), [true, false]);
        assert_eq!(node.status.reconnects(), round);
    }
}

#[test]
fn an_acl_user_subscribes_with_its_password_which_is_never_logged() {
    let log = captured_log();
    let rights = "--user fan on >hunter2/secret resetchannels &news &fanfare:bus -@all +subscribe +publish";
    let rights: Vec<&str> = rights.split(' ').collect();
    let arguments = [&["--port", "{port}"], &rights[..]].concat();
    let redis = RedisServer::start_in(tempfile::tempdir().unwrap(), &arguments);
    let timing = RedisTiming { ping_interval: Duration::from_millis(1), ..settings("redis://x").timing };

    let node = Node::start_up(RedisSettings { timing, ..settings(&redis.url("redis", "fan:hunter2%2Fsecret@")) });
    node.publish(vec![event("t", "x")], 1).unwrap();
    let heard = [node.next(), node.next()];
    assert!(heard.contains(&Heard::Published { ticket: 1, outcome: Ok(()) }), "{heard:?}");
    // It may not PING, and that is an answer too.
    let pings = || redis.command::<String>(&["INFO", "commandstats"]).contains("cmdstat_ping:");
    wait_until("the server was asked for pings", pings);
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    let complaints = text
        .lines()
        .filter(|line| line.contains("t read the role of Redis") && line.contains(&redis.address().to_string()));
    assert_eq!(complaints.count(), 1, "{text}");
    assert!(node.status.is_up() && node.status.reconnects() == 0, "{:?}", node.status);

    let check = |settings: RedisSettings, expected: &str| {
        let node = Node::start(settings);
        wait_until("the attempt failed", || node.status.last_error().is_some());
        let error = node.status.last_error().unwrap();
        assert!(error.contains(expected) && !error.contains("hunter"), "{error}");
    };
    check(
        settings(&redis.url("redis", "fan:hunter3%2Fsecret@")),
        "Redis refuses the login: check --redis-password-file",
    );
    let channels = strings(&["news", "secrets"]);
    let url = redis.url("redis", "fan:hunter2%2Fsecret@");
    check(RedisSettings { channels, ..settings(&url) }, "it refuses SUBSCRIBE secrets: ");
    check(RedisSettings { patterns: strings(&["s*"]), ..settings(&url) }, "it refuses PSUBSCRIBE s*: ");

    redis.command::<()>(&["CONFIG", "SET", "requirepass", "hunter4"]);
    check(settings(&redis.url("redis", "")), "Redis refuses the login: check --redis-password-file");

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("Redis refuses the login") && !log.contains("hunter"), "{log}");
}

/// As [`settings`], asking for the role all the time.
fn asking(url: &str) -> RedisSettings {
    let settings = settings(url);
    let timing = RedisTiming { ping_interval: Duration::from_millis(10), ..settings.timing };
    RedisSettings { timing, ..settings }
}

#[test]
fn a_replica_counts_as_down_for_as_long_as_it_is_one() {
    const REPLICA: &str =
        "it is a replica, and messages published on a replica reach no other server: use the address of the primary";
    let primary = RedisServer::start();
    let port = primary.address().port().to_string();
    let replica_of = ["--port", "{port}", "--replicaof", "127.0.0.1", &port];
    let replica = RedisServer::start_in(tempfile::tempdir().unwrap(), &replica_of);
    let on_primary = Node::start_up(asking(&primary.url("redis", "")));
    let node = Node::start(asking(&replica.url("redis", "")));
    wait_until("it was looked at", || node.status.last_error().is_some());
    assert_eq!(node.status.error().as_deref(), Some(REPLICA));
    assert_eq!(node.publish(vec![event("t", "x")], 1), Err(PublishRefusal::BrokerDown));
    assert!(on_primary.status.is_up() && on_primary.status.last_error().is_none());

    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    node.wait_up();
    node.publish(vec![event("t", "y")], 2).unwrap();
    let heard = [node.next(), node.next()];
    assert!(heard.contains(&Heard::Published { ticket: 2, outcome: Ok(()) }), "{heard:?}");
    assert_eq!(node.status.reconnects(), 0, "it was never up before");

    // Under a session that goes on: Redis ends no connection for it.
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    node.wait_down();
    assert_eq!(node.status.error().as_deref(), Some(REPLICA));
    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    node.wait_up();
    assert_eq!(node.next(), source_lost());
}

#[test]
fn the_role_is_read_from_info_where_role_is_forbidden() {
    let primary = RedisServer::start();
    let port = primary.address().port().to_string();
    let arguments = ["--port", "{port}", "--replicaof", "127.0.0.1", &port];
    let rights = ["--user", "fan", "on", ">hunter2", "allchannels", "+@all", "-role"];
    let replica = RedisServer::start_in(tempfile::tempdir().unwrap(), &[&arguments[..], &rights[..]].concat());
    let node = Node::start(asking(&replica.url("redis", "fan:hunter2@")));
    wait_until("it was looked at", || node.status.last_error().is_some());
    assert!(node.status.last_error().unwrap().starts_with("it is a replica"), "{:?}", node.status);
}

#[test]
fn a_message_that_is_too_long_is_skipped_with_a_gap_and_the_session_continues() {
    let redis = RedisServer::start();
    let node = Node::start_up(RedisSettings { patterns: strings(&["p.*"]), ..settings(&redis.url("redis", "")) });
    let mut client = redis.connect();
    let long = vec![b'x'; 5 << 20];
    published(&mut client, "news", "before");
    published(&mut client, "news", &long[..]);
    published(&mut client, "p.a", &long[..]);
    published(&mut client, [b"p.", &long[..]].concat(), "no such topic");
    published(&mut client, [b"p.", &long[..]].concat(), &long[..]);
    published(&mut client, "fanfare:bus", &long[..]);
    published(&mut client, "news", "after");
    assert_eq!(node.next_event(), pair("news", "before"));
    let both = Heard::Gap { reason: GapReason::Refused, topics: Some(strings(&["news", "p.a"])) };
    let gaps = [refused("news"), refused("p.a")];
    let first = node.next();
    // One gap, if the loop has not read it when the next topic is added.
    if first != both {
        assert_eq!([first, node.next()], gaps);
    }
    assert_eq!(node.next(), source_lost(), "whose events the bus carried is not known");
    assert_eq!(node.next_event(), pair("news", "after"));
    assert_eq!(refusals(&node), HashMap::from([("too_large", 3), ("malformed", 2)]));
    assert_eq!((node.status.received(), node.status.reconnects()), (7, 0));
}

#[test]
fn tls_trusts_the_ca_it_is_given_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    certificates::write_into(directory.path());
    let [certificate, key, ca] = ["server.pem", "server.key", "ca.pem"].map(path);
    let pem = |name: &str| std::fs::read(path(name)).unwrap();
    let [ca_pem, other_pem] = ["ca.pem", "other.pem"].map(pem);
    let tls = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let arguments = [&["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"], &tls[..]].concat();
    let redis = RedisServer::start_in(directory, &arguments);
    let url = redis.url("rediss", "");
    let trusting = |pem: &[u8]| {
        let address = RedisAddress::new(&url, Some(pem)).unwrap();
        // An unoptimized handshake, on a busy machine.
        let timing = RedisTiming { connect_timeout: DEADLINE, reply_timeout: DEADLINE, ..settings(&url).timing };
        RedisSettings { address, timing, ..settings(&url) }
    };

    let node = Node::start_up(trusting(&ca_pem));
    node.publish(vec![event("t", "x")], 1).unwrap();
    let heard = [node.next(), node.next()];
    assert!(heard.contains(&Heard::Published { ticket: 1, outcome: Ok(()) }), "{heard:?}");
    published(&mut redis.connect(), "news", "x");
    assert_eq!(node.next_event(), pair("news", "x"));

    let stranger = Node::start(trusting(&other_pem));
    wait_until("the handshake failed", || stranger.status.last_error().is_some());
    let error = stranger.status.last_error().unwrap();
    assert!(error.contains("certificate"), "{error}");
}

/// Everything that is logged in this process from the first call on.
fn captured_log() -> Captured {
    static LOG: OnceLock<Captured> = OnceLock::new();
    let init = || {
        let log = Captured::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    };
    LOG.get_or_init(init).clone()
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
