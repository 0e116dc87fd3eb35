//! Certificates with their keys: read from PEM, checked, and chosen by the name that a client asks for (SNI, RFC 6066).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_cert::der::Decode;

/// The certificates of a server, the first one for clients that ask for no name, or for one that none has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates(Vec<Certificate>);

/// A chain of certificates with its key.
#[derive(Clone)]
pub struct Certificate {
    /// What it is called in reports: the file that it is from.
    pub name: String,
    /// When it expires, in seconds since 1970.
    pub expires_at_s: u64,
    certified: Arc<CertifiedKey>,
}

/// Why a certificate can't be used. Contains nothing of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No certificate in PEM.
    #[error("holds no certificate: give the chain in PEM, the server's own certificate first")]
    NoCertificate,
    /// Not a certificate of X.509.
    #[error("holds a certificate that can't be read as X.509")]
    Unreadable,
    /// No key in PEM.
    #[error("holds no private key in PEM, or one with a passphrase, which is not supported")]
    NoKey,
    /// A key of a kind that is not supported.
    #[error(
        "holds a private key that is not supported: use ECDSA (P-256 or P-384), Ed25519, or RSA with 2048 bits or more"
    )]
    UnsupportedKey,
    /// The key belongs to another certificate.
    #[error("holds the private key of another certificate")]
    OtherKey,
}

impl CertificateError {
    /// True when the file with the key is wrong.
    pub fn is_of_key(self) -> bool {
        match self {
            CertificateError::NoCertificate | CertificateError::Unreadable => false,
            CertificateError::NoKey | CertificateError::UnsupportedKey | CertificateError::OtherKey => true,
        }
    }
}

impl Certificates {
    /// Adds a certificate: its chain and its key as PEM. `name` stands for it in reports.
    pub fn add(&mut self, name: String, chain: &str, key: &str) -> Result<(), CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::NoCertificate)?;
        let own = chain.first().ok_or(CertificateError::NoCertificate)?;
        let expires_at_s = expiry(own).ok_or(CertificateError::Unreadable)?.as_secs();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CertificateError::NoKey)?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificateError::OtherKey,
            Error::InvalidCertificate(_) => CertificateError::Unreadable,
            _ => CertificateError::UnsupportedKey,
        })?;
        self.0.push(Certificate { name, expires_at_s, certified: Arc::new(certified) });
        Ok(())
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each certificate.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.0.iter()
    }

    /// What handshakes with these certificates need: TLS 1.3 only, one ticket for each client, and keys that can be taken over.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_secret_extraction = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| self.0.iter().find(|certificate| certificate.is_for(&name)));
        named.or(self.0.first()).map(|certificate| Arc::clone(&certificate.certified))
    }
}

impl Certificate {
    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let own = self.certified.end_entity_cert().and_then(ParsedCertificate::try_from);
        own.is_ok_and(|own| verify_server_name(&own, name).is_ok())
    }
}

impl PartialEq for Certificate {
    /// Certificates are the same if their chains are: then their keys are, too.
    fn eq(&self, other: &Certificate) -> bool {
        self.name == other.name && self.certified.cert == other.certified.cert
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("name", &self.name)
            .field("expires_at_s", &self.expires_at_s)
            .finish_non_exhaustive()
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<Duration> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(parsed.tbs_certificate.validity.not_after.to_unix_duration())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::pem;

    #[test]
    fn a_pair_is_checked_before_it_is_used() {
        let ((chain, key), (_, other_key)) = (pem(&["a.example"]), pem(&["b.example"]));
        let add = |chain: &str, key: &str| Certificates::default().add("file".into(), chain, key);
        assert_eq!(add(&chain, &key), Ok(()));
        assert_eq!(add(&format!("{chain}{chain}"), &key), Ok(()));
        assert_eq!(add("", &key), Err(CertificateError::NoCertificate));
        assert_eq!(add(&key, &key), Err(CertificateError::NoCertificate));
        assert_eq!(add(&chain.replace("MII", "MIM"), &key), Err(CertificateError::Unreadable));
        assert_eq!(add(&chain, ""), Err(CertificateError::NoKey));
        assert_eq!(add(&chain, &chain), Err(CertificateError::NoKey));
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_eq!(add(&chain, &encrypted), Err(CertificateError::NoKey));
        assert_eq!(add(&chain, &other_key), Err(CertificateError::OtherKey));
        let rsa_like = "-----BEGIN PRIVATE KEY-----\nMAAw\n-----END PRIVATE KEY-----\n";
        assert_eq!(add(&chain, rsa_like), Err(CertificateError::UnsupportedKey));
    }

    #[test]
    fn a_certificate_says_when_it_expires_and_shows_no_key() {
        let mut certificates = Certificates::default();
        let (chain, key) = pem(&["a.example"]);
        certificates.add("file".into(), &chain, &key).unwrap();
        let certificate = certificates.iter().next().unwrap();
        assert!(certificate.expires_at_s > 4_000_000_000, "{certificate:?}");
        let expected = format!("Certificate {{ name: \"file\", expires_at_s: {}, .. }}", certificate.expires_at_s);
        assert_eq!(format!("{certificate:?}"), expected);
    }
}
