//! The options about TLS: what each `--listen` speaks, and the certificates that are read from the files they name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::options::RELOADABLE;
use super::secret::read_bounded;
use super::{ConfigError, SecretReader};
use crate::io::listener::ListenAddress;
use crate::tls::certificates::Certificates;

/// What is spoken on a listener for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP, and each request is answered with the address of the same on the listener with TLS.
    Redirects,
}

impl Speaks {
    const PREFIXES: [(&'static str, Speaks); 2] = [("tls:", Speaks::Https), ("redirect:", Speaks::Redirects)];

    fn prefix(self) -> &'static str {
        Speaks::PREFIXES.into_iter().find(|(_, speaks)| *speaks == self).map_or("", |(prefix, _)| prefix)
    }
}

/// Where clients connect, and what is spoken there: a value of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientListener {
    /// What is spoken.
    pub speaks: Speaks,
    /// The address.
    pub address: ListenAddress,
}

impl FromStr for ClientListener {
    type Err = String;

    fn from_str(text: &str) -> Result<ClientListener, String> {
        let named =
            Speaks::PREFIXES.into_iter().find_map(|(prefix, speaks)| Some((text.strip_prefix(prefix)?, speaks)));
        let (address, speaks) = named.unwrap_or((text, Speaks::Http));
        let address = address.parse()?;
        match (speaks, &address) {
            (Speaks::Https | Speaks::Redirects, ListenAddress::Unix(_)) => {
                Err(format!("{} takes ADDR:PORT: on a unix socket, the proxy speaks TLS", speaks.prefix()))
            }
            _ => Ok(ClientListener { speaks, address }),
        }
    }
}

impl fmt::Display for ClientListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.speaks.prefix(), self.address)
    }
}

/// The options about TLS as given; the certificates themselves are in [`super::Config`].
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsOptions {
    /// A certificate for --listen tls:, in PEM with its chain, the server's own first; repeatable
    ///
    /// Each needs its --tls-key. A client gets the first one that is valid for the name it asks for, else the first of all.
    /// A reload (SIGHUP) reads the files again, and leaves open streams alone.
    #[arg(id = "tls-certificate", group = RELOADABLE, long, value_name = "FILE")]
    certificates: Vec<PathBuf>,

    /// The private key of a --tls-certificate, in PEM and without a passphrase; as many as those, in their order
    #[arg(id = "tls-key", group = RELOADABLE, long, value_name = "FILE")]
    keys: Vec<PathBuf>,
}

impl TlsOptions {
    /// True when a certificate is named.
    pub(super) fn has_certificate(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Reads the certificates and keys.
    pub(super) fn read(self, secrets: &mut SecretReader<'_>) -> Result<Certificates, ConfigError> {
        let (certificates, open_keys) =
            read_certificates(&self.certificates, &self.keys).map_err(|error| match error {
                BadPair::Count { .. } => ConfigError::Contradiction(error.to_string()),
                BadPair::File { option, file, reason } => {
                    ConfigError::Value { setting: secrets.settings.get(option).with_only(&file).to_string(), reason }
                }
            })?;
        for key in open_keys {
            let (setting, key) = (secrets.settings.get("tls-key"), key.display().to_string());
            let setting = setting.with_only(&key);
            secrets.warnings.push(format!("{setting}: every user of this host may read it; chmod o-r {key}"));
        }
        Ok(certificates)
    }
}

/// Why certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadPair {
    /// Not as many keys as certificates.
    #[error(
        "{certificates} of tls-certificate and {keys} of tls-key: each certificate needs its key, in the same order"
    )]
    Count {
        /// How many certificates.
        certificates: usize,
        /// How many keys.
        keys: usize,
    },
    /// One of the files.
    #[error("--{option} {file}: {reason}")]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads certificates with their keys, and tells which keys every user of this host may read.
pub fn read_certificates<'a>(
    certificate_files: &[PathBuf],
    key_files: &'a [PathBuf],
) -> Result<(Certificates, Vec<&'a Path>), BadPair> {
    if certificate_files.len() != key_files.len() {
        return Err(BadPair::Count { certificates: certificate_files.len(), keys: key_files.len() });
    }
    let refused =
        |option, file: &Path, reason: String| BadPair::File { option, file: file.display().to_string(), reason };
    let (mut certificates, mut open_keys) = (Certificates::default(), Vec::new());
    for (certificate, key) in certificate_files.iter().zip(key_files) {
        let read = |option, file: &Path| read_bounded(file).map_err(|error| refused(option, file, error.to_string()));
        let (chain, _) = read("tls-certificate", certificate)?;
        let (key_text, is_open_to_others) = read("tls-key", key)?;
        certificates.add(certificate.display().to_string(), &chain, &key_text).map_err(|error| {
            let (option, file) = if error.is_of_key() { ("tls-key", key) } else { ("tls-certificate", certificate) };
            refused(option, file, error.to_string())
        })?;
        if is_open_to_others {
            open_keys.push(key.as_path());
        }
    }
    Ok((certificates, open_keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_says_what_is_spoken_on_it() {
        let reads = |text: &str, speaks, address: &str| {
            let listener: ClientListener = text.parse().unwrap();
            assert_eq!((listener.speaks, listener.address.to_string().as_str()), (speaks, address), "{text}");
            assert_eq!(listener.to_string().parse(), Ok(listener));
        };
        reads("127.0.0.1:3001", Speaks::Http, "127.0.0.1:3001");
        reads("unix:/run/f.sock", Speaks::Http, "unix:/run/f.sock");
        reads("tls:0.0.0.0:443", Speaks::Https, "0.0.0.0:443");
        reads("tls:[::]:443", Speaks::Https, "[::]:443");
        reads("tls:localhost:0", Speaks::Https, "127.0.0.1:0");
        reads("redirect:0.0.0.0:80", Speaks::Redirects, "0.0.0.0:80");
        let refuses = |text: &str, why: &str| {
            assert!(text.parse::<ClientListener>().unwrap_err().contains(why), "{text}");
        };
        refuses("tls:unix:/run/f.sock", "the proxy speaks TLS");
        refuses("redirect:unix:/run/f.sock", "takes ADDR:PORT");
        refuses("tls:443", "ADDR:PORT");
        refuses("tls:*:443", "0.0.0.0:443");
        refuses("https:0.0.0.0:443", "names are not looked up");
    }
}
