//! TLS in the simulated network: handshakes that take a few waits, and peers that seal what they send and open what they get.
//!
//! All connections have the same keys, as far as peers are concerned: which they are makes no difference to the server. A record
//! that is sealed twice, lost, repeated or out of order can't be opened by its peer, and fails the test.

use std::collections::VecDeque;

use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

use super::Random;
use crate::io::Socket;
use crate::io::sealed::{Finished, Handshakes};
use crate::tls::handshake::Failure;
use crate::tls::record::{self, CONTENT_BYTES_MAX, ContentType, Keys};

/// The most waits that a handshake takes.
const WAITS_MAX: usize = 4;

/// Handshakes without messages: after some waits both ends have their keys.
pub struct SimulatedHandshakes {
    random: Random,
    /// How many of a thousand fail.
    failures: u32,
    wake: Box<dyn Fn() + Send>,
    /// With the number of waits until each is over.
    under_way: VecDeque<(Socket, usize)>,
    has_room: bool,
}

impl SimulatedHandshakes {
    /// Handshakes of which this many of a thousand fail; `wake` is that of the network.
    pub fn new(seed: u64, failures: u32, wake: impl Fn() + Send + 'static) -> SimulatedHandshakes {
        SimulatedHandshakes {
            random: Random::new(seed),
            failures,
            wake: Box::new(wake),
            under_way: VecDeque::new(),
            has_room: true,
        }
    }
}

impl Handshakes for SimulatedHandshakes {
    fn begin(&mut self, socket: Socket, received: Vec<u8>) {
        assert!(received.is_empty(), "no simulated peer sends a PROXY header");
        let waits = self.random.below(WAITS_MAX + 1);
        self.under_way.push_back((socket, waits));
        (self.wake)();
    }

    fn cancel(&mut self, socket: Socket) {
        if let Some(it) = self.under_way.iter_mut().find(|it| it.0 == socket) {
            it.1 = 0;
        }
    }

    fn next_finished(&mut self) -> Option<Finished> {
        if let Some(at) = self.under_way.iter().position(|(_, waits)| *waits == 0) {
            let (socket, _) = self.under_way.remove(at)?;
            let fails = self.random.chance(self.failures);
            let outcome = if fails { Err(Failure::Broken) } else { Ok(keys().0) };
            return Some(Finished { socket, outcome });
        }
        self.under_way.iter_mut().for_each(|(_, waits)| *waits -= 1);
        self.has_room = !self.random.chance(self.failures);
        if !self.under_way.is_empty() {
            (self.wake)();
        }
        None
    }

    fn has_room(&self) -> bool {
        self.has_room
    }
}

/// The keys of the server, and of its peer.
fn keys() -> (Keys, Keys) {
    let secrets =
        |byte: u8| ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([byte; 32]), iv: Iv::new([byte; 12]) };
    let end = |sends: u8, receives: u8| {
        let secrets = ExtractedSecrets { tx: (0, secrets(sends)), rx: (0, secrets(receives)) };
        Keys::new(secrets).expect("a cipher of TLS 1.3")
    };
    (end(1, 2), end(2, 1))
}

/// A peer's end of TLS.
#[derive(Debug)]
pub(super) struct PeerSession {
    keys: Keys,
    /// The content of what the server has sent, as far as records are complete.
    pub(super) opened: Vec<u8>,
    /// How much of what the server has sent was opened.
    opened_raw: usize,
    /// Where the records that the server has sent end: in what it sent, and in their content.
    received_ends: Vec<(usize, usize)>,
    /// The same of what the peer has sent.
    sent_ends: Vec<(usize, usize)>,
}

impl PeerSession {
    pub(super) fn new() -> PeerSession {
        PeerSession {
            keys: keys().1,
            opened: Vec::new(),
            opened_raw: 0,
            received_ends: Vec::new(),
            sent_ends: Vec::new(),
        }
    }

    /// Seals what the peer sends, in records of at most this size.
    pub(super) fn seal(&mut self, content: &[u8], record_bytes: usize) -> Vec<u8> {
        let (mut raw_end, mut end) = self.sent_ends.last().copied().unwrap_or_default();
        let mut sealed = Vec::new();
        for piece in content.chunks(record_bytes.clamp(1, CONTENT_BYTES_MAX)) {
            let mut bytes = Vec::new();
            record::begin(&mut bytes);
            bytes.extend_from_slice(piece);
            self.keys.sealing.seal(ContentType::Data, &mut bytes).expect("no test sends that much");
            (raw_end, end) = (raw_end + bytes.len(), end + piece.len());
            self.sent_ends.push((raw_end, end));
            sealed.append(&mut bytes);
        }
        sealed
    }

    /// Opens the records that are complete in everything that the server has sent.
    pub(super) fn open(&mut self, taken: &[u8]) -> Result<(), String> {
        while let Some(length) = record::record_len(&taken[self.opened_raw..]).map_err(|bad| format!("{bad:?}"))? {
            let Some(bytes) = taken.get(self.opened_raw..self.opened_raw + length) else { return Ok(()) };
            let mut bytes = bytes.to_vec();
            let (content_type, count) = self.keys.opening.open(&mut bytes).map_err(|bad| format!("{bad:?}"))?;
            if content_type == ContentType::Data {
                self.opened.extend_from_slice(&bytes[..count]);
            }
            self.opened_raw += length;
            self.received_ends.push((self.opened_raw, self.opened.len()));
        }
        Ok(())
    }

    /// How much content is in the first `raw` bytes from the server.
    pub(super) fn received(&self, raw: usize) -> usize {
        content_within(&self.received_ends, raw)
    }

    /// How much content is in the first `raw` bytes from the peer.
    pub(super) fn sent(&self, raw: usize) -> usize {
        content_within(&self.sent_ends, raw)
    }
}

fn content_within(ends: &[(usize, usize)], raw: usize) -> usize {
    ends[..ends.partition_point(|(raw_end, _)| *raw_end <= raw)].last().map_or(0, |(_, end)| *end)
}
