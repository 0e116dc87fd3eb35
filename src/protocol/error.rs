//! Why a request is refused: a status for the client, a sentence for its author. Independent of connections.

use std::fmt;

/// A request that is not served. The server answers [`status`](RequestError::status) and closes the connection: it is
/// unclear where the next request would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// 400: against the grammar or the framing rules of RFC 9112; the text says which.
    Malformed(&'static str),
    /// 413: more body than is accepted.
    BodyTooLarge,
    /// 414: the request target alone is over its limit.
    TargetTooLong,
    /// 417: an `Expect` other than `100-continue`.
    ExpectationFailed,
    /// 431: the head (or the trailer section) as a whole is over its limit.
    HeadTooLarge,
    /// 431: more header lines than are accepted.
    TooManyHeaders,
    /// 501: a transfer coding that is not `chunked`.
    UnsupportedTransferCoding,
    /// 505: neither HTTP/1.0 nor HTTP/1.1.
    UnsupportedVersion,
}

impl RequestError {
    /// One of each.
    pub const ALL: [RequestError; 8] = [
        RequestError::Malformed(""),
        RequestError::BodyTooLarge,
        RequestError::TargetTooLong,
        RequestError::ExpectationFailed,
        RequestError::HeadTooLarge,
        RequestError::TooManyHeaders,
        RequestError::UnsupportedTransferCoding,
        RequestError::UnsupportedVersion,
    ];

    /// The status to answer.
    pub fn status(self) -> u16 {
        match self {
            RequestError::Malformed(_) => 400,
            RequestError::BodyTooLarge => 413,
            RequestError::TargetTooLong => 414,
            RequestError::ExpectationFailed => 417,
            RequestError::HeadTooLarge | RequestError::TooManyHeaders => 431,
            RequestError::UnsupportedTransferCoding => 501,
            RequestError::UnsupportedVersion => 505,
        }
    }

    /// Its name in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            RequestError::Malformed(_) => "malformed",
            RequestError::BodyTooLarge => "body_bytes",
            RequestError::TargetTooLong => "target_bytes",
            RequestError::ExpectationFailed => "expectation",
            RequestError::HeadTooLarge => "head_bytes",
            RequestError::TooManyHeaders => "headers",
            RequestError::UnsupportedTransferCoding => "transfer_coding",
            RequestError::UnsupportedVersion => "version",
        }
    }

    /// What it is, in a few words, the same for every occurrence.
    pub fn title(self) -> &'static str {
        match self {
            RequestError::Malformed(_) => "Malformed request",
            RequestError::BodyTooLarge => "Body too large",
            RequestError::TargetTooLong => "Request target too long",
            RequestError::ExpectationFailed => "Expectation not supported",
            RequestError::HeadTooLarge => "Request head too large",
            RequestError::TooManyHeaders => "Too many headers",
            RequestError::UnsupportedTransferCoding => "Transfer coding not supported",
            RequestError::UnsupportedVersion => "HTTP version not supported",
        }
    }

    /// What was wrong with this one.
    pub fn detail(self) -> &'static str {
        match self {
            RequestError::Malformed(detail) => detail,
            RequestError::BodyTooLarge => "the body is larger than this server accepts",
            RequestError::TargetTooLong => "the path and query are longer than this server accepts",
            RequestError::ExpectationFailed => "the only expectation supported is 100-continue",
            RequestError::HeadTooLarge => "the request line and headers are larger than this server accepts",
            RequestError::TooManyHeaders => "there are more header lines than this server accepts",
            RequestError::UnsupportedTransferCoding => "the only transfer coding supported is chunked",
            RequestError::UnsupportedVersion => "this server speaks HTTP/1.1 and HTTP/1.0",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title(), self.detail())
    }
}

impl std::error::Error for RequestError {}
