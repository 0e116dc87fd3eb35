//! Several event loops in one process: connections are spread evenly, each client gets what it would get from one loop, and
//! reports are of the whole node.

use std::path::Path;

use crate::support::http::Client;
use crate::support::server::Server;
use crate::support::stream::Subscriber;
use crate::support::wait::eventually;

/// The connections of each loop.
fn connections(server: &Server) -> Vec<u64> {
    let page = server.get_admin("/metrics");
    let lines = page.text().lines().filter_map(|line| line.strip_prefix("fanfare_loop_connections{loop=\""));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
}

/// Waits until all loops have this many connections together, that of this request included.
#[track_caller]
fn wait_for_connections(server: &Server, expected: u64) -> Vec<u64> {
    eventually("the connections are there", || {
        Some(connections(server)).filter(|counts| counts.iter().sum::<u64>() == expected)
    })
}

#[track_caller]
fn check_even(server: &Server, expected: u64) {
    let counts = wait_for_connections(server, expected);
    let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
    assert!(most * 10 <= least * 11, "{counts:?}");
    assert_eq!(server.debug()["loops"].as_array().unwrap().len(), counts.len());
}

#[test]
fn connections_are_spread_evenly_also_after_many_have_left() {
    for loops in ["2", "4"] {
        let server = Server::start(&["--loops", loops]);
        let mut clients: Vec<_> = (0..400).map(|_| server.connect()).collect();
        check_even(&server, 401);
        // Whichever loop they are on: as many as leave come back.
        let mut number = 0;
        clients.retain(|_| {
            number += 1;
            number % 3 == 0
        });
        wait_for_connections(&server, clients.len() as u64 + 1);
        clients.extend((0..300).map(|_| server.connect()));
        check_even(&server, clients.len() as u64 + 1);
    }
}

#[test]
fn loops_share_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public.sock");
    let socket = format!("unix:{}", path.display());
    let server = Server::start(&["--listen", &socket, "--loops", "2"]);
    let _clients: Vec<_> = (0..100).map(|_| Client::connect_unix(Path::new(&path))).collect();
    check_even(&server, 101);
}

#[test]
fn every_subscriber_of_every_loop_gets_every_event_once_and_in_order() {
    for loops in ["2", "4"] {
        let server = Server::start(&["--loops", loops]);
        let mut subscribers: Vec<_> = (0..40).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
        let ids: Vec<_> = (0..100).map(|n| server.publish("a", &n.to_string())).collect();
        for subscriber in &mut subscribers {
            for (number, id) in ids.iter().enumerate() {
                let event = subscriber.event();
                assert_eq!((event.data(), event.id()), (Some(number.to_string()), Some(id.as_str())));
            }
        }
        // What all loops count alike counts once, and what each does by itself is summed.
        assert_eq!(server.metric("fanfare_broadcasts_total"), 100.0);
        assert_eq!(server.metric("fanfare_published_events_total{source=\"http\"}"), 100.0);
        assert_eq!(server.metric("fanfare_delivered_events_total"), 4000.0);
        assert_eq!(server.metric("fanfare_retained_events"), 100.0);
        let topic = server.get("/topics/a").json();
        assert_eq!((&topic["subscribers"], &topic["last_id"]), (&40.into(), &ids[99].as_str().into()));
    }
}

#[test]
fn a_client_that_returns_to_another_loop_goes_on_where_it_was() {
    let server = Server::start(&["--loops", "4"]);
    let mut last_id = server.publish("a", "0");
    // Each connection goes to the emptiest loop: these keep the four about equally full, and the client moves.
    let mut others = Vec::new();
    for number in 1..=60 {
        let mut subscriber = Subscriber::resume(&server, "/events?topic=a", &last_id);
        server.publish("a", &number.to_string());
        let event = subscriber.event();
        assert_eq!((event.event_type(), event.data()), (None, Some(number.to_string())));
        last_id = event.id().unwrap().to_owned();
        if number % 2 == 0 {
            others.push(subscriber);
        }
    }
    assert_eq!(server.metric("fanfare_gaps_total{reason=\"unknown_id\"}"), 0.0);
    let mut late = Subscriber::resume(&server, "/events?topic=a", &last_id);
    server.publish("a", "last");
    late.expect(&["last"]);
}

#[test]
fn the_pages_of_a_list_name_each_topic_once_whichever_loop_answers() {
    let server = Server::start(&["--loops", "3"]);
    (0..10).for_each(|n| _ = server.publish(&format!("published{n}"), "x"));
    let _subscribers: Vec<_> =
        (0..12).map(|n| Subscriber::open(&server, &format!("/events?topic=named{}", n / 2))).collect();
    let mut names = Vec::new();
    let mut target = "/topics?limit=3".to_owned();
    loop {
        let page = server.get(&target).json();
        let listed = page["topics"].as_array().unwrap();
        for topic in listed {
            let name = topic["topic"].as_str().unwrap().to_owned();
            let expected = if name.starts_with("named") { 2 } else { 0 };
            assert_eq!(topic["subscribers"], expected, "{name}");
            names.push(name);
        }
        let Some(next) = page["next"].as_u64() else { break };
        target = format!("/topics?limit=3&after={next}");
    }
    names.sort();
    let mut expected: Vec<_> = (0..10).map(|n| format!("published{n}")).collect();
    expected.extend((0..6).map(|n| format!("named{n}")));
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(server.get("/topics").json()["count"], 16);
}

#[test]
fn a_disconnect_ends_the_streams_of_all_loops_and_counts_them() {
    let server = Server::start(&["--loops", "4"]);
    let mut meant: Vec<_> = (0..20).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    let mut other = Subscriber::open(&server, "/events?topic=b");
    let body = r#"{"topic":"a"}"#;
    let mut client = server.connect_admin();
    client
        .send(format!("POST /disconnect HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let answer = client.answer();
    assert_eq!((answer.status, &answer.json()["disconnected"]), (202, &20.into()), "{answer}");
    for subscriber in &mut meant {
        assert!(subscriber.block().is_comment());
        assert_eq!(subscriber.try_block(), None);
    }
    server.publish("b", "stays");
    other.expect(&["stays"]);
}

#[test]
fn limits_are_of_the_node() {
    let server = Server::start(&["--loops", "4", "--max-connections", "7"]);
    let _streams: Vec<_> = (0..7).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    for _ in 0..8 {
        let mut client = server.connect();
        client.get("/events?topic=a");
        assert_eq!(client.head().status, 503);
    }
    assert_eq!(server.refused("stream_limit"), 8.0);
}
