//! Limits: exact at the bound, readable refusals beyond it, and operators are always answered.

use crate::support::http::{Answer, Client};
use crate::support::server::{Server, publish_request};
use crate::support::stream::{Subscriber, stream_request};
use crate::support::wait::eventually;

/// Asks for a stream and reads the whole answer, which ends.
#[track_caller]
fn refused_stream(server: &Server, header_lines: &str) -> Answer {
    let mut client = server.connect();
    client.send(format!("GET /events?topic=a HTTP/1.1\r\nHost: localhost\r\n{header_lines}\r\n"));
    let mut answer = client.head();
    if header_lines.contains("event-stream") {
        answer.body = client.read_to_end();
    } else {
        answer.body = client.read_through(b"}").unwrap();
    }
    answer
}

/// An EventSource gives up permanently on anything but 200, so it gets a 200 with a reconnection time.
#[track_caller]
fn check_reconnection_time(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer}");
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(answer.header("connection"), Some("close"));
    let retry_ms: u64 = answer.text().strip_prefix("retry: ").unwrap().trim_end().parse().unwrap();
    assert!((2400..=3600).contains(&retry_ms), "{retry_ms}");
}

#[test]
fn as_many_streams_as_are_allowed_and_not_one_more() {
    let server = Server::start(&["--max-connections", "5"]);
    let mut streams: Vec<_> = (0..5).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    check_reconnection_time(&refused_stream(&server, "Accept: text/event-stream\r\n"));
    for accept in ["", "Accept: */*\r\n", "Accept: text/html\r\n"] {
        let refused = refused_stream(&server, accept);
        assert_eq!(refused.status, 503, "{refused}");
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((3..=4).contains(&seconds), "{seconds}");
        refused.problem();
    }
    assert_eq!(server.refused("stream_limit"), 4.0);
    assert_eq!(server.metric("fanfare_connections{kind=\"stream\"}"), 5.0);
    // Requests are not streams: publishing continues, and open streams miss nothing.
    server.publish("a", "x");
    streams.iter_mut().for_each(|stream| stream.expect(&["x"]));
    streams.pop();
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 4.0);
    Subscriber::open(&server, "/events?topic=a");
}

#[test]
fn each_address_has_its_own_limit_of_connections() {
    let server = Server::start(&["--max-connections-per-ip", "3"]);
    let streams: Vec<_> = (0..3).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    check_reconnection_time(&refused_stream(&server, "Accept: text/event-stream\r\n"));
    let refused = refused_stream(&server, "");
    assert_eq!(refused.status, 429, "{refused}");
    assert!(refused.header("retry-after").is_some());
    refused.problem();
    assert_eq!(server.refused("address_limit"), 2.0);
    let other = || Client::connect_from("127.0.0.77", server.address());
    let _others: Vec<_> = (0..3).map(|_| Subscriber::over(other(), "/events?topic=a", "")).collect();
    drop(streams);
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 3.0);
    Subscriber::open(&server, "/events?topic=a");
}

#[test]
fn connections_far_beyond_the_limit_of_an_address_are_reset() {
    let server = Server::start(&["--max-connections-per-ip", "2"]);
    // Sixteen more than allowed may send a request and get a refusal; any further one would only cost memory.
    let held: Vec<_> = (0..18).map(|_| server.connect()).collect();
    server.wait_for_metric("fanfare_connections{kind=\"request\"}", |connections| connections == 19.0);
    let mut beyond = server.connect();
    assert_eq!(beyond.read_until_broken(), Some(std::io::ErrorKind::ConnectionReset));
    drop(held);
    server.wait_for_metric("fanfare_connections{kind=\"request\"}", |connections| connections == 1.0);
    Subscriber::open(&server, "/events?topic=a");
}

#[test]
fn topics_and_events_are_accepted_up_to_their_limit() {
    let options = ["--topics-per-subscriber", "3", "--topic-bytes", "20", "--event-bytes", "1KiB"];
    let server = Server::start(&[&options[..], &["--history-events", "1"]].concat());
    Subscriber::open(&server, "/events?topic=a&topic=b&topic=c&topic=a");
    let check = |target: &str, status: u16| {
        let answer = server.get(target);
        assert_eq!(answer.status, status, "{target}: {answer}");
        answer.problem();
    };
    check("/events?topic=a&topic=b&topic=c&topic=d", 400);
    // Refused at the fourth name: the one after it is not examined.
    check("/events?topic=a&topic=b&topic=c&topic=d&topic=%0A", 400);
    Subscriber::open(&server, &format!("/events?{}", "topic=a&topic=b&".repeat(200)));
    check("/events?topic=", 400);
    check("/events?topic=a%0Ab", 400);
    let (longest, longer) = ("t".repeat(20), "t".repeat(21));
    Subscriber::open(&server, &format!("/events?topic={longest}"));
    check(&format!("/events?topic={longer}"), 400);
    server.publish(&longest, "x");
    let post = |topic: &str, data: &str| server.post(&format!(r#"{{"topic":"{topic}","data":"{data}"}}"#)).status;
    assert_eq!(post(&longer, "x"), 400);
    assert_eq!(post("a", &"x".repeat(1024)), 202);
    assert_eq!(post("a", &"x".repeat(1025)), 413);
    // What counts is the text as it is sent: before each further line stands a field name of six bytes.
    assert_eq!(post("a", &"\\n".repeat(146)), 202);
    assert_eq!(post("a", &"\\n".repeat(147)), 413);
    let event = r#"{"topic":"a","data":"x"}"#;
    let batch = |events: usize| server.post(&format!("[{}]", vec![event; events].join(","))).status;
    assert_eq!(batch(1000), 202);
    assert_eq!(batch(1001), 413);
    let counted = [("topics_per_subscriber", 2.0), ("topic_bytes", 2.0), ("event_bytes", 2.0), ("batch_events", 1.0)];
    counted.iter().for_each(|(reason, count)| assert_eq!(server.refused(reason), *count, "{reason}"));
}

#[test]
fn a_topic_that_looks_like_a_pattern_is_refused_wherever_a_client_names_it() {
    let server = Server::start(&[]);
    let check = |answer: Answer| {
        assert_eq!(answer.status, 400, "{answer}");
        assert!(answer.text().contains("names are exact"), "{answer}");
    };
    for target in ["/events?topic=orders.*", "/events?topic=a&topic=%2a", "/dashboard/data?topic=orders.*"] {
        check(server.get(target));
    }
    check(server.post(r#"{"topic":"orders.*","data":"x"}"#));
    check(server.post(r#"[{"topic":"a","data":"x"},{"topic":"*","data":"x"}]"#));
    assert_eq!(server.metric("fanfare_broadcasts_total"), 0.0, "an array is published whole or not at all");
    Subscriber::open(&server, "/events?topic=orders.%3F&topic=[a]");
}

#[test]
fn a_subscriber_may_send_64_kib_and_not_a_byte_more() {
    let server = Server::start(&[]);
    let mut stream = Subscriber::open(&server, "/events?topic=a");
    stream.client.send(vec![b'x'; 64 << 10]);
    server.publish("a", "still here");
    stream.expect(&["still here"]);
    assert_eq!(server.metric("fanfare_closed_total{reason=\"upload\"}"), 0.0);
    stream.client.send("x");
    server.wait_for_metric("fanfare_closed_total{reason=\"upload\"}", |closed| closed == 1.0);
    assert_eq!(server.metric("fanfare_connections{kind=\"stream\"}"), 0.0);
}

#[test]
fn bad_parameters_of_a_stream_are_400() {
    let server = Server::start(&[]);
    for query in ["replay=some", "interval_ms=-1", "interval_ms=1s", "interval_ms=3600001", "latest=2"] {
        let answer = server.get(&format!("/events?{query}"));
        assert_eq!(answer.status, 400, "{query}: {answer}");
        answer.problem();
    }
}

#[test]
fn a_topic_limit_refuses_streams_until_a_topic_is_free() {
    let server = Server::start(&["--max-topics", "2"]);
    let first = Subscriber::open(&server, "/events?topic=a");
    let _second = Subscriber::open(&server, "/events?topic=b");
    let mut client = server.connect();
    client.send(stream_request("/events?topic=c", ""));
    let mut answer = client.head();
    answer.body = client.read_to_end();
    check_reconnection_time(&answer);
    assert_eq!(server.refused("topic_limit"), 1.0);
    drop(first);
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 1.0);
    Subscriber::open(&server, "/events?topic=c");
}

#[test]
fn topics_that_strangers_name_leave_configured_and_published_ones_their_places_and_histories() {
    // Each loop has places of its own for topics.
    let server = Server::start(&["--max-topics", "2", "--default-topic", "configured", "--loops", "1"]);
    server.publish("a", "1");
    let mut of_a = Subscriber::open(&server, "/events?topic=a&replay=all");
    of_a.expect(&["1"]);
    let position = server.publish("a", "2");
    // Names without end: each stream's topics vanish with it.
    for n in 0..20 {
        let _stranger = Subscriber::open(&server, &format!("/events?topic=x{n}&topic=y{n}"));
        server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 2.0);
        let mut client = server.connect();
        client.send(stream_request("/events?topic=z", ""));
        assert!(client.head().header("Connection").is_some_and(|value| value == "close"), "no place for a third");
        server.publish("b", "published topics have places of their own");
        let mut configured = Subscriber::open(&server, "/events");
        server.publish("configured", "reserved");
        configured.expect(&["reserved"]);
        drop(configured);
        server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 2.0);
        drop(_stranger);
        server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 1.0);
    }
    Subscriber::open(&server, "/events?topic=a&replay=all").expect(&["1", "2"]);
    server.publish("a", "3");
    Subscriber::resume(&server, "/events?topic=a", &position).expect(&["3"]);
    // With every published topic in use, one more has no place.
    let _of_b = Subscriber::open(&server, "/events?topic=b");
    assert_eq!(server.post(r#"{"topic":"c","data":"x"}"#).status, 503);
}

/// Opens this number of connections while the server is stopped, so that it finds them all at the same time.
fn connect_at_once(server: &Server, count: usize) -> Vec<Client> {
    server.signal("STOP");
    let clients = (0..count).map(|_| server.connect()).collect();
    server.signal("CONT");
    clients
}

#[test]
fn as_many_connections_as_the_accept_rate_allows_are_accepted_at_once_and_the_next_waits() {
    let pauses = |server: &Server| server.metric("fanfare_accept_pauses_total{reason=\"rate\"}");
    for (count, expected) in [(10, 0.0), (11, 1.0)] {
        // Of several loops, one may try to accept a connection that another has just accepted, and pause for the rate.
        let server = Server::start(&["--accept-rate", "10", "--loops", "1"]);
        let mut clients = connect_at_once(&server, count);
        for client in &mut clients {
            client.get("/health/live");
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200, "it waits, but is served"));
        assert_eq!(pauses(&server), expected, "{count} connections");
    }
}

#[test]
fn as_many_requests_as_are_allowed_come_ahead_of_their_answers_and_not_one_more() {
    let server = Server::start(&["--max-pipelined", "5"]);
    let live = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut client = server.connect();
    // Twice as many as may wait are answered on one connection, if half of them wait for the others.
    for _ in 0..2 {
        client.send(live.repeat(5));
        (0..5).for_each(|_| assert_eq!(client.answer().status, 200));
    }
    client.send(live.repeat(7));
    (0..5).for_each(|_| assert_eq!(client.answer().status, 200));
    let refused = client.answer();
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{refused}");
    assert_eq!((refused.header("connection"), refused.problem().as_str()), (Some("close"), "Too many requests"));
    client.ends();
    assert_eq!(server.refused("pipelined"), 1.0, "what follows is discarded");
}

#[test]
fn a_token_publishes_as_many_events_in_a_second_as_it_may_and_not_one_more() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "first\nsecond\n").unwrap();
    let options = ["--publish-rate", "1", "--publish-token-file", tokens.path().to_str().unwrap()];
    let server = Server::start(&options);
    let post =
        |body: &str, token: &str| server.request(&publish_request(body, &format!("Authorization: Bearer {token}\r\n")));
    let event = r#"{"topic":"a","data":"x"}"#;
    // What arrives together is read in one turn, in which no time passes.
    let twice = |token: &str| {
        let request = publish_request(event, &format!("Authorization: Bearer {token}\r\n"));
        let mut client = server.connect();
        client.send(request.repeat(2));
        [client.answer(), client.answer()]
    };
    for token in ["first", "second"] {
        let [accepted, refused] = twice(token);
        assert_eq!((accepted.status, refused.status), (202, 429), "{token}: {refused}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.problem(), "Too many events");
    }
    assert_eq!(server.refused("publish_rate"), 2.0);
    eventually("a second has passed", || (post(event, "first").status == 202).then_some(()));
    let never = post(&format!("[{event},{event}]"), "second");
    assert_eq!(never.status, 413, "{never}");
    assert!(never.text().contains("1 events in a second"), "{never}");
}

#[test]
fn logs_hold_as_many_bytes_as_they_may_and_not_one_more() {
    let small = ["--history-bytes", "1KiB", "--event-bytes", "1KiB"];
    let evicted =
        |server: &Server, reason: &str| server.metric(&format!("fanfare_evicted_events_total{{reason=\"{reason}\"}}"));
    let retained = |server: &Server, topic: &str| {
        let topic = server.get_admin(&format!("/topics/{topic}")).json();
        (topic["retained_events"].as_u64().unwrap(), topic["retained_bytes"].as_u64().unwrap())
    };
    // What an event costs besides its data is the server's business; four of these fill a log to the byte.
    let quarter = |server: &Server| {
        server.publish("probe", "x");
        "x".repeat(256 + 1 - retained(server, "probe").1 as usize)
    };
    let server = Server::start(&small);
    let data = quarter(&server);
    (0..4).for_each(|_| _ = server.publish("a", &data));
    assert_eq!((retained(&server, "a"), evicted(&server, "history_bytes")), ((4, 1024), 0.0));
    server.publish("a", &data);
    assert_eq!((retained(&server, "a"), evicted(&server, "history_bytes")), ((4, 1024), 1.0));

    let server = Server::start(&[&small[..], &["--history-bytes-total", "1KiB"]].concat());
    let data = quarter(&server);
    for topic in ["a", "b", "c"] {
        server.publish(topic, &data);
    }
    // The fourth fits where the probe was.
    server.publish("d", &data);
    let all = |server: &Server| server.metric("fanfare_retained_bytes");
    assert_eq!((all(&server), evicted(&server, "history_bytes_total")), (1024.0, 1.0));
    server.publish("d", &data);
    assert_eq!((all(&server), evicted(&server, "history_bytes_total")), (1024.0, 2.0));
    assert_eq!(retained(&server, "a"), (0, 0), "the oldest of all went");
}

/// A server whose table of descriptors is full, and the connections that fill it. That happens before its slots are
/// taken because it inherits descriptors that it knows nothing of.
fn server_without_descriptors() -> (Server, Vec<Client>) {
    let inherit = "ulimit -n 128; for n in $(seq 20 79); do eval \"exec $n</dev/null\"; done";
    // Each loop has a spare descriptor of its own.
    let server = Server::start_after(inherit, &["--head-timeout", "1h", "--loops", "1"]);
    let mut idle = Vec::new();
    let mut open = server.descriptors_below(128);
    while open < 128 {
        idle.push(server.connect());
        open += 1;
        eventually("the connection is accepted", || (server.descriptors_below(128) == open).then_some(()));
    }
    assert!(idle.len() < 60, "slots would be the limit, not descriptors");
    (server, idle)
}

#[test]
fn without_descriptors_accepting_pauses_and_resumes() {
    let (server, mut idle) = server_without_descriptors();
    let idle_count = idle.len();
    // Far more than the one at a time that the spare descriptor lets in: these wait in the backlog.
    let mut waiting: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in idle.iter_mut().chain(&mut waiting) {
        client.get("/health/live");
    }
    for mut client in idle.into_iter().chain(waiting) {
        assert_eq!(client.answer().status, 200);
    }
    // Until then a stream may come on the spare descriptor, and is refused.
    eventually("descriptors are free again", || (server.descriptors_below(128) <= 128 - idle_count).then_some(()));
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    server.publish("a", "x");
    subscriber.expect(&["x"]);
    assert!(server.metric("fanfare_accept_pauses_total{reason=\"descriptors\"}") >= 1.0);
}

#[test]
fn without_descriptors_operators_are_answered_first() {
    let (server, _idle) = server_without_descriptors();
    // Each of these would have the spare descriptor for a second, for it asks for nothing.
    let _silent: Vec<_> = (0..100).map(|_| server.connect()).collect();
    server.wait_for_log(&["no descriptor is left"]);
    for target in ["/health", "/health/live", "/health/ready", "/metrics", "/dashboard/debug", "/topics"] {
        assert_eq!(server.get_admin(target).status, 200, "{target}");
    }
    assert!(server.metric("fanfare_closed_total{reason=\"refused\"}") >= 1.0, "one had to make room");
    // All of that is one pause.
    assert_eq!(server.metric("fanfare_accept_pauses_total{reason=\"descriptors\"}"), 1.0);
    assert_eq!(server.log().text().matches("no descriptor is left").count(), 1, "{}", server.log().text());
}

#[test]
fn no_client_keeps_the_last_descriptor_open() {
    let (server, _idle) = server_without_descriptors();
    for _ in 0..2 {
        let mut client = server.connect();
        client.get("/health");
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer}");
        client.ends();
    }
}

#[test]
fn a_stream_on_the_last_descriptor_gets_a_reconnection_time() {
    let (server, idle) = server_without_descriptors();
    check_reconnection_time(&refused_stream(&server, "Accept: text/event-stream\r\n"));
    assert_eq!(server.refused("descriptors"), 1.0);
    drop(idle);
    server.wait_for_metric("fanfare_connections{kind=\"request\"}", |connections| connections < 10.0);
    assert_eq!(Subscriber::open(&server, "/events?topic=a").head.header("connection"), Some("keep-alive"));
}

#[test]
fn with_every_slot_taken_operators_are_answered_and_others_wait() {
    // 128 descriptors less the reserved ones leave 64 slots.
    let server = Server::start_after("ulimit -n 128", &[]);
    let mut idle: Vec<_> = (0..64).map(|_| server.connect()).collect();
    server.wait_for_metric("fanfare_connections{kind=\"request\"}", |connections| connections == 65.0);
    let mut waiting = server.connect();
    waiting.get("/health/live");
    server.wait_for_metric("fanfare_accept_pauses_total{reason=\"slots\"}", |pauses| pauses >= 1.0);
    server.wait_for_log(&["every slot is taken"]);
    for target in ["/health", "/health/live", "/health/ready", "/metrics", "/dashboard/debug", "/topics"] {
        assert_eq!(server.get_admin(target).status, 200, "{target}");
    }
    idle.pop();
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn of_few_descriptors_most_are_for_streams() {
    let server = Server::start_after("ulimit -n 300", &[]);
    assert_eq!(server.metric("fanfare_streams_max"), 199.0);
    let _streams: Vec<_> = (0..199).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    assert!(server.get("/health").status == 200 && server.refused("stream_limit") == 0.0);
    check_reconnection_time(&refused_stream(&server, "Accept: text/event-stream\r\n"));
    assert_eq!(server.refused("stream_limit"), 1.0);
}

#[test]
fn with_too_few_descriptors_for_any_client_the_server_does_not_start() {
    let command = "ulimit -n 64; exec \"$0\" serve --listen 127.0.0.1:0";
    let output =
        std::process::Command::new("sh").args(["-c", command, env!("CARGO_BIN_EXE_fanfare")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("limit on open files is 64") && said.contains("ulimit -n"), "{said}");
}
