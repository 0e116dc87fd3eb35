//! Stamps: the payload of a load-test message, numbered, timed and checksummed.
//!
//! ```text
//! {"load":"k3f9q2ab","n":17,"t":1764950000000000,"pad":"defghi…","sum":"1a2b3c4d"}
//!          test run   number  intended send time                CRC-32 of all before ","sum"
//! ```
//!
//! The payload is JSON, so that servers which only pass JSON accept it. It is one line, so that no server may reshape
//! it: the bytes are checked. This module is independent of subscribers; [`ledger`](super::ledger) handles those.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The smallest payload: all fields at their widest and no padding.
pub const PAYLOAD_BYTES_MIN: usize = 81;

const PREFIX: &[u8] = b"{\"load\":\"";
const SUM_KEY: &[u8] = b"\",\"sum\":\"";
const SUM_TAIL_BYTES: usize = SUM_KEY.len() + 8 + 2;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The random name of one load test, by which it recognizes its own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRun([u8; 8]);

impl TestRun {
    /// Names a test from 40 random bits.
    pub fn from_bits(bits: u64) -> TestRun {
        TestRun(std::array::from_fn(|i| ALPHABET[(bits >> (5 * i)) as usize & 31]))
    }
}

impl fmt::Display for TestRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or("?"))
    }
}

/// The fields of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its number in the test's order; the first message is 1.
    pub number: u32,
    /// The intended send time, in microseconds since 1970. Not the actual one: a sender that falls behind would
    /// otherwise hide its own delay (coordinated omission).
    pub intended_us: u64,
}

/// The payload of one message, exactly `payload_bytes` long (at least [`PAYLOAD_BYTES_MIN`]).
pub fn stamped_payload(run: TestRun, stamp: Stamp, payload_bytes: usize) -> String {
    let mut text = format!("{{\"load\":\"{run}\",\"n\":{},\"t\":{},\"pad\":\"", stamp.number, stamp.intended_us);
    let pad_bytes = payload_bytes.saturating_sub(text.len() + SUM_TAIL_BYTES);
    // The padding starts at another letter for each message, so that pieces of two messages never fit together.
    let start = stamp.number as usize;
    text.extend((0..pad_bytes).map(|i| char::from(ALPHABET[(start + i) % ALPHABET.len()])));
    let sum = crc32(text.as_bytes());
    text.push_str(&format!("\",\"sum\":\"{sum:08x}\"}}"));
    text
}

/// The result of reading an event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A message of this test, every byte as it was sent.
    Genuine(Stamp),
    /// A message of this test with other bytes than were sent; its number, if it is still readable.
    Corrupted(Option<u32>),
    /// An event that this test did not publish.
    Foreign,
}

/// Reads the stamps of one test run; without a given run it adopts that of the first valid message.
///
/// Every subscriber receives the same bytes, so the reader keeps valid ones for a while and only compares the next ones
/// to them: that costs less than the checksum and is as strict.
pub struct StampReader {
    run: Option<TestRun>,
    recent: Vec<Vec<u8>>,
}

impl StampReader {
    const RECENT: usize = 64;
    const RECENT_BYTES_MAX: usize = 64 * 1024;

    /// A reader for `run`'s messages.
    pub fn new(run: Option<TestRun>) -> StampReader {
        StampReader { run, recent: vec![Vec::new(); Self::RECENT] }
    }

    /// Classifies `data`.
    pub fn read(&mut self, data: &[u8]) -> Reading {
        let Some((run, stamp)) = parse(data) else {
            return if self.looks_like_ours(data) { Reading::Corrupted(None) } else { Reading::Foreign };
        };
        let slot = stamp.number as usize % Self::RECENT;
        if self.recent[slot] == data {
            return Reading::Genuine(stamp);
        }
        let sound = sum_of(data).is_some_and(|sum| sum == crc32(&data[..data.len() - SUM_TAIL_BYTES]));
        match self.run {
            _ if !sound => Reading::Corrupted(Some(stamp.number)),
            Some(ours) if ours != run => Reading::Foreign,
            _ => {
                self.run = Some(run);
                if data.len() <= Self::RECENT_BYTES_MAX {
                    data.clone_into(&mut self.recent[slot]);
                }
                Reading::Genuine(stamp)
            }
        }
    }

    fn looks_like_ours(&self, data: &[u8]) -> bool {
        let tail = data.len().checked_sub(SUM_TAIL_BYTES).map_or(&[][..], |at| &data[at..]);
        data.starts_with(PREFIX)
            || tail.starts_with(SUM_KEY)
            || self.run.is_some_and(|run| data.windows(run.0.len()).any(|window| window == run.0))
    }
}

/// The fields before the padding.
fn parse(data: &[u8]) -> Option<(TestRun, Stamp)> {
    let rest = data.strip_prefix(PREFIX)?;
    let (run, rest) = rest.split_first_chunk::<8>()?;
    let (number, rest) = leading_number(rest.strip_prefix(b"\",\"n\":")?)?;
    let (intended_us, rest) = leading_number(rest.strip_prefix(b",\"t\":")?)?;
    rest.strip_prefix(b",\"pad\":\"")?;
    Some((TestRun(*run), Stamp { number: u32::try_from(number).ok()?, intended_us }))
}

fn leading_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = bytes.split_at(end);
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

fn sum_of(data: &[u8]) -> Option<u32> {
    let tail = &data[data.len().checked_sub(SUM_TAIL_BYTES)?..];
    let digits = tail.strip_prefix(SUM_KEY)?.strip_suffix(b"\"}")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// CRC-32 (IEEE 802.3): finds every error of up to 32 bits in a row.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    !bytes.iter().fold(!0, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8))
}

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: fn() -> TestRun = || TestRun::from_bits(0x12_3456_789a);
    const STAMP: Stamp = Stamp { number: 17, intended_us: 1_764_950_000_000_000 };

    fn check(data: &[u8], expected: Reading) {
        let mut reader = StampReader::new(Some(RUN()));
        // Twice, because the second reading may take the shortcut through the kept bytes.
        for _ in 0..2 {
            assert_eq!(reader.read(data), expected, "{}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn a_payload_has_the_length_asked_for_and_reads_back() {
        for payload_bytes in [PAYLOAD_BYTES_MIN, 100, 1024, 10_240] {
            let payload = stamped_payload(RUN(), STAMP, payload_bytes);
            assert_eq!(payload.len(), payload_bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok(), "{payload}");
            check(payload.as_bytes(), Reading::Genuine(STAMP));
        }
        let widest = Stamp { number: u32::MAX, intended_us: 9_999_999_999_999_999 };
        assert_eq!(stamped_payload(RUN(), widest, 0).len(), PAYLOAD_BYTES_MIN);
    }

    #[test]
    fn any_other_byte_is_corruption() {
        let payload = stamped_payload(RUN(), STAMP, 100).into_bytes();
        for at in 0..payload.len() {
            let mut bent = payload.clone();
            bent[at] ^= 1;
            let reading = StampReader::new(Some(RUN())).read(&bent);
            assert!(matches!(reading, Reading::Corrupted(_)), "byte {at}: {reading:?}");
        }
        for length in PREFIX.len()..payload.len() {
            let reading = StampReader::new(Some(RUN())).read(&payload[..length]);
            assert!(matches!(reading, Reading::Corrupted(_)), "cut at {length}: {reading:?}");
        }
        check(&[&payload[..], b"\n"].concat(), Reading::Corrupted(Some(17)));
    }

    #[test]
    fn a_corrupted_payload_is_detected_after_a_valid_copy() {
        let mut reader = StampReader::new(Some(RUN()));
        let payload = stamped_payload(RUN(), STAMP, 100).into_bytes();
        assert_eq!(reader.read(&payload), Reading::Genuine(STAMP));
        let mut bent = payload.clone();
        bent[70] ^= 4;
        assert_eq!(reader.read(&bent), Reading::Corrupted(Some(17)));
    }

    #[test]
    fn events_of_other_publishers_are_foreign() {
        check(b"", Reading::Foreign);
        check(b"{\"a\":1}", Reading::Foreign);
        check(stamped_payload(TestRun::from_bits(7), STAMP, 100).as_bytes(), Reading::Foreign);
    }

    #[test]
    fn without_a_run_id_the_first_valid_message_sets_it() {
        let mut reader = StampReader::new(None);
        assert_eq!(reader.read(b"hello"), Reading::Foreign);
        assert_eq!(reader.read(stamped_payload(RUN(), STAMP, 100).as_bytes()), Reading::Genuine(STAMP));
        let other = stamped_payload(TestRun::from_bits(7), STAMP, 100);
        assert_eq!(reader.read(other.as_bytes()), Reading::Foreign);
    }

    #[test]
    fn crc32_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
