//! Text that comes from outside, as the log shows it: its beginning, and how long it was.
//!
//! Invariant: a text from one client takes a bounded part of an entry. Absent: escaping, which the log's formats do.

use std::borrow::Cow;

/// Bytes of a text that are shown.
pub const CLIPPED_BYTES_MAX: usize = 200;

/// The text itself, or the whole characters of it that fit and its length: `https://aaa… (12345 bytes)`.
pub fn clip(text: &str) -> Cow<'_, str> {
    if text.len() <= CLIPPED_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}… ({} bytes)", beginning(text, CLIPPED_BYTES_MAX), text.len()))
}

/// As many whole characters as fit into these bytes.
pub(super) fn beginning(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_whole_or_ends_with_its_length_at_the_bound() {
        let check = |text: &str, expected: &str| assert_eq!(clip(text), expected);
        check("", "");
        check(&"a".repeat(200), &"a".repeat(200));
        check(&"a".repeat(201), &format!("{}… (201 bytes)", "a".repeat(200)));
        // No character is cut in two.
        check(&"é".repeat(100), &"é".repeat(100));
        check(&format!("a{}", "é".repeat(100)), &format!("a{}… (201 bytes)", "é".repeat(99)));
        check(&"\u{1f600}".repeat(1 << 20), &format!("{}… (4194304 bytes)", "\u{1f600}".repeat(50)));
    }
}
