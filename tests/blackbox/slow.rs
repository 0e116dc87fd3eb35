//! Slow subscribers: closed or skipped, with a reason that operators see, and never at others' expense.

use crate::support::http::Client;
use crate::support::server::Server;
use crate::support::stream::Subscriber;

/// About 4 KiB that begin with a number.
fn large(n: usize) -> String {
    format!("{n} {}", "x".repeat(4000))
}

fn number(data: &str) -> usize {
    data.split(' ').next().unwrap().parse().unwrap()
}

/// A subscriber of `a` that reads its preamble and then nothing more.
fn slow_subscriber(server: &Server, query: &str) -> Subscriber {
    Subscriber::over(Client::connect_with_small_buffer(server.address()), &format!("/events?topic=a{query}"), "")
}

/// Publishes until `is_enough`, each event after the healthy subscriber has read the one before; how many.
fn publish_until(server: &Server, healthy: &mut Subscriber, mut is_enough: impl FnMut() -> bool) -> usize {
    for n in 0.. {
        // Asking costs more than publishing: not every time.
        if n % 20 == 19 && is_enough() {
            return n;
        }
        server.publish("a", &large(n));
        assert_eq!(number(&healthy.event().data().unwrap()), n, "a slow neighbour costs others nothing");
    }
    unreachable!()
}

/// The log's entry for a closed subscriber names whom and why.
fn check_logged(server: &Server, subscriber: &Subscriber, reason: &str) {
    let entry = server.wait_for_log(&["reads too slowly", &subscriber.client.address()]);
    assert!(entry.contains(&format!("reason=\"{reason}\"")), "{entry}");
}

#[test]
fn a_subscriber_that_reads_nothing_is_closed_as_stalled_and_others_keep_receiving() {
    let history = ["--history-events", "1000000", "--history-bytes", "64MiB"];
    let server = Server::start(&[&history[..], &["--stall-timeout", "1s", "--send-buffer", "4KiB"]].concat());
    let mut healthy = Subscriber::open(&server, "/events?topic=a");
    let mut slow = slow_subscriber(&server, "");
    publish_until(&server, &mut healthy, || server.metric("fanfare_skipped_blocked_total") >= 1.0);
    server.wait_for_metric("fanfare_closed_total{reason=\"stalled\"}", |closed| {
        server.publish("a", "meanwhile");
        healthy.expect(&["meanwhile"]);
        closed == 1.0
    });
    check_logged(&server, &slow, "stalled");
    // What the kernel had for it is dropped: it finds a reset, and comes back with the id it has.
    assert_eq!(slow.client.read_until_broken(), Some(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_subscriber_that_falls_off_the_log_is_closed_as_evicted_and_resumes_with_a_gap() {
    let server = Server::start(&["--history-events", "20", "--send-buffer", "4KiB"]);
    let mut healthy = Subscriber::open(&server, "/events?topic=a");
    let mut slow = slow_subscriber(&server, "");
    let evicted = "fanfare_closed_total{reason=\"evicted\"}";
    let published = publish_until(&server, &mut healthy, || server.metric(evicted) == 1.0);
    check_logged(&server, &slow, "evicted");
    let first = slow.preamble.id().unwrap().to_owned();
    assert_eq!(slow.client.read_until_broken(), Some(std::io::ErrorKind::ConnectionReset));
    let mut returned = Subscriber::resume(&server, "/events?topic=a", &first);
    assert_eq!(returned.event().gap()["reason"], "evicted");
    for n in published - 20..published {
        assert_eq!(number(&returned.event().data().unwrap()), n);
    }
}

#[test]
fn under_the_skip_policy_slow_subscribers_continue_at_the_newest_event_after_a_gap() {
    let options = ["--slow-policy", "skip", "--history-events", "20", "--send-buffer", "4KiB"];
    let server = Server::start(&options);
    let mut healthy = Subscriber::open(&server, "/events?topic=a");
    let mut slow = slow_subscriber(&server, "");
    let skipped = "fanfare_skipped_blocked_total";
    let published = publish_until(&server, &mut healthy, || server.metric(skipped) >= 200.0);
    // It reads again: first what was on its way, then what it missed in one word, then what is new.
    let mut next = 0;
    let gap = loop {
        let block = slow.event();
        if block.event_type() == Some("gap") {
            break block.gap();
        }
        assert_eq!(number(&block.data().unwrap()), next);
        next += 1;
    };
    assert_eq!((&gap["reason"], &gap["topics"]), (&"too_slow".into(), &vec!["a"].into()), "{gap}");
    assert!(next < published);
    server.publish("a", &large(published));
    // It may have skipped more than once: each time to the newest event of that moment.
    let mut gaps = 1.0;
    while next != published {
        let block = slow.event();
        if block.event_type() == Some("gap") {
            gaps += 1.0;
            continue;
        }
        let number = number(&block.data().unwrap());
        assert!(number >= next, "{number} after {next}");
        next = number;
    }
    assert_eq!(server.metric("fanfare_closed_total{reason=\"evicted\"}"), 0.0);
    assert_eq!(server.metric("fanfare_gaps_total{reason=\"too_slow\"}"), gaps);
}

#[test]
fn a_paced_subscriber_that_falls_off_the_log_gets_a_gap_and_is_not_closed() {
    let server = Server::start(&["--history-events", "5"]);
    let mut paced = Subscriber::open(&server, "/events?topic=a&interval_ms=1500");
    server.publish("a", "first");
    paced.expect(&["first"]);
    let event = |n: usize| format!(r#"{{"topic":"a","data":"{n}"}}"#);
    let events: Vec<_> = (0..20).map(event).collect();
    assert_eq!(server.post(&format!("[{}]", events.join(","))).status, 202);
    assert_eq!(paced.event().gap()["reason"], "evicted");
    paced.expect(&["15", "16", "17", "18", "19"]);
    server.publish("a", "after");
    paced.expect(&["after"]);
}

#[test]
fn stalled_subscribers_cost_no_memory_beyond_the_written_bound() {
    let options = ["--history-events", "50", "--send-buffer", "4KiB", "--slow-policy", "skip"];
    let server = Server::start(&[&options[..], &["--history-bytes-total", "2MiB"]].concat());
    let mut healthy = Subscriber::open(&server, "/events?topic=a");
    let _slow: Vec<_> = (0..100).map(|_| slow_subscriber(&server, "")).collect();
    let skipped = "fanfare_skipped_blocked_total";
    let resident_before = server.resident_bytes();
    publish_until(&server, &mut healthy, || {
        let bounded = server.metric("fanfare_retained_bytes") + server.metric("fanfare_pinned_bytes");
        assert!(bounded <= f64::from(2 << 20), "{bounded}");
        server.metric(skipped) >= 20_000.0
    });
    // The kernel's word for it. A copy of each event for each subscriber would be hundreds of MiB.
    let grown = server.resident_bytes().saturating_sub(resident_before);
    assert!(grown < 16 << 20, "{grown} bytes");
    assert_eq!(server.metric("fanfare_lagging_subscribers"), 100.0);
}
