//! A bus in Kafka, with the real binary: against librdkafka's mock cluster in a process of its own, which speaks over TCP and
//! misbehaves when asked to. What needs no fault runs against a real Kafka where `KAFKA_BOOTSTRAP` names one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;

use support::bus::{check_returns, fork_id, is_ready, position, publish};
use support::certificates;
use support::kafka::{KafkaBus, KafkaCluster, code, node, starting_node};
use support::kafka_client::{Application, Received};
use support::kafka_login::refuse_logins;
use support::process::Lines;
use support::relay::Relay;
use support::server::{Server, publish_request};
use support::stream::Subscriber;
use support::wait::{DEADLINE, wait_until};

mod support;

/// Publishes what is no duplicate; repeated until it is accepted.
fn publish_at_last(server: &Server, data: &str) {
    wait_until("it is published", || server.post(&json!({"topic": "a", "data": data}).to_string()).status == 202);
}

/// Publishes 0 to 199, in requests of 10; returns the ids.
fn publish_many(server: &Server) -> Vec<String> {
    let events = |first: usize| (first..first + 10).map(|n| json!({"topic": "a", "data": n.to_string()}));
    let batches = (0..20).map(|batch| json!(events(batch * 10).collect::<Vec<_>>()));
    let ids = batches.flat_map(|batch| publish(server, &batch)["ids"].as_array().unwrap().clone());
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| n.to_string()).collect()
}

/// What an application writes to the topic itself.
fn produce(bus: &KafkaBus, headers: &[(&str, &str)], data: &[u8]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &bus.brokers).create().unwrap();
    let headers = headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
    let record: BaseRecord<'_, (), _> = BaseRecord::to(&bus.topic).partition(0).payload(data).headers(headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(DEADLINE).unwrap();
}

/// Writes a record with a header whose name is not UTF-8, which no Kafka client here can: a Produce request, version 3.
fn produce_raw(broker: &str, topic: &str) {
    let (name, minus_one) = (topic.as_bytes(), [0xff; 8]);
    // Numbers of a record are zigzag: 2 is one, 1 is minus one.
    let record = [0, 0, 0, 1, 2, b'x', 2, 4, 0xc3, 0x28, 2, b'v'];
    let record = [&[record.len() as u8 * 2], &record[..]].concat();
    let after_checksum = [&[0; 2 + 4 + 8 + 8][..], &minus_one, &minus_one[..2 + 4], &[0, 0, 0, 1], &record].concat();
    // The leader's epoch, the version of batches, and a checksum that consumers do not look at.
    let after_length = [&minus_one[..4], &[2], &[0; 4], &after_checksum].concat();
    let number = |length: usize| (length as u32).to_be_bytes();
    let batch = [&[0; 8][..], &number(after_length.len()), &after_length].concat();
    let header = [0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff];
    let place = [&(name.len() as u16).to_be_bytes()[..], name, &number(1), &number(0), &number(batch.len())].concat();
    let request = [&header[..], &[0xff, 0xff, 0, 1], &number(1000), &number(1), &place, &batch].concat();
    let mut client = TcpStream::connect(broker).unwrap();
    client.write_all(&[&number(request.len())[..], &request].concat()).unwrap();
    client.read_exact(&mut [0; 8]).unwrap();
}

#[test]
fn a_header_whose_name_is_not_text_is_a_gap() {
    let cluster = KafkaCluster::with_topic("fanfare");
    let server = node(cluster.brokers(), &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    produce_raw(cluster.brokers(), "fanfare");
    assert_eq!(subscriber.event().gap()["reason"], "event_refused");
    server.wait_for_log(&["an entry of the bus was refused", "name is not UTF-8"]);
    publish(&server, &json!({"topic": "a", "data": "after"}));
    subscriber.expect(&["after"]);
    assert_eq!(server.log().find(&["panicked"]), None);
}

#[test]
fn all_nodes_deliver_the_same_events_under_the_same_ids() {
    let bus = KafkaBus::start();
    let nodes = [bus.node(&[]), bus.node(&[])];
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a&topic=b"));
    let first =
        publish(&nodes[0], &json!({"topic": "a", "data": "1\u{0}", "id": "own~1", "event": "kind", "retry": 7}));
    let second = publish(&nodes[1], &json!([{"topic": "b", "data": "2\n3"}, {"topic": "c", "data": "4"}]));
    produce(&bus, &[("topic", "b"), ("id", "x"), ("retry", "9"), ("other", "")], "5".as_bytes());
    let ids = [first["id"].as_str().unwrap(), second["ids"][0].as_str().unwrap()];
    assert!(ids[0].ends_with("~own~1"), "{ids:?}");
    for subscriber in &mut subscribers {
        for (id, data, retry_ms) in [(ids[0], "1\u{0}", Some(7)), (ids[1], "2\n3", None)] {
            let event = subscriber.event();
            assert_eq!((event.id(), event.data().as_deref(), event.retry_ms()), (Some(id), Some(data), retry_ms));
        }
    }
    let [third, same] = subscribers.each_mut().map(Subscriber::event);
    assert_eq!((third.data().as_deref(), third.retry_ms()), (Some("5"), Some(9)));
    assert!(third.id().unwrap().ends_with("~x") && third == same);
    let (status, output) = bus.run(&["status"]);
    assert!(status == Some(0) && output.contains("format    1\nbounds    topics of"), "{output}");
    let (_, output) = bus.run(&["check"]);
    assert!(output.contains("one partition") && output.contains("format 1, epoch"), "{output}");
}

#[test]
fn what_is_no_event_is_a_gap_at_one_place_for_all_nodes() {
    let bus = KafkaBus::start();
    let nodes = [bus.node(&[]), bus.node(&[])];
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    produce(&bus, &[], b"no topic");
    produce(&bus, &[("topic", "a")], b"\xff");
    produce(&bus, &[("topic", "a"), ("kind", "strange")], b"1");
    produce(&bus, &[("topic", "b"), ("retry", "soon")], b"not for these subscribers");
    publish(&nodes[0], &json!({"topic": "a", "data": "last"}));
    let received = subscribers.each_mut().map(|subscriber| {
        let gaps = [(); 3].map(|()| subscriber.event());
        assert!(gaps.iter().all(|gap| gap.gap()["reason"] == "event_refused"), "{gaps:?}");
        subscriber.expect(&["last"]);
        gaps
    });
    assert_eq!(received[0], received[1]);
}

#[test]
fn a_restart_of_a_node_is_no_gap_and_older_events_are_fetched() {
    let bus = KafkaBus::start();
    let stays = bus.node(&["--history-events", "3"]);
    let restarts = bus.node(&[]);
    let mut subscriber = Subscriber::open(&restarts, "/events?topic=a");
    let ids = publish_many(&stays);
    assert_eq!(subscriber.data(200), numbers(0, 200));
    restarts.kill();
    publish(&stays, &json!({"topic": "a", "data": "200"}));
    let restarted = bus.node(&["--history-events", "3"]);
    for server in [&restarted, &stays] {
        for last in [0, 62, 63, 64, 150, 199] {
            let mut resumed = Subscriber::resume(server, "/events?topic=a", &ids[last]);
            assert_eq!(resumed.data(200 - last), numbers(last + 1, 201), "after {last}");
        }
    }
    assert!(stays.metric("fanfare_bus_pages_fetched_total") > 0.0);
    assert_eq!(restarted.metric("fanfare_bus_forks_total"), 0.0);
}

#[test]
fn a_broker_that_was_away_is_no_gap_and_loses_nothing() {
    let cluster = KafkaCluster::with_topic("fanfare");
    let nodes = [(); 2].map(|()| node(cluster.brokers(), &[]));
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    publish(&nodes[0], &json!({"topic": "a", "data": "before"}));
    cluster.take_down(1);
    for server in &nodes {
        wait_until("the node notices", || !is_ready(server));
        assert_eq!(server.post(&json!({"topic": "a", "data": "refused"}).to_string()).status, 503);
    }
    nodes[0].wait_for_log(&["the bus can't be read"]);
    cluster.bring_up(1);
    wait_until("both nodes are ready again", || nodes.iter().all(is_ready));
    publish_at_last(&nodes[1], "after");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["before", "after"]));
}

#[test]
fn errors_of_brokers_are_retried_and_nothing_is_doubled() {
    let cluster = KafkaCluster::with_topic("fanfare");
    let nodes = [(); 2].map(|()| node(cluster.brokers(), &[]));
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    let codes = [code::NOT_LEADER, code::REQUEST_TIMED_OUT, code::NOT_ENOUGH_REPLICAS, code::DISCONNECT];
    for (round, code) in codes.into_iter().enumerate() {
        cluster.fail("produce", &[code]);
        cluster.fail("fetch", &[code, code]);
        cluster.fail("offsets", &[code]);
        let answer = nodes[round % 2].post(&json!({"topic": "a", "data": round.to_string()}).to_string());
        assert_eq!(answer.status, 202, "code {code}: {answer}");
    }
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["0", "1", "2", "3"]));
    // Not one that may be retried.
    cluster.fail("produce", &[code::TOPIC_AUTHORIZATION_FAILED]);
    let refused = nodes[0].post(&json!({"topic": "a", "data": "refused"}).to_string());
    assert_eq!(refused.status, 503, "{refused}");
    nodes[0].wait_for_log(&["publishing to the bus failed", "authorization failed", "docs/scaling.md"]);
    publish(&nodes[0], &json!({"topic": "a", "data": "after"}));
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["after"]));
}

#[test]
fn another_leader_is_no_gap() {
    let cluster = KafkaCluster::start(3);
    cluster.create_topic("fanfare", 1, 3);
    // Three replicas: nothing has to be accepted.
    let nodes = [(); 2].map(|()| {
        let server = starting_node(cluster.brokers(), &[]);
        wait_until("the node is ready", || is_ready(&server));
        server
    });
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    for (round, leader) in [2, 3, 1, 2].into_iter().enumerate() {
        cluster.set_leader("fanfare", leader);
        publish_at_last(&nodes[round % 2], &round.to_string());
        subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&[&round.to_string()]));
    }
    // A broker that is not the leader is not needed.
    cluster.take_down(1);
    publish_at_last(&nodes[0], "last");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["last"]));
    assert_eq!(nodes[0].metric("fanfare_bus_forks_total"), 0.0);
}

#[test]
fn a_topic_that_is_not_fit_is_refused_with_the_command_that_creates_one() {
    let cluster = KafkaCluster::start(1);
    cluster.create_topic("two", 2, 1);
    cluster.create_topic("one", 1, 1);
    let check = |topic: &str, options: &[&str], words: &[&str]| {
        let options = [&["--kafka-topic", topic], options].concat();
        let server = starting_node(cluster.brokers(), &options);
        server.wait_for_log(&[&["the bus can't be read"], words].concat());
        assert!(!is_ready(&server));
        server.kill();
    };
    let command = "--create --topic two --partitions 1 --replication-factor 3 --config min.insync.replicas=2";
    check("two", &["--kafka-accept-loss"], &["2 partitions", command]);
    check("one", &[], &["its broker's disk is lost", "--kafka-accept-loss"]);
    check("none", &[], &["there is no such topic", "--create --topic none --partitions 1"]);
}

/// All nodes put the gap at one place, also for clients that return.
fn check_fork(nodes: &[Server; 2], break_bus: impl FnOnce()) {
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    for data in ["1", "2", "3", "before"] {
        publish(&nodes[0], &json!({"topic": "a", "data": data}));
    }
    let last = subscribers.each_mut().map(|subscriber| {
        subscriber.expect(&["1", "2", "3"]);
        subscriber.event().id().unwrap().to_owned()
    });
    break_bus();
    let gaps = subscribers.each_mut().map(fork_id);
    assert!(position(&gaps[0]).0 > position(&last[0]).0, "{gaps:?} {last:?}");
    publish_at_last(&nodes[1], "after");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["after"]));
    check_returns(nodes, &last[0], &gaps);
}

/// Has the broker lack what a node reads next, until a node has read that. The mock says it once for each call, and librdkafka drops
/// what a request says that was under way when its place changed; a real broker would say it again.
fn lose_history(cluster: &KafkaCluster, nodes: &[Server; 2]) {
    let has_found = |node: &Server| node.log().find(&["has nothing at the next offset"]).is_some();
    let mut asked_at = None::<Instant>;
    wait_until("a node reads that the history is lost", || {
        if asked_at.is_none_or(|at| at.elapsed() > DEADLINE / 4) {
            cluster.fail("fetch", &[code::OFFSET_OUT_OF_RANGE]);
            asked_at = Some(Instant::now());
        }
        nodes.iter().any(has_found)
    });
}

#[test]
fn a_history_that_lacks_what_was_read_is_a_gap_on_all_nodes() {
    let cluster = KafkaCluster::with_topic("fanfare");
    let nodes = [(); 2].map(|()| node(cluster.brokers(), &[]));
    // One of the nodes finds it.
    check_fork(&nodes, || lose_history(&cluster, &nodes));
}

/// librdkafka reports it once, and the brokers do not answer the next questions.
#[test]
fn a_fork_that_can_not_be_written_yet_is_written_later() {
    let cluster = KafkaCluster::with_topic("fanfare");
    let nodes = [(); 2].map(|()| node(cluster.brokers(), &[]));
    check_fork(&nodes, || {
        lose_history(&cluster, &nodes);
        // Before it looks for the fork, a node waits for half a second. A node that fails earlier would forget the error.
        cluster.fail("offsets", &[code::TOPIC_AUTHORIZATION_FAILED; 8]);
    });
}

/// The whole cluster is another one, at the same address.
#[test]
fn a_topic_that_is_created_anew_is_a_gap_on_all_nodes() {
    let address = |cluster: &KafkaCluster| cluster.brokers().parse::<SocketAddr>().unwrap();
    let mut old = KafkaCluster::with_topic("fanfare");
    let relay = Relay::to(address(&old));
    let nodes = [(); 2].map(|()| node(&relay.address().to_string(), &[]));
    let new = KafkaCluster::with_topic("fanfare");
    check_fork(&nodes, || {
        relay.lead_to(address(&new));
        old.kill();
        relay.cut();
    });
}

#[test]
fn a_fork_that_is_far_back_is_found() {
    let address = |cluster: &KafkaCluster| cluster.brokers().parse::<SocketAddr>().unwrap();
    let mut old = KafkaCluster::with_topic("fanfare");
    let relay = Relay::to(address(&old));
    let nodes = [(); 2].map(|()| node(&relay.address().to_string(), &[]));
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    publish_many(&nodes[0]);
    subscribers.iter_mut().for_each(|subscriber| assert_eq!(subscriber.data(200), numbers(0, 200)));
    nodes[1].signal("STOP");
    let new = KafkaCluster::with_topic("fanfare");
    relay.lead_to(address(&new));
    old.kill();
    relay.cut();
    let first = subscribers[0].event();
    assert_eq!(first.gap()["reason"], "bus_forked");
    publish_at_last(&nodes[0], "after");
    // More than a node looks at first, and fewer than it has read.
    (0..100).for_each(|n| drop(publish(&nodes[0], &json!({"topic": "a", "data": n.to_string()}))));
    nodes[1].signal("CONT");
    assert_eq!(subscribers[1].event(), first);
    for subscriber in &mut subscribers {
        subscriber.expect(&["after"]);
        assert_eq!(subscriber.data(100), numbers(0, 100));
    }
}

#[test]
fn what_applications_write_hides_no_epoch() {
    let bus = KafkaBus::start();
    let server = bus.node(&["--history-events", "3"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let last = publish(&server, &json!({"topic": "a", "data": "before"}))["id"].as_str().unwrap().to_owned();
    subscriber.expect(&["before"]);
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &bus.brokers).create().unwrap();
    for _ in 0..5000 {
        let headers = OwnedHeaders::new().insert(Header { key: "topic", value: Some("b") });
        let record: BaseRecord<'_, (), _> = BaseRecord::to(&bus.topic).partition(0).payload("x").headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
    // A node writes the state between them, and one that starts needs none of the newest records for it.
    let application = Application::read(&bus.brokers, &bus.topic, 1);
    let is_state = |record: &Received| record.header("kind") == Some("state") && record.header("bus").is_some();
    wait_until("a node writes the state", || application.poll().is_some_and(|record| is_state(&record)));
    server.kill();
    let server = bus.node(&["--history-events", "3"]);
    let mut resumed = Subscriber::resume(&server, "/events?topic=a", &last);
    publish(&server, &json!({"topic": "a", "data": "after"}));
    resumed.expect(&["after"]);
    assert_eq!(server.metric("fanfare_bus_forks_total"), 0.0);
}

#[test]
fn what_retention_has_deleted_is_a_gap() {
    let cluster = KafkaCluster::with_topic("fanfare");
    let server = node(cluster.brokers(), &["--history-events", "3"]);
    let behind = node(cluster.brokers(), &["--history-events", "3"]);
    let has_read = |node: &Server, events: f64| node.metric("fanfare_published_events_total{source=\"bus\"}") >= events;
    let ids = publish_many(&server);
    wait_until("the other node has read", || has_read(&behind, 200.0));
    let mut late = Subscriber::open(&behind, "/events?topic=a");
    behind.signal("STOP");
    // The mock broker keeps 5 MiB.
    let large = "x".repeat(200 << 10);
    for _ in 0..40 {
        publish(&server, &json!({"topic": "b", "data": large}));
    }
    publish(&server, &json!({"topic": "a", "data": "last"}));
    wait_until("the node has read", || has_read(&server, 241.0));
    let mut subscriber = Subscriber::resume(&server, "/events?topic=a", &ids[5]);
    let gap = subscriber.event();
    assert_eq!(gap.gap()["reason"], "evicted");
    assert_eq!(gap.id(), Some(&*ids[197]), "{gap:?}");
    subscriber.expect(&["198", "199", "last"]);
    behind.signal("CONT");
    assert_eq!(late.event().gap()["reason"], "bus_trimmed");
    late.expect(&["last"]);
}

#[test]
fn a_node_that_is_killed_while_it_publishes_loses_nothing_that_was_acknowledged() {
    let cluster = KafkaCluster::with_topic("fanfare");
    let nodes = [(); 3].map(|()| node(cluster.brokers(), &[]));
    let mut subscribers = [1, 2].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    let is_over = AtomicBool::new(false);
    let [killed, other, _] = &nodes;
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let publishers = [("k", killed), ("o", other)].map(|(name, server)| {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let data = format!("{name}{n}");
                    let body = json!({"topic": "a", "data": data, "id": data}).to_string();
                    let request = publish_request(&body, "Connection: close\r\n");
                    let Ok(mut client) = TcpStream::connect(server.address()) else { break };
                    let mut answer = String::new();
                    // The server may be killed meanwhile.
                    let _ended = client.write_all(request.as_bytes()).and_then(|()| client.read_to_string(&mut answer));
                    if answer.starts_with("HTTP/1.1 202") {
                        acknowledged.push(data);
                    }
                }
                acknowledged
            })
        });
        for subscriber in &mut subscribers {
            // Some of them through the node that is killed.
            for _ in 0..20 {
                while !subscriber.event().data().unwrap().starts_with('k') {}
            }
        }
        killed.signal("KILL");
        subscribers.iter_mut().for_each(|subscriber| drop(subscriber.data(50)));
        is_over.store(true, Ordering::Relaxed);
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
    });
    publish(other, &json!({"topic": "a", "data": "last"}));
    assert!(acknowledged.iter().any(|data| data.starts_with('k')));
    let received = nodes[1..].iter().map(|server| {
        let mut all = Subscriber::open(server, "/events?topic=a&replay=all");
        std::iter::from_fn(|| all.event().data().filter(|data| data != "last")).collect::<Vec<_>>()
    });
    let received: Vec<_> = received.collect();
    assert_eq!(received[0], received[1]);
    assert!(acknowledged.iter().all(|data| received[0].contains(data)));
}

#[test]
fn the_bounds_are_those_of_the_first_node_until_they_are_raised() {
    let bus = KafkaBus::start();
    let first = bus.node(&["--event-bytes", "2KiB"]);
    let larger = bus.node(&[]);
    let event = |bytes: usize| json!({"topic": "a", "data": "x".repeat(bytes)}).to_string();
    assert_eq!([2048, 2049].map(|bytes| larger.post(&event(bytes)).status), [202, 413]);
    let options = ["--kafka-topic", &bus.topic, "--kafka-accept-loss", "--event-bytes", "1KiB"];
    let smaller = starting_node(&bus.brokers, &options);
    smaller.wait_for_log(&["the bus can't be read", "events of 2048", "--event-bytes 1024"]);
    assert!(!is_ready(&smaller));
    let (status, output) = bus.run(&["install", "--kafka-accept-loss", "--event-bytes", "3KiB"]);
    assert_eq!(status, Some(0), "{output}");
    first.wait_for_log(&["the bus can't be read", "events of 3072", "--event-bytes 2048"]);
    wait_until("the other node takes more", || larger.post(&event(3072)).status == 202);
    assert_eq!(larger.post(&event(3073)).status, 413);
    assert_eq!(larger.metric("fanfare_bus_forks_total"), 0.0);
}

/// A server that speaks TLS, and says which cipher a client has agreed to.
#[test]
fn brokers_are_verified_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificates::write_into(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0", "-cert", &path("server.pem"), "-key", &path("server.key")]);
    let mut tls = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = Lines::collect(tls.stdout.take().unwrap());
    let accepts = output.wait_for(&["ACCEPT 127.0.0.1:"]);
    let broker = accepts.split_once(' ').unwrap().1.to_owned();
    let server = |ca: &str| starting_node(&broker, &["--kafka-tls", "--kafka-tls-ca", &path(ca)]);
    let refuses = server("other.pem");
    refuses.wait_for_log(&["bus, reading", "certificate verify failed"]);
    assert!(!output.text().contains("CIPHER is"), "{}", output.text());
    refuses.kill();
    let _verifies = server("ca.pem");
    output.wait_for(&["CIPHER is"]);
    tls.kill().unwrap();
    tls.wait().unwrap();
}

#[test]
fn a_login_is_sent_and_a_refused_one_is_explained_without_the_password() {
    let (broker, logins) = refuse_logins();
    let options = ["--kafka-brokers", &broker, "--bus", "kafka", "--kafka-user", "node", "--kafka-sasl", "plain"];
    let folder = tempfile::tempdir().unwrap();
    // As systemd passes it on to a service.
    std::fs::write(folder.path().join("kafka-password"), "hunter2\n").unwrap();
    let server = Server::start_with_env(&options, &[("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())]);
    assert_eq!(logins.recv_timeout(DEADLINE).unwrap(), "\0node\0hunter2");
    server.wait_for_log(&["the bus can't be read", "check --kafka-user, and --kafka-password-file"]);
    let health = server.get("/health").text().to_owned();
    for text in [server.log().text(), health] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_command_that_creates_the_topic_is_printed() {
    let cluster = KafkaCluster::start(1);
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["bus", "install", "--print", "--kafka-topic", "t", "--kafka-brokers", cluster.brokers()])
        .output()
        .unwrap();
    let command = String::from_utf8(output.stdout).unwrap();
    let beginning = format!("kafka-topics.sh --bootstrap-server {} --create --topic t ", cluster.brokers());
    assert!(command.starts_with(&beginning), "{command}");
    assert!(command.ends_with(
        "--partitions 1 --replication-factor 3 --config min.insync.replicas=2 --config cleanup.policy=delete --config \
         unclean.leader.election.enable=false\n"
    ));
}
