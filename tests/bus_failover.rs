//! A durable bus whose Redis fails over: Sentinels, replicas, and histories that come back shorter than they were. Every
//! event that may be lost is a gap on all nodes, at the same place, and nothing waits forever.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fanfare::protocol::publish::PublishLimits;
use fanfare::redis_address::RedisAddress;
use fanfare::sources::bus::redis_stream::{Opened, RedisStream, StreamSettings};
use serde_json::{Value, json};

use support::redis::RedisServer;
use support::sentinel::Sentinel;
use support::server::Server;
use support::stream::Subscriber;
use support::wait::{eventually, wait_until};

mod support;

/// Runs `fanfare bus`; returns its exit status and output.
fn bus(url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let command = match arguments.contains(&"--") {
        true => [&["bus"], arguments].concat(),
        false => [&["bus"], arguments, &["--redis-url", url]].concat(),
    };
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(command).output().expect("cargo built it");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

fn install(url: &str) {
    let (status, output) = bus(url, &["install"]);
    assert_eq!(status, Some(0), "{output}");
}

/// A node on the bus, once it may be used.
fn node(url: &str) -> Server {
    let server = Server::start(&["--redis-url", url, "--bus", "redis-stream", "--dev"]);
    wait_until("the node is ready", || server.get("/health/ready").status == 200);
    server
}

/// Publishes once Redis takes it, and returns the event's id.
fn publish(server: &Server, data: &str) -> String {
    let body = json!({"topic": "a", "data": data, "id": data}).to_string();
    let answer =
        eventually("the event is published", || Some(server.post(&body)).filter(|answer| answer.status == 202));
    serde_json::from_slice::<Value>(&answer.body).unwrap()["id"].as_str().unwrap().to_owned()
}

/// A replica of a server, in sync.
fn replica_of(primary: &RedisServer, arguments: &[&str]) -> RedisServer {
    let port = primary.address().port().to_string();
    let of = ["--port", "{port}", "--replicaof", "127.0.0.1", &port];
    let replica = RedisServer::start_in(tempfile::tempdir().unwrap(), &[&of[..], arguments].concat());
    wait_until("the replica is in sync", || is_in_sync(&replica));
    replica
}

fn is_in_sync(replica: &RedisServer) -> bool {
    replica.command::<String>(&["INFO", "replication"]).contains("master_link_status:up")
}

/// An engine of the test's own.
fn engine(url: &str) -> RedisStream {
    RedisStream::new(StreamSettings {
        address: RedisAddress::new(url, None).unwrap(),
        name: "fanfare".to_owned(),
        bounds: Arc::default(),
        entries_max: 1000,
        id_memory: Duration::from_secs(60),
        limits: PublishLimits { topic_bytes_max: 100, data_bytes_max: 1000, batch_max: 1 },
    })
}

/// Nodes, and a subscriber on each, which have received the first event; its id.
fn audience(url: &str) -> ([Server; 2], [Subscriber; 2], String) {
    install(url);
    let nodes = [node(url), node(url)];
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    let id = publish(&nodes[0], "1");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["1"]));
    (nodes, subscribers, id)
}

/// All nodes report a loss at the same place, to those who are connected and to those who return.
fn check_gap(nodes: &[Server; 2], subscribers: &mut [Subscriber; 2], last: &str, after: &[&str]) {
    let gaps = subscribers.each_mut().map(gap);
    assert!(gaps[0] == gaps[1] && gaps[0].0 == "bus_forked", "{gaps:?}");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(after));
    for server in nodes {
        let mut resumed = Subscriber::resume(server, "/events?topic=a", last);
        assert_eq!(gap(&mut resumed), gaps[0]);
        resumed.expect(after);
    }
}

/// The next events come without a gap, also to those who return.
fn check_no_gap(nodes: &[Server; 2], subscribers: &mut [Subscriber; 2], last: &str, after: &[&str]) {
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(after));
    for server in nodes {
        Subscriber::resume(server, "/events?topic=a", last).expect(after);
    }
}

/// The reason and the id of the next event, which is a gap.
fn gap(subscriber: &mut Subscriber) -> (String, String) {
    let event = subscriber.event();
    (event.gap()["reason"].as_str().unwrap().to_owned(), event.id().unwrap().to_owned())
}

#[test]
fn nodes_follow_the_primary_that_the_sentinels_name() {
    let mut primary = RedisServer::start();
    let replica = replica_of(&primary, &[]);
    let sentinel = Sentinel::start(&primary, None);
    wait_until("the Sentinel knows the replica", || sentinel.replicas() == 1);
    // The first one does not answer, and the second one has never known a primary of that name.
    let other = Sentinel::start(&replica, None);
    let url = format!("redis+sentinel://127.0.0.1:1,{}/main", sentinel.address());
    let (nodes, mut subscribers, id) = audience(&url);
    let (status, output) = bus(&format!("redis+sentinel://127.0.0.1:1,{}/other", other.address()), &["status"]);
    assert_eq!(status, Some(1), "{output}");
    for words in ["127.0.0.1:1 failed: ", &format!("{} knows no primary other", other.address())] {
        assert!(output.contains(words), "{output}");
    }
    drop(other);
    wait_until("the replica has it", || replica.command::<u64>(&["XLEN", "{fanfare}:events"]) == 2);
    primary.kill();
    publish(&nodes[1], "2");
    check_gap(&nodes, &mut subscribers, &id, &["2"]);
    assert!(replica.command::<String>(&["INFO", "replication"]).contains("role:master"));
    let health = nodes[0].get("/health").to_string();
    assert!(!health.contains("primary.invalid"), "{health}");
}

/// What was acknowledged, and what clients have received, is not on the server that takes over.
#[test]
fn a_failover_to_a_replica_that_is_behind_is_a_gap() {
    let mut primary = RedisServer::start();
    let replica = replica_of(&primary, &[]);
    let sentinel = Sentinel::start(&primary, None);
    wait_until("the Sentinel knows the replica", || sentinel.replicas() == 1);
    let url = format!("redis+sentinel://{}/main", sentinel.address());
    let (nodes, mut subscribers, _) = audience(&url);
    wait_until("the replica has it", || replica.command::<u64>(&["XLEN", "{fanfare}:events"]) == 2);
    let _: String = replica.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let lost = publish(&nodes[0], "lost");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["lost"]));
    primary.kill();
    publish(&nodes[1], "2");
    check_gap(&nodes, &mut subscribers, &lost, &["2"]);
    let entries: u64 = replica.command(&["XLEN", "{fanfare}:events"]);
    assert_eq!(entries, 4, "two forks, and the events that are not lost");
}

/// A Sentinel may name a server that is no longer the primary.
#[test]
fn a_server_that_is_no_primary_and_one_that_wants_another_login_are_named() {
    let primary = RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", "{port}"]);
    let replica = replica_of(&primary, &[]);
    let stale = Sentinel::start(&primary, Some("hunter2"));
    let _: String = primary.command(&["REPLICAOF", "127.0.0.1", "1"]);
    // The server takes any password of this user; the Sentinel takes this one.
    let url = format!("redis+sentinel://default:hunter2@{}/main", stale.address());
    let (status, output) = bus(&url, &["status"]);
    assert_eq!(status, Some(1), "{output}");
    let names = format!("names {}, which is no primary", primary.address());
    assert!(output.contains(&names) && !output.contains("hunter2"), "{output}");
    let (status, output) = bus(&url.replace("hunter2", "hunter3"), &["status"]);
    assert!(status == Some(1) && output.contains("refuses the login") && !output.contains("hunter3"), "{output}");
    drop(replica);
}

#[test]
fn a_planned_failover_is_no_gap() {
    let primary = RedisServer::start();
    let replica = replica_of(&primary, &[]);
    let sentinel = Sentinel::start(&primary, None);
    wait_until("the Sentinel knows the replica", || sentinel.replicas() == 1);
    let url = format!("redis+sentinel://{}/main", sentinel.address());
    let (nodes, mut subscribers, id) = audience(&url);
    let port = sentinel.address().rsplit_once(':').unwrap().1.to_owned();
    let (status, output) =
        bus(&url, &["hold", "--redis-url", &url, "--", "redis-cli", "-p", &port, "sentinel", "failover", "main"]);
    assert!(status == Some(0) && output.contains("1 of 1 replicas") && output.contains("nothing was lost"), "{output}");
    publish(&nodes[1], "2");
    check_no_gap(&nodes, &mut subscribers, &id, &["2"]);
    assert!(replica.command::<String>(&["INFO", "replication"]).contains("role:master"));
    // An event that the bus never had is not between both epochs.
    let beyond = id.replace("-1~1", "-2");
    assert_ne!(beyond, id);
    assert_eq!(gap(&mut Subscriber::resume(&nodes[0], "/events?topic=a", &beyond)).0, "unknown_id");
    // A node that starts now has both epochs, too.
    let nodes = [node(&url), node(&url)];
    Subscriber::resume(&nodes[0], "/events?topic=a", &id).expect(&["2"]);
}

/// A hold is the last that a server writes for the bus, so a server that has it lost nothing.
#[test]
fn a_planned_restart_is_no_gap_and_publishing_waits_for_it() {
    let mut redis = RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", "{port}", "--appendonly", "yes"]);
    let url = redis.url("redis", "");
    let (nodes, mut subscribers, id) = audience(&url);
    let mut engine = engine(&url);
    engine.hold("token").unwrap();
    assert_eq!(nodes[0].post(r#"{"topic":"a","data":"refused"}"#).status, 503);
    assert_eq!(nodes[0].get("/health/ready").status, 200, "it still reads");
    assert_eq!(engine.open("another token", false), Ok(Opened::Lost));
    assert_eq!(engine.open("token", false), Ok(Opened::Unchanged));
    // The connection ends instead of an answer.
    assert!(redis::cmd("SHUTDOWN").exec(&mut redis.connect()).is_err());
    wait_until("it has ended", || TcpStream::connect(redis.address()).is_err());
    redis.restart();
    let opened = eventually("it opens", || engine.open("token", false).ok());
    assert!(matches!(opened, Opened::Forked(_)), "{opened:?}");
    assert_eq!(engine.open("token", false), Ok(Opened::Lost), "only once");
    publish(&nodes[1], "2");
    check_no_gap(&nodes, &mut subscribers, &id, &["2"]);
}

#[test]
fn a_hold_that_is_lost_is_a_gap() {
    let mut redis = RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", "{port}"]);
    let url = redis.url("redis", "");
    let (nodes, mut subscribers, _) = audience(&url);
    let _: String = redis.command(&["SAVE"]);
    let lost = publish(&nodes[0], "lost");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["lost"]));
    let mut engine = engine(&url);
    engine.hold("token").unwrap();
    redis.restart();
    wait_until("it answers", || engine.open("token", false) == Ok(Opened::Lost));
    publish(&nodes[1], "2");
    // Also for those who have received the event that is lost.
    check_gap(&nodes, &mut subscribers, &lost, &["2"]);
}

#[test]
fn a_hold_that_is_left_alone_ends() {
    let redis = RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", "{port}", "--appendonly", "yes"]);
    let url = redis.url("redis", "");
    let (nodes, mut subscribers, id) = audience(&url);
    // A command that fails, or does nothing to Redis.
    let (status, output) = bus(&url, &["hold", "--redis-url", &url, "--", "false"]);
    assert!(status == Some(1) && output.contains("false failed"), "{output}");
    publish(&nodes[0], "2");
    check_no_gap(&nodes, &mut subscribers, &id, &["2"]);
    let forget = || {
        engine(&url).hold("token").unwrap();
        let _: u64 = redis.command(&["HINCRBY", "{fanfare}:bus", "held_at", "-120000"]);
    };
    forget();
    publish(&nodes[0], "3");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["3"]));
}

/// As after a power failure: the end of what was written is not there.
#[test]
fn an_aof_that_lost_its_end_is_a_gap() {
    let always = ["--port", "{port}", "--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_in(tempfile::tempdir().unwrap(), &always);
    let url = redis.url("redis", "");
    let (nodes, mut subscribers, _) = audience(&url);
    let file = redis.socket().with_file_name("appendonlydir").join("appendonly.aof.1.incr.aof");
    let bytes = std::fs::metadata(&file).unwrap().len();
    let lost: Vec<_> = ["lost-1", "lost-2"].map(|data| publish(&nodes[0], data)).into();
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["lost-1", "lost-2"]));
    redis.kill();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(bytes + 20).unwrap();
    redis.restart();
    publish(&nodes[1], "2");
    check_gap(&nodes, &mut subscribers, &lost[1], &["2"]);
    // A node that starts now agrees with them; it can't know what the older epoch had.
    let restarted = node(&url);
    let mut resumed = Subscriber::resume(&restarted, "/events?topic=a", &lost[0]);
    assert_eq!(gap(&mut resumed).0, "bus_forked");
    resumed.expect(&["2"]);
}

/// A replica whose clock is behind takes over from a primary that has begun an epoch in the future.
#[test]
fn a_clock_that_goes_back_wedges_nothing() {
    let redis = RedisServer::start();
    let url = redis.url("redis", "");
    let (nodes, mut subscribers, id) = audience(&url);
    let (epoch, _) = id.split_once('-').unwrap();
    let ahead = (epoch.parse::<u64>().unwrap() + 86_400_000).to_string();
    let _: u64 = redis.command(&["HSET", "{fanfare}:bus", "epoch", &ahead, "replid", "another"]);
    let second = publish(&nodes[0], "2");
    assert!(second > ahead, "{second}");
    check_gap(&nodes, &mut subscribers, &id, &["2"]);
    let _: u64 = redis.command(&["HSET", "{fanfare}:bus", "replid", "a third"]);
    let third = publish(&nodes[1], "3");
    assert!(third > second, "{third}");
    check_gap(&nodes, &mut subscribers, &second, &["3"]);
}

#[test]
fn a_bus_that_was_evicted_is_a_gap_once_redis_keeps_it_again() {
    let redis = RedisServer::start();
    let url = redis.url("redis", "");
    let (nodes, mut subscribers, id) = audience(&url);
    let set = |name: &str, value: &str| redis.command::<String>(&["CONFIG", "SET", name, value]);
    set("maxmemory-policy", "allkeys-lru");
    set("maxmemory", "1");
    wait_until("it is evicted", || redis.command::<u64>(&["EXISTS", "{fanfare}:events"]) == 0);
    nodes[0].wait_for_log(&["allkeys-lru"]);
    set("maxmemory", "0");
    set("maxmemory-policy", "noeviction");
    publish(&nodes[1], "2");
    check_gap(&nodes, &mut subscribers, &id, &["2"]);
}
