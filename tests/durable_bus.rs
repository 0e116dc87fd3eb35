//! A durable bus in a stream of a real redis-server: nodes that restart, clients that move between nodes, and a Redis
//! that forgets.

use serde_json::json;

use support::bus::{check_returns, fork_id, is_ready, position, publish};
use support::redis::{RedisServer, bus_command, install_bus};
use support::server::Server;
use support::stream::Subscriber;
use support::wait::wait_until;

mod support;

fn start() -> RedisServer {
    let redis = RedisServer::start();
    install_bus(&redis);
    redis
}

/// A node on the bus, once it may be used.
fn node(redis: &RedisServer, options: &[&str]) -> Server {
    let url = redis.url("redis", "");
    let bus = ["--redis-url", &url, "--bus", "redis-stream", "--dev"];
    let server = Server::start(&[&bus[..], options].concat());
    wait_until("the node is ready", || is_ready(&server));
    server
}

#[test]
fn all_nodes_deliver_the_same_events_under_the_same_ids() {
    let redis = start();
    let nodes = [node(&redis, &[]), node(&redis, &[])];
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a&topic=b"));
    let first = publish(&nodes[0], &json!({"topic": "a", "data": "1", "id": "own~1", "event": "kind", "retry": 7}));
    let second = publish(&nodes[1], &json!([{"topic": "b", "data": "2\n3"}, {"topic": "c", "data": "4"}]));
    let ids = [first["id"].as_str(), second["ids"][0].as_str()].map(Option::unwrap);
    assert!(ids[0].ends_with("-1~own~1") && position(ids[1]) == (position(ids[0]).0, 2), "{ids:?}");
    for subscriber in &mut subscribers {
        let event = subscriber.event();
        assert_eq!((event.id(), event.event_type(), event.retry_ms()), (Some(ids[0]), Some("kind"), Some(7)));
        let event = subscriber.event();
        assert_eq!((event.id(), event.data().as_deref()), (Some(ids[1]), Some("2\n3")));
    }
}

#[test]
fn an_event_that_is_published_again_on_another_node_is_a_duplicate() {
    let redis = start();
    let nodes = [node(&redis, &[]), node(&redis, &[])];
    let mut subscriber = Subscriber::open(&nodes[0], "/events?topic=a&topic=b");
    let first = publish(&nodes[0], &json!({"topic": "a", "data": "1", "id": "x"}));
    let again = publish(&nodes[1], &json!({"topic": "a", "data": "1", "id": "x"}));
    assert_eq!(again, json!({"id": first["id"], "duplicate": true}));
    let mixed =
        publish(&nodes[1], &json!([{"topic": "a", "data": "1", "id": "x"}, {"topic": "b", "data": "2", "id": "x"}]));
    assert_eq!(mixed["duplicates"], json!([first["id"]]));
    subscriber.expect(&["1", "2"]);
}

#[test]
fn a_publishers_id_leaves_room_for_the_position() {
    let redis = start();
    let server = node(&redis, &[]);
    publish(&server, &json!({"topic": "a", "data": "", "id": "i".repeat(87)}));
    let answer = server.post(&json!({"topic": "a", "data": "", "id": "i".repeat(88)}).to_string());
    assert_eq!(answer.status, 400, "{answer}");
}

#[test]
fn a_restart_of_a_node_is_no_gap_and_a_client_may_return_to_another() {
    let redis = start();
    let stays = node(&redis, &[]);
    let restarts = node(&redis, &[]);
    let mut subscriber = Subscriber::open(&restarts, "/events?topic=a");
    let mut last = String::new();
    for n in 0..10 {
        publish(&stays, &json!({"topic": "a", "data": n.to_string(), "id": format!("id-{n}")}));
        publish(&stays, &json!({"topic": "b", "data": "of another topic"}));
        let event = subscriber.event();
        assert_eq!(event.data(), Some(n.to_string()));
        last = event.id().unwrap().to_owned();
    }
    restarts.kill();
    publish(&stays, &json!({"topic": "a", "data": "meanwhile"}));
    let restarted = node(&redis, &[]);
    for server in [&restarted, &stays] {
        let mut resumed = Subscriber::resume(server, "/events?topic=a", &last);
        resumed.expect(&["meanwhile"]);
        let before = last.replace("-19~id-9", "-15~id-7");
        assert_ne!(before, last);
        Subscriber::resume(server, "/events?topic=a", &before).expect(&["8", "9", "meanwhile"]);
    }
}

/// Publishes 0 to 199, every other one to another topic; returns the ids.
fn publish_many(server: &Server) -> Vec<String> {
    let event = |n: usize| json!({"topic": if n.is_multiple_of(2) { "even" } else { "odd" }, "data": n.to_string()});
    let publish = |n| publish(server, &event(n))["id"].as_str().unwrap().to_owned();
    (0..200).map(publish).collect()
}

fn expect_numbers(subscriber: &mut Subscriber, numbers: impl Iterator<Item = usize>) {
    let numbers: Vec<_> = numbers.map(|n| n.to_string()).collect();
    subscriber.expect(&numbers.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_client_with_an_id_older_than_memory_gets_the_rest_from_the_bus() {
    let redis = start();
    let forgets = node(&redis, &["--history-events", "3"]);
    let ids = publish_many(&forgets);
    let restarted = node(&redis, &["--history-events", "3"]);
    for server in [&forgets, &restarted] {
        for last in [0, 1, 61, 62, 63, 64, 100, 190, 199] {
            let mut both = Subscriber::resume(server, "/events?topic=even&topic=odd", &ids[last]);
            let mut odd = Subscriber::resume(server, "/events?topic=odd", &ids[last]);
            expect_numbers(&mut both, last + 1..200);
            expect_numbers(&mut odd, (last + 1..200).filter(|n| n % 2 == 1));
        }
        // From the fork, with which the bus begins.
        let first = format!("{}-0", position(&ids[0]).0);
        expect_numbers(&mut Subscriber::resume(server, "/events?topic=even&topic=odd", &first), 0..200);
    }
    // Live events follow what was fetched.
    let mut odd = Subscriber::resume(&forgets, "/events?topic=odd", &ids[150]);
    publish(&restarted, &json!({"topic": "odd", "data": "live"}));
    expect_numbers(&mut odd, (151..200).filter(|n| n % 2 == 1));
    odd.expect(&["live"]);
}

#[test]
fn figures_of_the_bus_are_in_metrics_and_in_the_debug_view() {
    let redis = start();
    let server = node(&redis, &["--history-events", "3"]);
    let ids = publish_many(&server);
    let repeated = json!({"topic": "even", "data": "", "id": "twice"});
    let last = [(); 2].map(|()| publish(&server, &repeated)["id"].as_str().unwrap().to_owned());
    let mut subscriber = Subscriber::resume(&server, "/events?topic=even&topic=odd", &ids[100]);
    expect_numbers(&mut subscriber, 101..200);
    let (epoch, offset) = position(&last[0]);
    let appended = |result: &str| server.metric(&format!("fanfare_bus_appended_total{{result=\"{result}\"}}"));
    assert_eq!([appended("new"), appended("duplicate"), appended("failed")], [201.0, 1.0, 0.0]);
    assert_eq!(
        [server.metric("fanfare_bus_epoch"), server.metric("fanfare_bus_offset")],
        [epoch as f64, offset as f64]
    );
    assert_eq!([server.metric("fanfare_bus_lag_entries"), server.metric("fanfare_bus_forks_total")], [0.0, 0.0]);
    assert_eq!(server.metric("fanfare_bus_fetching_streams_total"), 1.0);
    // Pages of 64 entries: from 102 to 197.
    assert_eq!(server.metric("fanfare_bus_pages_fetched_total"), 3.0);
    let debug = server.debug();
    let bus = debug["sources"].as_array().unwrap().iter().find(|source| source["name"] == "bus").unwrap();
    assert_eq!((&bus["position"], &bus["lag"]), (&json!(format!("{epoch}-{offset}")), &json!(0)));
}

#[test]
fn what_is_gone_from_the_bus_too_is_a_gap_in_its_place() {
    let redis = start();
    let server = node(&redis, &["--history-events", "3"]);
    let ids = publish_many(&server);
    let trimmed: u64 = redis.command(&["XTRIM", "{fanfare}:events", "MAXLEN", "80"]);
    assert_eq!(trimmed, 121);
    for last in [5, 118, 119] {
        let mut subscriber = Subscriber::resume(&server, "/events?topic=even&topic=odd", &ids[last]);
        if last < 119 {
            let gap = subscriber.event();
            assert_eq!((gap.id(), &gap.gap()["reason"]), (Some(&*ids[119]), &json!("evicted")), "after {last}");
            assert_eq!(gap.gap()["last_id"], json!(ids[last]));
        }
        expect_numbers(&mut subscriber, 120..200);
    }
    // Another node, which has no page in memory.
    let other = node(&redis, &["--history-events", "3"]);
    let deleted: u64 = redis.command(&["DEL", "{fanfare}:events"]);
    assert_eq!(deleted, 1);
    let mut subscriber = Subscriber::resume(&other, "/events?topic=even&topic=odd", &ids[150]);
    assert_eq!(subscriber.event().gap()["reason"], "evicted");
    // What the node remembers.
    expect_numbers(&mut subscriber, 194..200);
    assert_eq!(subscriber.event().gap()["reason"], "bus_forked");
}

#[test]
fn a_client_that_would_fetch_too_much_gets_a_gap() {
    let redis = start();
    let server = node(&redis, &["--history-events", "3", "--bus-fetch-entries", "100"]);
    let ids = publish_many(&server);
    // Memory begins behind 196 in one topic, and behind 193 in the other: 194 is the last that is not remembered.
    let resume = |last: usize| Subscriber::resume(&server, "/events?topic=even&topic=odd", &ids[last]);
    expect_numbers(&mut resume(94), 95..200);
    assert_eq!(resume(92).event().gap()["reason"], "evicted");
}

/// Everything that was published before it and read by one of the nodes may be gone; all nodes put the gap at one place.
fn check_fork(nodes: &[Server; 2], break_bus: impl FnOnce()) {
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    publish(&nodes[0], &json!({"topic": "a", "data": "before"}));
    let last = subscribers.each_mut().map(|subscriber| subscriber.event().id().unwrap().to_owned());
    assert_eq!(last[0], last[1]);
    break_bus();
    wait_until("publishing works again", || {
        nodes[1].post(&json!({"topic": "a", "data": "after", "id": "once"}).to_string()).status == 202
    });
    let gaps = subscribers.each_mut().map(fork_id);
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["after"]));
    check_returns(nodes, &last[0], &gaps);
}

#[test]
fn a_redis_that_restarts_empty_is_a_gap_on_all_nodes() {
    let mut redis = start();
    let nodes = [node(&redis, &[]), node(&redis, &[])];
    check_fork(&nodes, || {
        redis.restart();
        install_bus(&redis);
    });
}

#[test]
fn a_stream_that_is_deleted_is_a_gap_on_all_nodes() {
    let redis = start();
    let nodes = [node(&redis, &[]), node(&redis, &[])];
    check_fork(&nodes, || {
        let deleted: u64 = redis.command(&["DEL", "{fanfare}:events"]);
        assert_eq!(deleted, 1);
    });
}

#[test]
fn an_entry_with_an_id_of_its_own_is_reported_and_wedges_nothing() {
    let redis = start();
    let server = node(&redis, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    publish(&server, &json!({"topic": "a", "data": "1"}));
    subscriber.expect(&["1"]);
    // Far in the future.
    let _: String = redis.command(&["XADD", "{fanfare}:events", "9000000000000-5", "something", "else"]);
    publish(&server, &json!({"topic": "a", "data": "2"}));
    let reasons = |subscriber: &mut Subscriber, count: usize| {
        (0..count).map(|_| subscriber.event().gap()["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&mut subscriber, 3), ["bus_trimmed", "event_refused", "bus_forked"]);
    subscriber.expect(&["2"]);
    // Far ahead in the same epoch: the last offset that there is.
    let id = publish(&server, &json!({"topic": "a", "data": "3"}))["id"].as_str().unwrap().to_owned();
    subscriber.expect(&["3"]);
    let last = format!("{}-{}", position(&id).0, u64::MAX);
    let _: String = redis.command(&["XADD", "{fanfare}:events", &last, "something", "else"]);
    publish(&server, &json!({"topic": "a", "data": "4"}));
    assert_eq!(reasons(&mut subscriber, 3), ["bus_trimmed", "event_refused", "bus_forked"]);
    subscriber.expect(&["4"]);
}

/// An application that may call the function may append anything: each topic that is named gets a gap, and all others go on.
#[test]
fn entries_that_are_no_events_are_gaps_of_their_topics_alone() {
    let redis = start();
    let server = node(&redis, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let mut other = Subscriber::open(&server, "/events?topic=b");
    let append = |fields: [&str; 6]| {
        let call = ["FCALL", "fanfare_append", "2", "{fanfare}:events", "{fanfare}:bus", "1000", "1000"];
        let _: Vec<String> = redis.command(&[&call[..], &fields[..]].concat());
    };
    // Each line but the first takes six bytes more when it is sent.
    let long = "i".repeat(88);
    append(["a", "", &long, "", "", ""]);
    append(["a", "", "two words", "", "", ""]);
    append(["a", "", "", "gap", "", ""]);
    append(["a", "", "", "", "soon", ""]);
    for refused in 1..=4 {
        let gap = subscriber.event().gap();
        assert_eq!((&gap["reason"], &gap["topics"]), (&json!("event_refused"), &json!(["a"])), "{refused}");
    }
    // With six bytes more for each further line, it has a byte more than the bus takes.
    let lines = |bytes: usize| "\n".repeat(bytes / 7) + &"x".repeat(bytes % 7);
    let mut call = redis::cmd("FCALL");
    call.arg("fanfare_append").arg(2).arg("{fanfare}:events").arg("{fanfare}:bus").arg(1000).arg(1000);
    call.arg("a").arg(lines((256 << 10) + 1)).arg("").arg("").arg("").arg("");
    let refused = call.query::<Vec<String>>(&mut redis.connect()).unwrap_err().to_string();
    assert!(refused.contains("TOOLARGE"), "{refused}");
    append(["b", &lines(256 << 10), "", "", "", ""]);
    assert_eq!(other.event().data().unwrap().matches('\n').count(), (256 << 10) / 7);
    append(["a", "last", "", "kind", "9", ""]);
    append(["b", "of b", "", "", "", ""]);
    subscriber.expect(&["last"]);
    other.expect(&["of b"]);
    // These name no topic, so they may have been for any topic.
    append(["", "", "", "", "", ""]);
    append(["", "nonsense", "", "", "", "a node"]);
    append(["fanfare:statistics", "1", "", "", "", ""]);
    for refused in 1..=3 {
        assert_eq!(other.event().gap()["topics"], json!(["*"]), "{refused}");
    }
}

#[test]
fn entries_that_were_trimmed_before_a_node_read_them_are_a_gap() {
    let redis = start();
    let nodes = [node(&redis, &[]), node(&redis, &[])];
    let mut subscriber = Subscriber::open(&nodes[0], "/events?topic=a");
    publish(&nodes[1], &json!({"topic": "a", "data": "1"}));
    subscriber.expect(&["1"]);
    nodes[0].signal("STOP");
    (0..10).for_each(|n| drop(publish(&nodes[1], &json!({"topic": "a", "data": n.to_string()}))));
    let trimmed: u64 = redis.command(&["XTRIM", "{fanfare}:events", "MAXLEN", "2"]);
    assert_eq!(trimmed, 10);
    nodes[0].signal("CONT");
    // One of the ten may have been on its way already.
    let gap = std::iter::repeat_with(|| subscriber.event()).find(|event| event.event_type() == Some("gap")).unwrap();
    assert_eq!(gap.gap()["reason"], "bus_trimmed");
    subscriber.expect(&["8", "9"]);
}

#[test]
fn the_status_of_a_bus_is_its_newest_position_once_it_is_installed() {
    let redis = RedisServer::start();
    let (status, output) = bus_command(&redis, "status");
    assert!(status == Some(1) && output.contains("fanfare bus install"), "{output}");
    install_bus(&redis);
    let id = publish(&node(&redis, &[]), &json!({"topic": "a", "data": "1"}))["id"].as_str().unwrap().to_owned();
    let first = id.replace("-1", "-0");
    let shown = format!(
        "position  {id}\nfirst     {first}\nentries   2\nformat    1\nbounds    topics of 256 bytes, events of 262144 bytes\n"
    );
    assert_eq!(bus_command(&redis, "status"), (Some(0), shown));
}

#[test]
fn a_bus_that_is_not_installed_is_named_and_streams_wait_for_it() {
    let redis = RedisServer::start();
    let url = redis.url("redis", "");
    let server = Server::start(&["--redis-url", &url, "--bus", "redis-stream", "--dev"]);
    server.wait_for_log(&["fanfare bus install"]);
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(server.get("/events?topic=a").status, 503);
    let refused = server.post(r#"{"topic":"a","data":"x"}"#);
    assert_eq!(refused.status, 503, "{refused}");
    assert!(refused.to_string().contains("the bus is not installed there; run fanfare bus install"), "{refused}");
    install_bus(&redis);
    wait_until("the node is ready", || is_ready(&server));
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    publish(&server, &json!({"topic": "a", "data": "1"}));
    subscriber.expect(&["1"]);
}

#[test]
fn a_redis_that_may_evict_the_bus_and_a_replica_are_refused() {
    let redis = start();
    let call =
        ["FCALL", "fanfare_append", "2", "{fanfare}:events", "{fanfare}:bus", "9", "9", "a", "1", "", "", "", ""];
    let _: Vec<String> = redis.command(&call);
    let replica = RedisServer::start();
    let port = redis.address().port().to_string();
    let _: String = replica.command(&["REPLICAOF", "127.0.0.1", &port]);
    wait_until("it is in sync", || replica.command::<u64>(&["EXISTS", "{fanfare}:bus"]) == 1);
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    for (redis, words) in [(&redis, "allkeys-lru"), (&replica, "replica")] {
        let server = Server::start(&["--redis-url", &redis.url("redis", ""), "--bus", "redis-stream"]);
        server.wait_for_log(&["the bus can't be read", words]);
        assert_eq!(server.get("/health/ready").status, 503);
    }
}

/// The id of a subscriber whose topics are quiet would fall behind what the bus keeps.
#[test]
fn a_heartbeat_may_carry_the_position() {
    let redis = start();
    let server = node(&redis, &["--heartbeat", "1s"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=quiet&heartbeat=position");
    let mut plain = Subscriber::open(&server, "/events?topic=quiet");
    let answer = publish(&server, &json!({"topic": "other", "data": "1"}));
    let id = answer["id"].as_str().unwrap();
    let positions =
        std::iter::repeat_with(|| subscriber.block()).map(|block| (block.data(), block.id().map(str::to_owned)));
    let reached = positions.take(10).find(|(_, heard)| heard.as_deref() == Some(id));
    assert_eq!(reached, Some((None, Some(id.to_owned()))), "an id without data");
    assert!(plain.block().is_comment());
    let refused = server.get("/events?topic=quiet&heartbeat=often");
    assert_eq!(refused.status, 400, "{refused}");
}

/// The node may not have read as far yet, so it waits; but not forever.
#[test]
fn an_id_that_is_not_on_the_bus_is_unknown_once_the_node_has_read_to_the_end() {
    let redis = start();
    let server = node(&redis, &[]);
    let id = publish(&server, &json!({"topic": "a", "data": "1"}))["id"].as_str().unwrap().to_owned();
    for forged in [id.replace("-1", "-77"), "9000000000000-1".to_owned()] {
        let resume = || Subscriber::resume(&server, "/events?topic=a", &forged);
        assert_eq!(resume().try_block(), None, "only a retry: come back later");
        let mut gap = None;
        wait_until("it is unknown", || {
            gap = resume().try_block();
            gap.is_some()
        });
        assert_eq!(gap.unwrap().gap()["reason"], "unknown_id");
    }
    assert!(server.refused("position_unknown") >= 2.0);
}
