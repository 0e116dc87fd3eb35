//! The clients that people use, as they come: curl, the eventsource package in node, and EventSource in Chromium.
//!
//! No test code helps them: each opens its stream once, and client and server must recover on their own.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanfare::auth::{Grants, LEEWAY, NewToken, Patterns, SigningKey};
use support::redis::RedisServer;
use support::relay::Relay;
use support::server::{Server, TOKEN};
use support::stream::Subscriber;
use support::wait::eventually;
use support::watcher::Watcher;

mod support;

const STREAM: &str = "/events?topic=prices";

#[test]
fn curl_reads_exactly_the_bytes_that_were_published() {
    let server = Server::start(&["--heartbeat", "1h"]);
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--no-buffer", &server.url(STREAM)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs curl on the PATH");
    let mut output = curl.stdout.take().unwrap();
    let mut received = String::new();
    read_through(&mut output, &mut received, "\n\n");
    let retry_and_id: Vec<_> = received.trim_end().split('\n').map(|line| line.split_once(": ").unwrap().0).collect();
    assert_eq!(retry_and_id, ["retry", "id"], "{received:?}");

    let mut expected = received.clone();
    for data in ["one", "", " two\nlines", "\u{1f4e3} \u{e9}", "{\"a\": 1.50}", &"x".repeat(100_000)] {
        let id = server.publish("prices", data);
        let lines: String = data.split('\n').map(|line| format!("data: {line}\n")).collect();
        expected += &format!("id: {id}\n{lines}\n");
    }
    read_through(&mut output, &mut received, "xxx\n\n");
    server.kill();
    output.read_to_string(&mut received).unwrap();
    assert_eq!(received, expected);
    assert!(curl.wait().unwrap().success());
}

#[test]
fn curl_speaks_every_way_it_can_and_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("fanfare.sock");
    let socket = socket.to_str().unwrap();
    let server = Server::start(&["--listen", "127.0.0.1:0", "--listen", &format!("unix:{socket}")]);
    for arguments in [&["--http1.0"][..], &["--unix-socket", socket], &["--compressed"], &["--ipv4", "--http2"]] {
        let mut curl = Command::new("curl")
            .args(["--silent", "--no-buffer", &server.url(STREAM)])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut output, mut received) = (curl.stdout.take().unwrap(), String::new());
        read_through(&mut output, &mut received, "\n\n");
        let id = server.publish("prices", "{\"n\": 1.0}");
        received.clear();
        read_through(&mut output, &mut received, "\n\n");
        curl.kill().unwrap();
        curl.wait().unwrap();
        assert_eq!(received, format!("id: {id}\ndata: {{\"n\": 1.0}}\n\n"), "{arguments:?}");
    }
}

#[test]
fn curl_publishes_small_and_large_by_length_and_in_chunks() {
    let server = Server::start(&["--body-bytes", "8MiB", "--event-bytes", "4MiB", "--history-bytes", "8MiB"]);
    let mut subscriber = Subscriber::open(&server, STREAM);
    let token = format!("Authorization: Bearer {TOKEN}");
    // So large that curl asks before it sends (Expect: 100-continue).
    let large = "x".repeat(3 << 20);
    let body = tempfile::NamedTempFile::new().unwrap();
    let post = |arguments: &[&str]| {
        let file = format!("@{}", body.path().display());
        let curl = Command::new("curl")
            .args(["--silent", "--show-error", "--write-out", " %{http_code}", "--data-binary", &file])
            .args(arguments)
            .arg(server.url("/publish"))
            .output()
            .unwrap();
        String::from_utf8(curl.stdout).unwrap()
    };
    for data in ["small", &large] {
        std::fs::write(body.path(), format!(r#"{{"topic":"prices","data":"{data}"}}"#)).unwrap();
        for more in [&[][..], &["-H", "Transfer-Encoding: chunked"], &["--http1.0"], &["-H", "Expect: 100-continue"]] {
            let answer = post(&[&["-H", &token], more].concat());
            let block = subscriber.event();
            assert_eq!(answer, format!("{{\"id\":\"{}\"}} 202", block.id().unwrap()), "{more:?}");
            assert!(block.data().as_deref() == Some(data), "{more:?}");
        }
        let refused = post(&[]);
        assert!(refused.starts_with('{') && refused.ends_with("} 401"), "{refused}");
    }
}

#[test]
fn the_eventsource_package_in_node_loses_nothing_when_its_connection_is_cut() {
    let server = Server::start(&["--retry", "200ms"]);
    let mut node = Watcher::start("eventsource.mjs");
    // This package takes an id only from an event with data, so it can't resume from the preamble alone.
    loses_nothing_when_cut(&server, &mut node, &["first"]);
}

#[test]
fn an_event_source_in_chromium_loses_nothing_when_its_connection_is_cut() {
    let mut page = Watcher::start("page.mjs");
    let origin = page.wait_for("ready", |_| true).data.expect("the page's origin");
    let server = Server::start(&["--retry", "200ms", "--cors-origin", &origin]);
    // Cut before its first event, it has the position that every stream begins with.
    loses_nothing_when_cut(&server, &mut page, &[]);
}

/// A heartbeat has no empty line of its own: the next event follows it directly.
#[test]
fn event_sources_ignore_heartbeats() {
    let mut page = Watcher::start("page.mjs");
    let origin = page.wait_for("ready", |_| true).data.expect("the page's origin");
    let server = Server::start(&["--heartbeat", "1s", "--cors-origin", &origin]);
    for mut client in [page, Watcher::start("eventsource.mjs")] {
        client.watch(&server.url(STREAM));
        client.wait_for("open", |_| true);
        for data in ["1", "2"] {
            let before = server.metric("fanfare_heartbeats_total");
            server.wait_for_metric("fanfare_heartbeats_total", |count| count >= before + 4.0);
            server.publish("prices", data);
            client.wait_for_message(data);
        }
        assert_eq!(client.received(), ["1", "2"]);
        assert_eq!(client.count("error"), 0);
    }
}

/// What is published while a client is away reaches it when it is back, once, in order, and without a gap. What comes
/// `first` it receives before it is cut.
fn loses_nothing_when_cut(server: &Server, client: &mut Watcher, first: &[&str]) {
    let relay = Relay::to(server.address());
    client.watch(&relay.url(STREAM));
    client.wait_for("open", |_| true);
    let mut expected: Vec<_> = first.iter().map(|data| (*data).to_owned()).collect();
    for data in first {
        server.publish("prices", data);
        client.wait_for_message(data);
    }
    for round in 0..3 {
        relay.cut();
        for n in 0..5 {
            let data = format!("{n} of {round}");
            server.publish("prices", &data);
            expected.push(data);
        }
        client.wait_for_message(&expected[expected.len() - 1]);
    }
    assert_eq!(client.received(), expected);
    assert!(client.count("error") >= 3, "{:#?}", client.happened());
    client.never_closed();
}

#[test]
fn the_eventsource_package_in_node_survives_a_crash_and_receives_the_gap() {
    let server = Server::start(&["--retry", "200ms"]);
    let mut node = Watcher::start("eventsource.mjs");
    node.watch(&server.url(STREAM));
    node.wait_for("open", |_| true);
    server.publish("prices", "1");
    let last = node.wait_for_message("1");

    let address = server.kill();
    node.wait_for("error", |error| error.ready_state == Some(0));
    let server = Server::start(&["--listen", &address.to_string(), "--retry", "200ms"]);
    node.wait_for("gap", |_| true);
    server.publish("prices", "2");
    node.wait_for_message("2");

    let happened = node.happened();
    let requests: Vec<_> = happened.iter().filter(|happened| happened.kind == "request").collect();
    let ids: Vec<_> = requests.iter().map(|request| request.id.as_deref()).collect();
    assert_eq!(ids[0], None, "it began from nothing");
    assert!(ids.len() > 1 && ids[1..].iter().all(|id| *id == last.id.as_deref()), "{last:?} {ids:?}");
    assert_eq!(node.received(), ["1", "gap: unknown_id", "2"]);
    node.never_closed();
}

#[test]
fn one_event_source_in_chromium_survives_the_limit_a_crash_a_drain_and_the_loss_of_redis() {
    let mut redis = RedisServer::start();
    let redis_url = redis.url("redis", "");
    let mut page = Watcher::start("page.mjs");
    let origin = page.wait_for("ready", |_| true).data.expect("the page's origin");
    let serve = |listen: &str, options: &[&str]| {
        let basics = ["--listen", listen, "--cors-origin", &origin, "--redis-url", &redis_url];
        let rest = ["--redis-channel", "prices", "--retry", "200ms", "--drain", "1s"];
        Server::start(&[&basics, &rest[..], options].concat())
    };
    let publish = |redis: &RedisServer, data: &str| {
        // Only then the server has subscribed.
        eventually("Redis has a subscriber", || {
            (redis.command::<u64>(&["PUBLISH", "prices", data]) == 1).then_some(())
        });
    };

    // It finds the server full: as an error that it retries.
    let server = serve("127.0.0.1:0", &["--max-connections", "1"]);
    let occupant = Subscriber::open(&server, STREAM);
    publish(&redis, "while full");
    // With all that is remembered, so that the page shows when it is let in.
    page.watch(&server.url(&format!("{STREAM}&replay=all")));
    eventually("it is refused, and tries again", || (page.count("error") >= 2).then_some(()));
    assert_eq!(page.received(), [""; 0]);
    drop(occupant);
    page.wait_for_message("while full");

    // A crash.
    let address = server.kill().to_string();
    let mut server = serve(&address, &[]);
    eventually("a gap", || (page.count("gap") == 1).then_some(()));
    publish(&redis, "after the crash");
    page.wait_for_message("after the crash");

    // An orderly end, as at a deploy.
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0));
    let _server = serve(&address, &[]);
    eventually("a gap", || (page.count("gap") == 2).then_some(()));
    publish(&redis, "after the drain");
    page.wait_for_message("after the drain");

    // Redis goes: what it would have brought is lost, but the stream stays.
    let [opens, errors] = ["open", "error"].map(|kind| page.count(kind));
    redis.kill();
    redis.restart();
    page.wait_for("gap", |gap| gap.gap_reason() == "source_lost");
    publish(&redis, "after Redis");
    page.wait_for_message("after Redis");
    assert_eq!(["open", "error"].map(|kind| page.count(kind)), [opens, errors], "{:#?}", page.happened());

    let restart = "gap: unknown_id";
    let [crash, drain, lost] = ["after the crash", "after the drain", "after Redis"];
    assert_eq!(page.received(), ["while full", restart, crash, restart, drain, "gap: source_lost", lost]);
    page.never_closed();
}

/// A secret, and a token signed with it that allows the stream for this number of seconds.
const SECRET: &str = "a-secret-of-the-client-tests-that-is-long-enough";

fn token(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - LEEWAY;
    let grants = Grants { subscribe: Patterns::new(["prices"]), ..Grants::default() };
    let token = NewToken { grants, ..NewToken::default() }.valid_for(now, Duration::from_secs(seconds));
    SigningKey::from_secret(SECRET).unwrap().mint(&token, None, None).unwrap()
}

#[test]
fn an_event_source_shows_a_token_in_the_query_and_ends_when_it_has_expired() {
    let mut page = Watcher::start("page.mjs");
    let origin = page.wait_for("ready", |_| true).data.expect("the page's origin");
    let env = [("FANFARE_PUBLISH_TOKEN", TOKEN), ("FANFARE_JWT_SECRET", SECRET)];
    let server = Server::start_with_env(&["--retry", "200ms", "--cors-origin", &origin, "--log-level", "trace"], &env);
    let url = |seconds| server.url(&format!("{STREAM}&access_token={}", token(seconds)));
    let mut node = Watcher::start("eventsource.mjs");
    let mut stranger = Watcher::start("eventsource.mjs");
    stranger.watch(&server.url(STREAM));
    stranger.wait_for("error", |error| error.ready_state == Some(2));

    for client in [&mut page, &mut node] {
        client.watch(&url(12));
        client.wait_for("open", |_| true);
    }
    server.publish("prices", "seen");
    for client in [&mut page, &mut node] {
        client.wait_for_message("seen");
        // The stream ends in order, so it comes back once; the answer is for good.
        client.wait_for("error", |error| error.ready_state == Some(0));
        client.wait_for("error", |error| error.ready_state == Some(2));
    }
    assert_eq!(server.metric("fanfare_closed_total{reason=\"token_expired\"}"), 2.0);
    let mut fresh = Watcher::start("eventsource.mjs");
    fresh.watch(&url(3600));
    fresh.wait_for("open", |_| true);
    server.publish("prices", "with another");
    fresh.wait_for_message("with another");
    assert!(!server.log().text().contains("access_token=ey"), "{}", server.log().text());
    assert!(!server.log().text().contains(token(8).split('.').next().unwrap()), "a token's header");
}

/// Reads until what was read ends so.
fn read_through(from: &mut impl Read, received: &mut String, end: &str) {
    let mut bytes = std::mem::take(received).into_bytes();
    while !bytes.ends_with(end.as_bytes()) {
        let mut buffer = [0; 4096];
        let count = from.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "it ended after {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..count]);
    }
    *received = String::from_utf8(bytes).unwrap();
}
