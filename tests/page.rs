//! The page and the statistics on the real binary's wire; and, in Chromium, what a person sees.

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::server::Server;
use support::stream::Subscriber;
use support::wait::wait_until;

/// Statistics, one a second, that a test waits for at most.
const SECONDS_MAX: usize = 60;
const STATISTICS: &str = "/events?topic=fanfare:statistics";
const VERSIONED_CLIENT: &str = concat!("/fanfare-", env!("CARGO_PKG_VERSION"), ".js");
const FILES: [(&str, &str); 18] = [
    ("/dashboard", "text/html; charset=utf-8"),
    ("/fanfare.js", "text/javascript; charset=utf-8"),
    (VERSIONED_CLIENT, "text/javascript; charset=utf-8"),
    ("/fanfare.d.ts", "text/plain; charset=utf-8"),
    ("/dashboard/page/page.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/charts.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/figures.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/inspector.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/details.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/disconnect.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/dom.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/eventlist.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/publish.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/topics.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/tree.js", "text/javascript; charset=utf-8"),
    ("/dashboard/page/page.css", "text/css; charset=utf-8"),
    ("/dashboard/page/icon.svg", "image/svg+xml"),
    ("/openapi.json", "application/json"),
];

fn get(server: &Server, target: &str, header_lines: &str) -> support::http::Answer {
    server.request(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{header_lines}\r\n"))
}

#[test]
fn every_file_comes_with_its_policy_and_only_once() {
    let server = Server::start(&[]);
    let mut bytes = 0;
    for (path, content_type) in FILES {
        let plain = get(&server, path, "");
        assert_eq!((plain.status, plain.header("content-type")), (200, Some(content_type)), "{path}");
        assert_eq!(plain.header("content-encoding"), None);
        let policy = plain.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

        let packed = get(&server, path, "Accept-Encoding: br, gzip\r\n");
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert!(packed.body.starts_with(&[0x1f, 0x8b]) && packed.body.len() < plain.body.len(), "{path}");
        bytes += if path == VERSIONED_CLIENT { 0 } else { packed.body.len() };
        let (tag, packed_tag) = (plain.header("etag").unwrap(), packed.header("etag").unwrap());
        assert_ne!(tag, packed_tag, "different bytes");

        let known = get(&server, path, &format!("If-None-Match: \"x\", W/{tag}\r\n"));
        assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(tag)));
        assert_eq!(get(&server, path, &format!("If-None-Match: {packed_tag}\r\n")).status, 200);
    }
    assert!(bytes <= 60 << 10, "{bytes} bytes in all, compressed");
}

#[test]
fn a_version_of_the_client_is_kept_for_a_year_by_pages_of_every_origin() {
    let server = Server::start(&[]);
    let list = server.get("/").json();
    assert!(list["client"].as_array().unwrap().contains(&VERSIONED_CLIENT.into()), "{list}");
    let elsewhere = "Origin: https://elsewhere.example\r\n";
    for header_lines in ["", elsewhere] {
        let versioned = get(&server, VERSIONED_CLIENT, header_lines);
        assert_eq!(versioned.status, 200, "{versioned}");
        assert_eq!(versioned.header("cache-control"), Some("public, max-age=31536000, immutable"));
        // The same for all: a cache may give an answer that it has for one origin, or for none, to another.
        assert_eq!(versioned.header("access-control-allow-origin"), Some("*"));
        assert_eq!(versioned.header("vary"), Some("Accept-Encoding"));
        let current = get(&server, "/fanfare.js", header_lines);
        assert_eq!(current.header("cache-control"), Some("no-cache"));
        assert_eq!(current.header("access-control-allow-origin"), Some("*"));
        assert!(current.body == versioned.body && current.header("etag") == versioned.header("etag"));
        assert_eq!(get(&server, "/dashboard", header_lines).header("access-control-allow-origin"), None);
    }
    let allowed = Server::start(&["--cors-origin", "https://elsewhere.example"]);
    let versioned = get(&allowed, VERSIONED_CLIENT, elsewhere);
    assert_eq!(versioned.head.to_ascii_lowercase().matches("access-control-allow-origin").count(), 1, "{versioned}");

    let other = get(&server, "/fanfare-0.0.7.js", "");
    assert_eq!((other.status, other.header("cache-control")), (404, Some("no-store")));
    assert!(other.text().contains(VERSIONED_CLIENT), "{other}");
    assert_eq!(get(&server, "/fanfare-", "").header("cache-control"), None);
}

#[test]
fn the_root_is_the_page_for_browsers_and_a_list_for_others() {
    let server = Server::start(&[]);
    let page = get(&server, "/", "Accept: text/html,*/*;q=0.8\r\n");
    assert!(page.text().starts_with("<!doctype html>"));
    assert_eq!(get(&server, "/", "Accept: */*\r\n").json()["page"], "/dashboard");
}

#[test]
fn statistics_are_sent_once_a_second_to_authorized_clients() {
    let server = Server::start(&["--dev"]);
    let mut watcher = Subscriber::open(&server, STATISTICS);
    let mut subscriber = Subscriber::open(&server, "/events?topic=t");
    for data in ["a", "b", "c"] {
        server.publish("t", data);
    }
    subscriber.expect(&["a", "b", "c"]);
    let first = std::iter::repeat_with(|| statistics(&mut watcher))
        .find(|statistics| statistics["events"]["delivered"].as_u64() >= Some(3))
        .unwrap();
    assert!(first["connections"]["streams"].as_u64() >= Some(2), "{first}");
    let topics: Vec<_> = first["topics"]["busiest"].as_array().unwrap().iter().map(|topic| &topic["topic"]).collect();
    assert!(topics.contains(&&Value::from("t")), "{first}");
    assert_eq!(first["sources"][0]["name"], "host");
    let second = statistics(&mut watcher);
    assert!(second["time_ms"].as_u64() > first["time_ms"].as_u64());
    let interval = second["time_ms"].as_u64().unwrap() - first["time_ms"].as_u64().unwrap();
    assert!(interval >= 900, "{interval} ms: more often than once a second");
    let loaded = std::iter::repeat_with(|| {
        server.publish("t", "d");
        statistics(&mut watcher)
    })
    .find(|statistics| statistics["broadcast_us"]["count"] != 0)
    .unwrap();
    for latency in [&loaded["delivery_us"], &loaded["broadcast_us"], &second["loop"]["turn_us"]] {
        assert!(
            latency["p50"].as_f64() <= latency["p99"].as_f64() && latency["count"].as_u64() >= Some(1),
            "{latency}"
        );
    }
}

/// The next statistics.
fn statistics(watcher: &mut Subscriber) -> Value {
    serde_json::from_str(&watcher.event().data().unwrap()).unwrap()
}

#[test]
fn what_looks_at_a_server_is_not_in_its_statistics() {
    let server = Server::start(&[]);
    let mut watchers = [(); 3].map(|()| Subscriber::over(server.connect_admin(), STATISTICS, ""));
    for _ in 0..3 {
        // With several loops, a loop knows the others' figures of a second ago.
        statistics(&mut watchers[0]);
        assert_eq!(server.get_admin("/dashboard").status, 200);
    }
    let idle = statistics(&mut watchers[0]);
    for figure in [
        "/subscribers/count",
        "/events/published",
        "/events/delivered",
        "/events/published_per_second",
        "/events/delivered_per_second",
        "/events/sent_bytes_per_second",
        "/delivery_us/count",
        "/broadcast_us/count",
    ] {
        assert_eq!(idle.pointer(figure).and_then(Value::as_f64), Some(0.0), "{figure}: {idle}");
    }
    let mut subscriber = Subscriber::open(&server, "/events?topic=t");
    server.publish("t", "counts");
    subscriber.expect(&["counts"]);
    let is_counted = |statistics: Value| {
        let of = |figure| statistics.pointer(figure).and_then(Value::as_u64);
        (of("/events/published"), of("/events/delivered"), of("/subscribers/count")) == (Some(1), Some(1), Some(1))
    };
    let next = std::iter::repeat_with(|| statistics(&mut watchers[1]));
    next.take(SECONDS_MAX).find(|now| is_counted(now.clone())).unwrap();
    assert!(server.metric("fanfare_delivered_events_total") > 4.0, "the metrics count all");
}

#[test]
fn a_stream_with_the_statistics_and_other_topics_is_not_counted_either() {
    let server = Server::start(&["--dev", "--dashboard-topic", "host"]);
    let mut watcher = Subscriber::open(&server, &format!("{STATISTICS}&topic=t"));
    let mut seen = u64::MAX - 2;
    for _ in 0..2 * SECONDS_MAX {
        match watcher.event().data().unwrap() {
            data if data == "seen" => {}
            data => {
                let now: Value = serde_json::from_str(&data).unwrap();
                if seen > u64::MAX - 3 {
                    seen = now["events"]["published"].as_u64().unwrap();
                    server.publish("t", "seen");
                    server.publish("t", "seen");
                }
                // The host of --dev publishes too.
                if now["events"]["published"].as_u64() >= Some(seen + 2) {
                    assert_eq!(
                        (&now["events"]["delivered"], &now["subscribers"]["count"]),
                        (&0.into(), &0.into()),
                        "{now}"
                    );
                    return;
                }
            }
        }
    }
    panic!("no statistics after the events");
}

#[test]
fn the_last_minutes_are_there_without_a_watcher() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=t");
    server.publish("t", "before a watcher");
    subscriber.expect(&["before a watcher"]);
    let history = || server.get_admin("/dashboard/history").json();
    let column = |history: &Value, name: &str| -> Vec<Option<f64>> {
        let columns = history["columns"].as_array().unwrap();
        let place = columns.iter().position(|column| column == name).unwrap();
        let rows = history["rows"].as_array().unwrap().iter().map(|row| row.as_array().unwrap());
        rows.inspect(|row| assert_eq!(row.len(), columns.len())).map(|row| row[place].as_f64()).collect()
    };
    wait_until("the event is in a row", || {
        column(&history(), "events.delivered_per_second").iter().any(|rate| *rate > Some(0.0))
    });
    let history = history();
    assert!(column(&history, "time_ms").is_sorted() && !column(&history, "loop.turn_us.p99").contains(&None));
    assert_eq!(history["totals"].as_array().unwrap().len(), 1, "{history}");
    let stranger = get(&server, "/dashboard/history", "X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(stranger.status, 403, "it is for operators");
}

#[test]
fn a_client_that_reads_nothing_is_named_by_its_address() {
    let server = Server::start(&["--history-bytes", "64MiB", "--history-bytes-total", "64MiB"]);
    let _stalled = Subscriber::open(&server, "/events?topic=t");
    let mut watcher = Subscriber::over(server.connect_admin(), STATISTICS, "");
    let large = "x".repeat(200_000);
    let slow = std::iter::repeat_with(|| {
        server.publish("t", &large);
        statistics(&mut watcher)["subscribers"]["slow"].clone()
    })
    .take(SECONDS_MAX)
    .find(|slow| slow != &json!([]))
    .unwrap();
    assert_eq!((&slow[0]["address"], &slow[0]["streams"]), (&"127.0.0.1".into(), &1.into()), "{slow}");
    assert!(slow[0]["waiting_seconds"].is_number(), "{slow}");
}

#[test]
fn statistics_are_published_only_to_watchers() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=t");
    let heartbeats = "fanfare_loop_turn_duration_seconds_count";
    let turns = server.metric(heartbeats);
    server.wait_for_metric(heartbeats, |now| now >= turns + 10.0);
    assert_eq!(server.metric("fanfare_broadcasts_total"), 0.0);
    server.publish("t", "only this");
    subscriber.expect(&["only this"]);
    assert_eq!(server.metric("fanfare_broadcasts_total"), 1.0);
}

#[test]
fn statistics_are_for_operators() {
    let env = [("FANFARE_OPERATOR_TOKEN", "operators-own"), ("FANFARE_PUBLISH_TOKEN", support::server::TOKEN)];
    let server = Server::start_with_env(&[], &env);
    let check = |header_lines: &str, status: u16| {
        let answer = get(&server, STATISTICS, header_lines);
        assert_eq!(answer.status, status, "{header_lines:?}: {answer}");
    };
    check("", 401);
    check("Authorization: Bearer wrong-token\r\n", 401);
    check(&format!("Authorization: Bearer {}\r\n", support::server::TOKEN), 401);
    let mut watcher = Subscriber::over(server.connect(), STATISTICS, "Authorization: Bearer operators-own\r\n");
    watcher.event();
    let snapshot = get(&server, "/dashboard/data", "Authorization: Bearer operators-own\r\n");
    assert!(snapshot.json()["topics"].as_object().unwrap().is_empty(), "nor in the snapshot");
    assert!(
        server.get(&STATISTICS.replace("/events", "/dashboard/data")).json()["topics"].as_object().unwrap().is_empty()
    );

    let none = Server::start(&[]);
    assert_eq!(get(&none, STATISTICS, "Authorization: Bearer x\r\n").status, 403, "no operator is configured");
    let dev = Server::start(&["--dev"]);
    for stranger in ["X-Forwarded-For: 192.0.2.7\r\n", "Origin: https://elsewhere.example\r\n"] {
        assert_eq!(get(&dev, STATISTICS, stranger).status, 403, "{stranger}");
    }
}

#[test]
fn the_admin_listener_has_the_page_and_of_streams_the_statistics_alone() {
    let server = Server::start(&["--max-connections", "1"]);
    let _only_one = Subscriber::open(&server, "/events?topic=t");
    assert_eq!(server.get_admin("/dashboard").status, 200);
    Subscriber::over(server.connect_admin(), STATISTICS, "").event();
    for target in ["/events", "/events?topic=t", "/events?topic=fanfare:statistics&topic=t"] {
        assert_eq!(server.get_admin(target).status, 403, "{target}");
    }
    assert_eq!(server.get_admin("/dashboard/stream").status, 404);
}

#[test]
fn publishing_to_the_servers_own_topics_is_refused() {
    let server = Server::start(&["--dev"]);
    for topic in ["fanfare:statistics", "fanfare:anything"] {
        let answer = server.post(&format!(r#"{{"topic":"{topic}","data":"x"}}"#));
        assert_eq!(answer.status, 400, "{answer}");
        assert!(answer.text().contains("is reserved"), "{answer}");
    }
    assert_eq!(server.get("/events?topic=fanfare:anything").status, 400);
    assert_eq!(server.post(r#"{"topic":"fanfare","data":"x"}"#).status, 202);
}

#[test]
fn a_person_sees_it_live() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page");
    let mut tests = Command::new("node");
    tests.args(["--test", "page.test.mjs"]).current_dir(folder).env("FANFARE_BIN", env!("CARGO_BIN_EXE_fanfare"));
    assert!(tests.status().expect("tests/setup has installed node").success());
}

#[test]
fn the_types_of_the_client_are_what_pages_rely_on() {
    let tsc = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/node_modules/typescript/bin/tsc");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/types.ts");
    let mut check = Command::new("node");
    check.args([tsc, "--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom"]);
    check.args(["--module", "esnext", "--moduleResolution", "bundler", source]);
    assert!(check.status().expect("tests/setup has installed node").success());
}
