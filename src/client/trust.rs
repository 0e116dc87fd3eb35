//! Which authorities the clients trust over TLS: this host's certificates, or those of a file. Opens no connections.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// The authorities that may sign a server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Certificates in PEM; `None`: those of this host.
    ca_pem: Option<String>,
}

impl Trust {
    /// Trusts only the certificates in `ca`; without one, those that this host trusts.
    pub fn new(ca: Option<&Path>) -> anyhow::Result<Trust> {
        let Some(path) = ca else { return Ok(Trust::default()) };
        let pem = std::fs::read_to_string(path).with_context(|| format!("--ca {}", path.display()))?;
        let holds_any = CertificateDer::pem_slice_iter(pem.as_bytes()).next().is_some_and(|first| first.is_ok());
        ensure!(holds_any, "--ca {}: the file holds no PEM certificate", path.display());
        Ok(Trust { ca_pem: Some(pem) })
    }

    /// For requests of the blocking client.
    pub fn for_requests(&self) -> TlsConfig {
        let certificates: Vec<_> =
            self.certificates().iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
        TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&certificates))
            .unversioned_rustls_crypto_provider(provider())
            .build()
    }

    /// For sessions whose bytes the caller transfers itself.
    pub fn for_sessions(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.certificates());
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Skips unreadable certificates, as elsewhere: a server that needs one of them is then untrusted.
    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        match &self.ca_pem {
            Some(pem) => CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect(),
            None => rustls_native_certs::load_native_certs().certs,
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
