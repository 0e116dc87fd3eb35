//! Streams over TLS: they begin, get events, resume, and end so that a client can tell the end from a cut.

use std::io::ErrorKind;
use std::net::TcpStream;

use crate::support::http::Client;
use crate::support::secured;
use crate::support::server::Server;

pub(crate) fn start(more: &[&str]) -> Server {
    let options = secured::certificate().options();
    Server::start(&[options.each_ref().map(String::as_str).as_slice(), more].concat())
}

/// A stream of a topic, after its first frames.
pub(crate) fn subscribe(server: &Server, topic: &str) -> Client {
    let mut client = server.connect();
    client.get(&format!("/events?topic={topic}"));
    assert_eq!(client.head().status, 200);
    client.read_through(b"\n\n").unwrap();
    client
}

#[test]
fn each_subscriber_gets_each_event() {
    let server = start(&[]);
    let mut subscribers: Vec<_> = (0..50).map(|_| subscribe(&server, "a")).collect();
    for text in ["one", "two", &"x".repeat(200_000)] {
        server.publish("a", text);
        for subscriber in &mut subscribers {
            let frame = String::from_utf8(subscriber.read_through(b"\n\n").unwrap()).unwrap();
            assert!(frame.contains(&format!("data: {text}\n")), "{}", &frame[..frame.len().min(200)]);
        }
    }
    // Each publish has a connection of its own.
    server.wait_for_metric("fanfare_tls_handshakes_total{outcome=\"completed\"}", |count| count == 53.0);
}

#[test]
fn requests_of_one_connection_follow_each_other() {
    let server = start(&[]);
    let mut client = server.connect();
    for _ in 0..3 {
        client.get("/health");
        assert_eq!(client.answer().status, 200);
    }
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20));
    (0..20).for_each(|_| assert_eq!(client.answer().status, 200));
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.ends();
}

#[test]
fn a_drain_ends_streams_with_a_close_notify_and_a_kill_does_not() {
    let server = start(&["--drain", "1s", "--drain-notice", "0s"]);
    let mut stream = subscribe(&server, "a");
    server.signal("TERM");
    let last = String::from_utf8(stream.read_to_end()).unwrap();
    assert!(last.contains("retry: "), "{last}");

    let server = start(&[]);
    let mut stream = subscribe(&server, "a");
    server.kill();
    assert_eq!(stream.read_until_broken(), Some(ErrorKind::UnexpectedEof), "a cut is an error");
}

#[test]
fn a_client_that_stops_reading_is_closed_and_the_others_are_not_delayed() {
    let server = start(&["--stall-timeout", "1s", "--tcp-user-timeout", "60s", "--heartbeat", "30s"]);
    let mut stalled = Client::connect_with_small_buffer(server.address());
    stalled.get("/events?topic=a");
    assert_eq!(stalled.head().status, 200);
    let mut reader = subscribe(&server, "a");
    let data = "x".repeat(250_000);
    for _ in 0..16 {
        server.publish("a", &data);
        reader.read_through(b"\n\n").unwrap();
    }
    server.wait_for_metric("fanfare_closed_total{reason=\"stalled\"}", |count| count == 1.0);
    server.publish("a", "still here");
    let frame = String::from_utf8(reader.read_through(b"\n\n").unwrap()).unwrap();
    assert!(frame.contains("data: still here"), "{frame}");
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    let server = start(&[]);
    let mut reader = Client::connect_with_small_buffer(server.address());
    reader.get("/events?topic=a");
    assert_eq!(reader.head().status, 200);
    let text = |at: usize| format!("{at}:{}", "x".repeat(60_000));
    for at in 0..40 {
        server.publish("a", &text(at));
    }
    for at in 0..40 {
        while !String::from_utf8(reader.read_through(b"\n\n").unwrap())
            .unwrap()
            .contains(&format!("data: {}\n", text(at)))
        {
            assert_eq!(at, 0, "only what precedes the first event is none");
        }
    }
}

#[test]
fn a_handshake_that_does_not_end_is_closed_in_time_and_counted() {
    let server = start(&["--head-timeout", "200ms"]);
    let silent = TcpStream::connect(server.address()).unwrap();
    let mut half = TcpStream::connect(server.address()).unwrap();
    std::io::Write::write_all(&mut half, &[22, 3, 1, 2]).unwrap();
    server.wait_for_metric("fanfare_closed_total{reason=\"handshake_timeout\"}", |count| count == 2.0);
    drop(silent);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn limits_count_connections_with_tls_like_others() {
    let server = start(&["--max-connections", "2"]);
    let streams = [subscribe(&server, "a"), subscribe(&server, "a")];
    let mut third = server.connect();
    third.send("GET /events?topic=a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let refused = third.head();
    assert_eq!(refused.status, 200, "EventSource gives up after any other status");
    assert!(String::from_utf8(third.read_to_end()).unwrap().contains("retry: "));
    drop(streams);
}
