//! What unit tests of TLS share: certificates made on the spot, and clients of rustls that trust them.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::certificates::Certificates;

/// A certificate for these names that signs itself, and its key: both in PEM.
pub(crate) fn pem(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A server's configuration for `localhost`, and the certificate that its clients trust.
pub(crate) fn server() -> (Arc<ServerConfig>, String) {
    let (chain, key) = pem(&["localhost"]);
    let mut certificates = Certificates::default();
    certificates.add("test".into(), &chain, &key).unwrap();
    (certificates.server_config().unwrap(), chain)
}

/// The configuration of a client that trusts these certificates, and speaks these versions and ciphers.
pub(crate) fn client_config(
    trusted: &[&str],
    version: &'static rustls::SupportedProtocolVersion,
    suites: Vec<SupportedCipherSuite>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for chain in trusted {
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
    }
    let provider = CryptoProvider { cipher_suites: suites, ..ring::default_provider() };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// A client that trusts this certificate.
pub(crate) fn client(trusted: &str) -> ClientConnection {
    let config = client_config(&[trusted], &rustls::version::TLS13, ring::ALL_CIPHER_SUITES.to_vec());
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}
