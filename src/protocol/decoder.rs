//! Decodes a stream: the algorithm of WHATWG HTML 9.2.6, in any chunking of the bytes.
//!
//! A decoder between two events holds its last event id and no buffers, so a load client can keep tens of thousands. An
//! event that arrives in one piece is handed out from the bytes it arrived in. Invariant: chunk boundaries change
//! nothing that is handed out. It does not reconnect: a caller that does reads the id and the retry time from it.

use std::borrow::Cow;
use std::time::Duration;

use memchr::{memchr, memchr2};

/// The default limit on the bytes of one event (and of one line).
pub const EVENT_BYTES_MAX: u32 = 16 << 20;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// What a stream contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An event was dispatched.
    Event {
        /// Its type, `message` where none was named.
        event_type: &'a str,
        /// Its data, lines joined with `\n`.
        data: &'a str,
        /// The last event id as of this event: its own, an earlier one's, or empty.
        id: &'a str,
    },
    /// A new reconnection time. It applies at once, whether or not an event is dispatched.
    Retry(Duration),
    /// A comment, without its colon and one space: heartbeats look like this.
    Comment(&'a str),
}

/// An event or a line was longer than this decoder accepts. The decoder cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {event_bytes_max} bytes")]
pub struct EventTooLarge {
    /// The limit.
    pub event_bytes_max: u32,
}

/// Reads one stream. A reconnect is a new stream: see [`Decoder::reconnected`].
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The part of an incomplete event or line that is held.
    pending: Option<Box<Pending>>,
    last_event_id: String,
    retry_ms: Option<u32>,
    event_bytes_max: u32,
    start: Start,
    after_carriage_return: bool,
    failed: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 48);

/// How much of a byte order mark the stream has shown so far.
#[derive(Clone, Copy, Debug)]
enum Start {
    Matched(u8),
    Passed,
}

#[derive(Clone, Debug, Default)]
struct Pending {
    line: Vec<u8>,
    block: Block<'static>,
}

/// The lines since the last empty one, borrowed from the input where possible.
#[derive(Clone, Debug, Default)]
struct Block<'a> {
    event_type: Cow<'a, [u8]>,
    /// Without the last line's end; none is what WHATWG calls an empty data buffer.
    data: Option<Cow<'a, [u8]>>,
    id: Option<Cow<'a, [u8]>>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Decoder {
        Decoder::with_event_bytes_max(EVENT_BYTES_MAX)
    }

    /// The same with another limit on the bytes of one event.
    pub fn with_event_bytes_max(event_bytes_max: u32) -> Decoder {
        Decoder {
            pending: None,
            last_event_id: String::new(),
            retry_ms: None,
            event_bytes_max,
            start: Start::Matched(0),
            after_carriage_return: false,
            failed: false,
        }
    }

    /// The decoder for the stream after this one: what was incomplete is dropped, the id and the retry time stay, as
    /// they do in browsers.
    #[must_use]
    pub fn reconnected(self) -> Decoder {
        let fresh = Decoder::with_event_bytes_max(self.event_bytes_max);
        Decoder { last_event_id: self.last_event_id, retry_ms: self.retry_ms, ..fresh }
    }

    /// The id to resume from; empty when the stream has named none.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The reconnection time, once the stream has named one.
    pub fn retry(&self) -> Option<Duration> {
        self.retry_ms.map(|ms| Duration::from_millis(ms.into()))
    }

    /// Takes the next bytes and hands out what they complete. The end of a stream needs no call: an incomplete event is
    /// never dispatched.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Item<'_>)) -> Result<(), EventTooLarge> {
        if self.failed {
            return Err(self.too_large());
        }
        let (bytes, mark) = self.pass_start(bytes);
        let mut rest = self.pass_line_feed(bytes);
        let Pending { mut line, mut block } = self.pending.take().map(|pending| *pending).unwrap_or_default();
        line.extend_from_slice(mark);
        // Only the first line can have begun in earlier bytes; it is put together here, the others are read in place.
        if !line.is_empty() {
            let Some(end) = memchr2(b'\r', b'\n', rest) else { return self.keep(line, rest, block) };
            line.extend_from_slice(&rest[..end]);
            rest = self.pass_line_end(rest, end);
            let mut first: Block<'_> = block;
            self.take_line(&line, &mut first, &mut on)?;
            block = first.into_owned();
        }
        let mut block: Block<'_> = block;
        while let Some(end) = memchr2(b'\r', b'\n', rest) {
            self.take_line(&rest[..end], &mut block, &mut on)?;
            rest = self.pass_line_end(rest, end);
        }
        self.keep(Vec::new(), rest, block.into_owned())
    }

    /// Cuts one byte order mark off the start of the stream. Returns the bytes after it, and those of an earlier chunk
    /// that only looked like the beginning of a mark.
    fn pass_start<'b>(&mut self, bytes: &'b [u8]) -> (&'b [u8], &'static [u8]) {
        let Start::Matched(matched) = self.start else { return (bytes, b"") };
        let wanted = &BOM[usize::from(matched)..];
        let common = wanted.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        if common < wanted.len() && common == bytes.len() {
            self.start = Start::Matched(matched + common as u8);
            return (b"", b"");
        }
        self.start = Start::Passed;
        let mark = if common == wanted.len() { b"" } else { &BOM[..usize::from(matched) + common] };
        (&bytes[common..], mark)
    }

    /// Cuts off the line feed of a CRLF that is split over two chunks; the carriage return has ended its line.
    fn pass_line_feed<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        match bytes.split_first() {
            Some((&first, after)) if std::mem::take(&mut self.after_carriage_return) && first == b'\n' => after,
            _ => bytes,
        }
    }

    fn pass_line_end<'b>(&mut self, bytes: &'b [u8], end: usize) -> &'b [u8] {
        let after = &bytes[end + 1..];
        self.after_carriage_return = bytes[end] == b'\r';
        self.pass_line_feed(after)
    }

    fn take_line<'b>(
        &mut self,
        line: &'b [u8],
        block: &mut Block<'b>,
        on: &mut impl FnMut(Item<'_>),
    ) -> Result<(), EventTooLarge> {
        self.check_held(line.len(), block)?;
        if line.is_empty() {
            self.dispatch(block, on);
            *block = Block::default();
            return Ok(());
        }
        let colon = memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"" => on(Item::Comment(&String::from_utf8_lossy(value))),
            b"data" => block.push_data(value),
            b"event" => block.event_type = Cow::Borrowed(value),
            b"id" if memchr(0, value).is_none() => block.id = Some(Cow::Borrowed(value)),
            b"retry" => {
                if let Some(retry_ms) = parse_retry(value) {
                    self.retry_ms = Some(retry_ms);
                    on(Item::Retry(Duration::from_millis(retry_ms.into())));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The empty line: the id takes effect even if there is no data, and so no event to dispatch.
    fn dispatch(&mut self, block: &Block<'_>, on: &mut impl FnMut(Item<'_>)) {
        if let Some(id) = &block.id {
            // Refilled in place: a stream's ids are of one length, and this happens at every event.
            self.last_event_id.clear();
            self.last_event_id.push_str(&String::from_utf8_lossy(id));
        }
        let Some(data) = &block.data else { return };
        let event_type = if block.event_type.is_empty() { b"message" } else { &*block.event_type };
        on(Item::Event {
            event_type: &String::from_utf8_lossy(event_type),
            data: &String::from_utf8_lossy(data),
            id: &self.last_event_id,
        });
    }

    /// Keeps what is incomplete at the end of a chunk, if anything.
    fn keep(&mut self, mut line: Vec<u8>, rest: &[u8], block: Block<'static>) -> Result<(), EventTooLarge> {
        self.check_held(line.len() + rest.len(), &block)?;
        line.extend_from_slice(rest);
        if !line.is_empty() || block.bytes() > 0 || block.data.is_some() || block.id.is_some() {
            self.pending = Some(Box::new(Pending { line, block }));
        }
        Ok(())
    }

    fn check_held(&mut self, line_bytes: usize, block: &Block<'_>) -> Result<(), EventTooLarge> {
        if line_bytes + block.bytes() <= self.event_bytes_max as usize {
            return Ok(());
        }
        self.failed = true;
        Err(self.too_large())
    }

    fn too_large(&self) -> EventTooLarge {
        EventTooLarge { event_bytes_max: self.event_bytes_max }
    }
}

impl<'a> Block<'a> {
    fn push_data(&mut self, line: &'a [u8]) {
        match &mut self.data {
            Some(data) => {
                let data = data.to_mut();
                data.push(b'\n');
                data.extend_from_slice(line);
            }
            None => self.data = Some(Cow::Borrowed(line)),
        }
    }

    fn bytes(&self) -> usize {
        let part = |part: &Option<Cow<'_, [u8]>>| part.as_ref().map_or(0, |bytes| bytes.len());
        self.event_type.len() + part(&self.data) + part(&self.id)
    }

    fn into_owned(self) -> Block<'static> {
        let owned = |bytes: Cow<'_, [u8]>| Cow::Owned(bytes.into_owned());
        Block { event_type: owned(self.event_type), data: self.data.map(owned), id: self.id.map(owned) }
    }
}

/// ASCII digits only. A number that is too large becomes the largest retry time, 49 days.
fn parse_retry(value: &[u8]) -> Option<u32> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let add = |sum: u32, digit: &u8| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    digits.then(|| value.iter().fold(0, add))
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
