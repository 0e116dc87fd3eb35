//! What is stored beside a durable bus, and what its tools say of it: bounds, versions, and `fanfare bus check`.

use std::process::Command;

use serde_json::{Value, json};

use fanfare::sources::bus::redis_stream::FUNCTIONS;
use support::bus::is_ready;
use support::redis::RedisServer;
use support::server::Server;
use support::wait::wait_until;

mod support;

/// Runs `fanfare bus`; returns its exit status and output.
fn bus(redis: &RedisServer, user: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let url = redis.url("redis", user);
    let output =
        Command::new(env!("CARGO_BIN_EXE_fanfare")).arg("bus").args(arguments).args(["--redis-url", &url]).output();
    let output = output.expect("cargo built it");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

fn run(redis: &RedisServer, arguments: &[&str]) {
    let (status, output) = bus(redis, "", arguments);
    assert_eq!(status, Some(0), "{output}");
}

fn start() -> RedisServer {
    let redis = RedisServer::start();
    run(&redis, &["install"]);
    redis
}

fn node(redis: &RedisServer, options: &[&str]) -> Server {
    let url = redis.url("redis", "");
    Server::start(&[&["--redis-url", &url, "--bus", "redis-stream", "--dev"], options].concat())
}

/// Publishes an event of this size; returns the status of the answer.
fn publish(server: &Server, bytes: usize) -> u16 {
    server.post(&json!({"topic": "a", "data": "x".repeat(bytes)}).to_string()).status
}

/// Otherwise some nodes would deliver an event and others a gap.
#[test]
fn no_node_takes_less_than_the_bus_and_none_publishes_more() {
    let redis = start();
    let first = node(&redis, &["--event-bytes", "2KiB"]);
    wait_until("the first node is ready", || is_ready(&first));
    let small = node(&redis, &["--event-bytes", "1KiB"]);
    small.wait_for_log(&["events of up to 2048 bytes", "raise topic-bytes or event-bytes"]);
    let large = node(&redis, &["--event-bytes", "4KiB"]);
    wait_until("the large node is ready", || is_ready(&large));
    assert_eq!([publish(&large, 2048), publish(&large, 2049)], [202, 413]);
    let append = |bytes: usize| {
        let mut call = redis::cmd("FCALL");
        call.arg("fanfare_append").arg(2).arg("{fanfare}:events").arg("{fanfare}:bus").arg(9).arg(9);
        call.arg("a").arg("x".repeat(bytes)).arg("").arg("").arg("").arg("");
        call.query::<Vec<String>>(&mut redis.connect())
    };
    assert!(append(2048).is_ok());
    assert_eq!(append(2049).unwrap_err().code(), Some("TOOLARGE"));
    run(&redis, &["install", "--event-bytes", "4KiB"]);
    wait_until("the first node is not ready", || !is_ready(&first));
    wait_until("the large node publishes it", || publish(&large, 4096) == 202);
    let (status, output) = bus(&redis, "", &["install", "--event-bytes", "1KiB"]);
    assert!(status == Some(1) && output.contains("can only be raised"), "{output}");
}

#[test]
fn functions_of_a_later_version_are_not_replaced_by_mistake_and_a_newer_format_is_not_read() {
    let redis = start();
    let server = node(&redis, &[]);
    wait_until("the node is ready", || is_ready(&server));
    let later =
        FUNCTIONS.replace("local LIBRARY = 2", "local LIBRARY = 3").replace("local FORMAT = 1", "local FORMAT = 2");
    let load = |functions: &str| redis.command::<String>(&["FUNCTION", "LOAD", "REPLACE", functions]);
    load(&later);
    server.wait_for_log(&["the bus has format 2, this version of Fanfare reads 1"]);
    assert!(!is_ready(&server));
    let (status, output) = bus(&redis, "", &["install"]);
    assert!(status == Some(1) && output.contains("version 3") && output.contains("--force"), "{output}");
    run(&redis, &["install", "--force"]);
    wait_until("the node is ready", || is_ready(&server));
    // Functions from before there were versions.
    let unversioned = FUNCTIONS.lines().filter(|line| !line.contains("'fanfare_version'"));
    load(&unversioned.collect::<Vec<_>>().join(
        "
",
    ));
    let (_, output) = bus(&redis, "", &["check"]);
    assert!(output.contains("version 0"), "{output}");
    run(&redis, &["install"]);
}

#[test]
fn a_check_names_what_is_wrong_and_what_to_do() {
    let redis = RedisServer::start();
    let check = |user: &str, expected: i32, words: &[&str]| {
        let (status, output) = bus(&redis, user, &["check"]);
        assert_eq!(status, Some(expected), "{output}");
        for words in words {
            assert!(output.contains(words), "{words:?} is not in:\n{output}");
        }
    };
    check("", 1, &["PROBLEM functions", "do: fanfare bus install", "note    persistence  none"]);
    run(&redis, &["install"]);
    check("", 0, &["ok      functions", "ok      bus          format 1, 1 entries", "may run all commands"]);
    let (_, json) = bus(&redis, "", &["check", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(&json).expect("it is JSON");
    assert!(findings.iter().any(|finding| finding["subject"] == "eviction" && finding["verdict"] == "ok"), "{json}");
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    check("", 1, &["PROBLEM eviction"]);
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let _: String = redis.command(&["ACL", "SETUSER", "weak", "on", "nopass", "~*", "+@all", "-xadd", "-hset"]);
    check("weak:x@", 1, &["PROBLEM rights", "+xadd +hset"]);
    let _: String = redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    check("", 1, &["PROBLEM server", "slave"]);
}
