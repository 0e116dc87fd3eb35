//! `--compress`, from outside: which answers are compressed, and that the clients that people use decode them.

use std::io::Read;
use std::process::{Command, Stdio};

use flate2::{Decompress, FlushDecompress};
use support::http::{Answer, Client};
use support::relay::Relay;
use support::server::Server;
use support::wait::eventually;
use support::watcher::Watcher;

mod support;

const STREAM: &str = "/events?topic=prices";
/// Events that a topic remembers: who misses more gets a gap.
const REMEMBERED: usize = 3;

/// What happens to a stream before its next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    Heartbeat,
    /// It is cut, and resumes with everything that it missed.
    Resume,
    /// It is cut, and resumes with a gap.
    Gap,
}

/// Three things one after the other, in every order: a sequence of de Bruijn.
fn every_order() -> Vec<Happening> {
    const LENGTH: usize = 3;
    let all = [Happening::Heartbeat, Happening::Resume, Happening::Gap];
    let mut sequence = vec![Happening::Gap; LENGTH];
    loop {
        let is_new = |next: &&Happening| {
            let word = [&sequence[sequence.len() - LENGTH + 1..], &[**next]].concat();
            !sequence.windows(LENGTH).any(|known| known == word)
        };
        // The first that leads to an order that was not there yet; it visits all (Martin, 1934).
        match all.iter().find(is_new) {
            Some(next) => sequence.push(*next),
            None => return sequence,
        }
    }
}

#[test]
fn the_orders_are_all_there() {
    let sequence = every_order();
    let mut words: Vec<_> = sequence.windows(3).map(|word| format!("{word:?}")).collect();
    words.sort();
    words.dedup();
    assert_eq!((words.len(), sequence.len()), (27, 29));
}

#[test]
fn chromium_decodes_every_order_of_heartbeat_resume_and_gap() {
    let mut page = Watcher::start("page.mjs");
    let origin = page.wait_for("ready", |_| true).data.expect("the page's origin");
    check(page, &["--cors-origin", &origin]);
}

#[test]
fn undici_decodes_every_order_of_heartbeat_resume_and_gap() {
    check(Watcher::start("eventsource.mjs"), &[]);
}

#[test]
fn curl_decodes_every_order_of_heartbeat_resume_and_gap() {
    check(Watcher::start_python("curl"), &[]);
}

#[test]
fn httpx_decodes_every_order_of_heartbeat_resume_and_gap() {
    check(Watcher::start_python("httpx"), &[]);
}

#[test]
fn requests_decodes_every_order_of_heartbeat_resume_and_gap() {
    check(Watcher::start_python("requests"), &[]);
}

fn check(mut client: Watcher, flags: &[&str]) {
    let remembered = REMEMBERED.to_string();
    let basics = ["--compress", "--heartbeat", "1s", "--retry", "200ms", "--history-events", &remembered];
    let server = Server::start(&[&basics, flags].concat());
    let relay = Relay::to(server.address());
    client.watch(&relay.url(STREAM));
    client.wait_for("open", |_| true);
    let (mut serial, mut expected) = (0, Vec::new());
    let publish = |serial: &mut usize, expected: &mut Vec<String>| {
        *serial += 1;
        // So large that a segment has four.
        let words = "and words that every event has, ".repeat(150);
        let data = format!("event {serial} has a price of {}, {words}{serial}", *serial * 7919);
        server.publish("prices", &data);
        expected.push(data);
    };
    for happening in every_order() {
        // Two, so that the second follows the first in its segment.
        (0..2).for_each(|_| publish(&mut serial, &mut expected));
        client.wait_for_message(expected.last().unwrap());
        let missed = match happening {
            Happening::Heartbeat => {
                let before = server.metric("fanfare_heartbeats_total");
                server.wait_for_metric("fanfare_heartbeats_total", |count| count > before);
                continue;
            }
            Happening::Resume => REMEMBERED,
            Happening::Gap => {
                expected.push("gap: evicted".to_owned());
                REMEMBERED + 2
            }
        };
        relay.stall();
        relay.cut();
        (0..missed).for_each(|n| {
            publish(&mut serial, &mut expected);
            if n < missed - REMEMBERED {
                expected.pop();
            }
        });
        relay.flow();
        client.wait_for_message(expected.last().unwrap());
    }
    assert_eq!(client.received(), expected);
    client.never_closed();
    let [streams, compressed] =
        ["fanfare_streams_total", "fanfare_compressed_streams_total"].map(|name| server.metric(name));
    assert!(streams > 20.0 && compressed == streams, "{compressed} of {streams} streams were compressed");
    assert!(server.metric("fanfare_compressed_forms_total{kind=\"after_others\"}") > 10.0);
}

#[test]
fn an_answer_depends_on_accept_encoding_only_where_streams_are_compressed() {
    let ask = |server: &Server, method: &str, coding: &str| -> (Client, Answer) {
        let mut client = server.connect();
        client.send(format!(
            "{method} {STREAM} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nAccept-Encoding: {coding}\r\n\r\n"
        ));
        let answer = client.head();
        (client, answer)
    };
    let head = |server: &Server, method: &str, coding: &str| ask(server, method, coding).1;
    let compressing = Server::start(&["--compress"]);
    for method in ["GET", "HEAD"] {
        for (coding, expected) in [("gzip, br", Some("gzip")), ("br, gzip;q=0", None), ("*", Some("gzip"))] {
            let answer = head(&compressing, method, coding);
            assert_eq!(answer.header("content-encoding"), expected, "{method} {coding}");
            assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        }
    }
    let plain = Server::start(&[]);
    let answer = head(&plain, "GET", "gzip");
    assert_eq!([answer.header("content-encoding"), answer.header("vary")], [None; 2]);
    let full = Server::start(&["--compress", "--max-connections", "1"]);
    let _occupant = ask(&full, "GET", "gzip");
    eventually("it is full", || (full.metric("fanfare_connections{kind=\"stream\"}") == 1.0).then_some(()));
    let refused = head(&full, "GET", "gzip");
    let coding = [refused.header("content-encoding"), refused.header("vary")];
    assert_eq!(coding, [None, Some("Accept-Encoding")], "a refusal has one short frame");
}

/// No checksum ends the stream: it would differ from subscriber to subscriber.
#[test]
fn a_stream_that_ends_on_purpose_ends_well_for_curl() {
    let mut server = Server::start(&["--compress", "--drain", "1s"]);
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--no-buffer", "--compressed", &server.url(STREAM)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs curl on the PATH");
    server.wait_for_metric("fanfare_compressed_streams_total", |count| count == 1.0);
    let id = server.publish("prices", "last");
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0));
    let mut received = String::new();
    curl.stdout.take().unwrap().read_to_string(&mut received).unwrap();
    assert!(received.contains(&format!("id: {id}\ndata: last\n\nretry: ")), "{received}");
    assert!(curl.wait().unwrap().success());
}

/// The bytes of all subscribers are the same from the first event of a segment on, whenever they joined.
#[test]
fn events_are_compressed_once_and_subscribers_that_join_later_are_sent_other_bytes_until_the_next_segment() {
    let server = Server::start(&["--compress", "--heartbeat", "1h"]);
    let open = || {
        let mut client = server.connect();
        client.send(format!("GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"));
        assert_eq!(client.head().header("content-encoding"), Some("gzip"));
        client
    };
    let forms = |kind: &str| server.metric(&format!("fanfare_compressed_forms_total{{kind=\"{kind}\"}}"));
    let mut clients = vec![open(), open()];
    let event = |n: usize| format!("{n}: {}", "what each event has ".repeat(40));
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |count| count == 2.0);
    let mut expected = Vec::new();
    for n in 0..40 {
        if n == 5 {
            clients.push(open());
            server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |count| count == 3.0);
        }
        let id = server.publish("prices", &event(n));
        expected.push(format!("id: {id}\ndata: {}\n\n", event(n)));
    }
    for (index, client) in clients.into_iter().enumerate() {
        let first = if index == 2 { 5 } else { 0 };
        let (mut inflate, mut text) = (Decompress::new(false), Vec::with_capacity(1 << 20));
        let mut client = client;
        client.read_exactly(10);
        while !text.ends_with(expected[39].as_bytes()) {
            inflate.decompress_vec(&client.read_exactly(1), &mut text, FlushDecompress::Sync).unwrap();
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with(&expected[first..].concat()), "client {index}");
        assert!(inflate.total_in() * 4 < inflate.total_out(), "{} bytes", inflate.total_in());
    }
    // 40 events of 820 bytes: two segments and a part of the third. The third client lacks 15 events of the first.
    let segment = (16 << 10) / expected[0].len() + 1;
    let firsts = 40_usize.div_ceil(segment);
    assert_eq!(forms("after_others"), (40 - firsts) as f64);
    assert_eq!(forms("alone"), (firsts + segment - 5) as f64);
}
