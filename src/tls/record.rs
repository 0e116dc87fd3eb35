//! TLS records after the handshake: sealed and opened with keys that are all the state of a connection (RFC 8446, 5.2).
//!
//! ```text
//!  | 23 | 3 3 | length | content ... | type | tag (16 bytes) |
//!  '----- header ------'------ encrypted -----'
//! ```
//!
//! Invariants:
//! - No nonce is used twice: [`Sealing::seal`] alone uses the number of the next record, and increments it.
//! - Keys are erased from memory when they are dropped, and never shown.
//!
//! A record is encrypted in place, with a cipher that is set up anew from its key: that takes 0.1 µs and keeps nothing.
//! Not here: handshake messages after the handshake. A KeyUpdate is reported like any other record.

use std::fmt;

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};
use zeroize::Zeroize;

/// The header that precedes each record.
pub const HEADER_BYTES: usize = 5;
/// The most content of a record.
pub const CONTENT_BYTES_MAX: usize = 1 << 14;
/// What a record adds to its content: header, content type and tag.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// The longest record that a peer may send, header included: its padding may be longer than ours, which is none.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + CONTENT_BYTES_MAX + EXPANSION_BYTES_MAX;

const TAG_BYTES: usize = 16;
/// How much longer than [`CONTENT_BYTES_MAX`] the encrypted part of a record may be.
const EXPANSION_BYTES_MAX: usize = 256;
const KEY_BYTES_MAX: usize = 32;

/// Records that one key may seal. AES-GCM stays secure for 2^24.5 full ones (RFC 8446, 5.5).
const RECORDS_MAX: u64 = 1 << 24;
/// After this many, the key is worn, and its connection should end soon.
const RECORDS_WORN: u64 = RECORDS_MAX / 2;

/// What a record contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// A warning, an error, or the end.
    Alert,
    /// A message of a handshake; after it, tickets and KeyUpdates.
    Handshake,
    /// What the application sends.
    Data,
}

impl ContentType {
    fn of(byte: u8) -> Option<ContentType> {
        [ContentType::Alert, ContentType::Handshake, ContentType::Data].into_iter().find(|it| it.byte() == byte)
    }

    fn byte(self) -> u8 {
        match self {
            ContentType::Alert => 21,
            ContentType::Handshake => 22,
            ContentType::Data => 23,
        }
    }
}

/// The content of an alert that says that its sender will send no more.
pub const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// Why a record can't be opened, as the alert that its sender gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// It is of a kind that has no place after a handshake.
    Unexpected,
    /// It was not sealed with this key and number, or was changed on the way.
    NotAuthentic,
    /// It is longer than a record may be.
    TooLong,
    /// It is too short for its tag.
    TooShort,
}

impl BadRecord {
    /// The content of the fatal alert for it (RFC 8446, 6).
    pub fn alert(self) -> [u8; 2] {
        let description = match self {
            BadRecord::Unexpected => 10,
            BadRecord::NotAuthentic => 20,
            BadRecord::TooLong => 22,
            BadRecord::TooShort => 50,
        };
        [2, description]
    }
}

/// The key has sealed as many records as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedUp;

/// The length of a record, header included, from its first bytes; none while the header is incomplete.
pub fn record_len(start: &[u8]) -> Result<Option<usize>, BadRecord> {
    let &[outer_type, _, _, high, low, ..] = start else { return Ok(None) };
    if outer_type != ContentType::Data.byte() {
        return Err(BadRecord::Unexpected);
    }
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > RECORD_BYTES_MAX { Err(BadRecord::TooLong) } else { Ok(Some(length)) }
}

/// Makes `record` an empty record, to which content may be appended before it is sealed.
pub fn begin(record: &mut Vec<u8>) {
    record.clear();
    record.extend_from_slice(&[0; HEADER_BYTES]);
}

/// All that a connection keeps of its session.
#[derive(Debug)]
pub struct Keys {
    /// For what it sends.
    pub sealing: Sealing,
    /// For what it receives.
    pub opening: Opening,
}

impl Keys {
    /// Takes over the keys of a handshake that is complete; none if its cipher is not one of TLS 1.3.
    pub fn new(secrets: ExtractedSecrets) -> Option<Keys> {
        Some(Keys { sealing: Sealing(Half::new(secrets.tx)?), opening: Opening(Half::new(secrets.rx)?) })
    }
}

/// The key that seals what is sent.
#[derive(Debug)]
pub struct Sealing(Half);

impl Sealing {
    /// Completes a record of this type, in place: [`begin`] has begun it, and its content was appended.
    pub fn seal(&mut self, content_type: ContentType, record: &mut Vec<u8>) -> Result<(), UsedUp> {
        debug_assert!((HEADER_BYTES..=HEADER_BYTES + CONTENT_BYTES_MAX).contains(&record.len()), "{}", record.len());
        if self.0.next_record >= RECORDS_MAX {
            return Err(UsedUp);
        }
        record.push(content_type.byte());
        let encrypted_bytes = record.len() - HEADER_BYTES + TAG_BYTES;
        let header = header(encrypted_bytes as u16);
        record[..HEADER_BYTES].copy_from_slice(&header);
        let (cipher, nonce) = (self.0.cipher(), self.0.take_nonce());
        let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(header), &mut record[HEADER_BYTES..]);
        record.extend_from_slice(tag.expect("a record is shorter than what an AEAD seals at once").as_ref());
        Ok(())
    }

    /// True when the record that it sealed last was the last of the first half of those that it may seal.
    pub fn has_just_worn(&self) -> bool {
        self.0.next_record == RECORDS_WORN
    }
}

/// The key that opens what is received.
#[derive(Debug)]
pub struct Opening(Half);

impl Opening {
    /// Opens a whole record in place: the type and length of its content, which is then at the start of `record`.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, usize), BadRecord> {
        let header: [u8; HEADER_BYTES] = record[..HEADER_BYTES].try_into().expect("a whole record has a header");
        if record.len() < HEADER_BYTES + 1 + TAG_BYTES {
            return Err(BadRecord::TooShort);
        }
        let (cipher, nonce) = (self.0.cipher(), self.0.take_nonce());
        let opened = cipher.open_within(nonce, Aad::from(header), record, HEADER_BYTES..);
        let opened = opened.map_err(|_| BadRecord::NotAuthentic)?;
        // Zeros behind the type are padding.
        let type_at = opened.iter().rposition(|byte| *byte != 0).ok_or(BadRecord::Unexpected)?;
        let content_type = ContentType::of(opened[type_at]).ok_or(BadRecord::Unexpected)?;
        if type_at > CONTENT_BYTES_MAX { Err(BadRecord::TooLong) } else { Ok((content_type, type_at)) }
    }
}

/// The key of one direction, and the number of its next record.
struct Half {
    next_record: u64,
    key: [u8; KEY_BYTES_MAX],
    iv: [u8; NONCE_LEN],
    suite: Suite,
}

/// The ciphers of TLS 1.3 that have a place in a browser.
#[derive(Clone, Copy)]
enum Suite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Suite {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

impl Half {
    fn new((next_record, secrets): (u64, ConnectionTrafficSecrets)) -> Option<Half> {
        let (suite, secret_key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
            _ => return None,
        };
        let mut key = [0; KEY_BYTES_MAX];
        key.get_mut(..suite.algorithm().key_len())?.copy_from_slice(secret_key.as_ref());
        Some(Half { next_record, key, iv: iv.as_ref().try_into().ok()?, suite })
    }

    fn cipher(&self) -> LessSafeKey {
        let algorithm = self.suite.algorithm();
        let key = UnboundKey::new(algorithm, &self.key[..algorithm.key_len()]);
        LessSafeKey::new(key.expect("the key has the length of its algorithm"))
    }

    /// The nonce of the next record; each is taken once.
    fn take_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        nonce[NONCE_LEN - 8..]
            .iter_mut()
            .zip(self.next_record.to_be_bytes())
            .for_each(|(byte, of_number)| *byte ^= of_number);
        self.next_record += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Half").field("next_record", &self.next_record).finish_non_exhaustive()
    }
}

fn header(encrypted_bytes: u16) -> [u8; HEADER_BYTES] {
    let [high, low] = encrypted_bytes.to_be_bytes();
    [ContentType::Data.byte(), 3, 3, high, low]
}

#[cfg(test)]
pub(crate) use tests::test_pair;

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
