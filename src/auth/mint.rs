//! Tokens made from a key, for `fanfare token` and for tests. [`jwt`](super::jwt) reads the tokens made here.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;

use super::keys::{secret_algorithms, secret_lines};
use super::pem::{self, Section};
use super::{Grants, crypto};

/// The algorithms that tokens may be signed with, as RFC 7518 and RFC 8037 name them.
pub const SIGNING_ALGORITHMS: [&str; 6] = ["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"];

/// A key that signs. Never printed.
pub struct SigningKey {
    encoding: EncodingKey,
    /// The algorithms that it can sign with, the usual one first.
    algorithms: &'static [Algorithm],
}

/// The claims of a new token.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewToken {
    /// The subject.
    #[serde(rename = "sub", skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Its own id.
    #[serde(rename = "jti", skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The issuer.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The audience.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// When it was made, in seconds since 1970.
    #[serde(rename = "iat")]
    pub issued_at_s: u64,
    /// When it expires, in seconds since 1970.
    #[serde(rename = "exp")]
    pub expires_at_s: u64,
    /// What it grants.
    #[serde(rename = "fanfare")]
    pub grants: Grants,
}

/// Why no token was made. Contains nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// No key to sign with.
    #[error(
        "holds no key to sign with; allowed are a private key in PEM (PKCS#8, or PKCS#1 of RSA), or a secret of at \
         least 32 bytes"
    )]
    NoKey,
    /// A kind of private key that is not used here.
    #[error(
        "holds a private key of an unsupported kind; allowed are RSA from 2048 bits, P-256 and Ed25519, not encrypted \
         (openssl pkcs8 -topk8 -nocrypt writes any as PKCS#8)"
    )]
    Unsupported,
    /// An algorithm that does not fit the key.
    #[error("can't sign with {0}; allowed is {1}")]
    Algorithm(String, String),
    /// The signature failed.
    #[error("holds a key that failed to sign the token")]
    Failed,
}

impl SigningKey {
    /// The first key of a file: a private key in PEM, or a line that is a secret.
    pub fn read(text: &str) -> Result<SigningKey, MintError> {
        crypto::install();
        if !text.contains("-----BEGIN ") {
            return SigningKey::from_secret(secret_lines(text).next().unwrap_or_default());
        }
        let private = pem::sections(text).into_iter().flatten().find_map(|section| match section {
            Section::Private(der) => Some(der),
            Section::Public(_) | Section::Other => None,
        });
        let der = private.ok_or(MintError::NoKey)?;
        let (encoding, algorithms): (_, &[Algorithm]) = match () {
            () if crypto::ed_key_pair(&der).is_ok() => (EncodingKey::from_ed_der(&der), &[Algorithm::EdDSA]),
            () if crypto::ec_key_pair(&der).is_ok() => (EncodingKey::from_ec_der(&der), &[Algorithm::ES256]),
            () if crypto::rsa_key_pair(&der).is_ok() => (EncodingKey::from_rsa_der(&der), &[Algorithm::RS256]),
            () => return Err(MintError::Unsupported),
        };
        Ok(SigningKey { encoding, algorithms })
    }

    /// A secret.
    pub fn from_secret(secret: &str) -> Result<SigningKey, MintError> {
        crypto::install();
        match secret_algorithms(secret.len()) {
            [] => Err(MintError::NoKey),
            algorithms => Ok(SigningKey { encoding: EncodingKey::from_secret(secret.as_bytes()), algorithms }),
        }
    }

    /// Makes a token, with the algorithm of that name or the key's usual one.
    pub fn mint(&self, token: &NewToken, algorithm: Option<&str>, key_id: Option<&str>) -> Result<String, MintError> {
        let named = |algorithm: &Algorithm| format!("{algorithm:?}");
        let algorithm = match algorithm {
            None => self.algorithms[0],
            Some(wanted) => {
                let found = self.algorithms.iter().find(|algorithm| named(algorithm) == wanted);
                let allowed = || self.algorithms.iter().map(named).collect::<Vec<_>>().join(" or ");
                *found.ok_or_else(|| MintError::Algorithm(wanted.to_owned(), allowed()))?
            }
        };
        let header = Header { kid: key_id.map(str::to_owned), ..Header::new(algorithm) };
        encode(&header, token, &self.encoding).map_err(|_| MintError::Failed)
    }
}

impl NewToken {
    /// Sets when it was made and when it expires, from `now` since 1970 on.
    #[must_use]
    pub fn valid_for(mut self, now: Duration, lifetime: Duration) -> NewToken {
        self.issued_at_s = now.as_secs();
        self.expires_at_s = now.saturating_add(lifetime).as_secs();
        self
    }
}
