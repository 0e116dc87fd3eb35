//! Replay: a client that returns gets exactly what it missed, or one gap if something is gone. Never silence, never a
//! false gap.

use serde_json::json;

use crate::support::server::Server;
use crate::support::stream::Subscriber;

/// Publishes numbers to topics, one after the other, and gives their ids.
fn publish_all(server: &Server, events: &[(&str, &str)]) -> Vec<String> {
    events.iter().map(|(topic, data)| server.publish(topic, data)).collect()
}

/// Checks that nothing but what is published now comes next: neither an event twice nor a gap.
#[track_caller]
fn check_caught_up(server: &Server, subscriber: &mut Subscriber, topic: &str) {
    server.publish(topic, "caught up");
    subscriber.expect(&["caught up"]);
}

#[test]
fn a_client_that_names_its_last_event_gets_the_events_after_it() {
    let server = Server::start(&[]);
    let ids = publish_all(&server, &[("a", "0"), ("b", "1"), ("a", "2"), ("c", "3"), ("b", "4"), ("a", "5")]);
    let check = |target: &str, header_lines: &str, data: &[&str]| {
        let mut subscriber = Subscriber::over(server.connect(), target, header_lines);
        subscriber.expect(data);
        check_caught_up(&server, &mut subscriber, "a");
    };
    let header = |n: usize| format!("Last-Event-ID: {}\r\n", ids[n]);
    check("/events?topic=a", &header(0), &["2", "5"]);
    check("/events?topic=a", &header(1), &["2", "5", "caught up"]);
    for name in ["last_event_id", "lastEventId", "lastEventID"] {
        let server = Server::start(&[]);
        let ids = publish_all(&server, &[("a", "0"), ("b", "1"), ("a", "2")]);
        let target = |n: usize| format!("/events?topic=a&topic=b&{name}={}", ids[n]);
        Subscriber::open(&server, &target(0)).expect(&["1", "2"]);
        Subscriber::over(server.connect(), &target(0), &format!("Last-Event-ID: {}\r\n", ids[1])).expect(&["2"]);
        let mut at_head = Subscriber::open(&server, &target(2));
        check_caught_up(&server, &mut at_head, "b");
    }
}

#[test]
fn across_topics_what_was_missed_comes_in_the_order_of_publication() {
    let server = Server::start(&[]);
    let ids = publish_all(&server, &[("a", "0"), ("b", "1"), ("a", "2"), ("c", "3"), ("b", "4"), ("a", "5")]);
    // The last id may be of any topic, also of one that is not subscribed to any more.
    for (n, data) in [(0, &["1", "2", "4", "5"][..]), (2, &["4", "5"]), (3, &["4", "5"]), (4, &["5"]), (5, &[])] {
        let mut subscriber = Subscriber::resume(&server, "/events?topic=b&topic=a", &ids[n]);
        subscriber.expect(data);
        let preamble = subscriber.preamble.id().unwrap();
        assert_eq!(preamble, ids[n], "a drop before the first event resumes from the same place");
    }
}

#[test]
fn a_stream_resumes_from_ids_that_publishers_chose() {
    let server = Server::start(&["--history-events", "3"]);
    for n in 0..4 {
        assert_eq!(server.post(&format!(r#"{{"topic":"a","data":"{n}","id":"own/{n}"}}"#)).status, 202);
    }
    Subscriber::resume(&server, "/events?topic=a", "own/2").expect(&["3"]);
    Subscriber::resume(&server, "/events?topic=a", "own/1").expect(&["2", "3"]);
    // The one that was evicted last is known still, and nothing after it is gone.
    let mut edge = Subscriber::resume(&server, "/events?topic=a", "own/0");
    edge.expect(&["1", "2", "3"]);
    check_caught_up(&server, &mut edge, "a");
}

#[test]
fn an_unknown_id_is_one_gap_and_everything_remembered() {
    let server = Server::start(&[]);
    publish_all(&server, &[("a", "0"), ("b", "1"), ("a", "2")]);
    let foreign = "aaaaaaaaaaaa-1";
    for unknown in [foreign, "never-seen", "1", "x y", "ä"] {
        let mut subscriber = Subscriber::resume(&server, "/events?topic=a&topic=b", unknown);
        assert_eq!(subscriber.preamble.id(), None, "the gap has the position");
        let gap = subscriber.event();
        assert_eq!(gap.gap(), json!({ "reason": "unknown_id", "topics": ["a", "b"], "last_id": null }));
        subscriber.expect(&["0", "1", "2"]);
        // A client can resume from the gap's own id: the gap is not sent again.
        let mut again = Subscriber::resume(&server, "/events?topic=a&topic=b", gap.id().unwrap());
        again.expect(&["0", "1", "2"]);
    }
    assert_eq!(server.metric("fanfare_gaps_total{reason=\"unknown_id\"}"), 5.0);
}

#[test]
fn forgotten_events_are_one_gap_in_their_place() {
    let server = Server::start(&["--history-events", "3"]);
    let ids = publish_all(&server, &[("a", "0"), ("a", "1"), ("a", "2"), ("a", "3"), ("a", "4"), ("b", "5")]);
    let mut subscriber = Subscriber::resume(&server, "/events?topic=a&topic=b", &ids[0]);
    let gap = subscriber.event();
    assert_eq!(gap.gap(), json!({ "reason": "evicted", "topics": ["a"], "last_id": ids[0] }));
    subscriber.expect(&["2", "3", "4", "5"]);
    check_caught_up(&server, &mut subscriber, "b");
    Subscriber::resume(&server, "/events?topic=a&topic=b", gap.id().unwrap()).expect(&["2", "3", "4", "5"]);
    // Nothing after these is gone, or not of a topic that is subscribed to.
    Subscriber::resume(&server, "/events?topic=a&topic=b", &ids[1]).expect(&["2", "3", "4", "5"]);
    Subscriber::resume(&server, "/events?topic=b", &ids[0]).expect(&["5"]);
}

#[test]
fn events_are_forgotten_by_age() {
    let server = Server::start(&["--history-age", "1s"]);
    let ids = publish_all(&server, &[("a", "0"), ("a", "1")]);
    // Then nothing is left of the topic but its last position.
    crate::support::wait::wait_until("both are forgotten", || server.get("/topics/a").status == 404);
    let mut subscriber = Subscriber::resume(&server, "/events?topic=a", &ids[0]);
    assert_eq!(subscriber.event().gap()["reason"], "evicted");
    let mut edge = Subscriber::resume(&server, "/events?topic=a", &ids[1]);
    check_caught_up(&server, &mut edge, "a");
}

#[test]
fn bytes_bound_what_is_remembered() {
    let server = Server::start(&["--event-bytes", "4KiB", "--history-bytes", "16KiB"]);
    let ids: Vec<_> = (0..20).map(|n| server.publish("a", &format!("{n} {}", "x".repeat(2000)))).collect();
    let topic = server.get("/topics/a").json();
    let retained = topic["retained_events"].as_u64().unwrap() as usize;
    assert!((6..=8).contains(&retained), "{topic}");
    assert!(topic["retained_bytes"].as_u64().unwrap() <= 16 << 10, "{topic}");
    let mut subscriber = Subscriber::resume(&server, "/events?topic=a", &ids[0]);
    subscriber.event().gap();
    let first = subscriber.event().data().unwrap();
    assert!(first.starts_with(&format!("{} ", 20 - retained)), "{first}");
}

#[test]
fn a_client_chooses_how_much_is_replayed() {
    let check = |query: &str, last_id: Option<usize>, data: &[&str]| {
        let server = Server::start(&[]);
        let ids = publish_all(&server, &[("a", "0"), ("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")]);
        let last_id = last_id.map(|n| ids.get(n).map_or("unknown", String::as_str));
        let header_line = last_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let target = format!("/events?topic=a&topic=b{query}");
        let mut subscriber = Subscriber::over(server.connect(), &target, &header_line);
        subscriber.expect(data);
        check_caught_up(&server, &mut subscriber, "b");
    };
    const UNKNOWN: Option<usize> = Some(99);
    check("", None, &[]);
    check("&replay=missed", None, &[]);
    check("&replay=all", None, &["0", "1", "2", "3", "4"]);
    check("&replay=all", Some(2), &["3", "4"]);
    check("&replay=latest", None, &["3", "4"]);
    check("&replay=latest", Some(3), &["4"]);
    check("&replay=latest", UNKNOWN, &["3", "4"]);
    check("&replay=none", None, &[]);
    check("&replay=none", Some(0), &[]);
    check("&replay=none", UNKNOWN, &[]);
}

#[test]
fn a_replay_beyond_the_limit_begins_with_a_gap() {
    let server = Server::start(&["--replay-max", "2"]);
    let ids = publish_all(&server, &[("a", "0"), ("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
    Subscriber::resume(&server, "/events?topic=a", &ids[2]).expect(&["3", "4"]);
    let mut capped = Subscriber::resume(&server, "/events?topic=a", &ids[1]);
    let gap = capped.event();
    assert_eq!(gap.gap()["reason"], "replay_limit");
    capped.expect(&["3", "4"]);
    check_caught_up(&server, &mut capped, "a");
    let none = Server::start(&["--replay-max", "0"]);
    let id = none.publish("a", "0");
    let mut at_head = Subscriber::resume(&none, "/events?topic=a", &id);
    check_caught_up(&none, &mut at_head, "a");
}

#[test]
fn another_run_of_the_server_is_a_gap_and_its_own_ids_are_not() {
    let first = Server::start(&[]);
    let id = first.publish("a", "lost");
    let address = first.kill().to_string();
    let second = Server::start(&["--listen", &address]);
    second.publish("a", "0");
    let mut subscriber = Subscriber::resume(&second, "/events?topic=a", &id);
    let gap = subscriber.event();
    assert_eq!(gap.gap()["reason"], "unknown_id");
    subscriber.expect(&["0"]);
    let mut again = Subscriber::resume(&second, "/events?topic=a", gap.id().unwrap());
    again.expect(&["0"]);
    check_caught_up(&second, &mut again, "a");
}

#[test]
fn a_long_replay_and_what_is_published_meanwhile_come_in_order() {
    let options = ["--history-events", "10000", "--history-bytes", "16MiB", "--catch-up-bytes", "4KiB"];
    let server = Server::start(&options);
    let body = |from: usize| {
        let events: Vec<_> = (from..from + 500).map(|n| format!(r#"{{"topic":"a","data":"{n}"}}"#)).collect();
        format!("[{}]", events.join(","))
    };
    let first = server.publish("a", "start");
    (0..8).for_each(|n| assert_eq!(server.post(&body(n * 500)).status, 202));
    let mut subscribers: Vec<_> = (0..20).map(|_| Subscriber::resume(&server, "/events?topic=a", &first)).collect();
    (8..16).for_each(|n| assert_eq!(server.post(&body(n * 500)).status, 202));
    std::thread::scope(|scope| {
        for subscriber in &mut subscribers {
            scope.spawn(move || {
                for n in 0..8000 {
                    assert_eq!(subscriber.event().data(), Some(n.to_string()));
                }
            });
        }
    });
}

#[test]
fn an_event_is_known_by_its_place_and_by_the_publishers_id() {
    let server = Server::start(&["--history-events", "2"]);
    let publish = |id: &str, data: &str| {
        let answer = server.post(&json!({ "topic": "a", "data": data, "id": id }).to_string());
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let whole = publish("order-1", "1");
    server.publish("a", "2");
    // A page that an application rendered has only the publisher's id.
    for known in [&whole, "order-1"] {
        Subscriber::resume(&server, "/events?topic=a", known).expect(&["2"]);
    }
    server.publish("a", "3");
    assert_ne!(publish("order-1", "4"), whole, "forgotten, so it is new");
    server.publish("a", "5");
    let gap_after = |id: &str| Subscriber::resume(&server, "/events?topic=a", id).event().gap();
    assert_eq!(gap_after(&whole), json!({ "reason": "evicted", "topics": ["a"], "last_id": whole }));
    assert_eq!(gap_after("order-1")["reason"], "unknown_id", "there were two");
    // A publisher's id may look like a place.
    publish("transactions-1", "6");
    server.publish("a", "7");
    Subscriber::resume(&server, "/events?topic=a", "transactions-1").expect(&["7"]);
    // From before a restart, perhaps: publishers may have begun anew with their ids.
    publish("order-2", "8");
    assert_eq!(gap_after("aaaaaaaaaaaa-7~order-2")["reason"], "unknown_id");
}
