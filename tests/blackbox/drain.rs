//! Leaving: notice first, then the streams one after the other, each with a reconnection time, then the exit.

use std::net::TcpStream;

use crate::support::server::Server;
use crate::support::stream::Subscriber;
use crate::support::wait::wait_until;

#[test]
fn during_the_notice_a_server_is_unready_and_serves_as_ever() {
    let mut server = Server::start(&["--drain-notice", "1h"]);
    let mut before = Subscriber::open(&server, "/events?topic=a");
    assert_eq!(server.get_admin("/health/ready").status, 200);
    server.signal("TERM");
    wait_until("readiness says 503", || server.get_admin("/health/ready").status == 503);
    let health = server.get("/health/ready");
    assert_eq!((health.status, &health.json()["status"]), (503, &"draining".into()), "{health}");
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(server.get("/health").json()["ready"], false);
    assert_eq!(server.metric("fanfare_draining"), 1.0);
    let mut during = Subscriber::open(&server, "/events?topic=a");
    server.publish("a", "x");
    before.expect(&["x"]);
    during.expect(&["x"]);
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0), "asked twice, it leaves at once");
    assert_eq!(before.try_block(), None);
}

#[test]
fn streams_close_one_after_the_other_with_a_reconnection_time() {
    let mut server = Server::start(&["--drain", "2s", "--retry", "1s"]);
    let mut streams: Vec<_> = (0..40).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    let address = server.address();
    server.signal("TERM");
    wait_until("the port is closed", || TcpStream::connect(address).is_err());
    let mut retries_ms = Vec::new();
    for stream in &mut streams {
        let last = stream.block();
        let retry_ms = last.retry_ms().unwrap();
        assert_eq!(last.raw, format!("retry: {retry_ms}\n\n"));
        assert_eq!(stream.try_block(), None, "the connection ends without an error");
        retries_ms.push(retry_ms);
    }
    assert_eq!(server.wait_for_exit(), Some(0));
    // The rest of the drain, the usual reconnection time, and up to the length of the drain: no client returns
    // before the server is gone, nor all at once then.
    let (longest, shortest) = (retries_ms.iter().max().unwrap(), retries_ms.iter().min().unwrap());
    assert!((800..=5200).contains(shortest) && (800..=5200).contains(longest), "{retries_ms:?}");
    assert!(longest - shortest > 1000, "spread over the drain: {retries_ms:?}");
    server.wait_for_log(&["left"]);
}

#[test]
fn while_streams_close_operators_are_answered_and_new_streams_are_not_taken() {
    let mut server = Server::start(&["--drain", "1h"]);
    let mut held = server.connect();
    held.get("/health/live");
    assert_eq!(held.answer().status, 200);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    server.signal("TERM");
    server.wait_for_metric("fanfare_draining", |stage| stage == 2.0);
    assert!(TcpStream::connect(server.address()).is_err());
    assert_eq!(server.get_admin("/health/live").status, 200);
    assert_eq!(server.get_admin("/health/ready").status, 503);
    // A connection that was kept alive is answered, given a time to retry, and closed.
    held.send("GET /events?topic=a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(held.head().status, 200);
    let body = String::from_utf8(held.read_to_end()).unwrap();
    assert!(body.starts_with("retry: ") && body.ends_with("\n\n"), "{body}");
    assert_eq!(server.metric("fanfare_refused_total{reason=\"draining\"}"), 1.0);
    assert!(server.is_running());
    server.signal("INT");
    assert_eq!(server.wait_for_exit(), Some(0));
    assert_eq!(subscriber.client.read_until_broken(), None);
}

#[test]
fn events_published_during_a_drain_reach_the_streams_that_are_still_open() {
    let server = Server::start(&["--drain", "1h"]);
    let mut publisher = server.connect();
    publisher.get("/health/live");
    publisher.answer();
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    server.signal("TERM");
    server.wait_for_metric("fanfare_draining", |stage| stage == 2.0);
    let token = format!("Authorization: Bearer {}\r\n", crate::support::server::TOKEN);
    publisher.send(crate::support::server::publish_request(r#"{"topic":"a","data":"x"}"#, &token));
    let answer = publisher.answer();
    assert_eq!((answer.status, answer.header("connection")), (202, Some("close")), "{answer}");
    subscriber.expect(&["x"]);
}

#[test]
fn statistics_streams_are_the_last_to_close() {
    let mut server = Server::start_with_env(&["--drain", "2s", "--dev"], &[]);
    // The first slot, which would be the first to go.
    let mut watcher = Subscriber::open(&server, "/events?topic=fanfare:statistics");
    let mut others: Vec<_> = (0..20).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    server.signal("TERM");
    let last = loop {
        let block = watcher.block();
        if block.data().is_none() && block.retry_ms().is_some() {
            break block;
        }
    };
    assert_eq!(last.event_type(), None);
    // Each of the others was sent away before: its last block and its end are here without waiting.
    for other in &mut others {
        other.client.try_clone().set_nonblocking(true).unwrap();
        assert!(other.block().retry_ms().is_some());
        assert_eq!(other.try_block(), None);
    }
    assert_eq!(server.wait_for_exit(), Some(0));
}

#[test]
fn without_streams_a_server_leaves_at_once() {
    let mut server = Server::start(&["--drain", "1h"]);
    server.get("/health");
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0));
}

#[test]
fn a_busy_port_or_a_wrong_option_fails_the_start_with_an_explanation() {
    let server = Server::start(&[]);
    let start = |options: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let output = command.arg("serve").args(options).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let address = server.address().to_string();
    let (code, said) = start(&["--listen", &address]);
    assert!(code == Some(1) && said.contains(&address) && said.contains("in use"), "{code:?} {said}");
    let (code, said) = start(&["--listen", "127.0.0.1:0", "--heartbeat", "1"]);
    assert!(code == Some(2) && said.contains("--heartbeat 1"), "{code:?} {said}");
    let (code, said) = start(&["--listen", "127.0.0.1:0", "--publish-token-file", "/no/such/file"]);
    assert!(code == Some(2) && said.contains("/no/such/file"), "{code:?} {said}");
}
