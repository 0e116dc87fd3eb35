//! Injection: what comes from outside stays a value wherever it is shown. Hostile text goes in at every entrance; on
//! the wire, in the log, in the metrics and in JSON it may not begin a field, a line, a sample or a member of its own.

use serde_json::{Value, json};

use crate::support::http::{Answer, Client};
use crate::support::redis::RedisServer;
use crate::support::server::{Server, TOKEN, publish_request};
use crate::support::stream::{Block, Subscriber};
use crate::support::wait::wait_until;

/// What some reader takes for the end of a line, or what moves a terminal's cursor or reverses its text.
const CONTROLS: [&str; 10] =
    ["\n", "\r", "\r\n", "\0", "\x1b[2J\x1b]0;", "\u{7f}", "\u{85}", "\u{9b}31m", "\u{8}", "\x0b"];
/// Not control characters, and no better in a log.
const TRICKS: [&str; 4] = ["\u{2028}", "\u{2029}", "\u{202e}", "\u{feff}"];
/// What ends a text in JSON, in a label, in a log's field or in a shell.
const QUOTES: &str = "\"'`\\\"}],{\"x\":1}\\u000a$(id) reason=\"x\"} 9";
/// What would follow if any of that worked.
const LOOT: &str = "data: INJECTED";

/// What may stand in a name.
fn odd() -> impl Iterator<Item = &'static str> {
    TRICKS.into_iter().chain([QUOTES])
}

fn hostile() -> impl Iterator<Item = &'static str> {
    CONTROLS.into_iter().chain(odd())
}

/// Escapes everything for a target's query.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// A server that logs all it can, and the Redis it listens to.
fn start(redis: &RedisServer, log_format: &str) -> Server {
    let url = redis.url("redis", "");
    let mut options = vec!["--redis-url", &url, "--redis-pattern", "raw*", "--log-level", "trace,mio=off"];
    options.extend([
        "--log-format",
        log_format,
        "--max-topics",
        "12",
        "--trusted-proxy",
        "127.0.0.1",
        "--open-reports",
    ]);
    let server = Server::start(&options);
    server.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 1.0);
    server
}

// ---- the ways in ----

#[test]
fn published_text_stays_in_its_field() {
    for log_format in ["text", "json"] {
        let redis = RedisServer::start();
        let server = start(&redis, log_format);
        let mut subscriber = Subscriber::open(&server, "/events?topic=raw");
        let post = |event: &Value| server.post(&event.to_string());
        for control in CONTROLS {
            let hostile = format!("x{control}{LOOT}");
            for field in ["topic", "event", "id"] {
                let mut event = json!({ "topic": "raw", "data": "x" });
                event[field] = hostile.clone().into();
                check_refused(&post(&event), 400);
            }
            let mut event = json!({ "topic": "raw", "data": "x" });
            event[&hostile] = 1.into();
            check_refused(&post(&event), 400);
        }
        for id in [QUOTES, "a b", "\u{2028}", "é"] {
            check_refused(&post(&json!({ "topic": "raw", "data": "x", "id": id })), 400);
        }
        for text in hostile() {
            let data = format!("x{text}{LOOT}{text}id: 0{text}{text}event: gap{text}");
            let event_type = odd().find(|odd| *odd == text);
            let answer = post(&json!({ "topic": "raw", "data": data, "event": event_type }));
            assert_eq!(answer.status, 202, "{answer}");
            check_event(&subscriber.block(), &data, event_type);
            redis.command::<i64>(&["PUBLISH", "raw", &data]);
            check_event(&subscriber.block(), &data, None);
        }
        check_everything_shown(&server, log_format);
    }
}

#[test]
fn a_redis_message_becomes_an_event_or_one_logged_refusal() {
    let redis = RedisServer::start();
    let url = redis.url("redis", "");
    let options = ["--redis-url", &url, "--redis-channel", "e", "--redis-pattern", "e*", "--redis-payload", "envelope"];
    let server = Server::start(&options);
    server.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 1.0);
    let mut subscriber = Subscriber::open(&server, "/events?topic=e");
    for control in CONTROLS {
        let hostile = format!("e{control}{LOOT}");
        // A channel that can't be a topic; an envelope for another topic, with another type, with another id.
        redis.command::<i64>(&["PUBLISH", &hostile, r#"{"data":"x"}"#]);
        for field in ["topic", "event", "id"] {
            let mut envelope = json!({ "topic": "e", "data": "x" });
            envelope[field] = hostile.clone().into();
            redis.command::<i64>(&["PUBLISH", "e", &envelope.to_string()]);
            assert_eq!(subscriber.block().gap()["reason"], "event_refused");
        }
        redis.command::<i64>(&["PUBLISH", "e", &hostile]);
        assert_eq!(subscriber.block().gap()["reason"], "event_refused");
    }
    for trick in odd() {
        redis.command::<i64>(&["PUBLISH", "e", &json!({ "data": "x", "event": trick }).to_string()]);
        check_event(&subscriber.block(), "x", Some(trick));
    }
    let refused = "fanfare_source_refused_total{source=\"redis\",reason=\"malformed\"}";
    assert_eq!(server.metric(refused), (5 * CONTROLS.len()) as f64);
    check_everything_shown(&server, "text");
}

#[test]
fn text_in_a_request_stays_a_value() {
    for log_format in ["text", "json"] {
        let redis = RedisServer::start();
        let server = start(&redis, log_format);
        for text in hostile() {
            let value = format!("x{text}{LOOT}");
            let target = escaped(&value);
            if CONTROLS.contains(&text) {
                check_refused(&server.get(&format!("/events?topic={target}")), 400);
            } else {
                let mut subscriber = Subscriber::open(&server, &format!("/events?topic={target}"));
                server.publish(&value, "x");
                check_event(&subscriber.block(), "x", None);
                let shown = server.get(&format!("/topics/{target}")).json();
                assert_eq!(shown["topic"], value);
            }
            // NUL is refused wherever it stands; any other path just is not there.
            let status = if text == "\0" { 400 } else { 404 };
            check_refused(&server.get(&format!("/{target}")), status);
            check_refused(&server.get(&format!("/topics/no{target}")), status);
            for parameter in ["replay", "interval_ms", "latest"] {
                check_refused(&server.get(&format!("/events?{parameter}={target}")), 400);
            }
            if text != "\0" {
                // An id that was never given is unknown, and is not repeated.
                check_unknown_id(server.connect(), &format!("/events?topic=raw&last_event_id={target}"), b"");
            }
            check_header_values(&server, &value);
        }
        check_everything_shown(&server, log_format);
    }
}

/// The same text in the fields that a server may be tempted to repeat.
fn check_header_values(server: &Server, hostile: &str) {
    let is_allowed = !hostile.bytes().any(|byte| byte.is_ascii_control());
    for field in ["Origin", "User-Agent", "Host", "X-Forwarded-For", "Cookie", "Authorization", "Accept"] {
        let host = if field == "Host" { "" } else { "Host: localhost\r\n" };
        let mut client = server.connect();
        client.send(format!("GET /nowhere HTTP/1.1\r\n{host}{field}: {hostile}\r\nConnection: close\r\n\r\n"));
        let answer = client.answer();
        // A field can't hold a line's end, so what follows one is another field, or nothing at all.
        let expected = if is_allowed && field != "Host" { vec![404] } else { vec![400, 404] };
        assert!(expected.contains(&answer.status), "{field}: {hostile:?}: {answer}");
        check_refused(&answer, answer.status);
        client.ends();
    }
    if is_allowed {
        let header = [b"Last-Event-ID: ", hostile.as_bytes(), b"\r\n"].concat();
        check_unknown_id(server.connect(), "/events?topic=raw", &header);
    }
}

#[test]
fn long_text_of_strangers_is_clipped_in_the_log_and_no_line_is_longer_than_a_pipe_takes_at_once() {
    for log_format in ["text", "json"] {
        let server = Server::start(&["--log-level", "trace,mio=off", "--log-format", log_format]);
        let long = "\u{202e}".repeat(4000);
        server.request(&format!("GET /nowhere HTTP/1.1\r\nHost: h\r\nOrigin: {long}\r\n\r\n"));
        server.get(&format!("/{}", "x".repeat(8000)));
        server.wait_for_log(&["a page of this origin may not read", "(12000 bytes)"]);
        server.wait_for_log(&["request", &format!("/{}… (8001 bytes)", "x".repeat(199))]);
        let log = server.log().text();
        assert!(log.lines().all(|line| line.len() < 4096), "{log}");
    }
}

#[test]
fn after_a_hundred_invented_origins_a_real_one_is_logged() {
    // Each loop has limits of its own on entries of the log.
    let server = Server::start(&["--loops", "1"]);
    let ask_from =
        |origin: &str| server.request(&format!("GET /health HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n"));
    for n in 0..150 {
        ask_from(&format!("https://junk-{n}.example"));
    }
    server.wait_for_log(&["WARN", "more like this in the last 10 s: a page of this origin may not read"]);
    ask_from("https://app.example");
    server.wait_for_log(&["WARN", "--cors-origin \"https://app.example\" would permit it"]);
    // Once is enough, as long as nothing crowds it out.
    ask_from("https://app.example");
    ask_from("https://other.example");
    server.wait_for_log(&["--cors-origin \"https://other.example\""]);
    assert_eq!(server.log().text().matches("--cors-origin \"https://app.example\"").count(), 1);
}

fn check_unknown_id(mut client: Client, target: &str, header: &[u8]) {
    client.send([format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n").as_bytes(), header, b"\r\n"].concat());
    assert_eq!(client.head().status, 200);
    let preamble = String::from_utf8(client.read_through(b"\n\n").unwrap()).unwrap();
    assert!(preamble.starts_with("retry: ") && preamble.lines().count() == 2, "{preamble:?}");
    let gap = Block { raw: String::from_utf8(client.read_through(b"\n\n").unwrap()).unwrap() };
    assert_eq!(gap.gap()["reason"], "unknown_id");
    assert!(!gap.raw.contains("INJECTED"), "{gap:?}");
}

// ---- the ways out ----

/// Checks that a block is this event, field by field, and nothing else.
#[track_caller]
fn check_event(block: &Block, data: &str, event_type: Option<&str>) {
    let id = block.id().expect("every event has an id");
    assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{block:?}");
    let unified = data.replace("\r\n", "\n").replace('\r', "\n");
    let event = event_type.map_or(String::new(), |event_type| format!("event: {event_type}\n"));
    let lines: String = unified.split('\n').map(|line| format!("data: {line}\n")).collect();
    assert_eq!(block.raw, format!("id: {id}\n{event}{lines}\n"));
}

/// Checks that a refusal's head has only the server's own fields, and its body is one JSON object.
#[track_caller]
fn check_refused(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer}");
    answer.problem();
    assert!(!answer.head.contains("INJECTED"), "{answer}");
    check_json(&answer.body);
}

#[track_caller]
fn check_json(body: &[u8]) {
    let text = std::str::from_utf8(body).unwrap();
    serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(!text.contains(char::is_control), "control characters stand in JSON as escapes: {text:?}");
}

/// Checks all that operators see of it.
fn check_everything_shown(server: &Server, log_format: &str) {
    for target in ["/dashboard/debug", "/dashboard/data", "/topics", "/health", "/"] {
        check_json(&server.get(target).body);
    }
    let metrics = server.get("/metrics");
    for line in metrics.text().lines() {
        let is_sample = line.rsplit_once(' ').is_some_and(|(name, value)| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_{}=\",.+/".contains(&byte);
            value.parse::<f64>().is_ok() && name.bytes().all(plain)
        });
        assert!(line.starts_with("# ") || is_sample, "{line:?}");
    }
    assert!(!metrics.text().contains("INJECTED"));

    // The last request is in the log, so everything before it is.
    server.get("/the-end");
    wait_until("the log is written", || server.log().find(&["/the-end"]).is_some() || log_format == "text");
    let log = server.log().text();
    for line in log.lines() {
        let is_entry = match log_format {
            "json" => serde_json::from_str::<Value>(line).is_ok_and(|entry| entry["level"].is_string()),
            _ => line.starts_with("20") && line.split_whitespace().nth(1).is_some_and(|level| level.len() <= 5),
        };
        assert!(is_entry, "{line:?}");
        let is_tricked = TRICKS.iter().any(|trick| line.contains(trick));
        assert!(!line.contains(char::is_control) && !is_tricked, "{line:?}");
    }
    assert!(!log.contains(TOKEN), "no secret is in it");
}

#[test]
fn one_publish_body_is_not_two() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let authorization = format!("Authorization: Bearer {TOKEN}\r\n");
    for body in [
        r#"{"topic":"a","data":"x"}{"topic":"a","data":"y"}"#,
        "{\"topic\":\"a\",\"data\":\"x\"}\n{\"topic\":\"a\",\"data\":\"y\"}",
        r#"{"topic":"a","data":"x","data":"y"}"#,
        r#"{"topic":"a","topic":"b","data":"x"}"#,
        r#"{"topic":"a","data":"x","d\u0061ta":"y"}"#,
    ] {
        let answer = server.request(&publish_request(body, &authorization));
        assert_eq!(answer.status, 400, "{body}: {answer}");
    }
    server.publish("a", "z");
    subscriber.expect(&["z"]);
}
