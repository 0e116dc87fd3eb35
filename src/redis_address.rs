//! The address of Redis and the login for it. No text that this module writes or returns contains a password.
//!
//! Every connection uses RESP2, which each Redis and each proxy supports, and every wait on it is bounded.

mod cluster;
pub mod connection;
pub mod replies;
pub mod sentinel;

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Cmd, Connection, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisError, RedisResult, ServerError, TlsCertificates, Value,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use connection::RedisConnection;
use replies::ReplyLimits;
use sentinel::Sentinels;

/// Replaces a password that an error's text repeats.
const REDACTED: &str = "***";

/// The length to which an error's text is cut: a malicious Redis may send any text.
const ERROR_BYTES_MAX: usize = 300;

/// The same for an error about several Sentinels.
const SENTINELS_ERROR_BYTES_MAX: usize = 1000;

/// The address of a Redis. Displays as host and port, as a path, or as a name and the Sentinels that know its address.
#[derive(Clone)]
pub struct RedisAddress {
    client: Client,
    /// Those that name the server; its host is unknown until they are asked.
    sentinels: Option<Sentinels>,
    /// The authorities that TLS trusts; `None`: those of this host.
    trusted: Option<RootCertStore>,
    shown: String,
    /// The password, as it is and as it is encoded in the URL.
    secrets: Vec<String>,
}

/// Why a URL or a CA was refused. Contains no part of the URL.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not a Redis URL.
    #[error("{0}: expected redis://, rediss:// (TLS), unix://, redis+sentinel:// or rediss+sentinel://")]
    Url(String),
    /// `#insecure`.
    #[error("#insecure is not supported: name the CA that signed the server's certificate instead")]
    Insecure,
    /// A CA without TLS, or one without valid certificates.
    #[error("can't be used: {0}; expected PEM certificates, for a server at rediss://")]
    Ca(String),
}

impl RedisAddress {
    /// Reads `redis://[user[:password]@]host[:port][/db]`, `rediss://…` for TLS,
    /// `unix:///path[?db=…&user=…&pass=…]`, or `redis+sentinel://[user[:password]@]host[:port],…/service[/db]`, likewise
    /// with `rediss`. With `ca_pem`, TLS trusts those certificates instead of the host's.
    pub fn new(url: &str, ca_pem: Option<&[u8]>) -> Result<RedisAddress, AddressError> {
        let (sentinels, url) = Sentinels::read(url).map_err(AddressError::Url)?;
        let url = &url[..];
        let info = url.into_connection_info().map_err(|error| AddressError::Url(url_problem(&error)))?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
            return Err(AddressError::Insecure);
        }
        let secrets = secrets(url, &info);
        let shown = sentinels.as_ref().map_or_else(|| info.addr().to_string(), Sentinels::shown);
        let login = info.redis_settings().clone();
        // CLIENT SETINFO would add two more waits on a Redis that hangs, and two refusals in the log of a Redis whose
        // ACL allows only the necessary commands.
        let login = login.set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let info = info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let mut trusted = None;
        let client = match ca_pem {
            None => Client::open(info).map_err(|error| AddressError::Url(url_problem(&error)))?,
            Some(pem) => {
                // The crate would trust no certificate, and never connect.
                if CertificateDer::pem_slice_iter(pem).next().is_none() {
                    return Err(AddressError::Ca("the file holds no certificate".to_owned()));
                }
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
                trusted = Some(roots);
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.to_owned()) };
                Client::build_with_tls(info, certificates).map_err(|error| AddressError::Ca(error.to_string()))?
            }
        };
        Ok(RedisAddress { client, sentinels, trusted, shown, secrets })
    }

    /// A connection whose replies are read in place. No reply and no single write takes longer than `reply_timeout`.
    pub fn open(
        &self,
        connect_timeout: Duration,
        reply_timeout: Duration,
        limits: ReplyLimits,
    ) -> RedisResult<RedisConnection> {
        let trusted = self.trusted.as_ref();
        let open = |info: ConnectionInfo| {
            RedisConnection::open(info.addr(), info.redis_settings(), trusted, connect_timeout, limits)
        };
        let mut connection = self.reach(open, RedisConnection::ask)?;
        connection.set_timeouts(reply_timeout)?;
        Ok(connection)
    }

    /// A connection of the redis crate for a command-line tool, on which no single read or write takes longer than
    /// `reply_timeout`.
    pub fn connect(&self, connect_timeout: Duration, reply_timeout: Duration) -> RedisResult<Connection> {
        let open = |info| {
            let connection = Client::open(info)?.get_connection_with_timeout(connect_timeout)?;
            connection.set_read_timeout(Some(reply_timeout))?;
            connection.set_write_timeout(Some(reply_timeout))?;
            Ok(connection)
        };
        self.reach(open, |connection: &mut Connection, command| command.query(connection))
    }

    /// Connects to the server, or to the one that the Sentinels name.
    fn reach<T>(
        &self,
        mut open: impl FnMut(ConnectionInfo) -> RedisResult<T>,
        role: impl FnMut(&mut T, &Cmd) -> RedisResult<Value>,
    ) -> RedisResult<T> {
        let info = self.client.get_connection_info();
        match &self.sentinels {
            None => open(info.clone()),
            Some(sentinels) => {
                sentinels.connect(info, self.trusted.as_ref(), |error| self.explain_one(error), open, role)
            }
        }
    }

    /// An error's text, safe to log and to show.
    pub fn explain(&self, error: &RedisError) -> String {
        let bytes_max = if self.sentinels.is_some() { SENTINELS_ERROR_BYTES_MAX } else { ERROR_BYTES_MAX };
        clip(self.explain_one(error), bytes_max)
    }

    /// The same for an error of one server.
    fn explain_one(&self, error: &RedisError) -> String {
        if error.is_timeout() {
            // The system's text is "Resource temporarily unavailable". A server without TLS waits silently for the end
            // of what it takes for a command.
            let is_over_tls = matches!(self.client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
            let advice = if is_over_tls { " over TLS: does it speak that there? If not, write redis://" } else { "" };
            return format!("no answer in time{advice}");
        }
        if is_login_refused(error) {
            return "Redis refuses the login: check --redis-password-file or FANFARE_REDIS_PASSWORD".to_owned();
        }
        // A server without AUTH, or a proxy, may quote the command that it did not understand.
        self.secrets.iter().fold(error.to_string(), |text, secret| text.replace(secret, REDACTED))
    }

    /// The same for a message that does not otherwise name this Redis.
    pub fn failure(&self, error: &RedisError) -> String {
        format!("{self}: {}", self.explain(error))
    }
}

/// What is wrong with a URL, without quoting any part of it.
pub fn url_problem(error: &RedisError) -> String {
    let text = error.to_string(); // "Missing hostname - InvalidClientConfig", with a detail behind that
    match text.split(" - ").next() {
        Some("Invalid database number") => "the part after the host must be a database number, such as /0".to_owned(),
        words => words.unwrap_or_default().to_owned(),
    }
}

/// True when the password is missing or wrong, which no retry fixes.
pub fn is_login_refused(error: &RedisError) -> bool {
    let of_server = error.clone().into_server_errors(); // of a pipeline too
    let is_of_login = |(_, error): &(usize, ServerError)| matches!(error.code(), "NOAUTH" | "WRONGPASS");
    error.kind() == ErrorKind::AuthenticationFailed || of_server.is_some_and(|errors| errors.iter().any(is_of_login))
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({})", self.shown)
    }
}

fn clip(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

fn secrets(url: &str, info: &ConnectionInfo) -> Vec<String> {
    let as_typed = redis::parse_redis_url(url).and_then(|url| url.password().map(str::to_owned));
    let as_sent = info.redis_settings().password().map(str::to_owned);
    as_typed.into_iter().chain(as_sent).filter(|secret| !secret.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Result<&str, &str>) {
        let address = RedisAddress::new(url, None).map(|address| address.to_string());
        assert_eq!(
            address.map_err(|error| error.to_string()).as_deref().map_err(|error| &error[..]),
            expected,
            "{url}"
        );
    }

    #[test]
    fn shown_urls_hold_the_address_and_never_the_credentials() {
        check("redis://host", Ok("host:6379"));
        check("redis://me:hunter2@host:7000/3", Ok("host:7000"));
        check("rediss://:hunter2@[::1]:7000", Ok("::1:7000"));
        check("unix:///run/redis.sock?user=me&pass=hunter2&db=1", Ok("/run/redis.sock"));
        check("redis+sentinel://me:hunter2@a,b:7/main/1", Ok("main of the Sentinels a:26379, b:7"));
        check("rediss://host/#insecure", Err(&AddressError::Insecure.to_string()));
        for wrong in [
            "http://me:hunter2@host",
            "redis://me:hunter2@host/x",
            "hunter2",
            "redis://me:hunter2@0.0.0.0",
            "redis+sentinel://me:hunter2@host",
        ] {
            let error = RedisAddress::new(wrong, None).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let address = RedisAddress::new("redis://me:hunter2@host", None).unwrap();
        assert_eq!(format!("{address:?}"), "RedisAddress(host:6379)");
    }

    #[test]
    fn the_error_for_a_wrong_url_names_the_mistake() {
        let check = |url: &str, words: &str| {
            let error = RedisAddress::new(url, None).unwrap_err().to_string();
            assert!(error.starts_with(words) && !error.contains("InvalidClientConfig"), "{url}: {error}");
        };
        check("redis://host/abc", "the part after the host must be a database number, such as /0");
        check("unix:///run/redis.sock?db=abc", "the part after the host must be a database number");
        check("redis://0.0.0.0", "Cannot connect to a wildcard address");
        check("redis://host?protocol=secret", "Invalid protocol version: expected");
    }

    #[test]
    fn a_ca_wants_tls_and_certificates() {
        let check = |url: &str, pem: &str| {
            let error = RedisAddress::new(url, Some(pem.as_bytes())).unwrap_err();
            assert!(matches!(error, AddressError::Ca(_)), "{error}");
        };
        check("rediss://host", "");
        check("rediss://host", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
        check("rediss://host", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    }

    #[test]
    fn an_error_that_waiting_does_not_fix_names_its_fix() {
        let check = |url: &str, error: RedisError, words: &[&str]| {
            let text = RedisAddress::new(url, None).unwrap().explain(&error);
            assert!(words.iter().all(|word| text.contains(word)), "{text:?} lacks one of {words:?}");
        };
        let of_server = |code: &str| redis::make_extension_error(code.to_owned(), Some("words".to_owned()));
        let login = ["refuses the login", "--redis-password-file", "FANFARE_REDIS_PASSWORD"];
        check("redis://host", of_server("NOAUTH"), &login);
        check("redis://host", of_server("WRONGPASS"), &login);
        check("redis://host", (ErrorKind::AuthenticationFailed, "Password authentication failed").into(), &login);
        check("redis://host", of_server("NOPERM"), &["NOPERM"]);
        let timeout = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        check("rediss://host", timeout(), &["no answer in time", "TLS", "redis://"]);
        let plain = RedisAddress::new("redis://host", None).unwrap().explain(&timeout());
        assert_eq!(plain, "no answer in time");
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let error = redis::make_extension_error("ERR".to_owned(), Some(format!("x{}", "é".repeat(10_000))));
        let text = RedisAddress::new("redis://host", None).unwrap().explain(&error);
        assert!((ERROR_BYTES_MAX..ERROR_BYTES_MAX + 5).contains(&text.len()) && text.ends_with("é…"), "{text}");
    }

    #[test]
    fn an_error_that_quotes_the_password_is_redacted() {
        let address = RedisAddress::new("redis://me:pass%20word@host", None).unwrap();
        let quote = "ERR unknown command 'AUTH', with args beginning with: 'me' 'pass word' pass%20word";
        let error = redis::make_extension_error("ERR".to_owned(), Some(quote.to_owned()));
        let text = address.explain(&error);
        assert!(!text.contains("pass") && text.contains("'me' '***' ***"), "{text}");
    }
}
