//! A PostgreSQL whose transactions publish to a bus in Redis, with real servers: nodes, Redis and PostgreSQL are killed,
//! paused and restored, and each committed event comes once, in the order of the commits, or a gap says what is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fanfare::sources::bus::redis_stream::FUNCTIONS;
use serde_json::{Value, json};

use support::postgres::{PostgresServer, checked, publishing};
use support::redis::{RedisServer, install_bus};
use support::server::Server;
use support::stream::{Subscriber, text_of};
use support::wait::{eventually, wait_until};

mod support;

const LEADS: &str = "fanfare_source_leads{source=\"postgres\"}";

fn servers() -> (RedisServer, PostgresServer) {
    let redis = RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", "{port}", "--appendonly", "yes"]);
    install_bus(&redis);
    (redis, PostgresServer::with_bus(&[]))
}

/// A node that may feed the bus.
fn node(redis: &RedisServer, postgres_url: &str, options: &[&str]) -> Server {
    node_on(redis, &[&["--postgres-url", postgres_url], options].concat())
}

/// A node on the bus, once it may be used.
fn node_on(redis: &RedisServer, options: &[&str]) -> Server {
    let bus = ["--redis-url", &redis.url("redis", ""), "--bus", "redis-stream", "--dev", "--drain", "1s"];
    let server = Server::start(&[&bus[..], options].concat());
    wait_until("the node is ready", || server.get("/health/ready").status == 200);
    server
}

fn leads(node: &Server) -> bool {
    node.metric(LEADS) == 1.0
}

/// A node that leads and one that stands by, once both have read the gap with which the feed begins.
fn leader_and_standby(redis: &RedisServer, postgres: &PostgresServer) -> [Server; 2] {
    let leader = node(redis, &postgres.url(), &[]);
    wait_until("it leads", || leads(&leader));
    let standby = node(redis, &postgres.url(), &[]);
    let newest: Vec<(String, Vec<String>)> = redis.command(&["XREVRANGE", "{fanfare}:events", "+", "-", "COUNT", "1"]);
    assert!(newest[0].1.contains(&"source_lost".to_owned()), "{newest:?}");
    for node in [&leader, &standby] {
        wait_until("it has read the gap", || node.debug()["position"] == newest[0].0);
    }
    [leader, standby]
}

/// Reads through the event with the data `last`.
fn read_through_last(mut subscriber: Subscriber) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != "last") {
        texts.push(text_of(&subscriber.event()));
    }
    texts
}

/// Waits until a node has read more of the bus.
fn wait_for_more(node: &Server) {
    let read = node.metric("fanfare_bus_offset");
    node.wait_for_metric("fanfare_bus_offset", |now| now >= read + 20.0);
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Publishes 0, 1, 2, … until it is stopped, each in a transaction, and again under the same id where it got no answer;
/// every third transaction is rolled back.
struct Publisher {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Publisher {
    fn start(postgres: &PostgresServer) -> Publisher {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (asked, url) = (Arc::clone(&is_stopped), postgres.url());
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !asked.load(Ordering::Relaxed) {
                let publish = format!("SELECT fanfare.fanfare_publish('a', '{count}', id => 'n{count}')");
                let script = match count % 3 {
                    2 => format!("BEGIN; {}; ROLLBACK; {publish}", publishing("rolled back")),
                    _ => publish,
                };
                let output = psql(&url).args(["-c", &script]).output().unwrap();
                count += u64::from(output.status.success());
            }
            count
        });
        Publisher { is_stopped, thread }
    }

    /// Publishes `last`, too; returns how many numbers were published.
    fn stop(self, postgres: &PostgresServer) -> u64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        let count = self.thread.join().unwrap();
        postgres.sql(&publishing("last"));
        count
    }
}

fn psql(url: &str) -> std::process::Command {
    let mut command = std::process::Command::new("psql");
    command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url]).stdin(std::process::Stdio::null());
    command
}

#[test]
fn what_transactions_commit_is_one_event_on_all_nodes_in_their_order() {
    let (redis, postgres) = servers();
    let nodes = leader_and_standby(&redis, &postgres);
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a&topic=b"));
    let mut sessions = [(); 2].map(|()| postgres.session());
    sessions[0].run("BEGIN");
    sessions[0].run(&publishing("1"));
    // It waits for the end of the first.
    sessions[1].start(&format!("BEGIN; {}; COMMIT", publishing("2")));
    sessions[0].run("COMMIT");
    sessions[1].run("SELECT 1");
    sessions[0].run("BEGIN");
    sessions[0].run(&publishing("never"));
    sessions[0].run("ROLLBACK");
    postgres.sql(r"SELECT fanfare.fanfare_publish('b', E'3\nä', event => 'kind', id => 'own', retry => 9)");
    let received = subscribers.each_mut().map(|subscriber| [(); 3].map(|()| subscriber.event()));
    assert_eq!(received[0], received[1]);
    let [.., last] = &received[0];
    assert_eq!(received[0].each_ref().map(|event| event.data().unwrap()), ["1", "2", "3\nä"]);
    assert_eq!((last.event_type(), last.retry_ms()), (Some("kind"), Some(9)));
    assert!(last.id().unwrap().ends_with("~own"), "{last:?}");
    // One id, whichever way it comes.
    let repeated = nodes[1].post(&json!({"topic": "b", "data": "3", "id": "own"}).to_string()).json();
    assert_eq!((&repeated["duplicate"], &repeated["id"]), (&json!(true), &json!(last.id())));
    nodes[1].post(&json!({"topic": "b", "data": "4", "id": "posted"}).to_string());
    postgres.sql("SELECT fanfare.fanfare_publish('b', '4', id => 'posted')");
    postgres.sql(&publishing("5"));
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["4", "5"]));
    let duplicates = "fanfare_source_refused_total{source=\"postgres\",reason=\"duplicate\"}";
    assert_eq!(nodes[0].metric(duplicates), 1.0);
    let of = |node: &Server| node.get_admin("/health").json()["sources"]["postgres"].clone();
    assert_eq!([0, 1].map(|n: usize| of(&nodes[n])["role"].clone()), ["leader", "standby"]);
    assert!(nodes.iter().all(|node| of(node)["up"] == json!(true)));
}

/// One is killed, one stops in an orderly way, and one is paused until another has appended.
#[test]
fn each_event_comes_once_and_without_a_gap_whatever_happens_to_the_nodes() {
    let (redis, postgres) = servers();
    let mut nodes = Vec::from(leader_and_standby(&redis, &postgres));
    // It has no part in the feed.
    let watcher = node_on(&redis, &[]);
    let subscriber = Subscriber::open(&watcher, "/events?topic=a");
    let reader = std::thread::spawn(|| read_through_last(subscriber));
    let publisher = Publisher::start(&postgres);
    let mut paused = None;
    for action in ["KILL", "TERM", "STOP"] {
        wait_for_more(&watcher);
        let mut leader = nodes.remove(nodes.iter().position(leads).expect("one leads"));
        leader.signal(action);
        match action {
            "STOP" => paused = Some(leader),
            _ => drop(leader.wait_for_exit()),
        }
        nodes.push(node(&redis, &postgres.url(), &[]));
        wait_until("another node leads", || nodes.iter().any(leads));
    }
    let paused = paused.expect("a leader was paused");
    paused.signal("CONT");
    paused.wait_for_metric(LEADS, |leads| leads == 0.0);
    let count = publisher.stop(&postgres);
    let mut expected = numbers(0..count);
    expected.push("last".to_owned());
    assert!(reader.join().unwrap() == expected, "each of {count} once, and no gap");
}

#[test]
fn a_crash_of_postgresql_is_no_gap_and_loses_nothing() {
    let (redis, mut postgres) = servers();
    let nodes = leader_and_standby(&redis, &postgres);
    let subscriber = Subscriber::open(&nodes[1], "/events?topic=a");
    let reader = std::thread::spawn(|| read_through_last(subscriber));
    let publisher = Publisher::start(&postgres);
    for _ in 0..2 {
        wait_for_more(&nodes[1]);
        postgres.kill();
        wait_until("no node leads", || !nodes.iter().any(leads));
        let health = nodes[0].get_admin("/health").json();
        assert_eq!(health["sources"]["postgres"]["up"], json!(false), "{health}");
        assert_eq!(nodes[0].get("/health/ready").status, 200, "what is on the bus can be read");
        postgres.restart();
        wait_until("a node leads again", || nodes.iter().any(leads));
    }
    let count = publisher.stop(&postgres);
    let mut expected = numbers(0..count);
    expected.push("last".to_owned());
    assert!(reader.join().unwrap() == expected, "each of {count} once, and no gap");
}

/// A restart of Redis is a fork by itself; the feed adds nothing to it.
#[test]
fn a_crash_of_redis_loses_nothing_that_transactions_published() {
    let (mut redis, postgres) = servers();
    let nodes = leader_and_standby(&redis, &postgres);
    let subscriber = Subscriber::open(&nodes[1], "/events?topic=a");
    let reader = std::thread::spawn(|| read_through_last(subscriber));
    let publisher = Publisher::start(&postgres);
    wait_for_more(&nodes[1]);
    redis.restart();
    wait_until("a node leads again", || nodes.iter().any(leads));
    let count = publisher.stop(&postgres);
    let (gaps, events): (Vec<_>, Vec<_>) = reader.join().unwrap().into_iter().partition(|text| text.starts_with("gap"));
    assert_eq!(gaps, ["gap bus_forked"]);
    let mut expected = numbers(0..count);
    expected.push("last".to_owned());
    assert!(events == expected, "each of {count} once");
}

#[test]
fn a_dump_that_is_restored_is_one_gap() {
    let redis = RedisServer::start();
    install_bus(&redis);
    let postgres = PostgresServer::start(&[]);
    postgres.sql("CREATE DATABASE app");
    let url = postgres.url_of("postgres", "app");
    let run = |sql: &str| checked(postgres.psql(&url).args(["-c", sql]).output().unwrap());
    let schema = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["bus", "install", "--print"]).output();
    run(&checked(schema.unwrap()));
    let server = node(&redis, &url, &[]);
    wait_until("it leads", || leads(&server));
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    run(&publishing("1"));
    assert_eq!(
        eventually("the event", || Some(text_of(&subscriber.event())).filter(|text| text != "gap source_lost")),
        "1"
    );
    let dump = checked(postgres.tool("pg_dump").arg("app").output().unwrap());
    run(&publishing("2"));
    subscriber.expect(&["2"]);
    postgres.sql("ALTER DATABASE app ALLOW_CONNECTIONS false");
    postgres.sql("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = 'app'");
    postgres.sql("ALTER DATABASE app RENAME TO old");
    postgres.sql("CREATE DATABASE app");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    checked(postgres.psql(&url).arg("-f").arg(file.path()).output().unwrap());
    run(&publishing("3"));
    let gap = subscriber.event().gap();
    assert_eq!((&gap["reason"], &gap["topics"]), (&json!("source_lost"), &json!(["*"])));
    subscriber.expect(&["3"]);
}

#[test]
fn entries_that_were_deleted_before_they_were_read_are_a_gap_and_nodes_delete_none_of_these() {
    let (redis, postgres) = servers();
    let feeding = || node(&redis, &postgres.url(), &["--bus-entries", "50"]);
    let server = feeding();
    wait_until("it leads", || leads(&server));
    let watcher = node_on(&redis, &["--bus-entries", "1000"]);
    server.kill();
    let subscriber = Subscriber::open(&watcher, "/events?topic=a");
    let mut session = postgres.session();
    (0..90).for_each(|n| drop(session.run(&publishing(&n.to_string()))));
    session.run(&publishing("last"));
    let server = feeding();
    let mut expected = numbers(0..90);
    expected.push("last".to_owned());
    assert_eq!(read_through_last(subscriber), expected, "there are more than are kept");
    let kept = || postgres.sql("SELECT count(*) FROM fanfare.entries");
    wait_until("what was read is deleted", || kept() == "50");
    server.kill();
    (0..90).for_each(|n| drop(session.run(&publishing(&n.to_string()))));
    session.run(&publishing("last"));
    postgres.sql("SELECT fanfare.delete_entries(1000)");
    let subscriber = Subscriber::open(&watcher, "/events?topic=a");
    let server = feeding();
    let mut expected = vec!["gap source_lost".to_owned()];
    expected.extend(numbers(41..90));
    expected.push("last".to_owned());
    assert_eq!(read_through_last(subscriber), expected);
    server.wait_for_log(&["events may be missing", "Trimmed"]);
}

/// The bus in PostgreSQL gets the bounds of the first node, unless it has larger ones.
#[test]
fn an_event_that_is_larger_than_the_bus_takes_is_refused_with_a_gap() {
    let (redis, postgres) = servers();
    let options = ["--event-bytes", "1KiB"];
    let server = node(&redis, &postgres.url(), &options);
    wait_until("it leads", || leads(&server));
    let publish = |bytes: u64| postgres.try_sql(&format!("SELECT fanfare.fanfare_publish('a', repeat('x', {bytes}))"));
    assert!(publish(1025).unwrap_err().contains("an event on this bus may have 1024 bytes"));
    let (status, output) = postgres.bus(&["install", "--event-bytes", "2KiB"]);
    assert_eq!(status, Some(0), "{output}");
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    publish(1024).unwrap();
    publish(1025).unwrap();
    // The owner of the tables may write anything.
    postgres.sql(
        "INSERT INTO fanfare.entries (epoch, entry_offset, kind, topic, data, retry)
         SELECT epoch, fanfare.last_offset(epoch) + 1, 'event', 'a', '', -1 FROM fanfare.state",
    );
    postgres.sql(&publishing("after"));
    let first = eventually("an event", || Some(subscriber.event()).filter(|event| text_of(event) != "gap source_lost"));
    assert_eq!(first.data().unwrap().len(), 1024);
    let gap = subscriber.event().gap();
    assert_eq!((&gap["reason"], &gap["topics"]), (&json!("event_refused"), &json!(["a"])));
    assert_eq!(text_of(&subscriber.event()), "gap event_refused");
    subscriber.expect(&["after"]);
    let refused = |reason: &str| format!("fanfare_source_refused_total{{source=\"postgres\",reason=\"{reason}\"}}");
    assert_eq!([server.metric(&refused("too_large")), server.metric(&refused("malformed"))], [1.0, 1.0]);
    server.wait_for_log(&["an event does not fit on the bus", "it is larger than the bus takes"]);
}

/// After an upgrade of the nodes, and before one of the functions.
#[test]
fn functions_of_an_older_version_are_named_and_the_bus_goes_on() {
    let (redis, postgres) = servers();
    let older: Vec<_> = FUNCTIONS.lines().filter(|line| !line.contains("'fanfare_feed'")).collect();
    let _: String = redis.command(&["FUNCTION", "LOAD", "REPLACE", &older.join("\n")]);
    let server = node(&redis, &postgres.url(), &[]);
    server.wait_for_log(&["does not reach the bus", "older than this Fanfare: run fanfare bus install"]);
    let health: Value = server.get_admin("/health").json();
    assert_eq!(health["sources"]["postgres"]["up"], json!(false), "{health}");
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    server.publish("a", "1");
    subscriber.expect(&["1"]);
    install_bus(&redis);
    wait_until("it leads", || leads(&server));
}
