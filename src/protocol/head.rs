//! The request head: from the first byte to the empty line (RFC 9112, 2 to 6).
//!
//! httparse splits the lines; this file checks what httparse does not. Invariant: a head is accepted only when every
//! reader of RFC 9112 would see the same request end at the same byte. Fields that the server does not use are dropped.

use std::fmt;

use memchr::{memchr, memchr_iter};

use super::body::BodyFraming;
use super::fields::{
    accepts, content_length, has_token, is_host, is_token_byte, prefers_gzip, transfer_encoding, trim,
};
use super::forwarded::ForwardedFor;
use super::target::{Target, split_absolute};
use super::{Parsed, RequestError};

/// Empty lines tolerated before a request line: old clients send one after a body (RFC 9112, 2.2).
const EMPTY_LINES_MAX: usize = 4;

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of request line, headers and empty line together.
    pub head_bytes_max: usize,
    /// Bytes of the request target, as sent.
    pub target_bytes_max: usize,
    /// Header lines.
    pub headers_max: usize,
}

/// A request method. Methods are case-sensitive (RFC 9110, 9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// OPTIONS
    Options,
    /// Any other token.
    Other(String),
}

/// What a request says before its body, as far as routes, limits and logs need it.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target, decoded.
    pub target: Target,
    /// 0 or 1, of HTTP/1.x.
    pub minor_version: u8,
    /// Whether the client means to send another request after this one.
    pub keep_alive: bool,
    /// How the body's end is found.
    pub framing: BodyFraming,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The host asked for: the target's when that names one, else the `Host` header's.
    pub host: Option<String>,
    /// `Origin`.
    pub origin: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `Last-Event-ID`, as sent; an empty one counts as absent.
    pub last_event_id: Option<Vec<u8>>,
    /// `Accept` names `text/event-stream`, as EventSource does.
    pub accepts_event_stream: bool,
    /// `Accept` names `text/html`, as browsers do.
    pub accepts_html: bool,
    /// `Accept-Encoding` allows gzip, and does not prefer an answer without a coding.
    pub accepts_gzip: bool,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// The request has a header that proxies add: `Forwarded`, `X-Forwarded-*`, `X-Real-IP` or `Via`.
    pub forwarded: bool,
    /// The client that the request is from, as proxies report it.
    pub forwarded_for: ForwardedFor,
    /// `Cookie`; several lines joined with `; `.
    pub cookie: Option<String>,
    /// `If-None-Match`; several lines joined with `, `.
    pub if_none_match: Option<String>,
    /// `Access-Control-Request-Method`, of a CORS preflight.
    pub access_control_request_method: Option<String>,
}

/// Reads the head at the start of `bytes`, which may hold less than that or more.
pub fn parse(bytes: &[u8], limits: &HeadLimits) -> Result<Parsed<RequestHead>, RequestError> {
    parse_grown(bytes, 0, limits)
}

/// As [`parse`], for a buffer whose first `known` bytes were [`Parsed::NeedMore`] before: they are not searched again,
/// so a head that arrives byte by byte costs no more than one that arrives in one piece.
pub fn parse_grown(bytes: &[u8], known: usize, limits: &HeadLimits) -> Result<Parsed<RequestHead>, RequestError> {
    let start = skip_empty_lines(bytes)?;
    let head = &bytes[start..];
    let window = &head[..head.len().min(limits.head_bytes_max)];
    // A TLS hello or terminal noise is refused at once, not at the timeout.
    if window.first().is_some_and(|&first| first != b'\r' && !is_token_byte(first)) {
        return Err(RequestError::Malformed("this is not an HTTP request"));
    }
    match find_end(window, known.saturating_sub(start))? {
        Some(end) => Ok(Parsed::Complete { value: parse_complete(&window[..end], limits)?, consumed: start + end }),
        None if window.len() < limits.head_bytes_max => Ok(Parsed::NeedMore),
        // Not even the request line is complete: the target is too long, which has its own status.
        None if memchr(b'\n', window).is_none() => Err(RequestError::TargetTooLong),
        None => Err(RequestError::HeadTooLarge),
    }
}

fn skip_empty_lines(bytes: &[u8]) -> Result<usize, RequestError> {
    let lines = bytes.chunks_exact(2).take(EMPTY_LINES_MAX + 1).take_while(|pair| *pair == b"\r\n").count();
    if lines > EMPTY_LINES_MAX {
        return Err(RequestError::Malformed("too many empty lines before the request line"));
    }
    Ok(lines * 2)
}

/// Where the head ends, searching from `known` on; a line feed without its carriage return is refused at once.
fn find_end(head: &[u8], known: usize) -> Result<Option<usize>, RequestError> {
    let known = known.min(head.len());
    for line_feed in memchr_iter(b'\n', &head[known..]).map(|at| known + at) {
        let before = &head[..line_feed];
        if !before.ends_with(b"\r") {
            return Err(RequestError::Malformed("a line ends in a line feed without a carriage return"));
        }
        if before.ends_with(b"\r\n\r") {
            return Ok(Some(line_feed + 1));
        }
    }
    Ok(None)
}

fn parse_complete(head: &[u8], limits: &HeadLimits) -> Result<RequestHead, RequestError> {
    // Every line feed has its carriage return before it, so equal counts mean that no carriage return stands alone.
    let lines = memchr_iter(b'\n', head).count();
    if memchr_iter(b'\r', head).count() != lines {
        return Err(RequestError::Malformed("a carriage return has no line feed after it"));
    }
    let headers_count = lines.saturating_sub(2);
    if headers_count > limits.headers_max {
        return Err(RequestError::TooManyHeaders);
    }
    let mut headers = vec![httparse::EMPTY_HEADER; headers_count];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(end)) if end == head.len() => {}
        Ok(_) => return Err(RequestError::Malformed("the head does not end where its empty line is")),
        Err(error) => return Err(syntax_error(error, head)),
    }
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(RequestError::Malformed("the request line is not complete"));
    };
    let mut fields = Fields::default();
    for header in request.headers.iter() {
        fields.take(header.name, header.value)?;
    }
    assemble(method, target, minor_version, fields, limits)
}

fn syntax_error(error: httparse::Error, head: &[u8]) -> RequestError {
    RequestError::Malformed(match error {
        httparse::Error::Version if names_a_version(head) => return RequestError::UnsupportedVersion,
        httparse::Error::Version => "the request line does not end in an HTTP version",
        httparse::Error::HeaderName => "a header line does not start with a name and a colon, or is folded",
        httparse::Error::HeaderValue => "a header value holds a control character",
        httparse::Error::TooManyHeaders => return RequestError::TooManyHeaders,
        _ => "the request line is not a method, a target and a version with one space between them",
    })
}

fn names_a_version(head: &[u8]) -> bool {
    let line = &head[..memchr(b'\r', head).unwrap_or(head.len())];
    let version = line.splitn(3, |&byte| byte == b' ').nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    matches!(version, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// The header fields that are kept, while their lines are read.
#[derive(Default)]
struct Fields {
    host: Option<String>,
    origin: Option<String>,
    authorization: Option<String>,
    content_type: Option<String>,
    preflight_method: Option<String>,
    content_length: Option<u64>,
    transfer_encoding: Option<String>,
    connection: Option<String>,
    accept: Option<String>,
    accept_encoding: Option<String>,
    cookie: Option<String>,
    if_none_match: Option<String>,
    last_event_id: Option<Vec<u8>>,
    expect: bool,
    forwarded: bool,
    forwarded_for: ForwardedFor,
}

impl Fields {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), RequestError> {
        // No header read here has a longer name. The buffer saves an allocation per header line.
        let mut buffer = [0; 32];
        let Some(lower) = buffer.get_mut(..name.len()) else { return Ok(()) };
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        match &*lower {
            b"host" => once(&mut self.host, value, "there is more than one Host"),
            b"origin" => once(&mut self.origin, value, "there is more than one Origin"),
            b"authorization" => once(&mut self.authorization, value, "there is more than one Authorization"),
            b"content-type" => once(&mut self.content_type, value, "there is more than one Content-Type"),
            b"access-control-request-method" => {
                once(&mut self.preflight_method, value, "there is more than one Access-Control-Request-Method")
            }
            // RFC 9112, 6.3 allows a server to refuse two equal lengths. No client sends them by accident.
            b"content-length" => match self.content_length.replace(content_length(value)?) {
                Some(_) => Err(RequestError::Malformed("there is more than one Content-Length")),
                None => Ok(()),
            },
            b"transfer-encoding" => join(&mut self.transfer_encoding, value, ","),
            b"connection" => join(&mut self.connection, value, ","),
            b"accept" => join(&mut self.accept, value, ","),
            b"accept-encoding" => join(&mut self.accept_encoding, value, ","),
            b"cookie" => join(&mut self.cookie, value, "; "),
            b"if-none-match" => join(&mut self.if_none_match, value, ", "),
            b"last-event-id" => {
                self.last_event_id = (!value.is_empty()).then(|| value.to_vec());
                Ok(())
            }
            b"expect" if value.eq_ignore_ascii_case(b"100-continue") => {
                self.expect = true;
                Ok(())
            }
            b"expect" => Err(RequestError::ExpectationFailed),
            b"forwarded" => {
                self.forwarded = true;
                self.forwarded_for.forwarded.push(String::from_utf8_lossy(value).into_owned());
                Ok(())
            }
            b"x-forwarded-for" => {
                self.forwarded = true;
                self.forwarded_for.x_forwarded_for.push(String::from_utf8_lossy(value).into_owned());
                Ok(())
            }
            b"via" | b"x-real-ip" => {
                self.forwarded = true;
                Ok(())
            }
            other => {
                self.forwarded |= other.starts_with(b"x-forwarded-");
                Ok(())
            }
        }
    }

    fn framing(&self, minor_version: u8) -> Result<BodyFraming, RequestError> {
        match (&self.transfer_encoding, self.content_length) {
            (Some(_), Some(_)) => Err(RequestError::Malformed("there are both Transfer-Encoding and Content-Length")),
            (Some(_), None) if minor_version == 0 => Err(RequestError::Malformed("HTTP/1.0 has no Transfer-Encoding")),
            (Some(codings), None) => transfer_encoding(codings).map(|()| BodyFraming::Chunked),
            (None, Some(length)) => Ok(BodyFraming::Length(length)),
            (None, None) => Ok(BodyFraming::None),
        }
    }

    fn keep_alive(&self, minor_version: u8) -> bool {
        let connection = self.connection.as_deref().unwrap_or("");
        !has_token(connection, "close") && (minor_version == 1 || has_token(connection, "keep-alive"))
    }
}

fn once(slot: &mut Option<String>, value: &[u8], refusal: &'static str) -> Result<(), RequestError> {
    // Bytes that are not UTF-8 are replaced: the value then matches no token and no origin, and causes no 400.
    match slot.replace(String::from_utf8_lossy(value).into_owned()) {
        Some(_) => Err(RequestError::Malformed(refusal)),
        None => Ok(()),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "reads as one table with `once`")]
fn join(slot: &mut Option<String>, value: &[u8], separator: &str) -> Result<(), RequestError> {
    let value = String::from_utf8_lossy(value);
    match slot {
        Some(joined) => {
            joined.push_str(separator);
            joined.push_str(&value);
        }
        None => *slot = Some(value.into_owned()),
    }
    Ok(())
}

fn assemble(
    method: &str,
    target: &str,
    minor_version: u8,
    fields: Fields,
    limits: &HeadLimits,
) -> Result<RequestHead, RequestError> {
    let method = parse_method(method);
    let (target, authority) = parse_target(&method, target, limits)?;
    // RFC 9112, 3.2: without Host, or with two, a proxy in front of the server may have meant another site.
    match &fields.host {
        Some(host) if !is_host(host) => return Err(RequestError::Malformed("Host is not a host name")),
        None if minor_version == 1 => return Err(RequestError::Malformed("the Host header is missing")),
        _ => {}
    }
    let framing = fields.framing(minor_version)?;
    let accept = fields.accept.as_deref().unwrap_or("");
    Ok(RequestHead {
        minor_version,
        keep_alive: fields.keep_alive(minor_version),
        // RFC 9110, 10.1.1: without a body there is nothing to wait for, and HTTP/1.0 does not have status 100.
        expect_continue: fields.expect
            && minor_version == 1
            && !matches!(framing, BodyFraming::None | BodyFraming::Length(0)),
        framing,
        accepts_event_stream: accepts(accept, "text/event-stream"),
        accepts_html: accepts(accept, "text/html"),
        accepts_gzip: prefers_gzip(fields.accept_encoding.as_deref().unwrap_or("")),
        method,
        target,
        host: authority.or(fields.host),
        origin: fields.origin,
        authorization: fields.authorization,
        last_event_id: fields.last_event_id,
        content_type: fields.content_type,
        forwarded: fields.forwarded,
        forwarded_for: fields.forwarded_for,
        cookie: fields.cookie,
        if_none_match: fields.if_none_match,
        access_control_request_method: fields.preflight_method,
    })
}

fn parse_method(method: &str) -> Method {
    match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "OPTIONS" => Method::Options,
        other => Method::Other(other.to_owned()),
    }
}

/// The target in any form (RFC 9112, 3.2) except those only for proxies, and the host it names, if any.
fn parse_target(method: &Method, target: &str, limits: &HeadLimits) -> Result<(Target, Option<String>), RequestError> {
    if target.len() > limits.target_bytes_max {
        return Err(RequestError::TargetTooLong);
    }
    if !target.is_ascii() {
        return Err(RequestError::Malformed("the request target holds bytes outside ASCII"));
    }
    if matches!(method, Method::Other(name) if name == "CONNECT") {
        return Err(RequestError::Malformed("this server is not a proxy"));
    }
    if target == "*" && *method == Method::Options {
        return Ok((Target { path: "*".to_owned(), query: Vec::new() }, None));
    }
    match split_absolute(target) {
        // User names in a target are a trick to make one host look like another (RFC 9110, 4.2.4).
        Some((authority, _)) if trim(authority).is_empty() || authority.contains('@') || !is_host(authority) => {
            Err(RequestError::Malformed("the request target's host is not a host name"))
        }
        Some((authority, rest)) => Ok((Target::parse(rest)?, Some(authority.to_owned()))),
        None if target.starts_with('/') => Ok((Target::parse(target)?, None)),
        None => Err(RequestError::Malformed("the request target is neither a path nor an http:// URL")),
    }
}

impl Method {
    /// The method as it was sent.
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Options => "OPTIONS",
            Method::Other(name) => name,
        }
    }
}

// Prints neither the headers nor the query: both carry tokens, and this output ends up in logs.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path", &self.target.path)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
