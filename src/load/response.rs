//! An HTTP/1.1 response to a stream's client: the head, then a body that is chunked, counted, or ends with the
//! connection (RFC 9112 sections 4, 6 and 7). Pure: bytes in, values out.

use thiserror::Error;

const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 100;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// Not HTTP/1.
    #[error("the answer is not an HTTP/1 response")]
    Malformed,
    /// A larger head than any sane server sends.
    #[error("the response head is too large")]
    TooLarge,
    /// An invalid chunk.
    #[error("the chunked body is malformed")]
    Chunk,
}

/// The relevant parts of a response head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// True for `Content-Type: text/event-stream`, whatever its parameters.
    pub is_event_stream: bool,
    /// The target of a redirect.
    pub location: Option<String>,
    /// How the body ends.
    pub body: Body,
}

/// Parses a final response head and returns its length in bytes, including 1xx heads before it; `None` if more bytes
/// are needed.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, ResponseError> {
    let mut skipped = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&bytes[skipped..]) {
            Ok(httparse::Status::Complete(consumed)) => {
                skipped += consumed;
                let status = response.code.ok_or(ResponseError::Malformed)?;
                // 1xx are interim responses; 101 can't occur, because the request asks for no upgrade.
                if !(100..200).contains(&status) {
                    return Ok(Some((read_headers(status, response.headers), skipped)));
                }
            }
            Ok(httparse::Status::Partial) if bytes.len() > HEAD_BYTES_MAX => return Err(ResponseError::TooLarge),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooLarge),
            Err(_) => return Err(ResponseError::Malformed),
        }
    }
}

fn read_headers(status: u16, headers: &[httparse::Header<'_>]) -> ResponseHead {
    let mut head = ResponseHead { status, is_event_stream: false, location: None, body: Body::UntilClose };
    for header in headers {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "content-type" => {
                let media_type = value.split(';').next().unwrap_or_default().trim();
                head.is_event_stream = media_type.eq_ignore_ascii_case("text/event-stream");
            }
            "location" => head.location = Some(value.to_owned()),
            "transfer-encoding" if value.to_ascii_lowercase().ends_with("chunked") => {
                head.body = Body::Chunked(Chunk::Size { bytes: 0, digits: 0 });
            }
            // Transfer-Encoding overrides Content-Length, whichever comes first (RFC 9112 6.3).
            "content-length" if head.body == Body::UntilClose => {
                if let Ok(bytes) = value.parse() {
                    head.body = Body::Counted(bytes);
                }
            }
            _ => {}
        }
    }
    if status == 204 || status == 304 {
        head.body = Body::Counted(0);
    }
    head
}

/// A body's framing, and the position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Everything until the connection ends.
    UntilClose,
    /// This many bytes more.
    Counted(u64),
    /// Chunks.
    Chunked(Chunk),
}

/// The position in the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the hexadecimal size.
    Size {
        /// Its value so far.
        bytes: u64,
        /// Its digits so far.
        digits: u8,
    },
    /// In the extension after the size.
    Extension {
        /// The chunk's size.
        bytes: u64,
    },
    /// In the data.
    Data {
        /// Bytes to come.
        bytes: u64,
    },
    /// At the line end after the data.
    DataEnd,
    /// After the last chunk: at the start of a trailer line, or in one.
    Trailer {
        /// True once the line holds anything.
        in_line: bool,
    },
    /// After the end.
    Ended,
}

impl Body {
    /// Passes the content in `bytes` to `content`, in one or more pieces. True once the body has ended.
    pub fn read(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<bool, ResponseError> {
        match self {
            Body::UntilClose => {
                content(bytes);
                Ok(false)
            }
            Body::Counted(left) => {
                let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                content(&bytes[..here]);
                *left -= here as u64;
                Ok(*left == 0)
            }
            Body::Chunked(chunk) => chunk.read(bytes, content),
        }
    }

    /// True if the connection may end here without cutting anything off.
    pub fn may_end_here(&self) -> bool {
        matches!(self, Body::UntilClose | Body::Counted(0) | Body::Chunked(Chunk::Ended))
    }
}

impl Chunk {
    fn read(&mut self, mut bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<bool, ResponseError> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let Chunk::Data { bytes: left } = *self {
                let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                content(&bytes[..here]);
                bytes = &bytes[here..];
                let left = left - here as u64;
                *self = if left == 0 { Chunk::DataEnd } else { Chunk::Data { bytes: left } };
                continue;
            }
            bytes = rest;
            *self = self.step(byte)?;
        }
        Ok(*self == Chunk::Ended)
    }

    /// The state after one byte of framing.
    fn step(self, byte: u8) -> Result<Chunk, ResponseError> {
        Ok(match (self, byte) {
            (Chunk::Size { bytes, digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Chunk::Size { bytes: bytes << 4 | digit, digits: digits + 1 }
            }
            (Chunk::Size { digits: 0, .. }, _) => return Err(ResponseError::Chunk),
            (Chunk::Size { bytes: 0, .. } | Chunk::Extension { bytes: 0 }, b'\n') => Chunk::Trailer { in_line: false },
            (Chunk::Size { bytes, .. } | Chunk::Extension { bytes }, b'\n') => Chunk::Data { bytes },
            (Chunk::Size { bytes, .. }, b'\r' | b';' | b' ' | b'\t') => Chunk::Extension { bytes },
            (Chunk::Size { .. }, _) => return Err(ResponseError::Chunk),
            (Chunk::Extension { .. } | Chunk::DataEnd, b'\r') => self,
            (Chunk::Extension { .. }, _) => self,
            (Chunk::DataEnd, b'\n') => Chunk::Size { bytes: 0, digits: 0 },
            (Chunk::DataEnd, _) => return Err(ResponseError::Chunk),
            (Chunk::Trailer { in_line: false }, b'\n') => Chunk::Ended,
            (Chunk::Trailer { .. }, b'\n') => Chunk::Trailer { in_line: false },
            (Chunk::Trailer { in_line }, b'\r') => Chunk::Trailer { in_line },
            (Chunk::Trailer { .. }, _) => Chunk::Trailer { in_line: true },
            (Chunk::Data { .. } | Chunk::Ended, _) => self,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Head<'a> = (u16, bool, Option<&'a str>, Body);

    fn check_head(head: &str, expected: Result<Option<Head<'_>>, ResponseError>) {
        let parsed = parse_head(head.as_bytes());
        let parsed = parsed
            .as_ref()
            .map(|parsed| parsed.as_ref().map(|(h, _)| (h.status, h.is_event_stream, h.location.as_deref(), h.body)));
        assert_eq!(parsed, expected.as_ref().copied(), "{head:?}");
    }

    #[test]
    fn heads_have_status_type_and_framing() {
        let chunked = Body::Chunked(Chunk::Size { bytes: 0, digits: 0 });
        let plain = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n";
        check_head(plain, Ok(Some((200, true, None, Body::UntilClose))));
        check_head(
            "HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            Ok(Some((200, true, None, chunked))),
        );
        check_head(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Ok(Some((200, false, None, chunked))),
        );
        check_head("HTTP/1.0 503 Busy\r\nContent-Length: 5\r\n\r\n", Ok(Some((503, false, None, Body::Counted(5)))));
        check_head("HTTP/1.1 307 Moved\r\nLocation: /x\r\n\r\n", Ok(Some((307, false, Some("/x"), Body::UntilClose))));
        check_head("HTTP/1.1 204 No Content\r\n\r\n", Ok(Some((204, false, None, Body::Counted(0)))));
        check_head(&format!("HTTP/1.1 103 Early Hints\r\n\r\n{plain}"), Ok(Some((200, true, None, Body::UntilClose))));
        check_head("HTTP/1.1 200 OK\r\nContent-", Ok(None));
        check_head("SSH-2.0-OpenSSH_9.2\r\n", Err(ResponseError::Malformed));
        check_head(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES_MAX)), Err(ResponseError::TooLarge));
    }

    /// Reads `wire` in pieces cut at `cuts`.
    fn read_in_pieces(mut body: Body, wire: &[u8], cuts: &[usize]) -> (Result<bool, ResponseError>, Vec<u8>) {
        let mut content = Vec::new();
        let mut ended = Ok(false);
        let mut from = 0;
        for to in cuts.iter().map(|cut| cut % (wire.len() + 1)).chain([wire.len()]) {
            if to > from && ended == Ok(false) {
                ended = body.read(&wire[from..to], |piece| content.extend_from_slice(piece));
                from = to;
            }
        }
        (ended, content)
    }

    fn check_chunked(wire: &str, expected: Result<bool, ResponseError>, content: &str) {
        let start = Body::Chunked(Chunk::Size { bytes: 0, digits: 0 });
        let byte_by_byte: Vec<usize> = (1..wire.len()).collect();
        for cuts in [&[][..], &byte_by_byte] {
            let (ended, found) = read_in_pieces(start, wire.as_bytes(), cuts);
            assert_eq!((ended, String::from_utf8_lossy(&found).as_ref()), (expected, content), "{wire:?}");
        }
    }

    #[test]
    fn chunked_bodies() {
        check_chunked("5\r\nhello\r\n0\r\n\r\n", Ok(true), "hello");
        check_chunked("5;a=b\r\nhello\r\n1 \r\n!\r\n", Ok(false), "hello!");
        check_chunked("00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n", Ok(true), "0123456789");
        check_chunked("a\n0123456789\n0\n\n", Ok(true), "0123456789");
        check_chunked("0\r\nX: y\r\n", Ok(false), "");
        check_chunked("\r\n", Err(ResponseError::Chunk), "");
        check_chunked("5\r\nhelloX", Err(ResponseError::Chunk), "hello");
        check_chunked("-1\r\n", Err(ResponseError::Chunk), "");
        check_chunked("1111111111111111\r\n", Err(ResponseError::Chunk), "");
    }

    proptest! {
        #[test]
        fn any_chunking_and_any_cuts_give_the_same_content(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10),
            cuts in proptest::collection::vec(0usize..1000, 0..20),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (ended, content) = read_in_pieces(Body::Chunked(Chunk::Size { bytes: 0, digits: 0 }), &wire, &cuts);
            prop_assert_eq!(ended, Ok(true));
            prop_assert_eq!(content, chunks.concat());
        }
    }
}
