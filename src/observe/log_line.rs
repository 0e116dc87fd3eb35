//! Entries as lines: each is one line of at most [`LINE_BYTES_MAX`] bytes, whatever it holds.
//!
//! The journal would split a longer one, and every reader takes the text after a line feed for a separate entry: text
//! that a client chose could pass for an entry of the server. Independent of the queue and the descriptor.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::clip::{beginning, clip};

/// PIPE_BUF: a pipe takes a line of this many bytes, its line feed included, as a whole or not at all.
pub(super) const LINE_BYTES_MAX: usize = 4096;
/// Room for what follows the beginning of a text that is cut.
const ENDING_BYTES: usize = 64;
/// What remains of a JSON entry that is too long with every text in it clipped.
const JSON_KEYS_KEPT: [&str; 4] = ["timestamp", "level", "message", "target"];

/// Turns each write, which is an entry, into a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines<W> {
    pub(super) writer: W,
    pub(super) is_json: bool,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Lines<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Lines { writer: self.writer.make_writer(), is_json: self.is_json }
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(entry);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = if self.is_json { json_line(text) } else { text_line(text) };
        line.push('\n');
        self.writer.write_all(line.as_bytes()).map(|()| entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn text_line(entry: &str) -> String {
    let is_break = |letter| matches!(letter, '\n' | '\r');
    let line = if entry.contains(is_break) { Cow::Owned(without_breaks(entry)) } else { Cow::Borrowed(entry) };
    if line.len() < LINE_BYTES_MAX {
        return line.into_owned();
    }
    format!("{}… ({} bytes)", beginning(&line, LINE_BYTES_MAX - ENDING_BYTES), entry.len())
}

fn without_breaks(entry: &str) -> String {
    entry.replace('\n', "\\n").replace('\r', "\\r")
}

/// An entry that is too long stays JSON: its texts are clipped and, if that is not enough, only a few keys are kept.
fn json_line(entry: &str) -> String {
    let line = escape_unsafe(entry);
    if line.len() < LINE_BYTES_MAX {
        return line.into_owned();
    }
    let mut entry: Value = serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({ "message": line }));
    clip_texts(&mut entry);
    let clipped = escape_unsafe(&entry.to_string()).into_owned();
    if clipped.len() < LINE_BYTES_MAX {
        return clipped;
    }
    if let Value::Object(fields) = &mut entry {
        fields.retain(|key, _| JSON_KEYS_KEPT.contains(&key.as_str()));
    }
    escape_unsafe(&entry.to_string()).into_owned()
}

fn clip_texts(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clipped) = clip(text) {
                *text = clipped;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(clip_texts),
        Value::Object(fields) => fields.values_mut().for_each(clip_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// JSON that is safe on a terminal: escapes characters that JSON allows unescaped but that move a cursor or reverse
/// text. Such a character can only be inside a JSON string, so the escape means the same.
fn escape_unsafe(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        match is_unsafe(character) {
            true => write!(escaped, "\\u{:04x}", u32::from(character)).expect("a string takes what it is given"),
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// DEL and the C1 controls; line and paragraph separators, and what sets the direction of text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(entry: &str, is_json: bool) -> String {
        let mut written = Vec::new();
        Lines { writer: &mut written, is_json }.write_all(entry.as_bytes()).unwrap();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn a_text_is_one_line_within_the_bound() {
        let check = |entry: &str, expected: &str| assert_eq!(written(entry, false), expected);
        check("a\n", "a\n");
        check("a\n<3>forged\r\n", "a\\n<3>forged\\r\n");
        let longest = "x".repeat(LINE_BYTES_MAX - 1) + "\n";
        check(&longest, &longest);
        check(&format!("x{longest}"), &format!("{}… (4096 bytes)\n", "x".repeat(LINE_BYTES_MAX - ENDING_BYTES)));
        for entry in ["é".repeat(1 << 20), "\n".repeat(1 << 20)] {
            assert!(written(&entry, false).len() <= LINE_BYTES_MAX);
        }
    }

    #[test]
    fn json_means_the_same_and_shows_nothing_odd() {
        let value = serde_json::json!({ "a": "x\u{7f}\u{9b}31m\u{2028}\u{202e}\u{2066}\u{feff}é\u{1f600}\n\"\\" });
        let text = written(&format!("{value}\n"), true);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.contains("é\u{1f600}") && !text.trim_end().contains(is_unsafe), "{text:?}");
    }

    #[test]
    fn json_that_is_too_long_is_json_within_the_bound() {
        let check = |entry: Value, expected: &[(&str, &str)]| {
            let text = written(&format!("{entry}\n"), true);
            assert!(text.len() <= LINE_BYTES_MAX && text.matches('\n').count() == 1, "{} bytes", text.len());
            let read: Value = serde_json::from_str(&text).unwrap();
            expected.iter().for_each(|(key, value)| assert_eq!(read[key], *value, "{text}"));
        };
        let long = |letter: &str| letter.repeat(1 << 20);
        let clipped = format!("{}… (1048576 bytes)", "x".repeat(200));
        check(
            serde_json::json!({ "level": "WARN", "message": long("x"), "peer": "1.2.3.4" }),
            &[("level", "WARN"), ("message", &clipped), ("peer", "1.2.3.4")],
        );
        // Each of these letters takes six bytes.
        check(serde_json::json!({ "level": "WARN", "message": long("\u{7f}"), "deep": [[long("x")]] }), &[]);
        let many: serde_json::Map<_, _> = (0..1000).map(|n| (n.to_string(), long("x")[..300].into())).collect();
        let mut entry = Value::Object(many);
        entry["level"] = "WARN".into();
        check(entry, &[("level", "WARN")]);
    }
}
