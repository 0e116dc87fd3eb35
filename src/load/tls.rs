//! One client's TLS session: decrypts what the socket brings, and encrypts what goes out.
//!
//! A session keeps an incomplete record and the bytes that the socket did not take; while it waits it has no buffer.
//! Sessions are never resumed: each client stands for another host, and hosts share no tickets.

use std::io;
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CertificateError, ClientConfig, Error};

use crate::client::trust::Trust;
use crate::io::dialer::Line;

/// The configuration that the sessions of one loop share.
pub(super) fn session_config(trust: &Trust) -> Arc<ClientConfig> {
    let mut config = trust.for_sessions();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// One session, from its first message to its end.
pub(super) struct Session {
    connection: UnbufferedClientConnection,
    /// Sent as soon as the handshake allows it.
    request: Box<[u8]>,
    /// The beginning of a record.
    partial: Vec<u8>,
    /// Encrypted bytes that the socket has not taken yet.
    unsent: Vec<u8>,
    has_ended: bool,
}

impl Session {
    /// A session with the server of that name, which begins with this request.
    pub(super) fn new(config: Arc<ClientConfig>, name: &str, request: Box<[u8]>) -> Result<Session, Error> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| CertificateError::NotValidForName)?;
        let connection = UnbufferedClientConnection::new(config, name)?;
        let mut session = Session { connection, request, partial: Vec::new(), unsent: Vec::new(), has_ended: false };
        session.process(&mut [], &mut Vec::new())?;
        Ok(session)
    }

    /// True until the handshake has authenticated the server.
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// True once the server has sent close_notify; an end without it may have cut something off.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Takes the received bytes and appends their content to `content`. Overwrites the received bytes.
    pub(super) fn receive(&mut self, received: &mut [u8], content: &mut Vec<u8>) -> Result<(), Error> {
        let mut joined = std::mem::take(&mut self.partial);
        let incoming = if joined.is_empty() {
            received
        } else {
            joined.extend_from_slice(received);
            &mut joined
        };
        let used = self.process(incoming, content)?;
        self.partial = incoming[used..].to_vec();
        Ok(())
    }

    /// Writes pending bytes, as far as the socket takes them.
    pub(super) fn flush(&mut self, line: &Line) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match line.write(&self.unsent) {
                Ok(sent) if sent == self.unsent.len() => self.unsent = Vec::new(),
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Processes `incoming` as far as possible, and returns how many bytes it used.
    fn process(&mut self, incoming: &mut [u8], content: &mut Vec<u8>) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut incoming[used..]);
            let mut has_more = true;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        content.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut message) => append(&mut self.unsent, |into| {
                    message.encode(into).map_err(|error| match error {
                        EncodeError::InsufficientSize(size) => Refusal::TooSmall(size),
                        EncodeError::AlreadyEncoded => Refusal::Failed("a message was encoded twice"),
                    })
                })?,
                ConnectionState::TransmitTlsData(mut transmission) => {
                    if let Some(traffic) = transmission.may_encrypt_app_data() {
                        send_request(traffic, &mut self.request, &mut self.unsent)?;
                    }
                    transmission.done();
                }
                ConnectionState::WriteTraffic(traffic) => {
                    send_request(traffic, &mut self.request, &mut self.unsent)?;
                    has_more = false;
                }
                ConnectionState::PeerClosed => self.has_ended = true,
                _ => has_more = false,
            }
            used += discard;
            if !has_more {
                return Ok(used);
            }
        }
    }
}

/// The name under which a failed session is counted.
pub(super) fn kind_of(error: &Error) -> &'static str {
    use CertificateError as Certificate;
    match error {
        Error::InvalidCertificate(Certificate::UnknownIssuer) => "certificate_untrusted",
        Error::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) => {
            "certificate_of_another_name"
        }
        Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => "certificate_out_of_date",
        Error::InvalidCertificate(_) => "certificate_invalid",
        _ => "tls_failed",
    }
}

/// True for errors that another attempt would also meet.
pub(super) fn is_lasting(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(_))
}

fn send_request(
    mut traffic: WriteTraffic<'_, rustls::client::ClientConnectionData>,
    request: &mut Box<[u8]>,
    unsent: &mut Vec<u8>,
) -> Result<(), Error> {
    let request = std::mem::take(request);
    if request.is_empty() {
        return Ok(());
    }
    append(unsent, |into| {
        traffic.encrypt(&request, into).map_err(|error| match error {
            EncryptError::InsufficientSize(size) => Refusal::TooSmall(size),
            EncryptError::EncryptExhausted => Refusal::Failed("the keys are used up"),
        })
    })
}

enum Refusal {
    TooSmall(InsufficientSizeError),
    Failed(&'static str),
}

/// Appends what `write` puts into a buffer of the size that it requests.
fn append(to: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, Refusal>) -> Result<(), Error> {
    let start = to.len();
    loop {
        match write(&mut to[start..]) {
            Ok(written) => {
                to.truncate(start + written);
                return Ok(());
            }
            Err(Refusal::TooSmall(size)) if start + size.required_size > to.len() => {
                to.resize(start + size.required_size, 0);
            }
            Err(Refusal::TooSmall(_)) => return Err(Error::General("a buffer never fits".to_owned())),
            Err(Refusal::Failed(why)) => return Err(Error::General(why.to_owned())),
        }
    }
}
