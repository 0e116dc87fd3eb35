//! Requests: framing, limits and refusals on the wire. A refused client always reads its answer, never a reset.

use crate::support::http::Client;
use crate::support::server::{Server, TOKEN};
use crate::support::stream::{Subscriber, stream_request};

/// Sends one request whole, and checks that it gets a readable refusal and that the connection ends without a reset.
#[track_caller]
fn check_refused(server: &Server, request: &[u8], status: u16) {
    let mut client = server.connect();
    // The server may have closed before the end of a large one: that must not cost the answer.
    let _ = client.try_send(request);
    let answer = client.answer();
    let shown = String::from_utf8_lossy(&request[..request.len().min(80)]);
    assert_eq!(answer.status, status, "{shown:?}: {answer}");
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
    answer.problem();
    client.ends();
}

fn publish_head(header_lines: &str) -> String {
    format!("POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{header_lines}\r\n")
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for target in ["/health/live", "/nowhere", "/topics", "/health/live"] {
        client.get(target);
        client.answer();
    }
    client.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().header("connection"), Some("close"));
    client.ends();
    client = server.connect();
    client.send("GET /health/live HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().header("connection"), Some("close"));
    client.ends();
    client = server.connect();
    for _ in 0..2 {
        client.send("GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer().header("connection"), Some("keep-alive"));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let targets: Vec<String> = (0..200).map(|n| format!("/topics/{n}")).collect();
    let request = |target: &String| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.send(targets.iter().map(request).collect::<String>());
    for _ in &targets {
        assert_eq!(client.answer().status, 404);
    }
    let body = r#"{"topic":"a","data":"x"}"#;
    let publish = publish_head(&format!("Content-Length: {}\r\n", body.len())) + body;
    // The last of a pipeline may be a stream.
    client.send(format!("{publish}GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n{publish}"));
    client.send(stream_request("/events?topic=b", ""));
    assert_eq!([client.answer().status, client.answer().status, client.answer().status], [202, 404, 202]);
    assert_eq!(client.head().status, 200);
}

#[test]
fn what_follows_a_stream_request_is_discarded() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::over(server.connect(), "/events?topic=a", "");
    subscriber.client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n\0\0\0 and anything else\n");
    server.publish("a", "x");
    subscriber.expect(&["x"]);
    subscriber.client.send(vec![b'x'; 32 << 10]);
    server.publish("a", "y");
    subscriber.expect(&["y"]);
}

#[test]
fn a_body_may_come_in_chunks() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let mut client = server.connect();
    for (n, (first, second)) in
        [("{\"topic\":\"a\",", "\"data\":\"0\"}"), ("{", "\"topic\":\"a\",\"data\":\"1\"}")].into_iter().enumerate()
    {
        let chunk = |text: &str| format!("{:X};extension=\"x\"\r\n{text}\r\n", text.len());
        let body = format!("{}{}0\r\nTrailer: x\r\n\r\n", chunk(first), chunk(second));
        let request = publish_head("Transfer-Encoding: chunked\r\n") + &body;
        // Byte by byte the first time.
        let step = if n == 0 { 1 } else { request.len() };
        request.as_bytes().chunks(step).for_each(|bytes| client.send(bytes));
        assert_eq!(client.answer().status, 202);
        subscriber.expect(&[&n.to_string()]);
    }
}

#[test]
fn a_client_that_expects_100_continue_gets_it_only_before_the_body() {
    let server = Server::start(&[]);
    let body = r#"{"topic":"a","data":"x"}"#;
    let head = publish_head(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len()));
    let mut client = server.connect();
    client.send(&head);
    assert_eq!(client.answer().head, "HTTP/1.1 100 Continue");
    client.send(body);
    assert_eq!(client.answer().status, 202);
    client.send(head + body);
    assert_eq!(client.answer().status, 202, "a body that is there already needs no invitation");
}

#[test]
fn expecting_100_continue_does_not_invite_what_would_be_refused() {
    let server = Server::start(&["--body-bytes", "1KiB"]);
    check_refused(&server, publish_head("Expect: 100-continue\r\nContent-Length: 1025\r\n").as_bytes(), 413);
    check_refused(&server, publish_head("Expect: 200-ok\r\nContent-Length: 2\r\n").as_bytes(), 417);
    assert_eq!(server.metric("fanfare_responses_total{status=\"417\"}"), 1.0);
}

#[test]
fn http_1_0_gets_streams_that_end_with_the_connection() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.send("GET /events?topic=a HTTP/1.0\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("connection")), (200, Some("close")), "{head}");
    client.read_through(b"\n\n").unwrap();
    let id = server.publish("a", "x");
    assert_eq!(client.read_through(b"\n\n").unwrap(), format!("id: {id}\ndata: x\n\n").as_bytes());
}

#[test]
fn an_invalid_request_is_refused_with_a_readable_answer() {
    let server = Server::start(&[]);
    let check = |request: &str, status| check_refused(&server, request.as_bytes(), status);
    check("\x16\x03\x01\x02", 400);
    check("GET / HTTP/1.1\nHost: h\n\n", 400);
    check("GET / HTTP/1.1\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400);
    check("GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n", 400);
    check("GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400);
    check("GET /#a HTTP/1.1\r\nHost: localhost\r\n\r\n", 400);
    check("CONNECT h:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400);
    check("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505);
    check(&publish_head("Content-Length: 1\r\nContent-Length: 2\r\n"), 400);
    check(&publish_head("Content-Length: +1\r\n"), 400);
    check(&publish_head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400);
    check(&publish_head("Transfer-Encoding: gzip, chunked\r\n"), 501);
    check(&publish_head("Transfer-Encoding: identity\r\n"), 501);
    check(&(publish_head("Transfer-Encoding: chunked\r\n") + "x\r\n"), 400);
}

#[test]
fn a_body_where_none_belongs_is_refused_unread() {
    let server = Server::start(&[]);
    let check = |request: &str, status| check_refused(&server, (request.to_owned() + "x").as_bytes(), status);
    check("POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", 405);
    check("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 404);
    check("GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", 413);
    check("POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", 401);
    // The length of nothing is no body.
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    Subscriber::over(client, "/events?topic=a", "Content-Length: 0\r\n");
}

#[test]
fn the_refusal_of_a_head_request_has_no_body() {
    let server = Server::start(&["--body-bytes", "1KiB", "--max-pipelined", "1"]);
    let check = |request: &str, status| {
        let mut client = server.connect();
        client.send(request);
        let answer = client.head();
        assert_eq!(answer.status, status, "{request:?}: {answer}");
        assert!(answer.header("content-length").is_some_and(|length| length != "0"), "{answer}");
        client.ends();
    };
    check("HEAD /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", 413);
    check("HEAD /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n", 413);
    check("HEAD /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 404);
    let mut client = server.connect();
    client.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3));
    assert_eq!([client.head().status, client.head().status], [200, 429]);
    client.ends();
}

#[test]
fn a_refusal_reaches_a_client_that_goes_on_sending() {
    let server = Server::start(&["--head-bytes", "1KiB", "--body-bytes", "1KiB"]);
    // Far more than both sides' buffers: had the server just closed, this client would see a reset.
    let mut flood = publish_head("Content-Length: 67108864\r\n").into_bytes();
    flood.resize(8 << 20, b'x');
    check_refused(&server, &flood, 413);
    flood[..20].fill(b'x');
    check_refused(&server, &flood, 400);
    let mut head = b"GET /health HTTP/1.1\r\nX: ".to_vec();
    head.resize(8 << 20, b'x');
    check_refused(&server, &head, 431);
}

#[test]
fn bodies_and_heads_are_accepted_up_to_their_limit_and_not_a_byte_more() {
    let server = Server::start(&["--head-bytes", "2KiB", "--body-bytes", "4KiB", "--max-headers", "20"]);
    let padded = |fixed: &str, bytes: usize| fixed.replace("PAD", &"x".repeat(bytes + 3 - fixed.len()));
    let check = |request: &str, status: u16| {
        let answer = server.request(request);
        assert_eq!(answer.status, status, "{} bytes: {answer}", request.len());
    };
    let head = |bytes| padded("GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: PAD\r\n\r\n", bytes);
    check(&head(2048), 200);
    check(&head(2049), 431);
    let target = |bytes| format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", padded("/health/live?PAD", bytes));
    check(&target(1024), 200);
    check(&target(1025), 414);
    check(&format!("GET /{}", "x".repeat(3000)), 414);
    let headers =
        |lines: usize| format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(lines - 1));
    check(&headers(20), 200);
    check(&headers(21), 431);
    let body = |bytes| padded(r#"{"topic":"a","data":"PAD"}"#, bytes);
    let with_length = |bytes: usize| publish_head(&format!("Content-Length: {bytes}\r\n")) + &body(bytes);
    check(&with_length(4096), 202);
    check(&with_length(4097), 413);
    let chunked = |bytes: usize| {
        publish_head("Transfer-Encoding: chunked\r\n") + &format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", body(bytes))
    };
    check(&chunked(4096), 202);
    check(&chunked(4097), 413);
    for (reason, count) in [("head_bytes", 1.0), ("target_bytes", 2.0), ("headers", 1.0), ("body_bytes", 2.0)] {
        assert_eq!(server.refused(reason), count, "{reason}");
    }
}

#[test]
fn a_half_closed_client_is_answered() {
    let server = Server::start(&[]);
    let check = |request: &str, statuses: &[u16]| {
        let mut client = server.connect();
        client.send(request);
        client.end_sending();
        for status in statuses {
            assert_eq!(client.answer().status, *status, "{request:?}");
        }
        client.ends();
    };
    let live = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    check(live, &[200]);
    check(&live.repeat(3), &[200, 200, 200]);
    check("nonsense\r\n\r\n", &[400]);
    check("", &[]);
    check("GET /hea", &[]);
}

#[test]
fn a_head_or_body_that_takes_too_long_is_408() {
    let server = Server::start(&["--head-timeout", "300ms", "--body-timeout", "300ms", "--idle-timeout", "300ms"]);
    let check = |request: &str| {
        let mut client = server.connect();
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status, 408, "{request:?}");
        answer.problem();
        client.ends();
    };
    check("GET / HT");
    check("GET / HTTP/1.1\r\nHost: localhost\r\n");
    check(&(publish_head("Content-Length: 10\r\n") + "{"));
    // Nothing was asked, so nothing is answered.
    server.connect().ends();
    let mut kept = server.connect();
    kept.get("/health/live");
    kept.answer();
    kept.ends();
    assert_eq!(server.metric("fanfare_closed_total{reason=\"idle_timeout\"}"), 2.0);
    assert_eq!(server.metric("fanfare_closed_total{reason=\"request_timeout\"}"), 3.0);
    assert_eq!((server.refused("head_timeout"), server.refused("body_timeout")), (2.0, 1.0));
}

#[test]
fn a_trickle_of_bytes_does_not_extend_the_time_for_a_head() {
    let server = Server::start(&["--head-timeout", "300ms"]);
    let mut client = server.connect();
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nX: ");
    // Each byte comes well before the time is up; only their sum can end this.
    let answered = std::sync::atomic::AtomicBool::new(false);
    let mut reader = Client::over_tcp(client.try_clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::support::wait::eventually("the time for the head is up", || {
                let _ = client.try_send("x");
                answered.load(std::sync::atomic::Ordering::Relaxed).then_some(())
            });
        });
        let status = reader.answer().status;
        answered.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(status, 408);
    });
}
