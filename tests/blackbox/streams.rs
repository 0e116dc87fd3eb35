//! Streams: how they begin, what keeps them alive, in what order events come, and at what pace.

use std::collections::HashSet;

use crate::support::server::Server;
use crate::support::stream::{Subscriber, stream_request};

#[test]
fn a_stream_begins_with_its_reconnection_time_and_its_position() {
    let server = Server::start(&["--retry", "10s"]);
    let id = server.publish("a", "x");
    let mut retries = HashSet::new();
    for _ in 0..40 {
        let preamble = Subscriber::open(&server, "/events?topic=a").preamble;
        let retry_ms = preamble.retry_ms().unwrap();
        assert!((8000..=12_000).contains(&retry_ms), "{retry_ms}");
        assert_eq!(preamble.raw, format!("retry: {retry_ms}\nid: {id}\n\n"));
        retries.insert(retry_ms);
    }
    assert!(retries.len() > 10, "browsers add no jitter, so the times differ: {retries:?}");
}

#[test]
fn a_stream_resumes_from_the_first_position_of_a_server() {
    let server = Server::start(&[]);
    let first = Subscriber::open(&server, "/events?topic=a").preamble;
    let position = first.id().unwrap();
    assert!(position.ends_with("-0"), "{position}");
    server.publish("a", "x");
    Subscriber::resume(&server, "/events?topic=a", position).expect(&["x"]);
}

#[test]
fn silence_is_filled_with_heartbeats_and_nothing_else_is() {
    let server = Server::start(&["--heartbeat", "1s"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    for _ in 0..3 {
        assert_eq!(subscriber.block().raw, ":\n");
    }
    let id = server.publish("a", "x");
    assert_eq!(subscriber.event().raw, format!("id: {id}\ndata: x\n\n"));
    assert!(server.metric("fanfare_heartbeats_total") >= 3.0);
}

#[test]
fn events_of_several_topics_come_in_the_order_of_their_publication() {
    let server = Server::start(&[]);
    let mut three = Subscriber::open(&server, "/events?topic=a&topic=b&topic=c");
    let mut two = Subscriber::open(&server, "/events?topic=c&topic=a");
    let published: Vec<_> = (0..300).map(|n| (["a", "b", "c"][n % 7 % 3], n.to_string())).collect();
    let mut client = server.connect();
    // Pipelined, so that many are new at once.
    for (topic, data) in &published {
        let body = format!(r#"{{"topic":"{topic}","data":"{data}"}}"#);
        let token = format!("Authorization: Bearer {}\r\n", crate::support::server::TOKEN);
        client.send(crate::support::server::publish_request(&body, &token));
    }
    published.iter().for_each(|_| assert_eq!(client.answer().status, 202));
    let of = |topics: &[&str]| -> Vec<&str> {
        published.iter().filter(|(topic, _)| topics.contains(topic)).map(|(_, data)| data.as_str()).collect()
    };
    three.expect(&of(&["a", "b", "c"]));
    two.expect(&of(&["a", "c"]));
}

#[test]
fn all_subscribers_get_the_same_bytes() {
    let server = Server::start(&[]);
    let mut subscribers: Vec<_> = (0..200).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    for n in 0..20 {
        let id = server.publish("a", &format!("line {n}\nof two"));
        let expected = format!("id: {id}\ndata: line {n}\ndata: of two\n\n");
        subscribers.iter_mut().for_each(|subscriber| assert_eq!(subscriber.block().raw, expected));
    }
    assert_eq!(server.metric("fanfare_delivered_events_total"), 4000.0);
}

#[test]
fn an_event_may_be_as_large_as_is_allowed() {
    let server = Server::start(&["--event-bytes", "8MiB", "--history-bytes", "32MiB", "--body-bytes", "32MiB"]);
    let mut subscribers: Vec<_> = (0..3).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    let data = "0123456789abcdef".repeat((8 << 20) / 16);
    std::thread::scope(|scope| {
        for subscriber in &mut subscribers {
            let data = &data;
            scope.spawn(move || {
                assert!(subscriber.event().data().unwrap() == *data);
                subscriber.expect(&["after"]);
            });
        }
        server.publish("a", &data);
        server.publish("a", "after");
    });
}

#[test]
fn a_paced_stream_gets_the_first_at_once_and_what_follows_together() {
    let server = Server::start(&[]);
    let mut paced = Subscriber::open(&server, "/events?topic=a&interval_ms=1500");
    server.publish("a", "first");
    paced.expect(&["first"]);
    let sends_before = server.metric("fanfare_sends_total");
    (0..5).for_each(|n| _ = server.publish("a", &n.to_string()));
    paced.expect(&["0", "1", "2", "3", "4"]);
    // One for each answer to a publish, one for the metrics page, and one for all five events.
    assert_eq!(server.metric("fanfare_sends_total") - sends_before, 5.0 + 1.0 + 1.0);
}

#[test]
fn the_interval_floor_applies_to_every_stream() {
    let server = Server::start(&["--interval-floor", "1s"]);
    let mut paced = Subscriber::open(&server, "/events?topic=a&interval_ms=0");
    server.publish("a", "first");
    paced.expect(&["first"]);
    let sends_before = server.metric("fanfare_sends_total");
    (0..5).for_each(|n| _ = server.publish("a", &n.to_string()));
    paced.expect(&["0", "1", "2", "3", "4"]);
    assert_eq!(server.metric("fanfare_sends_total") - sends_before, 5.0 + 1.0 + 1.0);
}

#[test]
fn latest_keeps_only_the_newest_event_of_each_topic() {
    let server = Server::start(&[]);
    let target = "/events?topic=a&topic=b&latest=1&interval_ms=300";
    let mut latest = Subscriber::resume(&server, target, "of another server");
    let burst = |from: usize| {
        let event = |n: usize| format!(r#"{{"topic":"{}","data":"{n}"}}"#, ["a", "b"][n % 2]);
        let events: Vec<_> = (from..from + 10).map(event).collect();
        assert_eq!(server.post(&format!("[{}]", events.join(","))).status, 202);
    };
    let gap = latest.event().gap();
    assert_eq!((&gap["reason"], &gap["topics"]), (&"unknown_id".into(), &vec!["a", "b"].into()), "{gap}");
    burst(0);
    latest.expect(&["8", "9"]);
    assert_eq!(server.metric("fanfare_lagging_subscribers"), 0.0, "nothing more is owed for the id that is unknown");
    burst(10);
    latest.expect(&["18", "19"]);
    burst(20);
    let last = latest.event();
    assert_eq!(last.data().as_deref(), Some("28"));
    // Skipped events cause no gap, also for a client that returns.
    let id = last.id().unwrap().to_owned();
    drop(latest);
    burst(30);
    let mut latest = Subscriber::resume(&server, target, &id);
    latest.expect(&["38", "39"]);
    server.publish("a", "40");
    latest.expect(&["40"]);
    assert_eq!(server.metric("fanfare_gaps_total{reason=\"evicted\"}"), 0.0);
}

#[test]
fn a_subscriber_that_leaves_is_noticed_without_an_event() {
    let server = Server::start(&[]);
    let streams = |count: f64| server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |now| now == count);
    let mut half_closed = Subscriber::open(&server, "/events?topic=a");
    let closed = Subscriber::open(&server, "/events?topic=a");
    streams(2.0);
    half_closed.client.end_sending();
    streams(1.0);
    drop(closed);
    streams(0.0);
    assert!(server.metric("fanfare_closed_total{reason=\"peer_closed\"}") >= 2.0);
}

#[test]
fn a_request_in_pieces_opens_a_stream_all_the_same() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for byte in stream_request("/events?topic=a&replay=all", "Last-Event-ID: \r\n").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.head().status, 200);
    client.read_through(b"\n\n").unwrap();
    let id = server.publish("a", "x");
    assert_eq!(client.read_through(b"\n\n").unwrap(), format!("id: {id}\ndata: x\n\n").as_bytes());
}
