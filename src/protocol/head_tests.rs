//! The head's tables: what is accepted and as what; what is refused and how.

use super::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 400, target_bytes_max: 100, headers_max: 6 };

fn read(request: &[u8]) -> Result<Parsed<RequestHead>, u16> {
    parse(request, &LIMITS).map_err(RequestError::status)
}

/// The status a request gets, the same in one piece as byte by byte; 0 when more is needed.
fn check(request: impl AsRef<[u8]>, expected: u16) {
    let request = request.as_ref();
    let status = |outcome: &Result<Parsed<RequestHead>, u16>| match outcome {
        Ok(Parsed::NeedMore) => 0,
        Ok(Parsed::Complete { .. }) => 200,
        Err(status) => *status,
    };
    let shown = String::from_utf8_lossy(request);
    let whole = read(request);
    assert_eq!(status(&whole), expected, "{shown:?}");

    let mut slowly = Ok(Parsed::NeedMore);
    for known in 0..request.len() {
        slowly = parse_grown(&request[..=known], known, &LIMITS).map_err(RequestError::status);
        if slowly != Ok(Parsed::NeedMore) {
            break;
        }
    }
    assert_eq!(slowly, whole, "{shown:?} byte by byte");
}

fn head(request: &str) -> RequestHead {
    check(request, 200);
    match read(request.as_bytes()) {
        Ok(Parsed::Complete { value, .. }) => value,
        other => panic!("{other:?}"),
    }
}

/// A request with Host and these header lines.
fn with(headers: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

#[test]
fn an_event_source_is_understood() {
    let head = head(
        "GET /events?topic=a%20b HTTP/1.1\r\nHOST:\thost:3001 \r\nAccept: text/event-stream\r\n\
         last-event-id: \u{e9}7\r\nOrigin: http://o\r\nCookie: a=b\r\n\r\n",
    );
    assert_eq!((&head.method, head.minor_version, head.keep_alive), (&Method::Get, 1, true));
    assert_eq!((head.target.path.as_str(), head.target.get("topic")), ("/events", Some("a b")));
    assert_eq!((head.host.as_deref(), head.origin.as_deref()), (Some("host:3001"), Some("http://o")));
    assert_eq!(head.last_event_id.as_deref(), Some("\u{e9}7".as_bytes()));
    assert_eq!((head.accepts_event_stream, head.accepts_html, head.forwarded), (true, false, false));
    assert_eq!((head.cookie.as_deref(), head.framing), (Some("a=b"), BodyFraming::None));
}

#[test]
fn a_publisher_is_understood() {
    let head = head(&with(
        "Content-Type: application/json\r\nContent-Length: 12\r\nAuthorization: Bearer t\r\nExpect: 100-Continue\r\n",
    ));
    assert_eq!((head.method, head.framing, head.expect_continue), (Method::Post, BodyFraming::Length(12), true));
    assert_eq!(head.content_type.as_deref(), Some("application/json"));
    assert_eq!(head.authorization.as_deref(), Some("Bearer t"));
}

#[test]
fn debug_output_keeps_secrets() {
    let head = head(&with("Authorization: secret\r\nCookie: secret\r\n").replace("/x", "/x?token=secret"));
    assert!(!format!("{head:?}").contains("secret"));
}

#[test]
fn keep_alive_follows_the_http_version_unless_a_header_overrides_it() {
    let check = |version, connection: &str, expected: bool| {
        let request = format!("GET / HTTP/1.{version}\r\nHost: h\r\n{connection}\r\n");
        assert_eq!(head(&request).keep_alive, expected, "{request:?}");
    };
    check(1, "", true);
    check(1, "Connection: close\r\n", false);
    check(1, "Connection: x\r\nConnection: Foo, CLOSE\r\n", false);
    check(0, "", false);
    check(0, "Connection: Keep-Alive\r\n", true);
    check(0, "Connection: keep-alive, close\r\n", false);
}

#[test]
fn headers_are_parsed_into_their_values() {
    assert_eq!(head(&with("Last-Event-ID:\r\n")).last_event_id, None);
    assert_eq!(head(&with("Last-Event-ID: \t 7 8 \r\n")).last_event_id.as_deref(), Some(&b"7 8"[..]));
    assert_eq!(head(&with("Cookie: a\r\nCookie: b\r\n")).cookie.as_deref(), Some("a; b"));
    assert_eq!(head(&with("If-None-Match: \"a\"\r\nIf-None-Match: *\r\n")).if_none_match.as_deref(), Some("\"a\", *"));
    assert!(head(&with("Accept: */*\r\nAccept: text/html\r\n")).accepts_html);
    assert!(head(&with("Accept-Encoding: br\r\nAccept-Encoding: gzip;q=0.5\r\n")).accepts_gzip);
    assert!(!head(&with("Accept-Encoding: br, gzip;q=0\r\n")).accepts_gzip);
    assert!(!head(&with("Accept: */*\r\n")).accepts_event_stream);
    for proxy in ["Forwarded: for=x", "Via: 1.1 p", "X-Forwarded-For: x", "x-forwarded-proto: x", "X-Real-IP: x"] {
        assert!(head(&with(&format!("{proxy}\r\n"))).forwarded, "{proxy}");
    }
    let preflight = head(&with("Access-Control-Request-Method: POST\r\n"));
    assert_eq!(preflight.access_control_request_method.as_deref(), Some("POST"));
    let long_name = format!("{}: x\r\n", "n".repeat(33));
    assert!(!head(&with(&long_name)).forwarded);
    // Without a body, or in HTTP/1.0, no 100 would ever come.
    assert!(!head(&with("Expect: 100-continue\r\n")).expect_continue);
    assert!(!head(&with("Expect: 100-continue\r\nContent-Length: 0\r\n")).expect_continue);
    assert!(head(&with("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n")).expect_continue);
}

#[test]
fn targets_of_every_form() {
    let parsed = |line: &str| {
        let head = head(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"));
        (head.target.path, head.host)
    };
    let on = |path: &str, host: &str| (path.to_owned(), Some(host.to_owned()));
    assert_eq!(parsed("GET /a/b"), on("/a/b", "h"));
    assert_eq!(parsed("OPTIONS *"), on("*", "h"));
    assert_eq!(parsed("GET http://other:80/p?q"), on("/p", "other:80"));
    assert_eq!(parsed("GET HTTP://[::1]"), on("/", "[::1]"));
    for bad in [
        "GET *",
        "POST *",
        "GET https://h/",
        "GET ftp://h/",
        "GET h:80",
        "GET x",
        "CONNECT h:80",
        "CONNECT /",
        "GET http:///x",
        "GET http://u@h/",
        "GET http://h\\x/",
        "GET /%zz",
        "GET /%00",
        "GET /a#b",
        "GET http://h#b",
        "GET http://h/%ff",
    ] {
        check(format!("{bad} HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
    }
}

#[test]
fn requests_that_two_readers_could_read_in_two_ways_are_refused() {
    // Framing: every reader must find the same next request on this connection.
    check(with("Content-Length: 5\r\nContent-Length: 5\r\n"), 400);
    check(with("Content-Length: 5\r\nContent-Length: 6\r\n"), 400);
    check(with("Content-Length: 5, 5\r\n"), 400);
    check(with("Content-Length: +5\r\n"), 400);
    check(with("Content-Length: \r\n"), 400);
    check(with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400);
    check(with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400);
    check(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400);
    check(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400);
    check(with("Transfer-Encoding: \x0bchunked\r\n"), 400);
    check(with("Transfer-Encoding: chunked\0\r\n"), 400);
    check(with("Transfer-Encoding:\r\n chunked\r\n"), 400);
    check(with("Transfer-Encoding : chunked\r\n"), 400);
    check(with("Transfer-Encoding\t: chunked\r\n"), 400);
    check(with("Transfer-Encoding: gzip, chunked\r\n"), 501);
    check(with("Transfer-Encoding: identity\r\n"), 501);
    check(with("Transfer-Encoding: cow\r\n"), 501);
    check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
    // Lines.
    check(with("A: b\nContent-Length: 5\r\n"), 400);
    check(with("A: b\rContent-Length: 5\r\n"), 400);
    check(with("A: b\r\r\nC: d\r\n"), 400);
    check(with("A: b\r\n\tfolded\r\n"), 400);
    check(with(" A: b\r\n"), 400);
    check(with("A\r\n"), 400);
    check(with(": b\r\n"), 400);
    check(with("A\0: b\r\n"), 400);
    check(with("A: \0\r\n"), 400);
    check(with("Ä: b\r\n"), 400);
    check(with("A(: b\r\n"), 400);
    check("GET / HTTP/1.1\nHost: h\n\n", 400);
    check("GET / HTTP/1.1\r\nHost: h\r\n\n", 400);
    // The host that the request is for.
    check("GET / HTTP/1.1\r\n\r\n", 400);
    check("GET http://h/ HTTP/1.1\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400);
    check("GET / HTTP/1.0\r\nHost: h\r\nHost: i\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", 400);
    check("GET / HTTP/1.1\r\nHost:\r\n\r\n", 200);
    check("GET / HTTP/1.0\r\n\r\n", 200);
    check(with("Authorization: a\r\nAuthorization: b\r\n"), 400);
    check(with("Origin: a\r\nOrigin: b\r\n"), 400);
}

#[test]
fn request_lines_are_three_words() {
    let check = |line: &str, expected| check(format!("{line}\r\nHost: h\r\n\r\n"), expected);
    check("GET / HTTP/1.1", 200);
    check("BREW / HTTP/1.1", 200);
    check("get / HTTP/1.1", 200);
    for bad in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        " GET / HTTP/1.1",
        "GET /",
        "GET",
        "/",
        "GET / x HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTP/1.10",
        "GET / HTTP/x.1",
        "G(T / HTTP/1.1",
        "GET /ä HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "\x16\x03\x01",
        "GET / HTTP/1.1\r",
    ] {
        check(bad, 400);
    }
    for version in ["0.9", "1.2", "2.0", "3.0"] {
        check(&format!("GET / HTTP/{version}"), 505);
    }
    check("PRI * HTTP/2.0", 505);
}

#[test]
fn limits_have_a_status_each() {
    let of = |target_bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "p".repeat(target_bytes - 1));
    check(of(LIMITS.target_bytes_max), 200);
    check(of(LIMITS.target_bytes_max + 1), 414);
    check(of(LIMITS.head_bytes_max), 414);
    check("G".repeat(LIMITS.head_bytes_max - 1), 0);
    check("G".repeat(LIMITS.head_bytes_max), 414);
    check(with(&"A: b\r\n".repeat(LIMITS.headers_max - 1)), 200);
    check(with(&"A: b\r\n".repeat(LIMITS.headers_max)), 431);
    let filler = LIMITS.head_bytes_max - with("A: \r\n").len();
    check(with(&format!("A: {}\r\n", "b".repeat(filler))), 200);
    check(with(&format!("A: {}\r\n", "b".repeat(filler + 1))), 431);
    check(with(&format!("A: {}", "b".repeat(filler + 5))), 431);
    check(with("Content-Length: 99999999999999999999\r\n"), 413);
    check(with("Expect: more\r\n"), 417);
}

#[test]
fn a_few_empty_lines_come_before_a_request() {
    let after = |lines: usize| format!("{}GET / HTTP/1.0\r\n\r\nrest", "\r\n".repeat(lines));
    for lines in 0..=EMPTY_LINES_MAX {
        match read(after(lines).as_bytes()) {
            Ok(Parsed::Complete { consumed, .. }) => assert_eq!(&after(lines)[consumed..], "rest"),
            other => panic!("{other:?}"),
        }
    }
    check(after(EMPTY_LINES_MAX + 1), 400);
    check("\nGET / HTTP/1.0\r\n\r\n", 400);
    check("\r", 0);
    check("\r\n\r", 0);
    check("\rX\r\n\r\n", 400);
}

#[test]
fn need_more_until_the_empty_line() {
    let request = with("Accept: */*\r\n");
    for end in 0..request.len() {
        assert_eq!(read(&request.as_bytes()[..end]), Ok(Parsed::NeedMore), "{:?}", &request[..end]);
    }
    check(&request, 200);
}
