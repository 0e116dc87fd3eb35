//! TLS for tests: a certificate that lasts as long as the test's process, the servers that have it, and streams to them.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

/// A connection with TLS.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// The certificate, for localhost and 127.0.0.1.
pub struct Certificate {
    folder: TempDir,
    client: Arc<ClientConfig>,
}

static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(Certificate::new);
/// Where servers speak TLS.
static ADDRESSES: LazyLock<Mutex<HashSet<SocketAddr>>> = LazyLock::new(Mutex::default);

/// True when every server of this run is to speak TLS, unless its test says otherwise: tests/over-tls sets it.
pub fn is_usual() -> bool {
    std::env::var_os("FANFARE_TEST_TLS").is_some()
}

/// The certificate of this process's servers.
pub fn certificate() -> &'static Certificate {
    &CERTIFICATE
}

/// Whether clients of this address speak TLS from now on: another server may have had it.
pub fn note_address(address: SocketAddr, speaks_tls: bool) {
    let mut addresses = ADDRESSES.lock().unwrap();
    if speaks_tls {
        addresses.insert(address)
    } else {
        addresses.remove(&address)
    };
}

pub fn is_address(address: &SocketAddr) -> bool {
    ADDRESSES.lock().unwrap().contains(address)
}

/// A stream over this connection; its handshake begins with the first byte.
pub fn over(connection: TcpStream) -> Stream {
    let name = ServerName::try_from("localhost").unwrap();
    Stream::new(ClientConnection::new(Arc::clone(&CERTIFICATE.client), name).unwrap(), connection)
}

impl Certificate {
    fn new() -> Certificate {
        let folder = tempfile::tempdir().unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let client = Arc::new(config(&[&made.cert.pem()]));
        Certificate { folder, client }
    }

    /// `certificate.pem` or `key.pem`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The options of a server that speaks TLS with it, on a free port.
    pub fn options(&self) -> [String; 6] {
        let file = |name| self.file(name).to_str().unwrap().to_owned();
        let [certificate, key] = ["certificate.pem", "key.pem"].map(file);
        ["--listen".into(), "tls:127.0.0.1:0".into(), "--tls-certificate".into(), certificate, "--tls-key".into(), key]
    }
}

/// The configuration of a client of HTTP that trusts these certificates, each in PEM.
pub fn config(trusted: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for chain in trusted {
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}
