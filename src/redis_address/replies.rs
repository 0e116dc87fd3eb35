//! RESP2 replies, read in place: messages of subscriptions borrow from the one buffer that a connection reads into.
//!
//! ```text
//!  read() ─▶ space … filled ─▶ next ─▶ Message    names and payload, borrowed
//!                                  ├─▶ TooLong    its names; its bytes are skipped as they come
//!                                  └─▶ Other      any other reply, complete, for the crate's parser
//! ```
//!
//! Whatever Redis sends, the buffer stays within [`ReplyLimits`]. A payload or a name that is longer is skipped and
//! reported. Any other reply that is longer, or nests deeper, is a [`Violation`], which ends the connection. Pure: no
//! sockets.

use std::ops::Range;

/// The longest name of a channel or pattern that is read; a longer one is not a topic.
pub const NAME_BYTES_MAX: usize = 4 << 10;
/// The longest reply that is not a message: ROLE or INFO of a Redis with a thousand replicas.
pub const OTHER_BYTES_MAX: usize = 256 << 10;
/// The longest payload that is skipped: twice the default limit of Redis for a string (`proto-max-bulk-len`).
pub const SKIPPED_BYTES_MAX: u64 = 1 << 30;
/// The buffer's initial size, and its size again after a longer message was taken out of it.
pub const BUFFER_BYTES: usize = 64 << 10;
/// How deep lists may nest: ROLE needs two.
const DEPTH_MAX: usize = 8;
/// Maximum digits of a length.
const DIGITS_MAX: usize = 18;

const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n";
const PATTERN_MESSAGE: &[u8] = b"*4\r\n$8\r\npmessage\r\n";

/// How long a message may be.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    /// The longest payload that is read.
    pub payload_bytes_max: usize,
}

impl ReplyLimits {
    /// How large a buffer becomes: the longest message, or another reply, with its framing.
    pub fn buffer_bytes_max(&self) -> usize {
        let message = self.payload_bytes_max + 2 * NAME_BYTES_MAX + BUFFER_BYTES;
        message.max(OTHER_BYTES_MAX + BUFFER_BYTES)
    }
}

/// A message of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The pattern that it came through; `None`: it came through its channel.
    pub pattern: Option<&'a [u8]>,
    /// The channel that it was published to.
    pub channel: &'a [u8],
    /// The published data.
    pub payload: &'a [u8],
}

/// A message of which a part is longer than the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong<'a> {
    /// The pattern that it came through, if it was read.
    pub pattern: Option<&'a [u8]>,
    /// The channel. `None`: its name, or the pattern's, is the part that is too long.
    pub channel: Option<&'a [u8]>,
    /// The length of the part.
    pub bytes: u64,
}

/// A reply from Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A message.
    Message(Message<'a>),
    /// A message that is skipped.
    TooLong(TooLong<'a>),
    /// Another reply, complete.
    Other(&'a [u8]),
}

/// Input that no Redis sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A byte that RESP2 does not allow there.
    #[error("it does not speak the protocol of Redis (RESP2)")]
    Syntax,
    /// A reply beyond the limits.
    #[error("a reply is longer than any expected reply: more than {OTHER_BYTES_MAX} bytes")]
    ReplyTooLong,
    /// A message beyond the limit for skipping.
    #[error("a message is longer than {SKIPPED_BYTES_MAX} bytes")]
    MessageTooLong,
    /// Too many nested lists.
    #[error("a reply nests more than {DEPTH_MAX} lists")]
    TooDeep,
}

/// Bytes that have been read from a connection and not been taken yet.
#[derive(Debug)]
pub struct Replies {
    limits: ReplyLimits,
    buffer: Vec<u8>,
    /// The range of unread bytes in the buffer.
    unread: Range<usize>,
    skip: Option<Skip>,
}

/// The rest of a message that is too long.
#[derive(Clone, Copy, Debug)]
struct Skip {
    /// Bytes of the part that is being skipped.
    left: u64,
    /// Parts that follow it.
    parts: usize,
}

impl Replies {
    /// An empty buffer.
    pub fn new(limits: ReplyLimits) -> Replies {
        Replies { limits, buffer: vec![0; BUFFER_BYTES], unread: 0..0, skip: None }
    }

    /// Space to read into; never empty. Call [`Replies::filled`] after the read.
    pub fn space(&mut self) -> &mut [u8] {
        if self.unread.is_empty() {
            self.unread = 0..0;
            if self.buffer.len() > BUFFER_BYTES {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        }
        // Unread bytes are part of one reply, and moved at most once for each read.
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        if self.unread.end == self.buffer.len() {
            debug_assert!(self.buffer.len() < self.limits.buffer_bytes_max(), "what is longer is skipped or refused");
            self.buffer.resize((self.buffer.len() * 2).min(self.limits.buffer_bytes_max()).max(self.unread.end + 1), 0);
        }
        &mut self.buffer[self.unread.end..]
    }

    /// Records that this many bytes were read into the space.
    pub fn filled(&mut self, bytes: usize) {
        self.unread.end += bytes;
    }

    /// The next reply, if it is complete.
    #[allow(clippy::should_implement_trait, reason = "what it returns borrows from it")]
    pub fn next(&mut self) -> Result<Option<Reply<'_>>, Violation> {
        if !self.skip()? {
            return Ok(None);
        }
        let unread = &self.buffer[self.unread.clone()];
        match parse(unread, &self.limits)? {
            None if unread.len() > self.limits.buffer_bytes_max() - BUFFER_BYTES => Err(Violation::ReplyTooLong),
            None => Ok(None),
            Some(Parsed { reply, consumed, skip }) => {
                self.unread.start += consumed;
                self.skip = skip;
                Ok(Some(reply))
            }
        }
    }

    /// Drops the bytes to skip; true when all were dropped.
    fn skip(&mut self) -> Result<bool, Violation> {
        while let Some(Skip { left, parts }) = &mut self.skip {
            let skipped = (self.unread.len() as u64).min(*left);
            self.unread.start += skipped as usize;
            *left -= skipped;
            let unread = &self.buffer[self.unread.clone()];
            if *left > 0 {
                return Ok(false);
            }
            let Some(rest) = line_end(unread)? else { return Ok(false) };
            if *parts == 0 {
                self.unread.start += rest;
                self.skip = None;
                return Ok(true);
            }
            let Some((bytes, header)) = length(&unread[rest..], b'$')? else { return Ok(false) };
            self.unread.start += rest + header;
            self.skip = Some(Skip { left: skippable(bytes)?, parts: *parts - 1 });
        }
        Ok(true)
    }
}

/// A reply, its length in bytes, and what follows it that is not a reply.
struct Parsed<'a> {
    reply: Reply<'a>,
    consumed: usize,
    skip: Option<Skip>,
}

fn parse<'a>(bytes: &'a [u8], limits: &ReplyLimits) -> Result<Option<Parsed<'a>>, Violation> {
    // Redis writes these two in only one way; a list with another beginning is not a message.
    if bytes.starts_with(MESSAGE) {
        return parse_message(bytes, MESSAGE.len(), false, limits);
    }
    if bytes.starts_with(PATTERN_MESSAGE) {
        return parse_message(bytes, PATTERN_MESSAGE.len(), true, limits);
    }
    if MESSAGE.starts_with(bytes) || PATTERN_MESSAGE.starts_with(bytes) {
        return Ok(None);
    }
    match end_of(bytes, 0)? {
        Some(end) if end > OTHER_BYTES_MAX => Err(Violation::ReplyTooLong),
        Some(end) => Ok(Some(Parsed { reply: Reply::Other(&bytes[..end]), consumed: end, skip: None })),
        None if bytes.len() > OTHER_BYTES_MAX => Err(Violation::ReplyTooLong),
        None => Ok(None),
    }
}

/// The parts of a message, starting at `at`.
fn parse_message<'a>(
    bytes: &'a [u8],
    mut at: usize,
    has_pattern: bool,
    limits: &ReplyLimits,
) -> Result<Option<Parsed<'a>>, Violation> {
    let parts = if has_pattern { 3 } else { 2 };
    let mut read = [&[][..]; 3];
    for part in 0..parts {
        let is_payload = part + 1 == parts;
        let Some((length, header)) = length(&bytes[at..], b'$')? else { return Ok(None) };
        at += header;
        if length > if is_payload { limits.payload_bytes_max } else { NAME_BYTES_MAX } as u64 {
            let skip = Skip { left: skippable(length)?, parts: parts - part - 1 };
            let too_long = TooLong {
                pattern: (has_pattern && part > 0).then_some(read[0]),
                channel: is_payload.then_some(read[parts - 2]),
                bytes: length,
            };
            return Ok(Some(Parsed { reply: Reply::TooLong(too_long), consumed: at, skip: Some(skip) }));
        }
        let end = at + length as usize;
        if bytes.len() < end {
            return Ok(None);
        }
        let Some(line_end) = line_end(&bytes[end..])? else { return Ok(None) };
        read[part] = &bytes[at..end];
        at = end + line_end;
    }
    let pattern = has_pattern.then_some(read[0]);
    let message = Message { pattern, channel: read[parts - 2], payload: read[parts - 1] };
    Ok(Some(Parsed { reply: Reply::Message(message), consumed: at, skip: None }))
}

/// Where the first reply in `bytes` ends.
fn end_of(bytes: &[u8], depth: usize) -> Result<Option<usize>, Violation> {
    let Some(&marker) = bytes.first() else { return Ok(None) };
    match marker {
        b'+' | b'-' | b':' => {
            let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else { return Ok(None) };
            Ok(line_end(&bytes[end..])?.map(|line_end| end + line_end))
        }
        // Null, as a string or as a list.
        b'$' | b'*' if b"-1\r\n".starts_with(&bytes[1..bytes.len().min(5)]) => Ok((bytes.len() >= 5).then_some(5)),
        b'$' => {
            let Some((length, header)) = length(bytes, b'$')? else { return Ok(None) };
            let end = header + other_length(length)?;
            let Some(rest) = bytes.get(end..) else { return Ok(None) };
            Ok(line_end(rest)?.map(|line_end| end + line_end))
        }
        b'*' if depth == DEPTH_MAX => Err(Violation::TooDeep),
        b'*' => {
            let Some((count, mut at)) = length(bytes, b'*')? else { return Ok(None) };
            for _ in 0..other_length(count)? {
                let Some(end) = end_of(&bytes[at..], depth + 1)? else { return Ok(None) };
                at += end;
            }
            Ok(Some(at))
        }
        _ => Err(Violation::Syntax),
    }
}

/// A length after `marker`, and the bytes of both including the line's end.
fn length(bytes: &[u8], marker: u8) -> Result<Option<(u64, usize)>, Violation> {
    match bytes.first() {
        None => return Ok(None),
        Some(first) if *first != marker => return Err(Violation::Syntax),
        Some(_) => {}
    }
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'0'..=b'9' if at <= DIGITS_MAX => value = value * 10 + u64::from(byte - b'0'),
            b'\r' if at > 1 => return Ok(line_end(&bytes[at..])?.map(|line_end| (value, at + line_end))),
            _ => return Err(Violation::Syntax),
        }
    }
    Ok(None)
}

/// The line end at the start of `bytes`: its length, once it is complete.
fn line_end(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    match bytes {
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [] | [b'\r'] => Ok(None),
        _ => Err(Violation::Syntax),
    }
}

fn skippable(bytes: u64) -> Result<u64, Violation> {
    if bytes > SKIPPED_BYTES_MAX { Err(Violation::MessageTooLong) } else { Ok(bytes) }
}

/// A length, or a count, in a reply that is not a message.
fn other_length(length: u64) -> Result<usize, Violation> {
    usize::try_from(length).ok().filter(|length| *length <= OTHER_BYTES_MAX).ok_or(Violation::ReplyTooLong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: ReplyLimits = ReplyLimits { payload_bytes_max: 10 };

    /// The replies read from these pieces, as text, and the result.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, Result<(), Violation>) {
        let (mut replies, mut seen) = (Replies::new(LIMITS), Vec::new());
        for mut piece in pieces {
            while !piece.is_empty() {
                let space = replies.space();
                let bytes = piece.len().min(space.len());
                space[..bytes].copy_from_slice(&piece[..bytes]);
                replies.filled(bytes);
                piece = &piece[bytes..];
                loop {
                    match replies.next() {
                        Ok(None) => break,
                        Ok(Some(reply)) => seen.push(describe(reply)),
                        Err(violation) => return (seen, Err(violation)),
                    }
                }
                assert!(replies.buffer.len() <= LIMITS.buffer_bytes_max());
            }
        }
        (seen, Ok(()))
    }

    fn describe(reply: Reply<'_>) -> String {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        match reply {
            Reply::Message(Message { pattern, channel, payload }) => {
                format!("{}{}={}", pattern.map(|p| text(p) + "/").unwrap_or_default(), text(channel), text(payload))
            }
            Reply::TooLong(TooLong { pattern, channel, bytes }) => {
                format!(
                    "{}{}:{bytes}",
                    pattern.map(|p| text(p) + "/").unwrap_or_default(),
                    text(channel.unwrap_or(b"?"))
                )
            }
            Reply::Other(bytes) => text(bytes),
        }
    }

    #[track_caller]
    fn check(bytes: &str, expected: &[&str], outcome: Result<(), Violation>) {
        let pieces = [vec![bytes.as_bytes()], bytes.as_bytes().chunks(1).collect()];
        for pieces in pieces {
            let (seen, ended) = read(pieces);
            assert_eq!(
                (seen.iter().map(String::as_str).collect::<Vec<_>>(), ended),
                (expected.to_vec(), outcome),
                "{bytes:?}"
            );
        }
    }

    /// A message as Redis writes it.
    fn message(parts: &[&[u8]]) -> Vec<u8> {
        let kind: &[u8] = if parts.len() == 2 { b"message" } else { b"pmessage" };
        let mut bytes = format!("*{}\r\n", parts.len() + 1).into_bytes();
        for part in [&[kind], parts].concat() {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    #[test]
    fn messages_and_other_replies_are_distinguished() {
        let text = |parts: &[&[u8]]| String::from_utf8(message(parts)).unwrap();
        check(&text(&[b"news", b"a\r\nb"]), &["news=a\\r\\nb"], Ok(()));
        check(&text(&[b"n*", b"news", b""]), &["n*/news="], Ok(()));
        let confirmation = "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
        let escaped = confirmation.as_bytes().escape_ascii().to_string();
        check(&format!("{confirmation}+OK\r\n{}", text(&[b"a", b"1"])), &[&escaped, "+OK\\r\\n", "a=1"], Ok(()));
        check(
            "-ERR no\r\n:12\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n",
            &["-ERR no\\r\\n", ":12\\r\\n", "$-1\\r\\n", "*-1\\r\\n", "*0\\r\\n", "$0\\r\\n\\r\\n"],
            Ok(()),
        );
        let role = "*3\r\n$6\r\nmaster\r\n:7\r\n*1\r\n*2\r\n$1\r\nh\r\n$1\r\n1\r\n";
        check(role, &[&role.as_bytes().escape_ascii().to_string()], Ok(()));
    }

    #[test]
    fn a_message_that_is_too_long_is_reported_at_once_and_skipped() {
        let text = |parts: &[&[u8]]| String::from_utf8(message(parts)).unwrap();
        let next = text(&[b"a", b"1234567890"]);
        check(&(text(&[b"a", b"12345678901"]) + &next), &["a:11", "a=1234567890"], Ok(()));
        check(&(text(&[b"p", b"a", b"\r\n345678901"]) + &next), &["p/a:11", "a=1234567890"], Ok(()));
        let long = [b'x'; NAME_BYTES_MAX + 1];
        let too_long = format!("?:{}", long.len());
        check(&(text(&[&long, b"1"]) + &next), &[&too_long, "a=1234567890"], Ok(()));
        check(&(text(&[&long, &long, &long]) + &next), &[&too_long, "a=1234567890"], Ok(()));
        check(&(text(&[b"p", &long, &long]) + &next), &[&format!("p/{too_long}"), "a=1234567890"], Ok(()));
        check("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1073741824\r\nx", &["a:1073741824"], Ok(()));
        check("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1073741825\r\n", &[], Err(Violation::MessageTooLong));
        check("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$11\r\n12345678901x", &["a:11"], Err(Violation::Syntax));
    }

    #[test]
    fn replies_that_violate_the_protocol_are_refused() {
        use Violation::{ReplyTooLong, Syntax, TooDeep};
        for bytes in [
            "HTTP/1.1 400",
            "\0",
            "$x",
            "$\r\n",
            "$1\r\nab",
            "+OK\n",
            "*3\r\n$7\r\nmessage\r\n:1\r\n",
            "$1234567890123456789",
        ] {
            check(bytes, &[], Err(Syntax));
        }
        check("$2000000000\r\n", &[], Err(ReplyTooLong));
        check("*2000000000\r\n", &[], Err(ReplyTooLong));
        check(&"*1\r\n".repeat(1000), &[], Err(TooDeep));
        check(&("*1\r\n".repeat(DEPTH_MAX) + "+x\r\n"), &[&("*1\\r\\n".repeat(DEPTH_MAX) + "+x\\r\\n")], Ok(()));
        let endless = format!("+{}", "x".repeat(OTHER_BYTES_MAX));
        assert_eq!(read([endless.as_bytes()]), (vec![], Err(ReplyTooLong)));
        assert_eq!(read([&endless.as_bytes()[..OTHER_BYTES_MAX]]), (vec![], Ok(())));
    }

    fn replies() -> impl Strategy<Value = Vec<u8>> {
        let part = || prop::collection::vec(any::<u8>(), 0..14);
        let reply = prop_oneof![
            (part(), part()).prop_map(|(channel, payload)| message(&[&channel, &payload])),
            (part(), part(), part()).prop_map(|(pattern, channel, payload)| message(&[&pattern, &channel, &payload])),
            "[+:-][ -~]{0,9}\r\n".prop_map(String::into_bytes),
            Just(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n".to_vec()),
            Just(b"*2\r\n*1\r\n$-1\r\n*-1\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..5),
        ];
        prop::collection::vec(reply, 0..8).prop_map(|replies| replies.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_reads_as_one_chunk_does(bytes in replies(), cuts in prop::collection::vec(1..40usize, 0..60)) {
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(read(pieces), read([&bytes[..]]));
        }

        #[test]
        fn messages_come_out_as_they_went_in(messages in prop::collection::vec((".{0,9}", "[a-z]{0,10}"), 0..9)) {
            let bytes: Vec<u8> = messages.iter().flat_map(|(channel, payload)| message(&[channel.as_bytes(), payload.as_bytes()])).collect();
            let expected = messages.iter().map(|(channel, payload)| format!("{}={payload}", channel.as_bytes().escape_ascii()));
            prop_assert_eq!(read([&bytes[..]]), (expected.collect(), Ok(())));
        }
    }
}
