//! A stream read back: as a naive reading of WHATWG HTML 9.2.6 has it, in whatever pieces it arrives.

use fanfare::protocol::decoder::{Decoder, EventTooLarge, Item};

use super::chunks::chunkings;

/// Small enough to be met by what a fuzzer makes.
const EVENT_BYTES_MAX: u32 = 40;

pub fn check(bytes: &[u8]) {
    let whole = decode(std::iter::once(bytes));
    assert_eq!(whole, decode_naively(bytes));
    let limited = decode_with(Decoder::with_event_bytes_max(EVENT_BYTES_MAX), std::iter::once(bytes));
    for pieces in chunkings(bytes) {
        assert_eq!(decode(pieces.iter().copied()), whole, "in {pieces:?}");
        let decoder = Decoder::with_event_bytes_max(EVENT_BYTES_MAX);
        assert_eq!(decode_with(decoder, pieces.iter().copied()), limited, "limited, in {pieces:?}");
    }
}

/// What the decoder hands out, as text.
pub fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let (seen, outcome) = decode_with(Decoder::new(), chunks);
    outcome.expect("these streams are short");
    seen
}

fn decode_with<'a>(
    mut decoder: Decoder,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<String>, Result<(), EventTooLarge>) {
    let mut seen = Vec::new();
    for chunk in chunks {
        let outcome = decoder.feed(chunk, |item| {
            seen.push(match item {
                Item::Event { event_type, data, id } => format!("{event_type}|{data}|{id}"),
                Item::Retry(retry) => format!("retry|{}", retry.as_millis()),
                Item::Comment(text) => format!("comment|{text}"),
            });
        });
        if outcome.is_err() {
            return (seen, outcome);
        }
    }
    (seen, Ok(()))
}

/// What a naive decoder makes of a whole stream: WHATWG HTML 9.2.6 as it is written, one step at a time.
pub fn decode_naively(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let unified = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = unified.split('\n').collect();
    lines.pop();
    let (mut data, mut event_type, mut id, mut seen) = (String::new(), String::new(), String::new(), Vec::new());
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                let event_type = if event_type.is_empty() { "message" } else { &event_type };
                seen.push(format!("{event_type}|{data}|{id}"));
            }
            data.clear();
            event_type.clear();
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => seen.push(format!("comment|{value}")),
            "data" => data = data + value + "\n",
            "event" => event_type = value.to_owned(),
            "id" if !value.contains('\0') => id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                // More than fits 32 bits is as late as possible.
                seen.push(format!("retry|{}", value.parse().unwrap_or(u32::MAX)));
            }
            _ => {}
        }
    }
    seen
}
