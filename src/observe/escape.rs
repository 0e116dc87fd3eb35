//! JSON as a terminal may show it: what JSON allows as it is, though it moves a cursor or turns text round, is escaped.

use std::fmt::Write as _;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Writes JSON on; each write is whole characters, as that of an entry is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Escaped<W>(pub(super) W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Escaped<M> {
    type Writer = Escaped<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Escaped(self.0.make_writer())
    }
}

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(json) if json.contains(is_unsafe) => self.0.write_all(escape(json).as_bytes()).map(|()| bytes.len()),
            _ => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Such a character can only stand inside a JSON string, so an escape means the same.
fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        match is_unsafe(character) {
            true => write!(escaped, "\\u{:04x}", u32::from(character)).expect("a string takes what it is given"),
            false => escaped.push(character),
        }
    }
    escaped
}

/// DEL and the C1 controls; line and paragraph separators, and what sets the direction of text; never the entry's end.
fn is_unsafe(character: char) -> bool {
    character != '\n' && character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_and_shows_nothing_odd() {
        let value = serde_json::json!({ "a": "x\u{7f}\u{9b}31m\u{2028}\u{202e}\u{2066}\u{feff}é\u{1f600}\n\"\\" });
        let mut written = Vec::new();
        writeln!(Escaped(&mut written), "{value}").unwrap();
        let text = String::from_utf8(written).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert!(text.contains("é\u{1f600}") && !text.trim_end().contains(is_unsafe), "{text:?}");
    }
}
