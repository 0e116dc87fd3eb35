//! One handshake, without IO: it takes records and gives records, and in the end the keys.

use std::io;
use std::sync::Arc;

use rustls::{Error, PeerIncompatible, ServerConfig, ServerConnection};

use super::record::{HEADER_BYTES, Keys, RECORD_BYTES_MAX};

/// How a handshake ended that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client speaks TLS 1.2 at most.
    OldVersion,
    /// The client and the server have no cipher, or no key exchange, in common.
    NothingInCommon,
    /// The client asks for other protocols than HTTP/1.1.
    OtherProtocol,
    /// The client speaks plain HTTP.
    PlainHttp,
    /// What arrived is no handshake of TLS.
    NotTls,
    /// The client refuses: most often it does not trust the certificate.
    RefusedByClient,
    /// The client closed the connection before the end.
    Left,
    /// The client broke the rules of TLS.
    Broken,
}

impl Failure {
    /// All of them.
    pub const ALL: [Failure; 8] = [
        Failure::OldVersion,
        Failure::NothingInCommon,
        Failure::OtherProtocol,
        Failure::PlainHttp,
        Failure::NotTls,
        Failure::RefusedByClient,
        Failure::Left,
        Failure::Broken,
    ];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::OldVersion => "old_version",
            Failure::NothingInCommon => "nothing_in_common",
            Failure::OtherProtocol => "other_protocol",
            Failure::PlainHttp => "plain_http",
            Failure::NotTls => "not_tls",
            Failure::RefusedByClient => "refused_by_client",
            Failure::Left => "left",
            Failure::Broken => "broken",
        }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        match error {
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Failure::OldVersion,
            Error::PeerIncompatible(_) => Failure::NothingInCommon,
            Error::NoApplicationProtocol => Failure::OtherProtocol,
            Error::AlertReceived(_) => Failure::RefusedByClient,
            _ => Failure::Broken,
        }
    }
}

/// The length of a client's next record, header included, from its first bytes; none while the header is incomplete.
/// `is_first`: it has to begin a handshake.
pub fn record_len(start: &[u8], is_first: bool) -> Result<Option<usize>, Failure> {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    const HANDSHAKE: u8 = 22;
    const APPLICATION_DATA: u8 = 23;
    match start {
        [] => Ok(None),
        [first, ..] if is_first && *first != HANDSHAKE => {
            // Each method begins with a capital, and no type of a record is one.
            Err(if first.is_ascii_uppercase() { Failure::PlainHttp } else { Failure::NotTls })
        }
        [CHANGE_CIPHER_SPEC..=APPLICATION_DATA, _, _, high, low, ..] => {
            let length = HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
            if length > RECORD_BYTES_MAX { Err(Failure::Broken) } else { Ok(Some(length)) }
        }
        [CHANGE_CIPHER_SPEC..=APPLICATION_DATA, ..] => Ok(None),
        _ => Err(Failure::NotTls),
    }
}

/// What a client gets that speaks HTTP without TLS: nginx and Go answer in the same way.
pub const ANSWER_TO_PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 61\r\n\
    Connection: close\r\n\
    \r\n\
    This address speaks HTTPS only: write https:// in front of it";

/// A handshake that is under way.
pub struct Handshake(ServerConnection);

impl Handshake {
    /// Begins one.
    pub fn new(config: Arc<ServerConfig>) -> Result<Handshake, Failure> {
        ServerConnection::new(config).map(Handshake).map_err(|error| Failure::from(&error))
    }

    /// Takes a whole record. After a failure there may be an alert to send.
    pub fn receive(&mut self, mut record: &[u8]) -> Result<(), Failure> {
        while !record.is_empty() {
            self.0.read_tls(&mut record).map_err(|_| Failure::Broken)?;
            let state = self.0.process_new_packets().map_err(|error| Failure::from(&error))?;
            if state.peer_has_closed() {
                return Err(Failure::Left);
            }
        }
        Ok(())
    }

    /// Writes what is to be sent. An error is `to`'s, and what it did not take is kept.
    pub fn send(&mut self, to: &mut dyn io::Write) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(to)?;
        }
        Ok(())
    }

    /// True once the client has proved that it has the keys, and everything was sent.
    pub fn is_complete(&self) -> bool {
        !self.0.is_handshaking() && !self.0.wants_write()
    }

    /// The keys of a handshake that is complete.
    pub fn into_keys(self) -> Result<Keys, Failure> {
        let secrets = self.0.dangerous_extract_secrets().map_err(|error| Failure::from(&error))?;
        Keys::new(secrets).ok_or(Failure::NothingInCommon)
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
