//! Channels of Redis pub/sub on a bus in PostgreSQL: one node appends what all deliver, and nothing is lost without a gap or
//! delivered twice when that node changes.

use serde_json::json;

use support::numbers::{Publisher, check_numbers, read_through};
use support::postgres::{PostgresServer, publishing};
use support::redis::RedisServer;
use support::server::Server;
use support::stream::{Subscriber, text_of};
use support::wait::wait_until;

mod support;

const LEADS: &str = "fanfare_source_leads{source=\"redis\"}";

fn servers() -> (RedisServer, PostgresServer) {
    (RedisServer::start(), PostgresServer::with_bus(&[]))
}

/// A node that is subscribed to the channel `news`, once it may be used.
fn node(redis: &RedisServer, postgres: &PostgresServer, options: &[&str]) -> Server {
    let (redis, postgres) = (redis.url("redis", ""), postgres.url());
    let urls = ["--redis-url", &redis, "--postgres-url", &postgres, "--bus", "postgres", "--ready-requires", "redis"];
    let more = ["--redis-channel", "news", "--dev", "--drain", "1s"];
    let server = Server::start(&[&urls[..], &more, options].concat());
    wait_until("the node is ready", || server.get("/health/ready").status == 200);
    server
}

fn leads(node: &Server) -> bool {
    node.metric(LEADS) == 1.0
}

/// Waits until a node leads, and all have read the gap with which it begins.
fn wait_for_leader(postgres: &PostgresServer, nodes: &[&Server]) {
    wait_until("one node leads", || nodes.iter().filter(|node| leads(node)).count() == 1);
    let newest = postgres.sql("SELECT last_epoch || '-' || last_offset FROM fanfare.status()");
    wait_until("all have read its gap", || nodes.iter().all(|node| node.debug()["position"] == newest));
}

fn send(redis: &RedisServer, payload: &str) {
    let _: u64 = redis.command(&["PUBLISH", "news", payload]);
}

#[test]
fn a_message_of_a_channel_is_one_event_among_those_of_transactions_on_all_nodes() {
    let (redis, postgres) = servers();
    let options = ["--redis-payload", "envelope", "--event-bytes", "1KiB"];
    let nodes = [(); 2].map(|()| node(&redis, &postgres, &options));
    wait_for_leader(&postgres, &nodes.each_ref());
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=news&topic=a"));
    send(&redis, &json!({"data": "1", "id": "own", "event": "kind", "retry": 7}).to_string());
    let mut received = subscribers.each_mut().map(|subscriber| vec![subscriber.event()]);
    postgres.sql(&publishing("2"));
    postgres.sql("SELECT fanfare.fanfare_publish('news', '1', id => 'own')");
    nodes[1].publish("news", "3");
    send(&redis, &json!({"data": "x".repeat(1025)}).to_string());
    wait_until("it is refused", || {
        postgres.sql("SELECT count(*) FROM fanfare.entries WHERE event = 'event_refused'") == "1"
    });
    postgres.sql(&publishing("4"));
    for (subscriber, received) in subscribers.iter_mut().zip(&mut received) {
        received.extend((0..4).map(|_| subscriber.event()));
    }
    assert_eq!(received[0], received[1]);
    let texts: Vec<_> = received[0].iter().map(text_of).collect();
    assert_eq!(texts, ["1", "2", "3", "gap event_refused", "4"]);
    assert_eq!(received[0][3].gap()["topics"], json!(["news"]));
    let first = &received[0][0];
    assert!(first.id().unwrap().ends_with("~own") && first.event_type() == Some("kind"), "{first:?}");
    let role = |node: &Server| node.get_admin("/health").json()["sources"]["redis"]["role"].clone();
    let mut roles = nodes.each_ref().map(|node| role(node).as_str().unwrap().to_owned());
    roles.sort();
    assert_eq!(roles, ["leader", "standby"]);
}

/// An orderly end is no gap; a kill is one, and so is a pause until another node leads.
#[test]
fn a_leader_that_ends_is_replaced_and_each_loss_is_one_gap() {
    let (redis, postgres) = servers();
    let mut nodes = vec![node(&redis, &postgres, &[])];
    wait_for_leader(&postgres, &[&nodes[0]]);
    nodes.push(node(&redis, &postgres, &[]));
    let watcher = Server::start(&["--postgres-url", &postgres.url(), "--bus", "postgres", "--dev"]);
    wait_until("the watcher is ready", || watcher.get("/health/ready").status == 200);
    let mut subscriber = Subscriber::open(&watcher, "/events?topic=news");
    let reader = std::thread::spawn(move || read_through(&mut subscriber, "last"));
    let publisher = Publisher::start(&redis, 5);
    let mut paused = None;
    for action in ["TERM", "KILL", "STOP"] {
        let read = watcher.metric("fanfare_bus_offset");
        watcher.wait_for_metric("fanfare_bus_offset", |now| now >= read + 20.0);
        let mut leader = nodes.remove(nodes.iter().position(leads).expect("one leads"));
        leader.signal(action);
        match action {
            "STOP" => paused = Some(leader),
            _ => drop(leader.wait_for_exit()),
        }
        nodes.push(node(&redis, &postgres, &[]));
        wait_until("another node leads", || nodes.iter().any(leads));
    }
    let paused = paused.expect("a leader was paused");
    paused.signal("CONT");
    // Its append is refused, or was under way for too long.
    paused.wait_for_log(&["lost the lead of the ingest"]);
    let count = publisher.stop();
    send(&redis, "last");
    assert_eq!(check_numbers(&reader.join().unwrap(), count), 2);
}

#[test]
fn a_transaction_that_holds_the_bus_costs_the_lead_which_is_one_gap() {
    let (redis, postgres) = servers();
    let server = node(&redis, &postgres, &[]);
    wait_for_leader(&postgres, &[&server]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=news&topic=a");
    let mut session = postgres.session();
    session.run("BEGIN");
    session.run(&publishing("1"));
    send(&redis, "lost");
    server.wait_for_log(&["lost the lead of the ingest", "it holds the bus"]);
    session.run("COMMIT");
    wait_for_leader(&postgres, &[&server]);
    send(&redis, "2");
    let received = [(); 3].map(|()| text_of(&subscriber.event()));
    assert_eq!(received, ["1", "gap source_lost", "2"]);
}

/// After an upgrade of the nodes, and before one of the functions.
#[test]
fn functions_of_an_older_version_are_named_and_the_bus_goes_on() {
    let (redis, postgres) = servers();
    postgres.sql("DROP FUNCTION fanfare.lead");
    let options = ["--redis-channel", "news", "--dev", "--bus", "postgres"];
    let urls = ["--redis-url", &redis.url("redis", ""), "--postgres-url", &postgres.url()];
    let server = Server::start(&[&urls[..], &options].concat());
    server.wait_for_log(&["not subscribed to Redis", "older than this Fanfare: run fanfare bus install"]);
    wait_until("the node is ready", || server.get("/health/ready").status == 200);
    assert_eq!(postgres.bus(&["install"]).0, Some(0));
    server.wait_for_metric(LEADS, |leads| leads == 1.0);
}
