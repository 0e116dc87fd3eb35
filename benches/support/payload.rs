//! What is published: data of an exact size that tells when it was made and where it ends, whatever the framing.

/// Ends every payload and occurs nowhere else in a stream: counting it counts events, over any server's framing.
pub const END: u8 = b'~';
/// Digits of the time at the start of a payload.
pub const STAMP_LEN: usize = 19;

/// Data of `bytes` bytes, made at `unix_ns`.
pub fn data(bytes: usize, unix_ns: u64) -> String {
    assert!(bytes > STAMP_LEN, "room for the time and the end");
    let mut text = format!("{unix_ns:019}");
    text.extend(std::iter::repeat_n("fanfare ", bytes / 8));
    text.truncate(bytes - 1);
    text.push(char::from(END));
    text
}

/// When the payload that this line of a stream carries was made.
pub fn stamp(line: &[u8]) -> Option<u64> {
    let data = line.strip_prefix(b"data:")?;
    let digits = data.strip_prefix(b" ").unwrap_or(data).get(..STAMP_LEN)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
