//! Topics of Kafka on a durable bus, with the real binary and a real redis-server, against librdkafka's mock cluster in a
//! process of its own: each message is one event on all nodes, whatever happens to nodes, brokers and the bus.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use support::kafka::{KafkaCluster, code};
use support::kafka_client::Writer;
use support::redis::{RedisServer, install_bus};
use support::server::Server;
use support::stream::{Block, Subscriber};
use support::wait::wait_until;

const PARTITIONS: u32 = 3;
const UP: &str = "fanfare_source_up{source=\"kafka\"}";
const ASSIGNED: &str = "fanfare_kafka_partitions";
const LAG: &str = "fanfare_kafka_lag_messages";

struct Setup {
    redis: RedisServer,
    kafka: KafkaCluster,
}

impl Setup {
    fn new() -> Setup {
        Setup::with_brokers(1)
    }

    fn with_brokers(brokers: u32) -> Setup {
        let (redis, kafka) = (RedisServer::start(), KafkaCluster::start(brokers));
        install_bus(&redis);
        kafka.create_topic("orders", PARTITIONS, brokers);
        Setup { redis, kafka }
    }

    /// A node that reads this, once it serves. It may have no partition yet.
    fn node_reading(&self, options: &[&str]) -> Server {
        let url = self.redis.url("redis", "");
        let all = ["--dev", "--redis-url", &url, "--bus", "redis-stream", "--kafka-brokers", self.kafka.brokers()];
        let server = Server::start(&[&all[..], &["--drain", "1s"], options].concat());
        wait_until("the node is ready", || server.get("/health/ready").status == 200);
        server
    }

    fn node(&self) -> Server {
        self.node_reading(&["--kafka-consume", "orders"])
    }

    /// A node that has all partitions.
    fn only_node(&self) -> Server {
        let node = self.node();
        wait_for_partitions(&[&node], f64::from(PARTITIONS));
        node
    }

    fn writer(&self) -> Writer {
        Writer::new(self.kafka.brokers())
    }

    fn cursor(&self, source: &str) -> Option<String> {
        self.redis.command(&["HGET", "{fanfare}:bus", &format!("cursor:{source}")])
    }
}

/// Waits until these nodes have this number of partitions together.
fn wait_for_partitions(nodes: &[&Server], count: f64) {
    wait_until("the nodes have the partitions", || {
        nodes.iter().map(|node| node.metric(ASSIGNED)).sum::<f64>() == count
    });
}

fn status(server: &Server) -> Value {
    server.get_admin("/kafka/status").json()
}

/// What a subscriber has received: data, or the reason of a gap.
fn text_of(event: &Block) -> String {
    match event.event_type() {
        Some("gap") => format!("gap {}", event.gap()["reason"].as_str().unwrap()),
        _ => event.data().unwrap(),
    }
}

/// Reads until each partition had its last message; what came, gaps included.
fn read_through(subscriber: &mut Subscriber, lasts: &[u64]) -> Vec<String> {
    let mut missing: Vec<_> = lasts.iter().enumerate().map(|(partition, last)| format!("{partition}:{last}")).collect();
    let mut texts = Vec::new();
    while !missing.is_empty() {
        let text = text_of(&subscriber.event());
        missing.retain(|last| *last != text);
        texts.push(text);
    }
    texts
}

/// Checks that the messages of each partition came once and in order, from the first of these numbers to the last.
#[track_caller]
fn check_numbers(texts: &[String], firsts: &[u64], lasts: &[u64]) {
    for (partition, (first, last)) in firsts.iter().zip(lasts).enumerate() {
        let of_partition = texts.iter().filter_map(|text| text.strip_prefix(&format!("{partition}:")));
        let numbers: Vec<u64> = of_partition.map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers, (*first..=*last).collect::<Vec<_>>(), "of partition {partition}");
    }
}

/// Writes numbers to all partitions until it is stopped.
struct Writing {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Writing {
    fn start(setup: &Setup, first: u64) -> Writing {
        let (is_stopped, writer) = (Arc::new(AtomicBool::new(false)), setup.writer());
        let asked = Arc::clone(&is_stopped);
        let thread = std::thread::spawn(move || {
            let mut number = first;
            while !asked.load(Ordering::Relaxed) {
                for partition in 0..PARTITIONS as i32 {
                    writer.write("orders", partition, format!("{partition}:{number}").as_bytes());
                }
                number += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            writer.flush();
            number - 1
        });
        Writing { is_stopped, thread }
    }

    /// The last number.
    fn stop(self) -> u64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_message_is_one_event_on_all_nodes_from_the_end_of_the_topic_on() {
    let setup = Setup::new();
    let writer = setup.writer();
    (0..PARTITIONS as i32).for_each(|partition| writer.write("orders", partition, b"before"));
    writer.flush();
    let nodes = [setup.node(), setup.node()];
    wait_for_partitions(&nodes.each_ref(), 3.0);
    wait_until("both have a part", || nodes.iter().all(|node| node.metric(ASSIGNED) > 0.0));
    let mut subscribers = nodes.each_ref().map(|node| Subscriber::open(node, "/events?topic=orders"));
    for number in 0..40 {
        (0..3).for_each(|partition| writer.write("orders", partition, format!("{partition}:{number}").as_bytes()));
    }
    writer.flush();
    let received = subscribers.each_mut().map(|subscriber| read_through(subscriber, &[39; 3]));
    assert_eq!(received[0], received[1]);
    assert_eq!(received[0].len(), 120);
    check_numbers(&received[0], &[0; 3], &[39; 3]);
    for partition in 0..3 {
        let cursor = || setup.cursor(&format!("kafka:orders:{partition}"));
        wait_until("the cursor is stored", || cursor().as_deref() == Some("41"));
    }
    let status = status(&nodes[0]);
    assert_eq!((&status["consumer"]["group"], &status["consumer"]["state"]), (&json!("fanfare"), &json!("up")));
    assert_eq!(status["consumer"]["partition_count"], nodes[0].metric(ASSIGNED));
    let partition = &status["consumer"]["partitions"][0];
    assert_eq!((&partition["topic"], &partition["position"]), (&json!("orders"), &json!(41)));
    wait_until("the lag is known", || nodes.iter().all(|node| self::status(node)["consumer"]["lag"] == 0));
    assert!(nodes.iter().all(|node| node.metric(LAG) == 0.0));
    let received = |node: &Server| node.metric("fanfare_published_events_total{source=\"kafka\"}");
    wait_until("all are counted", || nodes.iter().map(received).sum::<f64>() == 120.0);
    let events = |node: &Server| {
        let topics = &self::status(node)["windows"]["in"]["topics"];
        topics[0]["60m"]["events"].as_u64().unwrap()
    };
    wait_until("the windows have all", || nodes.iter().map(events).sum::<u64>() == 120);
}

#[test]
fn a_topic_may_have_another_name_or_one_of_the_keys() {
    let setup = Setup::new();
    setup.kafka.create_topic("users", 1, 1);
    let options = ["--kafka-consume", "orders=shop/orders", "--kafka-consume", "users=user.{key}"];
    let options = [&options[..], &["--kafka-payload", "envelope", "--kafka-group", "others"]].concat();
    let node = setup.node_reading(&options);
    wait_for_partitions(&[&node], 4.0);
    assert_eq!(status(&node)["consumer"]["group"], "others");
    let mut subscriber = Subscriber::open(&node, "/events?topic=shop/orders&topic=user.7");
    let writer = setup.writer();
    writer.write(
        "orders",
        1,
        br#"[{"topic":"shop/orders","data":"a","id":"own","event":"paid"},{"topic":"shop/orders","data":"b"}]"#,
    );
    writer.flush();
    let event = subscriber.event();
    assert_eq!((event.event_type(), event.data().as_deref()), (Some("paid"), Some("a")));
    assert!(event.id().unwrap().ends_with("~own"));
    subscriber.expect(&["b"]);
    writer.write_with_key("users", 0, "7", br#"{"data":"c"}"#);
    writer.flush();
    subscriber.expect(&["c"]);
    // A second one under the same id is none, and an envelope for another topic is a gap.
    writer.write_with_key("users", 0, "7", br#"{"data":"d","id":"same"}"#);
    writer.write_with_key("users", 0, "7", br#"{"data":"d","id":"same"}"#);
    writer.write_with_key("users", 0, "7", br#"{"data":"e","topic":"user.8"}"#);
    writer.flush();
    subscriber.expect(&["d"]);
    assert_eq!(text_of(&subscriber.event()), "gap event_refused");
    let refused = |reason: &str| format!("fanfare_source_refused_total{{source=\"kafka\",reason=\"{reason}\"}}");
    node.wait_for_metric(&refused("duplicate"), |count| count == 1.0);
    node.wait_for_metric(&refused("malformed"), |count| count == 1.0);
    // A message without a key has no topic, so it is refused without a gap, and the next one arrives.
    writer.write("users", 0, br#"{"data":"f"}"#);
    writer.flush();
    node.wait_for_metric(&refused("malformed"), |count| count == 2.0);
    writer.write_with_key("users", 0, "7", br#"{"data":"g"}"#);
    writer.flush();
    subscriber.expect(&["g"]);
}

#[test]
fn what_is_no_event_is_a_gap_of_its_topic() {
    let setup = Setup::new();
    let node = setup.node_reading(&["--kafka-consume", "orders", "--event-bytes", "1KiB"]);
    wait_for_partitions(&[&node], 3.0);
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders");
    let writer = setup.writer();
    writer.write("orders", 0, &[b'x'; 1024]);
    writer.write("orders", 0, &[b'x'; 1025]);
    writer.write("orders", 0, b"\xff");
    writer.write("orders", 0, b"last");
    writer.flush();
    assert_eq!(subscriber.event().data().unwrap().len(), 1024);
    let gap = subscriber.event();
    assert_eq!((text_of(&gap).as_str(), &gap.gap()["topics"]), ("gap event_refused", &json!(["orders"])));
    while text_of(&subscriber.event()) != "last" {}
    let refused = |reason: &str| format!("fanfare_source_refused_total{{source=\"kafka\",reason=\"{reason}\"}}");
    assert_eq!(node.metric(&refused("too_large")), 1.0);
    assert_eq!(node.metric(&refused("not_utf8")), 1.0);
    node.wait_for_log(&["a message from Kafka was refused", "topic=\"orders\"", "offset=1"]);
}

#[test]
fn nodes_that_crash_hang_and_return_neither_lose_nor_repeat() {
    let setup = Setup::new();
    let mut first = setup.only_node();
    let writing = Writing::start(&setup, 0);
    let second = setup.node();
    wait_until("both read", || [&first, &second].iter().all(|node| node.metric(ASSIGNED) > 0.0));
    first.kill();
    wait_for_partitions(&[&second], 3.0);
    first = setup.node();
    wait_until("both read again", || [&first, &second].iter().all(|node| node.metric(ASSIGNED) > 0.0));
    // A node that hangs loses its partitions, and appends nothing when it continues.
    second.signal("STOP");
    wait_for_partitions(&[&first], 3.0);
    let position = || setup.cursor("kafka:orders:0").map_or(0, |cursor| cursor.parse::<u64>().unwrap());
    let before = position();
    wait_until("the other one reads on", || position() > before + 20);
    second.signal("CONT");
    wait_until("both read once more", || [&first, &second].iter().all(|node| node.metric(ASSIGNED) > 0.0));
    wait_for_partitions(&[&first, &second], 3.0);
    // An orderly end hands over at once.
    let mut first = first;
    first.signal("TERM");
    first.wait_for_exit();
    wait_for_partitions(&[&second], 3.0);
    let last = writing.stop();
    let mut subscriber = Subscriber::open(&second, "/events?topic=orders&replay=all");
    let texts = read_through(&mut subscriber, &[last; 3]);
    check_numbers(&texts, &[0; 3], &[last; 3]);
    assert!(texts.iter().all(|text| !text.starts_with("gap")), "{texts:?}");
}

#[test]
fn a_node_without_a_partition_takes_over_when_the_owner_crashes() {
    let setup = Setup::new();
    setup.kafka.create_topic("single", 1, 1);
    let start = || setup.node_reading(&["--kafka-consume", "single"]);
    let nodes = [start(), start()];
    let group_state = |node: &Server| status(node)["consumer"]["group_state"].clone();
    wait_until("one has it, and both are steady", || {
        nodes.iter().map(|node| node.metric(ASSIGNED)).sum::<f64>() == 1.0
            && nodes.iter().all(|node| group_state(node) == "steady")
    });
    let [first, second] = nodes;
    let (owner, other) = if first.metric(ASSIGNED) == 1.0 { (first, second) } else { (second, first) };
    owner.kill();
    wait_for_partitions(&[&other], 1.0);
    let mut subscriber = Subscriber::open(&other, "/events?topic=single");
    let writer = setup.writer();
    writer.write("single", 0, b"after");
    writer.flush();
    subscriber.expect(&["after"]);
}

#[test]
fn errors_of_brokers_neither_lose_nor_repeat() {
    let setup = Setup::with_brokers(3);
    let node = setup.only_node();
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders");
    let writing = Writing::start(&setup, 0);
    let position = || setup.cursor("kafka:orders:0").map_or(0, |cursor| cursor.parse::<u64>().unwrap());
    let goes_on = || {
        let before = position();
        wait_until("it is read on", || position() > before + 20);
    };
    goes_on();
    let codes = [code::DISCONNECT, code::NOT_LEADER, code::REQUEST_TIMED_OUT];
    setup.kafka.fail("fetch", &codes);
    goes_on();
    for leader in [1, 2, 3] {
        setup.kafka.set_leader("orders", leader);
        goes_on();
    }
    (1..=3).for_each(|broker| setup.kafka.take_down(broker));
    node.wait_for_metric(UP, |up| up == 0.0);
    assert_eq!(node.get("/health").json()["status"], "degraded");
    (1..=3).for_each(|broker| setup.kafka.bring_up(broker));
    node.wait_for_metric(UP, |up| up == 1.0);
    goes_on();
    let last = writing.stop();
    let texts = read_through(&mut subscriber, &[last; 3]);
    check_numbers(&texts, &[0; 3], &[last; 3]);
    assert!(texts.iter().all(|text| !text.starts_with("gap")), "{texts:?}");
}

/// As when a partition lost its end, and has grown again since.
#[test]
fn a_place_that_kafka_refuses_although_it_has_it_is_one_gap() {
    let setup = Setup::new();
    let node = setup.only_node();
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders");
    let writing = Writing::start(&setup, 0);
    let mut texts = read_through(&mut subscriber, &[10; 3]);
    setup.kafka.fail("fetch", &[code::OFFSET_OUT_OF_RANGE]);
    while !texts.last().unwrap().starts_with("gap") {
        texts.push(text_of(&subscriber.event()));
    }
    let last = writing.stop();
    wait_until("all is appended", || {
        let cursor = |partition| setup.cursor(&format!("kafka:orders:{partition}"));
        (0..PARTITIONS).all(|partition| cursor(partition) == Some((last + 1).to_string()))
    });
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders&replay=all");
    let texts = read_through(&mut subscriber, &[last; 3]);
    check_numbers(&texts, &[0; 3], &[last; 3]);
    assert_eq!(texts.iter().filter(|text| *text == "gap source_lost").count(), 1, "{texts:?}");
}

#[test]
fn a_bus_that_is_away_delays_messages() {
    let setup = Setup::new();
    let node = setup.only_node();
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders");
    let writing = Writing::start(&setup, 0);
    read_through(&mut subscriber, &[10; 3]);
    setup.redis.hang();
    node.wait_for_metric(UP, |up| up == 0.0);
    assert!(status(&node)["consumer"]["last_error"].is_string());
    setup.redis.resume();
    wait_for_partitions(&[&node], 3.0);
    let last = writing.stop();
    wait_until("all is appended", || setup.cursor("kafka:orders:2") == Some((last + 1).to_string()));
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders&replay=all");
    let texts = read_through(&mut subscriber, &[last; 3]);
    check_numbers(&texts, &[0; 3], &[last; 3]);
    node.wait_for_log(&["reading from Kafka was interrupted"]);
}

#[test]
fn what_the_retention_passed_over_is_a_gap() {
    let setup = Setup::new();
    let mut node = setup.only_node();
    let writer = setup.writer();
    (0..3).for_each(|partition| writer.write("orders", partition, format!("{partition}:0").as_bytes()));
    writer.flush();
    for partition in 0..3 {
        let source = format!("kafka:orders:{partition}");
        wait_until("it is read", || setup.cursor(&source).as_deref() == Some("1"));
    }
    node.signal("TERM");
    node.wait_for_exit();
    // The mock cluster keeps 5 MiB of a partition.
    let data = "x".repeat(100 << 10);
    for _ in 0..80 {
        writer.write("orders", 1, data.as_bytes());
        writer.flush();
    }
    writer.write("orders", 0, b"0:1");
    writer.write("orders", 1, b"1:last");
    writer.write("orders", 2, b"2:1");
    writer.flush();
    let node = setup.node();
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders&replay=all");
    let mut texts = Vec::new();
    while ["0:1", "1:last", "2:1"].iter().any(|last| !texts.iter().any(|text| text == last)) {
        texts.push(text_of(&subscriber.event()));
    }
    assert_eq!(texts.iter().filter(|text| *text == "gap source_lost").count(), 1, "one gap");
    let gap = texts.iter().position(|text| text == "gap source_lost").unwrap();
    let large: Vec<_> = (0..texts.len()).filter(|index| texts[*index].len() == data.len()).collect();
    assert!(!large.is_empty() && large.len() < 80 && large.iter().all(|index| *index > gap), "{}", large.len());
    for number in ["0:0", "0:1", "1:0", "2:0", "2:1"] {
        assert_eq!(texts.iter().filter(|text| *text == number).count(), 1, "{number}");
    }
    node.wait_for_log(&["Kafka no longer has messages"]);
}

#[test]
fn a_topic_that_was_made_again_begins_after_a_gap() {
    let setup = Setup::new();
    let _: u64 =
        setup.redis.command(&["HSET", "{fanfare}:bus", "cursor:kafka:orders", "3", "cursor:kafka:orders:0", "77"]);
    let node = setup.only_node();
    wait_until("its end is found", || setup.cursor("kafka:orders:0").as_deref() == Some("0"));
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders&replay=all");
    let writer = setup.writer();
    writer.write("orders", 0, b"0:0");
    writer.flush();
    assert_eq!(text_of(&subscriber.event()), "gap source_lost");
    subscriber.expect(&["0:0"]);
}

#[test]
fn a_topic_that_is_made_later_is_read_from_its_beginning() {
    let setup = Setup::new();
    let node = setup.node_reading(&["--kafka-consume", "orders", "--kafka-consume", "late"]);
    wait_for_partitions(&[&node], 3.0);
    assert_eq!(setup.cursor("kafka:late").as_deref(), Some("0"));
    let mut subscriber = Subscriber::open(&node, "/events?topic=late");
    setup.kafka.create_topic("late", 2, 1);
    let writer = setup.writer();
    (0..2).for_each(|partition| writer.write("late", partition, b"first"));
    writer.flush();
    subscriber.expect(&["first", "first"]);
}

#[test]
fn options_that_can_not_work_are_refused() {
    let check = |options: &[&str], words: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_fanfare")).env_clear().arg("serve").args(options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    };
    let brokers = ["--kafka-brokers", "127.0.0.1:1"];
    let stream = ["--kafka-brokers", "127.0.0.1:1", "--bus", "redis-stream", "--redis-url", "redis://127.0.0.1:1"];
    let with = |first: &[&'static str], second: &[&'static str]| [first, second].concat();
    check(&["--kafka-publish", "a"], "no kafka-brokers");
    check(&with(&brokers, &["--kafka-consume", "a"]), "needs a durable bus");
    check(&with(&brokers, &["--kafka-consume", "a", "--redis-url", "redis://127.0.0.1:1"]), "needs a durable bus");
    check(&with(&brokers, &["--bus", "kafka", "--kafka-consume", "a"]), "no place for how far");
    check(&with(&brokers, &["--bus", "kafka", "--kafka-publish", "fanfare"]), "has every event already");
    check(&with(&stream, &["--kafka-consume", "a", "--kafka-publish", "b=a"]), "come back");
    check(&with(&stream, &["--kafka-consume", "a", "--kafka-consume", "a=b"]), "twice");
    check(&with(&stream, &["--kafka-consume", "abc", "--topic-bytes", "2"]), "longer than topics");
}

#[cfg(feature = "postgres")]
#[test]
fn a_bus_in_postgresql_keeps_the_cursors_too() {
    let (postgres, kafka) = (support::postgres::PostgresServer::with_bus(&[]), KafkaCluster::start(1));
    kafka.create_topic("orders", PARTITIONS, 1);
    let start = || {
        let options = ["--kafka-consume", "orders", "--kafka-brokers", kafka.brokers()];
        let node = support::postgres::node(&postgres, &options);
        wait_for_partitions(&[&node], 3.0);
        node
    };
    let node = start();
    let writer = Writer::new(kafka.brokers());
    let write = |number: u64| {
        (0..3).for_each(|partition| writer.write("orders", partition, format!("{partition}:{number}").as_bytes()));
        writer.flush();
    };
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders");
    (0..50).for_each(write);
    read_through(&mut subscriber, &[49; 3]);
    node.kill();
    (50..100).for_each(write);
    let node = start();
    let mut subscriber = Subscriber::open(&node, "/events?topic=orders&replay=all");
    let texts = read_through(&mut subscriber, &[99; 3]);
    check_numbers(&texts, &[0; 3], &[99; 3]);
}
