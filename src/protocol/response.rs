//! Responses: heads and small bodies as bytes, problem bodies (RFC 9457), and the head of a stream.
//!
//! Invariant: no header value can end its line, whatever its source. The date is passed in; there is no clock here.

use std::io::Write;

use serde::Serialize;

use super::RequestError;

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer whose body is in memory: every answer except a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// `Content-Type`, of a body that has one.
    pub content_type: Option<&'static str>,
    /// Further headers, in the order they are written.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the head has the body's length; only an answer to HEAD may leave it out.
    pub has_length: bool,
    /// Whether the connection serves another request after this answer.
    pub keep_alive: bool,
}

impl Response {
    /// A bare answer: no body, connection kept.
    pub fn new(status: u16) -> Response {
        Response {
            status,
            content_type: None,
            headers: Vec::new(),
            body: Vec::new(),
            has_length: true,
            keep_alive: true,
        }
    }

    /// With a body of some type.
    #[must_use]
    pub fn with_body(mut self, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        self.content_type = Some(content_type);
        self.body = body.into();
        self
    }

    /// For HEAD, where GET would send a body of this type that is not built here: without its length (RFC 9110, 8.6).
    #[must_use]
    pub fn with_unbuilt_body(mut self, content_type: &'static str) -> Response {
        self.content_type = Some(content_type);
        self.has_length = false;
        self
    }

    /// With one more header. Control characters in the value become spaces on the wire.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The last answer on its connection.
    #[must_use]
    pub fn closing(mut self) -> Response {
        self.keep_alive = false;
        self
    }

    /// The bytes. `head_only` answers HEAD: the same head, its body's length included, without the body. The status
    /// line has HTTP/1.1 for every client (RFC 9110, 2.5); `minor_version` is the request's and decides `Connection`.
    pub fn encode(&self, head_only: bool, minor_version: u8, date: &str) -> Vec<u8> {
        // RFC 9110, 8.6 and 15.4.5: a length on these would describe another answer's body.
        let bodiless = matches!(self.status, 204 | 304);
        let mut bytes = Vec::with_capacity(256 + if head_only { 0 } else { self.body.len() });
        push_status_line(&mut bytes, self.status);
        push_header(&mut bytes, "Date", date);
        if let Some(content_type) = self.content_type.filter(|_| !bodiless) {
            push_header(&mut bytes, "Content-Type", content_type);
        }
        debug_assert!(self.has_length || head_only, "a body without a length would have no end");
        if self.has_length && !bodiless {
            push_header(&mut bytes, "Content-Length", &self.body.len().to_string());
        }
        match (self.keep_alive, minor_version) {
            (false, _) => push_header(&mut bytes, "Connection", "close"),
            (true, 0) => push_header(&mut bytes, "Connection", "keep-alive"),
            (true, _) => {}
        }
        for (name, value) in &self.headers {
            push_header(&mut bytes, name, value);
        }
        bytes.extend_from_slice(b"\r\n");
        if !head_only && !bodiless {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// An error for programs and people alike: `application/problem+json` (RFC 9457).
pub fn problem(status: u16, title: &str, detail: &str) -> Response {
    #[derive(Serialize)]
    struct Problem<'a> {
        title: &'a str,
        status: u16,
        detail: &'a str,
    }
    let body = serde_json::to_vec(&Problem { title, status, detail }).expect("two strings and a number are JSON");
    Response::new(status).with_body("application/problem+json", body)
}

impl From<RequestError> for Response {
    /// The refusal. It closes the connection, because it is unclear where the next request starts.
    fn from(error: RequestError) -> Response {
        problem(error.status(), error.title(), error.detail()).closing()
    }
}

/// The head of a stream. Its body ends with the connection: no length and no chunks, so a frame's bytes are the same
/// for every subscriber. It has `Connection: close` for a stream that ends at once (`closing`), and for HTTP/1.0, where
/// keep-alive without a length means nothing.
pub fn stream_head(extra_headers: &[(&str, &str)], minor_version: u8, date: &str, closing: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(320);
    push_status_line(&mut bytes, 200);
    push_header(&mut bytes, "Content-Type", "text/event-stream; charset=utf-8");
    push_header(&mut bytes, "Cache-Control", "no-cache, no-store, no-transform");
    // nginx would buffer events until its buffer is full.
    push_header(&mut bytes, "X-Accel-Buffering", "no");
    push_header(&mut bytes, "Connection", if closing || minor_version == 0 { "close" } else { "keep-alive" });
    push_header(&mut bytes, "Date", date);
    for (name, value) in extra_headers {
        push_header(&mut bytes, name, value);
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The three digits of a status, to count answers by.
pub fn status_label(status: u16) -> &'static str {
    &status_text(status)[..3]
}

fn push_status_line(bytes: &mut Vec<u8>, status: u16) {
    write!(bytes, "HTTP/1.1 {}\r\n", status_text(status)).expect("a Vec takes all bytes");
}

fn push_header(bytes: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(!name.is_empty() && name.bytes().all(super::fields::is_token_byte), "{name:?} is no header name");
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    // A value may echo a client's input: a line end in it would let that client write headers of its own.
    bytes.extend(value.bytes().map(|byte| if byte.is_ascii_control() && byte != b'\t' { b' ' } else { byte }));
    bytes.extend_from_slice(b"\r\n");
}

/// Every status that the server answers, with its phrase, as in the status line.
const STATUSES: [(u16, &str); 20] = [
    (200, "200 OK"),
    (202, "202 Accepted"),
    (204, "204 No Content"),
    (304, "304 Not Modified"),
    (308, "308 Permanent Redirect"),
    (400, "400 Bad Request"),
    (401, "401 Unauthorized"),
    (403, "403 Forbidden"),
    (404, "404 Not Found"),
    (405, "405 Method Not Allowed"),
    (408, "408 Request Timeout"),
    (413, "413 Content Too Large"),
    (414, "414 URI Too Long"),
    (417, "417 Expectation Failed"),
    (421, "421 Misdirected Request"),
    (429, "429 Too Many Requests"),
    (431, "431 Request Header Fields Too Large"),
    (501, "501 Not Implemented"),
    (503, "503 Service Unavailable"),
    (505, "505 HTTP Version Not Supported"),
];

/// Every status that the server answers.
#[cfg(test)]
pub(crate) fn statuses() -> impl Iterator<Item = u16> {
    STATUSES.iter().map(|(status, _)| *status)
}

fn status_text(status: u16) -> &'static str {
    let found = STATUSES.iter().find(|(known, _)| *known == status);
    debug_assert!(found.is_some(), "{status} is answered, and not among the statuses");
    found.map_or("500 Internal Server Error", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn check(response: &Response, (head_only, minor_version): (bool, u8), expected: &str) {
        let bytes = response.encode(head_only, minor_version, DATE);
        let expected = expected.replace('|', "\r\n").replace("DATE", DATE);
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn responses_state_their_length_and_whether_the_connection_stays_open() {
        let json = Response::new(200).with_body("application/json", "{}").with_header("Allow", "GET");
        let head = "HTTP/1.1 200 OK|Date: DATE|Content-Type: application/json|Content-Length: 2|";
        check(&json, (false, 1), &format!("{head}Allow: GET||{{}}"));
        check(&json, (true, 1), &format!("{head}Allow: GET||"));
        check(&json, (false, 0), &format!("{head}Connection: keep-alive|Allow: GET||{{}}"));
        check(&json.clone().closing(), (false, 1), &format!("{head}Connection: close|Allow: GET||{{}}"));
        check(&json.closing(), (true, 0), &format!("{head}Connection: close|Allow: GET||"));
        check(&Response::new(404), (false, 1), "HTTP/1.1 404 Not Found|Date: DATE|Content-Length: 0||");
    }

    #[test]
    fn no_content_and_not_modified_have_no_body() {
        let cached = Response::new(304).with_body("text/plain", "x").with_header("ETag", "\"a\"");
        check(&cached, (false, 1), "HTTP/1.1 304 Not Modified|Date: DATE|ETag: \"a\"||");
        check(&Response::new(204), (false, 1), "HTTP/1.1 204 No Content|Date: DATE||");
    }

    #[test]
    fn a_head_without_its_body_may_leave_out_the_length() {
        let head = Response::new(200).with_unbuilt_body("application/json").with_header("Allow", "GET");
        check(&head, (true, 1), "HTTP/1.1 200 OK|Date: DATE|Content-Type: application/json|Allow: GET||");
    }

    #[test]
    fn header_values_cannot_end_their_line() {
        let response = Response::new(204).with_header("ETag", "a\r\nSet-Cookie: b\n\0c\u{7f}é\t");
        check(&response, (false, 1), "HTTP/1.1 204 No Content|Date: DATE|ETag: a  Set-Cookie: b  c é\t||");
    }

    #[test]
    fn every_status_has_its_own_line_and_counter() {
        for (status, text) in STATUSES {
            assert!(text.starts_with(&format!("{status} ")), "{status}: {text}");
            assert_eq!(status_label(status), status.to_string());
        }
        for error in RequestError::ALL {
            assert_eq!(status_label(error.status()), error.status().to_string());
        }
    }

    #[test]
    fn problems_are_json() {
        let problem = problem(400, "Malformed \"x\"", "a\nb");
        let body = "{\"title\":\"Malformed \\\"x\\\"\",\"status\":400,\"detail\":\"a\\nb\"}";
        assert_eq!(problem.content_type, Some("application/problem+json"));
        assert_eq!(String::from_utf8(problem.body).unwrap(), body);
        let refusal = Response::from(RequestError::TargetTooLong);
        assert_eq!((refusal.status, refusal.keep_alive), (414, false));
    }

    #[test]
    fn a_stream_is_delimited_by_its_close() {
        let check = |extra: &[(&str, &str)], minor_version, closing, expected: &str| {
            let head = String::from_utf8(stream_head(extra, minor_version, DATE, closing)).unwrap();
            let fixed = "HTTP/1.1 200 OK|Content-Type: text/event-stream; charset=utf-8|Cache-Control: no-cache, no-store, \
                         no-transform|X-Accel-Buffering: no|";
            assert_eq!(head, format!("{fixed}{expected}").replace('|', "\r\n").replace("DATE", DATE));
        };
        check(&[], 1, false, "Connection: keep-alive|Date: DATE||");
        check(&[], 1, true, "Connection: close|Date: DATE||");
        check(&[], 0, false, "Connection: close|Date: DATE||");
        check(&[("Vary", "a\r\nb")], 1, false, "Connection: keep-alive|Date: DATE|Vary: a  b||");
    }
}
