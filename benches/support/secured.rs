//! TLS for benches: a certificate, and clients that open no more of a stream than its beginning.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The header of a record (RFC 8446, 5.1).
const HEADER_BYTES: usize = 5;

/// Writes `certificate.pem` and `key.pem` for localhost into a folder.
pub fn write_certificate_into(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name that is one");
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).expect("the folder is there");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("the folder is there");
}

/// A client that trusts the certificate in this file.
pub fn client_config(trusted: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).expect("a certificate in PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("the provider has them").with_root_certificates(roots).with_no_client_auth()
}

/// Sends a request and reads until the stream has begun. What follows is whole records.
pub fn begin_stream(config: &Arc<ClientConfig>, mut socket: TcpStream, request: &str) -> io::Result<TcpStream> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(request.as_bytes())?;
    let (mut begun, mut buffer) = (Vec::new(), [0; 4096]);
    while !begun.ends_with(b"\n\n") {
        let count = stream.read(&mut buffer)?;
        begun.extend_from_slice(&buffer[..count]);
        assert!(begun.starts_with(b"HTTP/1.1 200"), "a stream was refused");
    }
    Ok(socket)
}

/// Counts records without opening them.
#[derive(Default)]
pub struct Records {
    /// The header that is arriving, and how much of it is here.
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// What is missing of the record.
    missing: usize,
}

impl Records {
    /// How many records these bytes complete.
    pub fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut complete = 0;
        while !bytes.is_empty() {
            if self.header_bytes < HEADER_BYTES {
                self.header[self.header_bytes] = bytes[0];
                self.header_bytes += 1;
                bytes = &bytes[1..];
                self.missing = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                continue;
            }
            let now = self.missing.min(bytes.len());
            self.missing -= now;
            bytes = &bytes[now..];
            if self.missing == 0 {
                self.header_bytes = 0;
                complete += 1;
            }
        }
        complete
    }
}
