//! Copies of what clients publish, with the real binary, against librdkafka's mock cluster in a process of its own.

mod support;

use serde_json::{Value, json};

use support::kafka::{KafkaCluster, code};
use support::kafka_client::Application;
use support::redis::{RedisServer, install_bus};
use support::server::Server;
use support::wait::wait_until;

/// What waits at most, in bytes.
const QUEUE_BYTES: usize = 32 << 20;

fn start(cluster: &KafkaCluster, options: &[&str]) -> Server {
    let server = Server::start(&[&["--dev", "--kafka-brokers", cluster.brokers()], options].concat());
    server.wait_for_metric(UP, |up| up == 1.0);
    server
}

const UP: &str = "fanfare_source_up{source=\"kafka_copies\"}";

fn copies(server: &Server, result: &str) -> f64 {
    server.metric(&format!("fanfare_kafka_copies_total{{result=\"{result}\"}}"))
}

fn wait_for_copies(server: &Server, result: &str, count: f64) {
    server.wait_for_metric(&format!("fanfare_kafka_copies_total{{result=\"{result}\"}}"), |value| value == count);
}

fn status(server: &Server) -> Value {
    let answer = server.get_admin("/kafka/status");
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer}");
    answer.json()
}

#[track_caller]
fn post(server: &Server, body: &Value) -> Value {
    let answer = server.post(&body.to_string());
    assert_eq!(answer.status, 202, "{answer}");
    answer.json()
}

#[test]
fn a_copy_has_the_topic_as_its_key_and_the_rest_in_headers() {
    let cluster = KafkaCluster::start(1);
    cluster.create_topic("shop", 3, 1);
    cluster.create_topic("rest", 1, 1);
    let rules = ["--kafka-publish", "orders.*=shop", "--kafka-publish", "*=rest"];
    let server = start(&cluster, &rules);
    let event = json!({"topic": "orders.7", "data": "line\nline", "id": "own", "event": "paid", "retry": 1500});
    let id = post(&server, &event)["id"].as_str().unwrap().to_owned();
    // The same again is no new event, so it has no second copy.
    assert_eq!(post(&server, &event), json!({"id": id, "duplicate": true}));
    let batch: Vec<_> = (0..50).map(|n| json!({"topic": format!("orders.{}", n % 5), "data": n.to_string()})).collect();
    let ids = post(&server, &json!(batch))["ids"].clone();
    server.publish("other", "last");

    let shop = Application::read(cluster.brokers(), "shop", 3).take(51);
    let first = shop.iter().find(|copy| copy.value == "line\nline").unwrap();
    assert_eq!((first.key.as_str(), first.header("topic")), ("orders.7", Some("orders.7")));
    assert_eq!((first.header("id"), first.header("event")), (Some(id.as_str()), Some("paid")));
    assert_eq!((first.header("retry"), first.headers.len()), (Some("1500"), 4));
    for topic in 0..5 {
        let of_topic: Vec<_> = shop.iter().filter(|copy| copy.key == format!("orders.{topic}")).collect();
        let numbers: Vec<u64> = of_topic.iter().map(|copy| copy.value.parse().unwrap()).collect();
        assert_eq!(numbers, (0..10).map(|n| n * 5 + topic).collect::<Vec<_>>(), "in order");
        assert!(of_topic.iter().all(|copy| copy.partition == of_topic[0].partition));
        assert!(of_topic.iter().all(|copy| copy.header("id") == ids[copy.value.parse::<usize>().unwrap()].as_str()));
    }
    let rest = Application::read(cluster.brokers(), "rest", 1).take(1);
    assert_eq!((rest[0].key.as_str(), rest[0].value.as_str(), rest[0].header("event")), ("other", "last", None));

    wait_for_copies(&server, "delivered", 52.0);
    assert_eq!((copies(&server, "failed"), copies(&server, "dropped")), (0.0, 0.0));
    server.wait_for_metric("fanfare_source_copied_total{source=\"kafka_copies\"}", |count| count == 52.0);
    wait_until("the room of all copies is free", || self::status(&server)["producer"]["in_queue"] == 0);
    let status = status(&server);
    assert_eq!(status["producer"]["state"], "up");
    assert_eq!(status["producer"]["delivered"], 52);
    assert_eq!((&status["consumer"], &status["producer"]["last_error"]), (&Value::Null, &Value::Null));
    let broker = &status["brokers"][0];
    let (host, port) = cluster.brokers().rsplit_once(':').unwrap();
    assert_eq!(
        (&broker["id"], &broker["host"], &broker["port"]),
        (&json!(1), &json!(host), &json!(port.parse::<u16>().unwrap()))
    );
    assert_eq!(broker["state"], "UP");
    let has_round_trip = || self::status(&server)["brokers"][0]["round_trip_ms"].is_f64();
    wait_until("librdkafka has reported a round trip", has_round_trip);
    let out = &status["windows"]["out"];
    assert_eq!(out["topics"].as_array().unwrap().len(), 7);
    assert_eq!(
        out["topics"][6],
        json!({
            "topic": "other",
            "1m": {"events": 1, "bytes": 4}, "5m": {"events": 1, "bytes": 4}, "60m": {"events": 1, "bytes": 4},
        })
    );
    assert_eq!(out["others"]["60m"]["events"], 0);
}

#[test]
fn a_server_without_kafka_says_so() {
    let server = Server::start(&["--dev"]);
    let answer = server.get_admin("/kafka/status");
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("--kafka-publish"), "{answer}");
}

#[test]
fn the_status_is_for_operators() {
    let cluster = KafkaCluster::with_topic("copies");
    let options = ["--kafka-brokers", cluster.brokers(), "--kafka-publish", "copies"];
    let server = Server::start_with_env(&options, &[("FANFARE_OPERATOR_TOKEN", "operator")]);
    let ask = |method: &str, token: &str| {
        let mut client = server.connect();
        let token = format!("Authorization: Bearer {token}\r\n");
        client.send(format!("{method} /kafka/status HTTP/1.1\r\nHost: localhost\r\n{token}\r\n"));
        if method == "HEAD" { client.head().status } else { client.answer().status }
    };
    assert_eq!((ask("GET", "wrong"), ask("GET", "operator"), ask("HEAD", "operator")), (401, 200, 200));
    assert_eq!((ask("POST", "operator"), ask("HEAD", "wrong")), (405, 401));
    assert_eq!(server.get_admin("/kafka/status").status, 200);
    assert_eq!(server.get_admin("/").json()["kafka"], "/kafka/status");
}

#[test]
fn with_a_durable_bus_the_node_that_accepted_an_event_copies_it_once() {
    let (redis, cluster) = (RedisServer::start(), KafkaCluster::with_topic("copies"));
    install_bus(&redis);
    let url = redis.url("redis", "");
    let options = ["--redis-url", &url, "--bus", "redis-stream", "--kafka-publish", "copies"];
    let nodes = [(); 2].map(|()| start(&cluster, &options));
    for node in &nodes {
        wait_until("the node is ready", || node.get("/health/ready").status == 200);
    }
    let event = json!({"topic": "a", "data": "0", "id": "zero"});
    let first = post(&nodes[0], &event);
    assert_eq!(post(&nodes[1], &event), json!({"id": first["id"], "duplicate": true}));
    let mut ids = vec![first["id"].as_str().unwrap().to_owned()];
    ids.extend((1..20).map(|n: usize| nodes[n % 2].publish("a", &n.to_string())));
    wait_for_copies(&nodes[0], "delivered", 10.0);
    wait_for_copies(&nodes[1], "delivered", 10.0);
    let mut received = Application::read(cluster.brokers(), "copies", 1).take(20);
    received.sort_by_key(|copy| copy.value.parse::<usize>().unwrap());
    assert_eq!(received.iter().map(|copy| copy.header("id").unwrap()).collect::<Vec<_>>(), ids);
}

#[test]
fn with_redis_pub_sub_a_copy_has_the_id_that_all_nodes_know() {
    let (redis, cluster) = (RedisServer::start(), KafkaCluster::with_topic("copies"));
    let url = redis.url("redis", "");
    let server = start(&cluster, &["--redis-url", &url, "--kafka-publish", "a=copies"]);
    server.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 1.0);
    let id = server.publish("a", "1");
    server.publish("b", "not copied");
    let received = Application::read(cluster.brokers(), "copies", 1).take(1);
    assert_eq!((received[0].value.as_str(), received[0].header("id")), ("1", Some(id.as_str())));
    wait_for_copies(&server, "delivered", 1.0);
}

#[test]
fn copies_wait_for_a_broker_that_is_away_and_publishes_do_not() {
    let cluster = KafkaCluster::with_topic("copies");
    let server = start(&cluster, &["--kafka-publish", "copies"]);
    server.publish("a", "before");
    wait_for_copies(&server, "delivered", 1.0);
    cluster.take_down(1);
    server.wait_for_metric(UP, |up| up == 0.0);
    let health = server.get("/health").json();
    assert_eq!((&health["status"], &health["ready"]), (&json!("degraded"), &json!(true)));
    assert!(health["sources"]["kafka_copies"]["error"].is_string(), "{health}");
    (0..100).for_each(|n| drop(server.publish("a", &n.to_string())));
    assert_eq!(status(&server)["producer"]["in_queue"], 100);
    assert_eq!(server.metric("fanfare_kafka_copies_waiting"), 100.0);
    assert!(server.metric("fanfare_kafka_copies_waiting_bytes") >= 190.0);
    cluster.bring_up(1);
    wait_for_copies(&server, "delivered", 101.0);
    server.wait_for_metric(UP, |up| up == 1.0);
    let received = Application::read(cluster.brokers(), "copies", 1).take(101);
    let values: Vec<_> = received.iter().skip(1).map(|copy| copy.value.parse::<usize>().unwrap()).collect();
    assert_eq!(values, (0..100).collect::<Vec<_>>(), "in order, each once");
    server.wait_for_metric("fanfare_kafka_copies_waiting", |count| count == 0.0);
}

#[test]
fn a_copy_that_finds_no_room_is_dropped_counted_and_logged() {
    let cluster = KafkaCluster::with_topic("copies");
    let server = start(&cluster, &["--kafka-publish", "copies"]);
    cluster.take_down(1);
    server.wait_for_metric(UP, |up| up == 0.0);
    let data = "x".repeat(250 << 10);
    let fit = QUEUE_BYTES / (data.len() + 1);
    (0..fit + 3).for_each(|_| drop(server.publish("a", &data)));
    assert_eq!(copies(&server, "dropped"), 3.0);
    server.wait_for_log(&["a copy for Kafka was dropped", "topic=a"]);
    // What is smaller still has room.
    server.publish("a", "small");
    assert_eq!(copies(&server, "dropped"), 3.0);
    cluster.bring_up(1);
    wait_for_copies(&server, "delivered", (fit + 1) as f64);
    server.publish("a", "after");
    wait_for_copies(&server, "delivered", (fit + 2) as f64);
}

#[test]
fn a_copy_that_kafka_refuses_is_counted_and_the_next_one_arrives() {
    let cluster = KafkaCluster::with_topic("copies");
    let server = start(&cluster, &["--kafka-publish", "copies"]);
    cluster.fail("produce", &[code::TOPIC_AUTHORIZATION_FAILED]);
    server.publish("a", "refused");
    wait_for_copies(&server, "failed", 1.0);
    server.wait_for_log(&["a copy did not reach Kafka"]);
    assert!(status(&server)["producer"]["last_error"].as_str().unwrap().contains("uthoriz"));
    // librdkafka refuses copies until it has looked at the topic again.
    wait_until("a copy arrives", || {
        server.publish("a", "arrives");
        copies(&server, "delivered") > 0.0
    });
    assert_eq!(Application::read(cluster.brokers(), "copies", 1).take(1)[0].value, "arrives");
}

#[test]
fn a_copy_is_sent_again_after_errors_that_pass_and_is_there_once() {
    let cluster = KafkaCluster::with_topic("copies");
    let server = start(&cluster, &["--kafka-publish", "copies"]);
    cluster.fail("produce", &[code::REQUEST_TIMED_OUT, code::NOT_LEADER, code::NOT_ENOUGH_REPLICAS, code::DISCONNECT]);
    // One after the other: the mock cluster does not check the numbers that keep several requests in order.
    for n in 0..5 {
        server.publish("a", &n.to_string());
        wait_for_copies(&server, "delivered", f64::from(n + 1));
    }
    let received = Application::read(cluster.brokers(), "copies", 1).take(5);
    let values: Vec<_> = received.iter().map(|copy| copy.value.as_str()).collect();
    assert_eq!(values, ["0", "1", "2", "3", "4"]);
    assert_eq!(copies(&server, "failed"), 0.0);
}

#[test]
fn a_server_that_stops_sends_what_waits() {
    let cluster = KafkaCluster::with_topic("copies");
    let mut server = start(&cluster, &["--kafka-publish", "copies"]);
    (0..50).for_each(|n| drop(server.publish("a", &n.to_string())));
    server.signal("TERM");
    server.wait_for_exit();
    let received = Application::read(cluster.brokers(), "copies", 1).take(50);
    assert_eq!(received.last().unwrap().value, "49");
}

#[test]
fn a_server_that_stops_without_kafka_says_what_is_lost() {
    let cluster = KafkaCluster::with_topic("copies");
    let mut server = start(&cluster, &["--kafka-publish", "copies"]);
    cluster.take_down(1);
    server.wait_for_metric(UP, |up| up == 0.0);
    (0..5).for_each(|n| drop(server.publish("a", &n.to_string())));
    server.signal("TERM");
    server.wait_for_exit();
    server.wait_for_log(&["the server stops before Kafka has these copies", "waiting=5"]);
}
