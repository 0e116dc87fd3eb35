//! Malformed requests: what two readers could read in two ways is refused, and nothing that follows on its connection
//! is a request. The table stands in docs/malformed-requests.md too; a test keeps the two alike.

use crate::support::server::{Server, TOKEN};
use Part::{Chunks, Field, Line, Whole};

/// What is odd about a request; the rest of it is as it should be.
#[derive(Clone, Copy)]
enum Part {
    /// Its request line, before the right fields.
    Line(&'static [u8]),
    /// Fields of a publisher's request.
    Field(&'static [u8]),
    /// The chunked body of a publisher's request.
    Chunks(&'static [u8]),
    /// All of it.
    Whole(&'static [u8]),
}

impl Part {
    fn bytes(self) -> &'static [u8] {
        match self {
            Line(bytes) | Field(bytes) | Chunks(bytes) | Whole(bytes) => bytes,
        }
    }

    fn request(self) -> Vec<u8> {
        let publish = format!("POST /publish HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n");
        match self {
            Line(line) => [line, b"\r\nHost: h\r\n\r\n"].concat(),
            Field(fields) => [publish.as_bytes(), fields, b"\r\n\r\n"].concat(),
            Chunks(chunks) => [publish.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", chunks].concat(),
            Whole(bytes) => bytes.to_vec(),
        }
    }
}

/// What is refused, as what, and with which status.
const REFUSED: &[(&str, Part, u16)] = &[
    // Where the body ends.
    ("two equal lengths", Field(b"Content-Length: 5\r\nContent-Length: 5"), 400),
    ("two lengths", Field(b"Content-Length: 5\r\nContent-Length: 6"), 400),
    ("a list of lengths", Field(b"Content-Length: 5, 5"), 400),
    ("a sign", Field(b"Content-Length: +5"), 400),
    ("a negative length", Field(b"Content-Length: -5"), 400),
    ("a length in hex", Field(b"Content-Length: 0x5"), 400),
    ("a length with a space", Field(b"Content-Length: 1 2"), 400),
    ("no length", Field(b"Content-Length:"), 400),
    ("more than 64 bits", Field(b"Content-Length: 99999999999999999999"), 413),
    ("length, then coding", Field(b"Content-Length: 5\r\nTransfer-Encoding: chunked"), 400),
    ("coding, then length", Field(b"Transfer-Encoding: chunked\r\nContent-Length: 0"), 400),
    ("the coding twice", Field(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
    ("the coding twice in one line", Field(b"Transfer-Encoding: chunked, chunked"), 400),
    ("the coding first", Field(b"Transfer-Encoding: chunked, gzip"), 400),
    ("the coding second", Field(b"Transfer-Encoding: gzip, chunked"), 501),
    ("another coding", Field(b"Transfer-Encoding: identity"), 501),
    ("nearly the coding", Field(b"Transfer-Encoding: xchunked"), 501),
    ("an empty element", Field(b"Transfer-Encoding: ,chunked"), 400),
    ("a parameter", Field(b"Transfer-Encoding: chunked;q=1"), 400),
    ("quotes", Field(b"Transfer-Encoding: \"chunked\""), 400),
    ("a vertical tab before it", Field(b"Transfer-Encoding: \x0bchunked"), 400),
    ("a byte outside ASCII before it", Field(b"Transfer-Encoding: \xa0chunked"), 400),
    ("a coding in HTTP/1.0", Whole(b"POST /publish HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
    ("another expectation", Field(b"Expect: 200-ok\r\nContent-Length: 5"), 417),
    // Lines and fields.
    ("a space before the colon", Field(b"Content-Length : 5"), 400),
    ("a tab before the colon", Field(b"Transfer-Encoding\t: chunked"), 400),
    ("a space before the name", Field(b" Content-Length: 5"), 400),
    ("a folded field", Field(b"X: a\r\n Content-Length: 5"), 400),
    ("a folded coding", Field(b"Transfer-Encoding:\r\n\tchunked"), 400),
    ("a bare LF", Field(b"X: a\nContent-Length: 5"), 400),
    ("a bare CR", Field(b"X: a\rContent-Length: 5"), 400),
    ("CR before CRLF", Field(b"X: a\r\r\nContent-Length: 5"), 400),
    ("only LFs", Whole(b"GET /health HTTP/1.1\nHost: h\n\n"), 400),
    ("a bare LF for the empty line", Whole(b"GET /health HTTP/1.1\r\nHost: h\r\n\n"), 400),
    ("a bare LF before the request", Whole(b"\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n"), 400),
    ("five empty lines before it", Whole(b"\r\n\r\n\r\n\r\n\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n"), 400),
    ("no colon", Field(b"X"), 400),
    ("no name", Field(b": a"), 400),
    ("a space in the name", Field(b"X Y: a"), 400),
    ("a separator in the name", Field(b"X(: a"), 400),
    ("NUL in the name", Field(b"X\0: a"), 400),
    ("a name outside ASCII", Field(b"\xc3\x84: a"), 400),
    ("NUL in the value", Field(b"X: a\0b"), 400),
    ("a control character", Field(b"X: \x1b[31m"), 400),
    ("DEL", Field(b"X: \x7f"), 400),
    ("two tokens", Field(b"Authorization: Bearer x"), 400),
    // The request line.
    ("two spaces", Line(b"GET  /health HTTP/1.1"), 400),
    ("two spaces before the version", Line(b"GET /health  HTTP/1.1"), 400),
    ("a space behind the version", Line(b"GET /health HTTP/1.1 "), 400),
    ("a space before the method", Line(b" GET /health HTTP/1.1"), 400),
    ("tabs", Line(b"GET\t/health\tHTTP/1.1"), 400),
    ("a fourth word", Line(b"GET /health x HTTP/1.1"), 400),
    ("a separator in the method", Line(b"G(T /health HTTP/1.1"), 400),
    ("NUL in the method", Line(b"G\0T /health HTTP/1.1"), 400),
    ("a version in small letters", Line(b"GET /health http/1.1"), 400),
    ("half a version", Line(b"GET /health HTTP/1"), 400),
    ("a version of two digits", Line(b"GET /health HTTP/1.10"), 400),
    ("a later version", Line(b"GET /health HTTP/1.2"), 505),
    ("HTTP/0.9", Whole(b"GET /health\r\n"), 400),
    ("HTTP/2", Whole(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505),
    ("TLS", Whole(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400),
    ("the PROXY protocol unasked", Whole(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n"), 400),
    // The target.
    ("CONNECT", Line(b"CONNECT h:80 HTTP/1.1"), 400),
    ("CONNECT with a path", Line(b"CONNECT /health HTTP/1.1"), 400),
    ("an asterisk for GET", Line(b"GET * HTTP/1.1"), 400),
    ("no slash", Line(b"GET health HTTP/1.1"), 400),
    ("an authority alone", Line(b"GET h:80 HTTP/1.1"), 400),
    ("another scheme", Line(b"GET https://h/health HTTP/1.1"), 400),
    ("no authority", Line(b"GET http:///health HTTP/1.1"), 400),
    ("a user name", Line(b"GET http://h@evil/health HTTP/1.1"), 400),
    ("a fragment", Line(b"GET /health#a HTTP/1.1"), 400),
    ("NUL in the target", Line(b"GET /health\0 HTTP/1.1"), 400),
    ("NUL escaped", Line(b"GET /health?a=%00 HTTP/1.1"), 400),
    ("a target outside ASCII", Line(b"GET /\xc3\xa4 HTTP/1.1"), 400),
    ("DEL in the target", Line(b"GET /\x7f HTTP/1.1"), 400),
    ("a broken escape", Line(b"GET /%zz HTTP/1.1"), 400),
    ("escapes that are not UTF-8", Line(b"GET /%ff HTTP/1.1"), 400),
    // Whose site it is.
    ("no Host", Whole(b"GET /health HTTP/1.1\r\n\r\n"), 400),
    ("two Hosts", Field(b"Host: h"), 400),
    ("a path in Host", Whole(b"GET /health HTTP/1.1\r\nHost: h/x\r\n\r\n"), 400),
    ("a space in Host", Whole(b"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n"), 400),
    ("a user name in Host", Whole(b"GET /health HTTP/1.1\r\nHost: u@h\r\n\r\n"), 400),
    // Chunks.
    ("no size", Chunks(b"\r\nx\r\n0\r\n\r\n"), 400),
    ("a size that is no number", Chunks(b"x\r\n"), 400),
    ("a size with a sign", Chunks(b"+1\r\nx\r\n0\r\n\r\n"), 400),
    ("a size with 0x", Chunks(b"0x1\r\nx\r\n0\r\n\r\n"), 400),
    ("a space before the size", Chunks(b" 1\r\nx\r\n0\r\n\r\n"), 400),
    ("a space behind the size", Chunks(b"1 \r\nx\r\n0\r\n\r\n"), 400),
    ("a bare LF behind the size", Chunks(b"1\nx\r\n0\r\n\r\n"), 400),
    ("a size beyond 64 bits", Chunks(b"00000000000000001\r\nx\r\n0\r\n\r\n"), 400),
    ("the largest size", Chunks(b"ffffffffffffffff\r\nx\r\n0\r\n\r\n"), 413),
    ("a bare LF in an extension", Chunks(b"1;a\nb\r\nx\r\n0\r\n\r\n"), 400),
    ("NUL in an extension", Chunks(b"1;\0\r\nx\r\n0\r\n\r\n"), 400),
    ("content longer than its size", Chunks(b"1\r\nxy\r\n0\r\n\r\n"), 400),
    ("a bare LF behind the content", Chunks(b"1\r\nx\n0\r\n\r\n"), 400),
    ("a bare LF in a trailer", Chunks(b"0\r\nX: a\nY: b\r\n\r\n"), 400),
    ("a bare CR in a trailer", Chunks(b"0\r\nX: a\rY: b\r\n\r\n"), 400),
    ("NUL in a trailer", Chunks(b"0\r\nX: \0\r\n\r\n"), 400),
    ("a bare LF at the end", Chunks(b"0\r\n\n"), 400),
];

/// What looks odd, and has one meaning only.
const ACCEPTED: &[(&str, Part, u16)] = &[
    ("a value outside ASCII", Whole(b"GET /health/live HTTP/1.1\r\nHost: h\r\nX: \xff\xc3\xa4\r\n\r\n"), 200),
    ("blanks around a value", Whole(b"GET /health/live HTTP/1.1\r\nHost: \t h \t\r\n\r\n"), 200),
    ("names in any case", Whole(b"GET /health/live HTTP/1.1\r\nhOST:h\r\n\r\n"), 200),
    ("an absolute target", Whole(b"GET http://other/health/live HTTP/1.1\r\nHost: h\r\n\r\n"), 200),
    ("an asterisk for OPTIONS", Whole(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), 204),
    ("an unknown method", Whole(b"BREW /health/live HTTP/1.1\r\nHost: h\r\n\r\n"), 405),
    ("four empty lines before it", Whole(b"\r\n\r\n\r\n\r\nGET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"), 200),
    ("the length of nothing", Whole(b"GET /health/live HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"), 200),
    ("extensions and trailers", Chunks(b"1;a=\"b\";c\r\nx\r\n000;d\r\nX: a\r\n\r\n"), 400),
];

/// The hosts that the requests are for.
const NAMES: [&str; 4] = ["--allowed-host", "h", "--allowed-host", "other"];

const SECOND: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn bytes_after_a_malformed_request_are_not_read_as_a_request() {
    let server = Server::start(&NAMES);
    for (what, part, status) in REFUSED {
        let mut client = server.connect();
        client.send([&part.request(), SECOND].concat());
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{what}: {answer}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        answer.problem();
        // Nothing but this one answer, and an orderly end.
        client.ends();
    }
    let all = REFUSED.len() as f64;
    server.wait_for_metric("fanfare_closed_total{reason=\"bad_request\"}", |closed| closed == all);
    let reasons = ["malformed", "body_bytes", "expectation", "transfer_coding", "version"];
    let refused: f64 = reasons.iter().map(|reason| server.refused(reason)).sum();
    assert_eq!(refused, REFUSED.len() as f64, "each is counted by its reason");
}

#[test]
fn an_unambiguous_request_is_understood_and_so_is_the_next_one() {
    let server = Server::start(&NAMES);
    for (what, part, status) in ACCEPTED {
        let mut client = server.connect();
        client.send([&part.request(), SECOND].concat());
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (*status, None), "{what}: {answer}");
        assert_eq!(client.answer().status, 200, "{what}: the second request");
    }
}

#[test]
fn the_documentation_has_the_same_table() {
    let row = |(what, part, status): &(&str, Part, u16)| {
        // What is between backticks would end at one, and a bar would end its cell.
        assert!(!part.bytes().iter().any(|byte| b"`|".contains(byte)), "{what}");
        format!("| {what} | `{}` | {status} |", part.bytes().escape_ascii())
    };
    let expected: Vec<_> = REFUSED.iter().map(row).collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/malformed-requests.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let found: Vec<_> = rows.skip(2).collect();
    assert_eq!(found, expected, "this should stand there:\n{}", expected.join("\n"));
}
