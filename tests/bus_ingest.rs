//! Channels of Redis pub/sub on a durable bus, with a real redis-server: one node appends what all deliver, and
//! nothing is lost without a gap or delivered twice when that node changes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use support::numbers::{Publisher, check_numbers, read_through};
use support::redis::{RedisServer, install_bus};
use support::server::Server;
use support::stream::{Subscriber, text_of};
use support::wait::wait_until;

mod support;

const LEADS: &str = "fanfare_source_leads{source=\"redis\"}";

fn start() -> RedisServer {
    let redis = RedisServer::start();
    install_bus(&redis);
    redis
}

/// A node that is subscribed to the channel `news`, once it may be used.
fn node(redis: &RedisServer) -> Server {
    node_with(&redis.url("redis", ""), &["--redis-channel", "news"])
}

fn node_with(url: &str, options: &[&str]) -> Server {
    let bus = ["--redis-url", url, "--bus", "redis-stream", "--dev", "--drain", "1s", "--ready-requires", "redis"];
    let server = Server::start(&[&bus[..], options].concat());
    wait_until("the node is ready", || server.get("/health/ready").status == 200);
    server
}

/// Waits until one of these nodes leads, and all have read the gap with which it begins.
fn wait_for_leader(redis: &RedisServer, nodes: &[&Server]) {
    wait_until("one node leads", || nodes.iter().map(|node| node.metric(LEADS)).sum::<f64>() == 1.0);
    let newest: Vec<(String, Vec<String>)> = redis.command(&["XREVRANGE", "{fanfare}:events", "+", "-", "COUNT", "1"]);
    let has_read = |node: &&Server| node.debug()["position"] == newest[0].0;
    wait_until("all have read its gap", || nodes.iter().all(has_read));
}

/// Two nodes, of which the first leads.
fn leader_and_standby(redis: &RedisServer) -> [Server; 2] {
    let leader = node(redis);
    wait_for_leader(redis, &[&leader]);
    let standby = node(redis);
    assert_eq!(standby.metric(LEADS), 0.0);
    [leader, standby]
}

fn send(redis: &RedisServer, channel: &str, payload: &str) {
    let _: u64 = redis.command(&["PUBLISH", channel, payload]);
}

#[test]
fn a_message_of_a_channel_is_one_event_on_all_nodes_under_one_id() {
    let redis = start();
    let options = ["--redis-channel", "news", "--redis-pattern", "orders.*", "--redis-pattern", "*"];
    let nodes = [(); 2].map(|()| node_with(&redis.url("redis", ""), &options));
    wait_for_leader(&redis, &nodes.each_ref());
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=news&topic=orders.7"));
    for n in 0..50 {
        send(&redis, if n % 2 == 0 { "news" } else { "orders.7" }, &n.to_string());
        assert_eq!(nodes[n % 2].post(&json!({"topic": "news", "data": format!("posted {n}")}).to_string()).status, 202);
    }
    send(&redis, "news", "last");
    let [one, other] = subscribers.each_mut().map(|subscriber| read_through(subscriber, "last"));
    assert_eq!(one, other);
    let numbers: Vec<u64> = one.iter().filter_map(|(_, text)| text.parse().ok()).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    assert_eq!(one.iter().filter(|(_, text)| text.starts_with("posted")).count(), 50);
    let role =
        |node: &Server| node.get_admin("/health").json()["sources"]["redis"]["role"].as_str().unwrap().to_owned();
    assert_eq!(BTreeSet::from([role(&nodes[0]), role(&nodes[1])]), BTreeSet::from(["leader".into(), "standby".into()]));
}

#[test]
fn a_burst_arrives_complete() {
    let redis = start();
    let nodes = leader_and_standby(&redis);
    let mut subscriber = Subscriber::open(&nodes[1], "/events?topic=news");
    let mut connection = redis.connect();
    let mut pipeline = redis::pipe();
    (0..10_000).for_each(|n| _ = pipeline.cmd("PUBLISH").arg("news").arg(n).ignore());
    pipeline.query::<()>(&mut connection).unwrap();
    send(&redis, "news", "last");
    assert_eq!(check_numbers(&read_through(&mut subscriber, "last"), 10_000), 0);
}

#[test]
fn an_envelope_with_an_id_is_one_event_however_often_it_comes() {
    let redis = start();
    let server = node_with(&redis.url("redis", ""), &["--redis-channel", "news", "--redis-payload", "envelope"]);
    wait_for_leader(&redis, &[&server]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=news");
    let first = server.post(&json!({"topic": "news", "data": "1", "id": "a"}).to_string()).json();
    send(&redis, "news", r#"{"data": "1", "id": "a"}"#);
    send(&redis, "news", r#"[{"topic": "news", "data": "2", "id": "b", "event": "kind", "retry": 7}]"#);
    send(&redis, "news", r#"{"data": "2", "id": "b"}"#);
    send(&redis, "news", &json!({"data": "too long", "id": "i".repeat(88)}).to_string());
    send(&redis, "news", &json!({"data": "3", "id": "i".repeat(87)}).to_string());
    assert_eq!(subscriber.event().id(), first["id"].as_str());
    let second = subscriber.event();
    assert!(second.id().unwrap().ends_with("~b"), "{second:?}");
    assert_eq!((second.event_type(), second.retry_ms()), (Some("kind"), Some(7)));
    let gap = subscriber.event().gap();
    assert_eq!((&gap["reason"], &gap["topics"]), (&json!("event_refused"), &json!(["news"])));
    subscriber.expect(&["3"]);
    let refused = |reason: &str| format!("fanfare_source_refused_total{{source=\"redis\",reason=\"{reason}\"}}");
    server.wait_for_metric(&refused("duplicate"), |count| count == 2.0);
    assert_eq!(server.metric(&refused("malformed")), 1.0);
    server.wait_for_log(&["a message from Redis was refused", "longer than 87 bytes"]);
}

/// Each at its place, for the topics that it concerns, on every node.
#[test]
fn messages_that_are_no_events_are_gaps_on_all_nodes() {
    let redis = start();
    let options = ["--redis-channel", "news", "--redis-pattern", "n*", "--event-bytes", "1KiB"];
    let nodes = [(); 2].map(|()| node_with(&redis.url("redis", ""), &options));
    wait_for_leader(&redis, &nodes.each_ref());
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=news&topic=n2"));
    let mut others = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=n3"));
    send(&redis, "news", "1");
    redis::cmd("PUBLISH").arg("news").arg(b"\xff").query::<u64>(&mut redis.connect()).unwrap();
    send(&redis, "news", "2");
    send(&redis, "n2", &"x".repeat(1025));
    send(&redis, "n3", "3");
    send(&redis, "news", "4");
    let heard = subscribers.each_mut().map(|subscriber| {
        let events: Vec<_> = (0..5).map(|_| subscriber.event()).collect();
        let texts: Vec<_> = events.iter().map(text_of).collect();
        assert_eq!(texts, ["1", "gap event_refused", "2", "gap event_refused", "4"]);
        assert_eq!([&events[1], &events[3]].map(|gap| gap.gap()["topics"].clone()), [json!(["news"]), json!(["n2"])]);
        events
    });
    assert_eq!(heard[0], heard[1]);
    others.iter_mut().for_each(|subscriber| subscriber.expect(&["3"]));
}

#[test]
fn a_killed_leader_is_replaced_after_one_gap_that_names_its_topics() {
    let redis = start();
    let [leader, standby] = leader_and_standby(&redis);
    let mut subscriber = Subscriber::open(&standby, "/events?topic=news");
    let mut other = Subscriber::open(&standby, "/events?topic=other");
    let publisher = Publisher::start(&redis, 1);
    wait_until("some arrive", || text_of(&subscriber.event()) == "100");
    leader.kill();
    standby.wait_for_metric(LEADS, |leads| leads == 1.0);
    standby.wait_for_log(&["leads the ingest: begins after a gap"]);
    let received = std::iter::repeat_with(|| subscriber.event()).find(|event| event.event_type() == Some("gap"));
    assert_eq!(received.unwrap().gap()["topics"], json!(["news"]));
    let count = publisher.stop();
    send(&redis, "news", "last");
    let mut resumed = Subscriber::open(&standby, "/events?topic=news&replay=all");
    assert_eq!(check_numbers(&read_through(&mut resumed, "last"), count), 2, "the first claim's, and this one");
    assert_eq!(standby.post(r#"{"topic":"other","data":"no gap before"}"#).status, 202);
    other.expect(&["no gap before"]);
}

#[test]
fn a_leader_that_was_stopped_appends_nothing_after_another_took_over() {
    let redis = start();
    let [leader, standby] = leader_and_standby(&redis);
    let mut subscribers = [&leader, &standby].map(|node| Subscriber::open(node, "/events?topic=news"));
    let publisher = Publisher::start(&redis, 1);
    wait_until("some arrive", || text_of(&subscribers[1].event()) == "100");
    leader.signal("STOP");
    standby.wait_for_metric(LEADS, |leads| leads == 1.0);
    leader.signal("CONT");
    leader.wait_for_log(&["lost the lead of the ingest", "another node leads"]);
    leader.wait_for_metric(LEADS, |leads| leads == 0.0);
    let count = publisher.stop();
    send(&redis, "news", "last");
    let [of_leader, of_standby] = subscribers.each_mut().map(|subscriber| read_through(subscriber, "last"));
    assert_eq!(of_leader[101..], of_standby[..], "both deliver the same, under the same ids");
    assert_eq!(check_numbers(&of_leader, count), 1);
}

/// While no other node wants the lead, nothing that Redis kept for the connection is lost.
#[test]
fn a_leader_that_was_stopped_goes_on_if_no_other_took_over() {
    let redis = start();
    let server = node(&redis);
    wait_for_leader(&redis, &[&server]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=news");
    server.signal("STOP");
    send(&redis, "news", "1");
    let until: String = redis.command(&["HGET", "{fanfare}:bus", "leads_until"]);
    wait_until("its lease is over", || {
        let now: Vec<String> = redis.command(&["TIME"]);
        now[0].parse::<u64>().unwrap() * 1000 > until.parse::<u64>().unwrap()
    });
    server.signal("CONT");
    send(&redis, "news", "2");
    subscriber.expect(&["1", "2"]);
}

#[test]
fn a_shutdown_hands_over_without_a_gap() {
    let redis = start();
    let [mut leader, standby] = leader_and_standby(&redis);
    let third = node(&redis);
    let mut subscriber = Subscriber::open(&standby, "/events?topic=news");
    let publisher = Publisher::start(&redis, 1);
    wait_until("some arrive", || text_of(&subscriber.event()) == "100");
    leader.signal("TERM");
    assert_eq!(leader.wait_for_exit(), Some(0));
    wait_until("another leads", || standby.metric(LEADS) + third.metric(LEADS) == 1.0);
    let count = publisher.stop();
    send(&redis, "news", "last");
    let mut all = Subscriber::open(&third, "/events?topic=news&replay=all");
    assert_eq!(check_numbers(&read_through(&mut all, "last"), count), 1, "the first claim's");
    leader.wait_for_log(&["gave up the lead", "hands_over=true"]);
}

#[test]
fn a_leader_whose_subscription_is_killed_goes_on_after_one_gap() {
    let redis = start();
    let [leader, standby] = leader_and_standby(&redis);
    let mut subscriber = Subscriber::open(&standby, "/events?topic=news");
    let publisher = Publisher::start(&redis, 1);
    wait_until("some arrive", || text_of(&subscriber.event()) == "100");
    let killed: u64 = redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, 2);
    leader.wait_for_log(&["lost the lead of the ingest", "closed the connection"]);
    wait_until("the gap", || text_of(&subscriber.event()) == "gap source_lost");
    let count = publisher.stop();
    send(&redis, "news", "last");
    let mut all = Subscriber::open(&standby, "/events?topic=news&replay=all");
    assert_eq!(check_numbers(&read_through(&mut all, "last"), count), 2, "the first claim's, and this one");
    assert_eq!(leader.metric(LEADS) + standby.metric(LEADS), 1.0);
    // Those through which nodes append.
    read_through(&mut subscriber, "last");
    let killed: u64 = redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert!(killed >= 2, "{killed}");
    assert_eq!(text_of(&subscriber.event()), "gap source_lost");
    wait_until("the ingest goes on", || {
        send(&redis, "news", "again");
        text_of(&subscriber.event()) == "again"
    });
}

/// Whatever ends the lead, one after the other: a subscriber receives every number in order, and no more gaps than losses.
#[test]
fn leaders_that_come_and_go_lose_nothing_without_a_gap() {
    let redis = start();
    let mut nodes = Vec::from(leader_and_standby(&redis));
    let observer = node_with(&redis.url("redis", ""), &[]);
    let mut subscriber = Subscriber::open(&observer, "/events?topic=news");
    let reader = std::thread::spawn(move || read_through(&mut subscriber, "last"));
    let publisher = Publisher::start(&redis, 1);
    let leads = |node: &Server| node.metric(LEADS) == 1.0;
    let actions = ["cut", "TERM", "STOP", "TERM", "TERM", "cut", "KILL", "TERM"];
    let mut stopped = None;
    for action in actions {
        let leader = nodes.iter().position(leads).expect("one of them leads");
        if action == "cut" {
            let _: u64 = redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            nodes[leader].wait_for_log(&["lost the lead of the ingest", "closed the connection"]);
        } else {
            let mut leader = nodes.remove(leader);
            leader.signal(action);
            match action {
                "STOP" => stopped = Some(leader),
                _ => drop(leader.wait_for_exit()),
            }
            nodes.push(node(&redis));
        }
        wait_until("a node leads", || nodes.iter().any(leads));
    }
    let stopped = stopped.expect("a leader was stopped");
    stopped.signal("CONT");
    stopped.wait_for_log(&["lost the lead of the ingest", "another node leads"]);
    let count = publisher.stop();
    send(&redis, "news", "last");
    let losses = actions.iter().filter(|action| **action != "TERM").count();
    assert_eq!(check_numbers(&reader.join().unwrap(), count), losses);
}

/// Topics that only the leader before was subscribed to have no source any more, and others have a new one.
#[test]
fn a_leader_with_other_channels_begins_with_a_gap_of_all_topics() {
    let redis = start();
    let [mut leader, standby] = leader_and_standby(&redis);
    standby.kill();
    let other = node_with(&redis.url("redis", ""), &["--redis-channel", "news", "--redis-channel", "more"]);
    let mut subscriber = Subscriber::open(&other, "/events?topic=unconcerned&topic=more");
    leader.signal("TERM");
    assert_eq!(leader.wait_for_exit(), Some(0));
    assert_eq!(subscriber.event().gap()["topics"], json!(["*"]));
    send(&redis, "more", "1");
    subscriber.expect(&["1"]);
}

#[test]
fn a_redis_that_restarts_is_a_gap_and_the_ingest_goes_on() {
    let mut redis = start();
    let nodes = leader_and_standby(&redis);
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=news"));
    redis.restart();
    install_bus(&redis);
    wait_until("one node leads", || nodes.iter().map(|node| node.metric(LEADS)).sum::<f64>() == 1.0);
    let ready = |node: &Server| node.get("/health/ready").status == 200;
    wait_until("both are ready", || nodes.iter().all(ready));
    send(&redis, "news", "last");
    let [one, other] = subscribers.each_mut().map(|subscriber| read_through(subscriber, "last"));
    assert_eq!(one, other);
    assert_eq!(one[0].1, "gap bus_forked");
}

/// What it did not answer in time, it may carry out later.
#[test]
fn a_redis_that_hangs_loses_and_repeats_nothing_without_a_gap() {
    let redis = start();
    let nodes = leader_and_standby(&redis);
    let mut subscriber = Subscriber::open(&nodes[1], "/events?topic=news");
    let publisher = Publisher::start(&redis, 1);
    wait_until("some arrive", || text_of(&subscriber.event()) == "100");
    redis.hang();
    nodes[0].wait_for_log(&["lost the lead of the ingest"]);
    redis.resume();
    wait_until("the gap", || text_of(&subscriber.event()) == "gap source_lost");
    wait_until("one node leads", || nodes.iter().map(|node| node.metric(LEADS)).sum::<f64>() == 1.0);
    let count = publisher.stop();
    send(&redis, "news", "last");
    let mut all = Subscriber::open(&nodes[0], "/events?topic=news&replay=all");
    check_numbers(&read_through(&mut all, "last"), count);
}

/// The least that docs/scaling.md names.
#[test]
fn an_acl_that_allows_what_the_documentation_names_is_enough() {
    let redis = start();
    let documentation = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scaling.md")).unwrap();
    let (_, rest) = documentation.split_once("The least that an ACL must allow to a node: `").unwrap();
    let of_node = rest.split('`').next().unwrap().split_whitespace();
    let (_, rest) = rest.split_once("For channels, also `").unwrap();
    let of_channels = rest.split('`').next().unwrap().split_whitespace();
    let user = ["ACL", "SETUSER", "fanfare", "reset", "on", ">secret"];
    let words: Vec<&str> = user.into_iter().chain(of_node).chain(of_channels).chain(["-publish"]).collect();
    let _: String = redis.command(&words);
    let url = redis.url("redis", "fanfare:secret@");
    let options = ["--redis-url", &url, "--bus", "redis-stream", "--dev"];
    let server = Server::start(&[&options[..], &["--redis-channel", "news", "--redis-pattern", "orders.*"]].concat());
    // Without one of them, each attempt fails, and leaves nothing on the bus.
    server.wait_for_log(&["not subscribed to Redis", "can't run this command", "fanfare_lead"]);
    wait_until("the node is ready", || server.get("/health/ready").status == 200);
    assert_eq!(redis.command::<u64>(&["XLEN", "{fanfare}:events"]), 1, "the fork");
    let _: String = redis.command(&["ACL", "SETUSER", "fanfare", "+publish"]);
    wait_for_leader(&redis, &[&server]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=news&topic=orders.1");
    send(&redis, "news", "1");
    send(&redis, "orders.1", "2");
    assert_eq!(server.post(r#"{"topic":"news","data":"3"}"#).status, 202);
    let heard: BTreeSet<String> = subscriber.data(3).into_iter().collect();
    assert_eq!(heard, ["1", "2", "3"].map(str::to_owned).into());
}

/// The functions of an older version have no lead.
#[test]
fn a_bus_without_the_functions_of_the_ingest_is_named() {
    let redis = start();
    let _: String = redis.command(&["FUNCTION", "FLUSH"]);
    let options = ["--redis-url", &redis.url("redis", ""), "--bus", "redis-stream", "--redis-channel", "news"];
    let server = Server::start(&options);
    server.wait_for_log(&["not subscribed to Redis", "fanfare bus install"]);
    let health: Value = server.get_admin("/health").json();
    assert_eq!(health["sources"]["redis"]["up"], json!(false), "{health}");
    install_bus(&redis);
    server.wait_for_metric(LEADS, |leads| leads == 1.0);
}

#[test]
fn tables_map_channels_to_topics_of_the_bus() {
    let redis = start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let tables = "[[channels]]\npattern = \"app:orders\"\ntopic = \"orders\"\npayload = \"envelope\"\n\
                  [[channels]]\npattern = \"app:raw\"\ntopic = \"raw\"\n";
    std::fs::write(file.path(), tables).unwrap();
    let options = ["--config", file.path().to_str().unwrap()];
    let nodes = [(); 2].map(|()| node_with(&redis.url("redis", ""), &options));
    wait_for_leader(&redis, &nodes.each_ref());
    let mut subscribers = nodes.each_ref().map(|node| Subscriber::open(node, "/events?topic=orders&topic=raw"));
    send(&redis, "app:orders", r#"{"data":"7","event":"created","id":"order-7"}"#);
    send(&redis, "app:raw", "as it is");
    let ids = subscribers.each_mut().map(|subscriber| {
        let order = subscriber.event();
        assert_eq!((order.event_type(), order.data().as_deref()), (Some("created"), Some("7")));
        subscriber.expect(&["as it is"]);
        order.id().unwrap().to_owned()
    });
    assert!(ids[0] == ids[1] && ids[0].ends_with("~order-7"), "{ids:?}");
    // The gap of the next leader names the topics, not the channels.
    let [first, second] = nodes;
    let (leader, standby) = if first.metric(LEADS) == 1.0 { (first, second) } else { (second, first) };
    let mut subscriber = Subscriber::resume(&standby, "/events?topic=raw", &ids[0]);
    subscriber.expect(&["as it is"]);
    let mut other = Subscriber::open(&standby, "/events?topic=other");
    leader.kill();
    assert_eq!(subscriber.event().gap()["topics"], json!(["*"]), "two topics, of which it has one");
    send(&redis, "app:raw", "again");
    subscriber.expect(&["again"]);
    standby.publish("other", "no gap before this");
    other.expect(&["no gap before this"]);
}
