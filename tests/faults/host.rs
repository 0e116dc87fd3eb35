//! A host that fails: a log that can't be written, an address space that is small.

use crate::support::server::{Server, TOKEN, publish_request};
use crate::support::stream::Subscriber;

/// Serves, logging much of it, and leaves in order.
#[track_caller]
fn check_serves(prepare: &str) {
    let mut server = Server::start_after(prepare, &["--log-level", "debug", "--drain", "0s"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    for n in 0..20 {
        assert_eq!(server.request("GET / HTTP/9.9\r\n\r\n").status, 505);
        server.publish("a", &n.to_string());
        subscriber.expect(&[&n.to_string()]);
    }
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0), "{prepare}");
}

#[test]
fn a_log_that_takes_nothing_keeps_nobody_from_being_served() {
    check_serves("exec 2>/dev/full");
    check_serves("exec 2>&-");
    // A file that must not grow: the signal for it is on its way, too.
    check_serves("ulimit -f 0; trap '' XFSZ; exec 2>\"$(mktemp)\"");
}

#[test]
fn in_a_small_address_space_the_logs_stay_within_theirs() {
    let limits = ["--history-bytes", "4MiB", "--history-bytes-total", "4MiB", "--history-events", "100000"];
    let mut server = Server::start_after("ulimit -v 330000", &limits);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let event = serde_json::json!({ "topic": "a", "data": "x".repeat(200_000) });
    let batch = serde_json::json!([event, event, event, event]).to_string();
    let mut publisher = server.connect();
    // Eight times what the logs may hold.
    for _ in 0..40 {
        publisher.send(publish_request(&batch, &format!("Authorization: Bearer {TOKEN}\r\n")));
        assert_eq!(publisher.answer().status, 202);
        subscriber.data(4).iter().for_each(|data| assert_eq!(data.len(), 200_000));
    }
    assert!(server.is_running());
    assert!(server.metric("fanfare_retained_bytes") <= f64::from(4 << 20));
    assert!(server.metric("process_resident_memory_bytes") < f64::from(32 << 20));
}
