//! The address of PostgreSQL and the login for it. No text that this module returns contains a password.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long to wait for a connection to one address.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long sent bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// After how much silence the kernel probes the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// The address of a PostgreSQL database. Displays as hosts and database.
#[derive(Clone)]
pub struct PostgresAddress {
    config: Config,
    tls: MakeRustlsConnect,
    shown: String,
}

/// Why an address was refused. Contains no part of the URL.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

impl PostgresAddress {
    /// Reads `postgres://[user[:password]@]host[:port]/database`; `password` replaces the URL's own. With
    /// `sslmode=require`, the connection is TLS, and the certificate is verified with `ca_pem` or this host's authorities.
    pub fn new(url: &str, password: Option<&str>, ca_pem: Option<&[u8]>) -> Result<PostgresAddress, AddressError> {
        let (url, has_tls) = take_ssl_mode(url);
        if ca_pem.is_some() && !has_tls {
            return Err(AddressError("a CA is for a server with TLS: add sslmode=require to the URL".to_owned()));
        }
        // The crate's text names the parameter, and no value.
        let mut config: Config = url.parse().map_err(|error| AddressError(text_of(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(AddressError("it names no host".to_owned()));
        }
        // Such a character in a password would end it, and show the rest as a host, or hide sslmode from the code above.
        let is_odd = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(is_odd) || config.get_ssl_mode() != Config::new().get_ssl_mode() {
            return Err(AddressError(
                "an @ or ? in the user or the password has to be written as %40 or %3F".to_owned(),
            ));
        }
        if let Some(password) = password {
            config.password(password);
        }
        config.ssl_mode(if has_tls { SslMode::Require } else { SslMode::Disable });
        config.application_name("fanfare").connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(USER_TIMEOUT);
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE);
        Ok(PostgresAddress { shown: shown(&config), config, tls: tls(ca_pem)? })
    }

    /// How many addresses a connection attempt may try: a name can have one of each family.
    pub(super) fn addresses_max(&self) -> u32 {
        2 * self.config.get_hosts().len() as u32
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The URL without sslmode, and whether it asks for TLS. Which modes there are is checked when the URL is read.
fn take_ssl_mode(url: &str) -> (String, bool) {
    let Some((place, query)) = url.split_once('?') else { return (url.to_owned(), false) };
    let (modes, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| pair.starts_with("sslmode="));
    let has_tls = modes.last().is_some_and(|mode| *mode != "sslmode=disable");
    (format!("{place}?{}", others.join("&")), has_tls)
}

fn shown(config: &Config) -> String {
    let port = |n: usize| config.get_ports().get(n).or(config.get_ports().first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate().map(|(n, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(n)),
        Host::Unix(path) => format!("{}:{}", path.display(), port(n)),
    });
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}/{database}", hosts.collect::<Vec<_>>().join(","))
}

fn tls(ca_pem: Option<&[u8]>) -> Result<MakeRustlsConnect, AddressError> {
    let mut roots = RootCertStore::empty();
    match ca_pem {
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        Some(pem) => roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten()),
    };
    if ca_pem.is_some() && roots.is_empty() {
        return Err(AddressError("the file of the CA holds no certificate: expected PEM".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// An error with what caused it: by itself, the crate's says only which kind it is.
pub(super) fn text_of(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_its_place_and_no_password() {
        let check = |url: &str, shown: &str, mode: SslMode| {
            let address = PostgresAddress::new(url, Some("hunter2"), None).unwrap();
            assert_eq!(format!("{address:?}"), shown);
            assert_eq!(address.config.get_ssl_mode(), mode, "{url}");
            assert_eq!(address.config.get_password(), Some(&b"hunter2"[..]));
        };
        check("postgres://u:pw@h/d", "h:5432/d", SslMode::Disable);
        check("postgresql://u@h:1,i:2/d?sslmode=require&application_name=x", "h:1,i:2/d", SslMode::Require);
        check("postgresql://u@h?sslmode=disable", "h:5432/u", SslMode::Disable);
        check("postgresql:///d?host=/run/postgresql&user=u", "/run/postgresql:5432/d", SslMode::Disable);
    }

    #[test]
    fn a_bad_address_is_refused_without_its_password() {
        let check = |url: &str, ca: Option<&[u8]>, words: &str| {
            let refused = PostgresAddress::new(url, None, ca).unwrap_err().to_string();
            assert!(refused.contains(words) && !refused.contains("hunter2"), "{refused}");
        };
        check("postgres://u:hunter2@h/d?nonsense=hunter2", None, "nonsense");
        check("postgres:///d?user=u&password=hunter2", None, "names no host");
        check("postgres://u:hunter2@h:port/d", None, "port");
        check("postgres://u:hun@ter2@h/d", None, "%40");
        check("postgres://u:a?b@h/d?sslmode=require", None, "%3F");
        check("postgres://h/d", Some(b""), "sslmode=require");
        check("postgres://h/d?sslmode=require", Some(b"x"), "no certificate");
    }
}
