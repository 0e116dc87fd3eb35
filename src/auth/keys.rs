//! The keys that tokens are checked with, each bound to its algorithms: a token never chooses the algorithm.

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde_json::Value;

use super::Digest;
use super::crypto;
use super::pem::{self, PublicKey, Section};

/// A token without a key id is tried with every key that fits: more keys than this are a mistake.
const KEYS_MAX: usize = 32;
/// The smallest RSA modulus (RFC 7518, 3.3), and the largest that ring supports.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// An uncompressed point of P-256.
const P256_POINT_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;
/// The algorithms that a secret may be used for, the weakest first.
const HMACS: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

/// Keys to check tokens with; several, so that they can be rotated. Never printed.
#[derive(Clone, Default)]
pub struct Keys(Vec<Key>);

/// One key.
#[derive(Clone)]
pub(super) struct Key {
    /// Its `kid`, if it came with one.
    pub(super) id: Option<String>,
    /// The algorithms that it may be used for.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

/// Why a file holds no usable keys. Contains nothing of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("holds no key")]
    Empty,
    /// Too short for the weakest algorithm.
    #[error(
        "holds a secret of {0} bytes: HS256 needs at least 32 of them (RFC 7518, 3.2), such as openssl rand -hex 32"
    )]
    ShortSecret(usize),
    /// A private key could sign tokens, but this server only checks them.
    #[error("holds a private key, but tokens are checked with the public key: openssl pkey -in FILE -pubout")]
    Private,
    /// A kind of key that is not used here.
    #[error("holds a key of an unsupported kind; allowed are RSA of 2048 to 8192 bits, P-256 and Ed25519")]
    Unsupported,
    /// A set that holds no usable key.
    #[error(
        "holds no usable key; it skips {for_other_purposes} that are not for signatures and {of_other_kinds} of other \
         kinds than RSA of 2048 to 8192 bits, P-256, Ed25519 and oct"
    )]
    PassedOver {
        /// Keys that are not for signatures.
        for_other_purposes: usize,
        /// Keys of kinds, or with members, that are not supported here.
        of_other_kinds: usize,
    },
    /// Begins like PEM and is not.
    #[error("is not PEM")]
    NotPem,
    /// Begins like JSON and is not.
    #[error("begins like a JWKS but is not valid JSON (line {0}, column {1})")]
    NotJson(usize, usize),
    /// More keys than a rotation needs.
    #[error("raises the number of keys above {KEYS_MAX}")]
    TooMany,
}

impl Keys {
    /// The keys of a file: public keys in PEM, a JWKS or JWK, or secrets, one per line.
    pub fn read(text: &str) -> Result<Keys, KeyError> {
        match text.trim_start() {
            text if text.contains("-----BEGIN ") => Keys::from_pem(text),
            text if text.starts_with('{') => Keys::from_jwks(text),
            text => Keys::of(secret_lines(text).map(secret).collect::<Result<_, _>>()?),
        }
    }

    /// One secret.
    pub fn from_secret(text: &str) -> Result<Keys, KeyError> {
        Keys::of(vec![secret(text)?])
    }

    /// Adds these keys.
    pub fn extend(&mut self, more: Keys) -> Result<(), KeyError> {
        self.0.extend(more.0);
        if self.0.len() > KEYS_MAX { Err(KeyError::TooMany) } else { Ok(()) }
    }

    /// True when there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when a holder of one of the keys can make tokens.
    pub fn has_secret(&self) -> bool {
        self.0.iter().flat_map(|key| &key.algorithms).any(|algorithm| HMACS.contains(algorithm))
    }

    pub(super) fn into_keys(self) -> Vec<Key> {
        self.0
    }

    fn of(keys: Vec<Key>) -> Result<Keys, KeyError> {
        match keys.len() {
            0 => Err(KeyError::Empty),
            1..=KEYS_MAX => Ok(Keys(keys)),
            _ => Err(KeyError::TooMany),
        }
    }

    fn from_pem(text: &str) -> Result<Keys, KeyError> {
        let key = |section| match section {
            Section::Public(public) => public_key(public),
            Section::Private(_) => Err(KeyError::Private),
            Section::Other => Err(KeyError::Unsupported),
        };
        let sections = pem::sections(text).ok_or(KeyError::NotPem)?;
        Keys::of(sections.into_iter().map(key).collect::<Result<_, _>>()?)
    }

    /// A provider's set may hold keys for other purposes and of other kinds: those are left out, unless that leaves no
    /// key.
    fn from_jwks(text: &str) -> Result<Keys, KeyError> {
        let mut json: Value =
            serde_json::from_str(text).map_err(|error| KeyError::NotJson(error.line(), error.column()))?;
        let set = match json.get_mut("keys").map(Value::take) {
            Some(Value::Array(set)) => set,
            _ => vec![json],
        };
        let (mut keys, mut for_other_purposes, mut of_other_kinds) = (Vec::new(), 0, 0);
        for jwk in set {
            // One by one: a key that can't be read must not make the others unusable (RFC 7517, 5).
            match serde_json::from_value::<Jwk>(jwk) {
                Err(_) => of_other_kinds += 1,
                Ok(jwk) if !is_for_signatures(&jwk) => for_other_purposes += 1,
                Ok(jwk) => match jwk_key(&jwk) {
                    Err(KeyError::Unsupported) => of_other_kinds += 1,
                    key => keys.push(key?),
                },
            }
        }
        match for_other_purposes + of_other_kinds {
            1.. if keys.is_empty() => Err(KeyError::PassedOver { for_other_purposes, of_other_kinds }),
            _ => Keys::of(keys),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Key {
    fn new(id: Option<&String>, algorithms: &[Algorithm], decoding: DecodingKey) -> Key {
        crypto::install();
        Key { id: id.cloned(), algorithms: algorithms.to_vec(), decoding }
    }

    /// Differs between two keys, and for one key under another id or for other algorithms.
    pub(super) fn digest(&self) -> Digest {
        let algorithms = format!("{:?} {:?} {:?}", self.id, self.algorithms, self.decoding.family());
        match self.decoding.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => Digest::of_parts([algorithms.as_bytes(), bytes]),
            DecodingKeyKind::RsaModulusExponent { n, e } => Digest::of_parts([algorithms.as_bytes(), n, e]),
        }
    }
}

/// The secrets of a file: one per line; `#` starts a comment line.
pub(super) fn secret_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The HMACs for which a secret of `secret_bytes` bytes is long enough (RFC 7518, 3.2).
pub(super) fn secret_algorithms(secret_bytes: usize) -> &'static [Algorithm] {
    match secret_bytes {
        0..32 => &[],
        32..48 => &HMACS[..1],
        48..64 => &HMACS[..2],
        _ => &HMACS,
    }
}

fn secret(text: &str) -> Result<Key, KeyError> {
    match secret_algorithms(text.len()) {
        [] => Err(KeyError::ShortSecret(text.len())),
        algorithms => Ok(Key::new(None, algorithms, DecodingKey::from_secret(text.as_bytes()))),
    }
}

fn public_key(public: PublicKey) -> Result<Key, KeyError> {
    let key = match public {
        PublicKey::Rsa(der) if pem::modulus_bytes(&der).is_some_and(|bytes| RSA_BYTES.contains(&bytes)) => {
            Key::new(None, &[Algorithm::RS256], DecodingKey::from_rsa_der(&der))
        }
        PublicKey::P256(point) if point.len() == P256_POINT_BYTES => {
            Key::new(None, &[Algorithm::ES256], DecodingKey::from_ec_der(&point))
        }
        PublicKey::Ed25519(key) if key.len() == ED25519_BYTES => {
            Key::new(None, &[Algorithm::EdDSA], DecodingKey::from_ed_der(&key))
        }
        _ => return Err(KeyError::Unsupported),
    };
    Ok(key)
}

fn is_for_signatures(jwk: &Jwk) -> bool {
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    let of_use = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    of_use && jwk.common.key_operations.as_ref().is_none_or(verifies)
}

fn jwk_key(jwk: &Jwk) -> Result<Key, KeyError> {
    let decoding = DecodingKey::from_jwk(jwk).map_err(|_| KeyError::Unsupported)?;
    let bytes = decoding.try_get_as_bytes().map_or(0, <[u8]>::len);
    let algorithms = match (&jwk.algorithm, decoding.kind()) {
        (AlgorithmParameters::OctetKey(_), _) => match secret_algorithms(bytes) {
            [] => return Err(KeyError::ShortSecret(bytes)),
            algorithms => algorithms,
        },
        (AlgorithmParameters::RSA(_), DecodingKeyKind::RsaModulusExponent { n, .. })
            if RSA_BYTES.contains(&n.len()) =>
        {
            &[Algorithm::RS256]
        }
        (AlgorithmParameters::EllipticCurve(curve), _)
            if curve.curve == EllipticCurve::P256 && bytes == P256_POINT_BYTES =>
        {
            &[Algorithm::ES256]
        }
        (AlgorithmParameters::OctetKeyPair(pair), _)
            if pair.curve == EllipticCurve::Ed25519 && bytes == ED25519_BYTES =>
        {
            &[Algorithm::EdDSA]
        }
        _ => return Err(KeyError::Unsupported),
    };
    // A key that names its algorithm is for no other.
    let named = jwk.common.key_algorithm.map(|named| named.to_string());
    let is_meant = |algorithm: &&Algorithm| named.as_ref().is_none_or(|named| *named == format!("{algorithm:?}"));
    match algorithms.iter().filter(is_meant).copied().collect::<Vec<_>>() {
        meant if meant.is_empty() => Err(KeyError::Unsupported),
        meant => Ok(Key::new(jwk.common.key_id.as_ref(), &meant, decoding)),
    }
}
