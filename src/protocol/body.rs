//! Removes the framing of a request body, incrementally (RFC 9112, 6 and 7). Holds no bytes itself.
//!
//! Invariant: what has been consumed never extends past the body, so the next pipelined request starts where this
//! reader stopped. Chunk extensions and trailers are skipped, within a bound, and never interpreted.

use super::RequestError;
use super::target::hex_digit;

/// Bytes of chunk extensions and trailers of one body together. No known client sends any, so this is ample.
const OVERHEAD_BYTES_MAX: usize = 8192;
/// Digits of one chunk size; sixteen hex digits are what a u64 holds.
const SIZE_DIGITS_MAX: u8 = 16;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// A body of this number of bytes.
    Length(u64),
    /// Chunks, each with its size, up to an empty one.
    Chunked,
}

/// What one [`feed`](BodyReader::feed) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyProgress {
    /// Bytes of the input that belonged to this body.
    pub consumed: usize,
    /// The body is complete; bytes that were not consumed belong to the next request.
    pub complete: bool,
}

/// Reads one body in any chunking.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    /// Bytes of content that may still come.
    content_bytes_left: u64,
    /// Bytes of extensions and trailers that may still come.
    overhead_bytes_left: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Refused before it began.
    TooLarge,
    /// Inside a body of known length, or inside one chunk of several.
    Content {
        remaining: u64,
        chunked: bool,
    },
    Size {
        size: u64,
        digits: u8,
    },
    /// Blanks after a size: only an extension may follow them.
    SizePadding {
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLineFeed {
        size: u64,
    },
    ChunkCarriageReturn,
    ChunkLineFeed,
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    EndLineFeed,
    Complete,
}

impl BodyReader {
    /// A reader for one body of at most `body_bytes_max` bytes. A `Length` over that fails the first
    /// [`feed`](BodyReader::feed), even one without bytes: call it before sending `100 Continue`.
    pub fn new(framing: BodyFraming, body_bytes_max: usize) -> BodyReader {
        let body_bytes_max = body_bytes_max as u64;
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Complete,
            BodyFraming::Length(length) if length > body_bytes_max => State::TooLarge,
            BodyFraming::Length(remaining) => State::Content { remaining, chunked: false },
            BodyFraming::Chunked => State::Size { size: 0, digits: 0 },
        };
        BodyReader { state, content_bytes_left: body_bytes_max, overhead_bytes_left: OVERHEAD_BYTES_MAX }
    }

    /// Takes the body's bytes from the front of `input` and appends its content to `into`.
    pub fn feed(&mut self, input: &[u8], into: &mut Vec<u8>) -> Result<BodyProgress, RequestError> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            self.state = match self.state {
                State::TooLarge => return Err(RequestError::BodyTooLarge),
                State::Complete => return Ok(BodyProgress { consumed, complete: true }),
                _ if rest.is_empty() => return Ok(BodyProgress { consumed, complete: false }),
                State::Content { remaining, chunked } => {
                    let taken = usize::try_from(remaining).unwrap_or(usize::MAX).min(rest.len());
                    into.extend_from_slice(&rest[..taken]);
                    consumed += taken;
                    match (remaining - taken as u64, chunked) {
                        (0, true) => State::ChunkCarriageReturn,
                        (0, false) => State::Complete,
                        (remaining, _) => State::Content { remaining, chunked },
                    }
                }
                framing => {
                    consumed += 1;
                    self.step(framing, rest[0])?
                }
            };
        }
    }

    /// One byte of framing: every byte has one meaning, and every line must end in CRLF.
    fn step(&mut self, state: State, byte: u8) -> Result<State, RequestError> {
        Ok(match (state, byte) {
            (State::Size { size, digits }, _) => return self.step_size(size, digits, byte),
            (State::SizePadding { size }, b' ' | b'\t') => State::SizePadding { size: self.overhead(size, BAD_SIZE)? },
            (State::SizePadding { size } | State::Extension { size }, b';') => {
                State::Extension { size: self.overhead(size, BAD_SIZE)? }
            }
            (State::Extension { size }, b'\r') => State::SizeLineFeed { size },
            (State::Extension { size }, _) if is_text(byte) => {
                State::Extension { size: self.overhead(size, BAD_SIZE)? }
            }
            (State::SizeLineFeed { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLineFeed { size }, b'\n') => State::Content { remaining: self.admit(size)?, chunked: true },
            (State::SizePadding { .. } | State::Extension { .. } | State::SizeLineFeed { .. }, _) => {
                return Err(BAD_SIZE);
            }
            (State::ChunkCarriageReturn, b'\r') => State::ChunkLineFeed,
            (State::ChunkLineFeed, b'\n') => State::Size { size: 0, digits: 0 },
            (State::ChunkCarriageReturn | State::ChunkLineFeed, _) => return Err(BAD_CHUNK_END),
            (State::TrailerStart, b'\r') => State::EndLineFeed,
            (State::Trailer, b'\r') => State::TrailerLineFeed,
            (State::TrailerStart | State::Trailer, _) if is_text(byte) => {
                self.overhead(0, RequestError::HeadTooLarge)?;
                State::Trailer
            }
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::EndLineFeed, b'\n') => State::Complete,
            _ => return Err(RequestError::Malformed("the trailers of the body are not lines of text")),
        })
    }

    fn step_size(&mut self, size: u64, digits: u8, byte: u8) -> Result<State, RequestError> {
        match (hex_digit(byte), byte) {
            (Some(_), _) if digits == SIZE_DIGITS_MAX => Err(BAD_SIZE),
            (Some(digit), _) => Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }),
            (None, _) if digits == 0 => Err(BAD_SIZE),
            (None, b'\r') => Ok(State::SizeLineFeed { size }),
            (None, b';') => Ok(State::Extension { size: self.overhead(size, BAD_SIZE)? }),
            (None, b' ' | b'\t') => Ok(State::SizePadding { size: self.overhead(size, BAD_SIZE)? }),
            (None, _) => Err(BAD_SIZE),
        }
    }

    /// Counts a chunk's content against the limit before any of it is kept.
    fn admit(&mut self, size: u64) -> Result<u64, RequestError> {
        self.content_bytes_left = self.content_bytes_left.checked_sub(size).ok_or(RequestError::BodyTooLarge)?;
        Ok(size)
    }

    /// Counts one byte that is neither content nor a size; passes `size` through.
    fn overhead(&mut self, size: u64, refusal: RequestError) -> Result<u64, RequestError> {
        self.overhead_bytes_left = self.overhead_bytes_left.checked_sub(1).ok_or(refusal)?;
        Ok(size)
    }
}

const BAD_SIZE: RequestError = RequestError::Malformed("a chunk does not start with its size in hex digits and CRLF");
const BAD_CHUNK_END: RequestError =
    RequestError::Malformed("a chunk's content is not followed by CRLF at the length that its size states");

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY_BYTES_MAX: usize = 20;

    /// The content and the bytes left over, or the status; the same byte by byte as in one piece.
    fn check(framing: BodyFraming, input: &str, expected: Result<(&str, &str), u16>) {
        let mut content = Vec::new();
        let mut reader = BodyReader::new(framing, BODY_BYTES_MAX);
        let whole = reader.feed(input.as_bytes(), &mut content).map_err(RequestError::status);
        let whole = whole.map(|progress| {
            assert!(progress.complete, "{input:?} is not complete");
            (std::str::from_utf8(&content).unwrap(), &input[progress.consumed..])
        });
        assert_eq!(whole, expected, "{input:?}");

        let (mut reader, mut slowly) = (BodyReader::new(framing, BODY_BYTES_MAX), Vec::new());
        let mut outcome = reader.feed(&[], &mut slowly);
        for byte in input.as_bytes().chunks(1) {
            if outcome.is_ok_and(|progress| !progress.complete) {
                outcome = reader.feed(byte, &mut slowly);
            }
        }
        assert_eq!(outcome.map(|progress| progress.complete).map_err(RequestError::status), expected.map(|_| true));
        if expected.is_ok() {
            assert_eq!(slowly, content, "{input:?} byte by byte");
        }
    }

    #[test]
    fn lengths_are_exact() {
        check(BodyFraming::None, "GET /", Ok(("", "GET /")));
        check(BodyFraming::Length(0), "GET /", Ok(("", "GET /")));
        check(BodyFraming::Length(5), "helloGET /", Ok(("hello", "GET /")));
        check(BodyFraming::Length(20), "12345678901234567890", Ok(("12345678901234567890", "")));
        check(BodyFraming::Length(21), "", Err(413));
        check(BodyFraming::Length(u64::MAX), "", Err(413));
    }

    #[test]
    fn chunks_are_joined() {
        let check = |input: &str, expected| check(BodyFraming::Chunked, input, expected);
        check("0\r\n\r\n", Ok(("", "")));
        check("5\r\nhello\r\n0\r\n\r\nGET /", Ok(("hello", "GET /")));
        check("000a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", Ok(("01234567890123456789", "")));
        check("1;a=b;c=\"d e\"\r\nx\r\n0;last\r\n\r\n", Ok(("x", "")));
        check("1 \t;a\r\nx\r\n0\r\n\r\n", Ok(("x", "")));
        check("1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\nrest", Ok(("x", "rest")));
        check("2\r\n\r\n\r\n0\r\n\r\n", Ok(("\r\n", "")));
    }

    #[test]
    fn sloppy_chunks_are_refused() {
        let check = |input: &str, status| check(BodyFraming::Chunked, input, Err(status));
        for bad in [
            "\r\n",
            ";a\r\n",
            "g\r\n",
            "0x1\r\nx",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "1 \r\nx",
            "1 2\r\nx",
            "1\nx",
            "1\rx",
            "1\r\nxy\r\n",
            "1\r\nx\n",
            "1\r\nx\r0",
            "1;a\nx",
            "1;a\rx",
            "1;\0\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\nA: b\n",
            "0\r\nA: b\rx",
            "0\r\nA: \0\r\n",
            "00000000000000001\r\nx",
        ] {
            check(bad, 400);
        }
        check("15\r\n", 413);
        check("ffffffffffffffff\r\n", 413);
        check("a\r\n0123456789\r\nb\r\n", 413);
    }

    #[test]
    fn extensions_and_trailers_are_bounded_over_the_whole_body() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(OVERHEAD_BYTES_MAX / 2));
        check(BodyFraming::Chunked, &format!("{chunk}0\r\n\r\n"), Ok(("x", "")));
        check(BodyFraming::Chunked, &format!("{chunk}{chunk}0\r\n\r\n"), Err(400));
        check(
            BodyFraming::Chunked,
            &format!("{chunk}0\r\n{}\r\n\r\n", "t: u\r\n".repeat(OVERHEAD_BYTES_MAX)),
            Err(431),
        );
    }
}
