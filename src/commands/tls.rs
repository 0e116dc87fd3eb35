//! TLS for `fanfare serve`: the threads that do handshakes, and the certificates that a reload replaces.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use rustls::ServerConfig;

use crate::doctor::certificate::VALID_FOR_MIN;
use crate::io::handshakes::{CurrentConfig, HandshakeThreads};
use crate::sources::channel::Control;
use crate::sources::sequencer::Sequencer;
use crate::tls::certificates::{Certificate, Certificates};

/// Threads of handshakes, at most: more reconnects at a time than four cores can secure are rare.
const THREADS_MAX: usize = 4;

/// The TLS of a server.
pub(super) struct Tls {
    pub(super) threads: HandshakeThreads,
    /// What a reload replaces; none without a listener that speaks TLS.
    pub(super) current: Option<CurrentConfig>,
}

impl Tls {
    /// Starts the threads on the cores that loops leave. Without a listener that speaks TLS there are none.
    pub(super) fn start(
        certificates: &Certificates,
        is_spoken: bool,
        cores: usize,
        loops: usize,
        sequencer: &Arc<Sequencer>,
    ) -> anyhow::Result<Tls> {
        if !is_spoken {
            return Ok(Tls { threads: HandshakeThreads::none(), current: None });
        }
        warn_of_expiry(certificates);
        let current = CurrentConfig::new(server_config(certificates)?);
        let count = cores.saturating_sub(loops).clamp(1, THREADS_MAX);
        let sequencer = Arc::clone(sequencer);
        // As after the failure of an event loop: another process has to serve.
        let on_failure = move || sequencer.control(&Control::Drain);
        let threads =
            HandshakeThreads::start(count, &current, on_failure).context("starting the threads for handshakes")?;
        Ok(Tls { threads, current: Some(current) })
    }
}

/// What new handshakes use after a reload; none if nothing has changed. Refuses a new certificate that has expired.
pub(super) fn renewed(old: &Certificates, new: &Certificates) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    warn_of_expiry(new);
    if old == new {
        return Ok(None);
    }
    ensure!(!new.is_empty(), "tls-certificate is unset, and a listener speaks TLS");
    for certificate in new.iter().filter(|certificate| old.iter().all(|old| old != *certificate)) {
        ensure!(expires_in(certificate).is_some(), "tls-certificate {}: it has expired", certificate.name);
    }
    server_config(new).map(Some)
}

fn server_config(certificates: &Certificates) -> anyhow::Result<Arc<ServerConfig>> {
    certificates.server_config().context("setting up TLS")
}

fn warn_of_expiry(certificates: &Certificates) {
    for certificate in certificates.iter() {
        match expires_in(certificate) {
            None => tracing::warn!(certificate = certificate.name, "a certificate has expired: browsers refuse it"),
            Some(left) if left < VALID_FOR_MIN => {
                let days = left.as_secs() / (24 * 3600);
                tracing::warn!(certificate = certificate.name, days, "a certificate expires soon");
            }
            Some(_) => {}
        }
    }
}

/// How long it is still valid; none if it has expired.
pub(super) fn expires_in(certificate: &Certificate) -> Option<Duration> {
    let expires_at = UNIX_EPOCH + Duration::from_secs(certificate.expires_at_s);
    expires_at.duration_since(SystemTime::now()).ok()
}
