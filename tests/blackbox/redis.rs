//! Redis behind the real binary: what is published there reaches every subscriber, and no loss is silent.
//!
//! The source alone is tested in `redis_source` and `redis_bus`; here its messages go through the loop to the wire.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::redis::RedisServer;
use crate::support::server::{Server, TOKEN, publish_request};
use crate::support::stream::{Block, Subscriber};
use crate::support::wait::{eventually, wait_until};

const UP: &str = "fanfare_source_up{source=\"redis\"}";

const LONG_HISTORY: [&str; 4] = ["--history-events", "1000000", "--history-bytes", "64MiB"];

/// A server that is subscribed to Redis.
pub(crate) fn start_on(redis: &RedisServer, options: &[&str]) -> Server {
    let url = redis.url("redis", "");
    let server = Server::start(&[&["--redis-url", &url], options].concat());
    server.wait_for_metric(UP, |up| up == 1.0);
    server
}

/// `redis-cli publish`; how many it says it reached.
fn redis_cli_publish(redis: &RedisServer, channel: &str, payload: &str) -> String {
    let output = Command::new("redis-cli").arg("-s").arg(redis.socket()).args(["publish", channel, payload]).output();
    let output = output.expect("these tests need redis-cli on the PATH (Debian: apt-get install redis-tools)");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn publish(redis: &RedisServer, channel: &str, payload: &str) {
    redis.command::<i64>(&["PUBLISH", channel, payload]);
}

#[test]
fn what_redis_cli_publishes_reaches_every_subscriber_byte_for_byte() {
    let redis = RedisServer::start();
    let server = start_on(&redis, &["--redis-pattern", "orders.*"]);
    let mut subscribers: Vec<_> = (0..300).map(|_| Subscriber::open(&server, "/dashboard/stream")).collect();
    let mut orders = Subscriber::open(&server, "/events?topic=orders.7&topic=dashboard_updates");
    for payload in [r#"{"a":1.50, "b":[ ]}"#, "  plain ä😀 text ", "two\nlines", "id: 1"] {
        assert_eq!(redis_cli_publish(&redis, "dashboard_updates", payload), "1");
        let data = payload.replace('\n', "\ndata: ");
        let first = subscribers[0].block();
        assert_eq!(first.raw, format!("id: {}\ndata: {data}\n\n", first.id().unwrap()));
        subscribers[1..].iter_mut().chain([&mut orders]).for_each(|subscriber| assert_eq!(subscriber.block(), first));
    }
    redis_cli_publish(&redis, "orders.7", "shipped");
    orders.expect(&["shipped"]);
}

#[test]
fn messages_that_are_no_events_are_logged_a_few_times_and_all_counted() {
    let redis = RedisServer::start();
    let server = start_on(&redis, &["--redis-payload", "envelope"]);
    (0..30).for_each(|_| publish(&redis, "dashboard_updates", "no envelope"));
    let refused = "fanfare_source_refused_total{source=\"redis\",reason=\"malformed\"}";
    server.wait_for_metric(refused, |count| count == 30.0);
    server.signal("HUP");
    server.wait_for_log(&["reloaded"]); // what was logged before is here, too
    assert_eq!(server.log().text().matches("a message from Redis was refused").count(), 10);
}

#[test]
fn a_password_from_a_file_is_taken_as_it_stands() {
    for password in ["p%41ss", "x%ff @:/"] {
        let user = ["--user", "fan", "on", &format!(">{password}"), "allchannels", "+@all"];
        let arguments = [&["--port", "{port}"], &user[..]].concat();
        let redis = RedisServer::start_in(tempfile::tempdir().unwrap(), &arguments);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), password).unwrap();
        let login =
            ["--redis-url", &redis.url("redis", "fan@"), "--redis-password-file", file.path().to_str().unwrap()];

        let server = Server::start(&login);
        server.wait_for_metric(UP, |up| up == 1.0);
        let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
        let mut publish = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let output = publish.args(["publish", "dashboard_updates", "hello"]).args(login).output().unwrap();
        assert!(output.status.success(), "{password}: {output:?}");
        subscriber.expect(&["hello"]);
    }
}

#[test]
fn the_newest_events_and_gaps_of_as_many_topics_as_may_be_all_arrive() {
    const TOPICS: usize = 500;
    let redis = RedisServer::start();
    let options = ["--redis-pattern", "t*", "--topics-per-subscriber", "500", "--event-bytes", "1KiB"];
    let server = start_on(&redis, &options);
    // In each topic an event, and behind it the gap of one that is too large.
    let publish_round = |round: usize| {
        let mut pipeline = redis::pipe();
        for topic in 0..TOPICS {
            pipeline.publish(format!("t{topic}"), format!("{round} {topic} {}", "x".repeat(1000))).ignore();
            pipeline.publish(format!("t{topic}"), "x".repeat(1025)).ignore();
        }
        pipeline.exec(&mut redis.connect()).unwrap();
        let (events, losses) = ((round * TOPICS) as f64, "fanfare_gaps_total{reason=\"event_refused\"}");
        server.wait_for_metric("fanfare_retained_events", |retained| retained == events);
        server.wait_for_metric(losses, |announced| announced == events);
    };
    publish_round(1);
    let topics: String = (0..TOPICS).map(|topic| format!("topic=t{topic}&")).collect();
    let mut subscriber = Subscriber::open(&server, &format!("/events?{topics}replay=latest&latest=1"));
    // Most of the first round still waits to be sent when the second one comes.
    server.wait_for_metric("fanfare_lagging_subscribers", |lagging| lagging == 1.0);
    publish_round(2);
    for round in 1..=2 {
        for topic in 0..TOPICS {
            let data = subscriber.event().data().unwrap();
            assert!(data.starts_with(&format!("{round} {topic} ")), "{round} {topic}: {data}");
            assert_eq!(subscriber.event().gap()["topics"], serde_json::json!([format!("t{topic}")]));
        }
    }
}

/// What one subscriber received: numbers, and `None` for a gap.
fn read_numbers(subscriber: &mut Subscriber, is_last: impl Fn(&Block) -> bool) -> Vec<Option<usize>> {
    let mut received = Vec::new();
    loop {
        let block = subscriber.event();
        if is_last(&block) {
            return received;
        }
        received.push(match block.event_type() {
            Some("gap") => None,
            _ => Some(block.data().unwrap().parse().unwrap()),
        });
    }
}

/// Checks that each number comes once and in order, and that a jump has a gap in it.
#[track_caller]
fn check_gaps_cover_losses(received: &[Option<usize>]) {
    let (mut next, mut has_gap) = (0, false);
    for item in received {
        match *item {
            None => has_gap = true,
            Some(number) => {
                assert!(number == next || (has_gap && number > next), "{number} where {next} was next: {received:?}");
                (next, has_gap) = (number + 1, false);
            }
        }
    }
}

#[test]
fn redis_killed_and_restarted_under_load_costs_one_gap_and_no_connection() {
    let mut redis = RedisServer::start();
    // Remembers all of it: the subscribers read only at the end.
    let mut server = start_on(&redis, &LONG_HISTORY);
    let mut subscribers: Vec<_> = (0..50).map(|_| Subscriber::open(&server, "/dashboard/stream")).collect();
    assert_eq!(server.get("/health").json()["status"], "ok");
    let socket = format!("unix://{}", redis.socket().display());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let client = redis::Client::open(socket.as_str()).unwrap();
            let (mut connection, mut sent) = (None, 0usize);
            while !done.load(Ordering::Relaxed) {
                let open = connection.take().or_else(|| client.get_connection().ok());
                connection = open.and_then(|open| publish_next(open, &mut sent));
            }
            sent
        });
        let before_loss = server.wait_for_metric("fanfare_broadcasts_total", |count| count >= 500.0);
        redis.kill();
        wait_until("health is degraded", || server.get("/health").json()["status"] == "degraded");
        let health = server.get("/health");
        assert_eq!((health.status, &health.json()["ready"]), (200, &true.into()), "{health}");
        assert_eq!(health.json()["sources"]["redis"]["up"], false);
        assert!(health.json()["sources"]["redis"]["error"].is_string(), "{health}");
        assert_eq!(server.post(r#"{"topic":"a","data":"x"}"#).status, 503);
        redis.restart();
        server.wait_for_metric(UP, |up| up == 1.0);
        server.wait_for_metric("fanfare_broadcasts_total", |count| count >= before_loss + 1000.0);
        done.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 1000);
    });
    wait_until("health is well again", || server.get("/health").json()["status"] == "ok");
    publish(&redis, "dashboard_updates", "the end");
    for subscriber in &mut subscribers {
        let received = read_numbers(subscriber, |block| block.data().as_deref() == Some("the end"));
        assert_eq!(received.iter().filter(|item| item.is_none()).count(), 1, "one gap: {received:?}");
        check_gaps_cover_losses(&received);
    }
    assert!(server.is_running());
    assert_eq!(server.metric("fanfare_source_reconnects_total{source=\"redis\"}"), 1.0);
}

/// Publishes the next number as an application does; the connection, if it is still good.
fn publish_next(mut connection: redis::Connection, next: &mut usize) -> Option<redis::Connection> {
    // Whether or not an answer comes: Redis may have had time to pass it on.
    *next += 1;
    redis::cmd("PUBLISH").arg("dashboard_updates").arg(*next - 1).query::<i64>(&mut connection).ok()?;
    Some(connection)
}

#[test]
fn while_subscriptions_are_killed_every_202_is_delivered_or_covered_by_a_gap() {
    let redis = RedisServer::start();
    let server = start_on(&redis, &LONG_HISTORY);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let mut publisher = server.connect();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for round in 1..=5 {
        let mut is_killed = false;
        while accepted.len() < round * 40 {
            let number = accepted.len() + refused;
            let body = format!(r#"{{"topic":"a","data":"{number}"}}"#);
            publisher.send(publish_request(&body, &format!("Authorization: Bearer {TOKEN}\r\n")));
            // During these publishes; they are then refused until the subscription is back.
            if accepted.len() == round * 40 - 20 && !is_killed {
                is_killed = true;
                redis.command::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            }
            let answer = publisher.answer();
            match answer.status {
                202 => accepted.push(number),
                503 => {
                    assert!(answer.header("retry-after").is_some());
                    refused += 1;
                }
                other => panic!("{other}: {answer}"),
            }
        }
    }
    eventually("the end is published", || {
        let answer = server.post(r#"{"topic":"a","data":"the end"}"#);
        (answer.status == 202).then_some(())
    });
    let received = read_numbers(&mut subscriber, |block| block.data().as_deref() == Some("the end"));
    assert!(refused > 0, "publishing never stopped");
    check_every_accepted_is_covered(&received, &accepted);
}

/// Checks that each accepted number was received, or that a gap stands where it would have been.
#[track_caller]
fn check_every_accepted_is_covered(received: &[Option<usize>], accepted: &[usize]) {
    let mut covered = vec![false; accepted.last().unwrap() + 1];
    let (mut next, mut has_gap) = (0, false);
    for number in received.iter().chain([&Some(covered.len())]) {
        let Some(number) = *number else {
            has_gap = true;
            continue;
        };
        assert!(number >= next, "twice, or out of order: {number}");
        covered[next..number].fill(has_gap);
        if let Some(own) = covered.get_mut(number) {
            *own = true;
        }
        (next, has_gap) = (number + 1, false);
    }
    let lost: Vec<_> = accepted.iter().filter(|number| !covered[**number]).collect();
    assert!(lost.is_empty(), "accepted, but neither received nor covered by a gap: {lost:?}");
}

#[test]
fn what_is_posted_to_one_node_reaches_the_subscribers_of_all_under_one_id() {
    let redis = RedisServer::start();
    let (here, there) = (start_on(&redis, &[]), start_on(&redis, &[]));
    let target = "/events?topic=a&topic=b";
    let (mut at_here, mut at_there) = (Subscriber::open(&here, target), Subscriber::open(&there, target));
    for n in 0..20 {
        let (node, topic) = ([&here, &there][n % 2], ["a", "b"][n / 2 % 2]);
        let id = node.publish(topic, &n.to_string());
        let block = format!("id: {id}\ndata: {n}\n\n");
        assert_eq!(at_here.block().raw, block);
        assert_eq!(at_there.block().raw, block);
    }
    let batch =
        r#"[{"topic":"a","data":"first"},{"topic":"b","data":"second","id":"own"},{"topic":"a","data":"third"}]"#;
    let ids = here.post(batch).json()["ids"].clone();
    assert!(ids[1].as_str().unwrap().ends_with("~own"), "{ids}");
    for subscriber in [&mut at_here, &mut at_there] {
        for (index, data) in ["first", "second", "third"].into_iter().enumerate() {
            let block = subscriber.block();
            assert_eq!((block.id(), block.data().as_deref()), (ids[index].as_str(), Some(data)));
        }
    }
    // Whichever node it was posted to, an id that is remembered is known at the other too.
    for given in ["own", ids[1].as_str().unwrap()] {
        let answer = there.post(&json!({ "topic": "b", "data": "second", "id": given }).to_string());
        assert_eq!(answer.json(), json!({ "id": ids[1], "duplicate": true }));
    }
}

/// Every node gives a channel's events places of its own, and knows those of other nodes by the publisher's id.
#[test]
fn an_event_of_a_channel_is_known_on_other_nodes_by_the_publishers_id() {
    let redis = RedisServer::start();
    let options = ["--redis-channel", "news", "--redis-payload", "envelope"];
    let nodes = [(); 2].map(|()| start_on(&redis, &options));
    let mut subscribers = nodes.each_ref().map(|node| Subscriber::open(node, "/events?topic=news"));
    for message in [r#"{"id":"o-1","data":"1"}"#, r#"{"data":"2"}"#] {
        redis.command::<i64>(&["PUBLISH", "news", message]);
    }
    let [here, there] = subscribers.each_mut().map(|subscriber| {
        let ids = [subscriber.event(), subscriber.event()].map(|event| event.id().unwrap().to_owned());
        assert!(ids[0].ends_with("~o-1") && !ids[1].contains('~'), "{ids:?}");
        ids
    });
    assert_ne!(here, there);
    Subscriber::resume(&nodes[1], "/events?topic=news", &here[0]).expect(&["2"]);
    let gap = Subscriber::resume(&nodes[1], "/events?topic=news", &here[1]).event().gap();
    assert_eq!(gap["reason"], "unknown_id");
}

#[test]
fn a_client_that_moves_to_another_node_gets_exactly_what_it_missed() {
    let redis = RedisServer::start();
    let (here, there) = (start_on(&redis, &[]), start_on(&redis, &[]));
    let target = "/events?topic=a&topic=b";
    let mut client = Subscriber::open(&here, target);
    for n in 0..6 {
        [&here, &there][n % 2].publish(["a", "b"][n % 2], &n.to_string());
    }
    client.expect(&["0", "1", "2", "3"]);
    let last = client.event();
    assert_eq!(last.data().as_deref(), Some("4"));
    drop(client);
    (6..9).for_each(|n| _ = there.publish("b", &n.to_string()));
    let mut moved = Subscriber::resume(&there, target, last.id().unwrap());
    moved.expect(&["5", "6", "7", "8"]);
    // And back, without having received anything new.
    let position = last.id().unwrap().to_owned();
    let mut back = Subscriber::resume(&here, target, &position);
    back.expect(&["5", "6", "7", "8"]);
    here.publish("a", "9");
    moved.expect(&["9"]);
    back.expect(&["9"]);
}

#[test]
fn a_redis_that_is_down_at_the_start_is_waited_for() {
    let mut redis = RedisServer::start();
    redis.kill();
    let url = redis.url("redis", "");
    let server = Server::start(&["--redis-url", &url, "--ready-requires", "redis"]);
    assert_eq!(server.get("/health/live").status, 200);
    let health = server.get("/health/ready");
    assert_eq!((health.status, &health.json()["status"]), (503, &"unready".into()), "{health}");
    let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
    redis.restart();
    wait_until("the server is ready", || server.get("/health/ready").status == 200);
    publish(&redis, "dashboard_updates", "x");
    // Whatever was published before the first subscription may be missing: a gap announces it, or no position was
    // promised.
    let mut block = subscriber.event();
    if block.event_type() == Some("gap") {
        block = subscriber.event();
    }
    assert_eq!(block.data().as_deref(), Some("x"));
}

#[test]
fn events_posted_while_redis_is_away_are_refused_with_a_time_to_come_back() {
    let mut redis = RedisServer::start();
    let server = start_on(&redis, &[]);
    redis.kill();
    server.wait_for_metric(UP, |up| up == 0.0);
    let refused = server.post(r#"{"topic":"a","data":"x"}"#);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
    refused.problem();
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    redis.restart();
    server.wait_for_metric(UP, |up| up == 1.0);
    server.publish("a", "y");
    assert_eq!(subscriber.event().gap()["reason"], "source_lost");
    subscriber.expect(&["y"]);
}
