//! The signatures themselves, for `jsonwebtoken`, made and checked by ring, which TLS needs anyway. The backends of
//! `jsonwebtoken` would add forty crates, or a second C library.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use ring::{error, hmac};

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes this the process's provider. All code that makes a key calls it first, so that every key has a provider.
pub(super) fn install() {
    // After the first call it is installed already, and by us: no other code here installs a provider.
    let _ = PROVIDER.install_default();
}

fn hmac_algorithm(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    key: VerifyingKey,
}

enum VerifyingKey {
    Secret(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
    RsaComponents { n: Vec<u8>, e: Vec<u8> },
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let public = |algorithm: &'static dyn VerificationAlgorithm| {
        let bytes = key.try_get_as_bytes()?.to_vec();
        Ok::<_, Error>(VerifyingKey::Public(UnparsedPublicKey::new(algorithm, bytes)))
    };
    // A key of one kind is never used as a key of another kind, whatever the token's header says.
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let key = match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            VerifyingKey::RsaComponents { n: n.clone(), e: e.clone() }
        }
        (Algorithm::RS256, _) => public(&RSA_PKCS1_2048_8192_SHA256)?,
        (Algorithm::ES256, _) => public(&ECDSA_P256_SHA256_FIXED)?,
        (Algorithm::EdDSA, _) => public(&ED25519)?,
        (other, _) => {
            let hmac_algorithm = hmac_algorithm(*other).ok_or(ErrorKind::UnsupportedAlgorithm)?;
            VerifyingKey::Secret(hmac::Key::new(hmac_algorithm, key.try_get_as_bytes()?))
        }
    };
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key }))
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        let verified = match &self.key {
            VerifyingKey::Secret(key) => hmac::verify(key, message, signature),
            VerifyingKey::Public(key) => key.verify(message, signature),
            VerifyingKey::RsaComponents { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        };
        verified.map_err(|error::Unspecified| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct RingSigner {
    algorithm: Algorithm,
    key: SigningKey,
}

enum SigningKey {
    Secret(hmac::Key),
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    let key = match algorithm {
        Algorithm::RS256 => SigningKey::Rsa(Box::new(rsa_key_pair(key.as_bytes())?)),
        Algorithm::ES256 => SigningKey::Ec(ec_key_pair(key.as_bytes())?),
        Algorithm::EdDSA => SigningKey::Ed(ed_key_pair(key.as_bytes())?),
        other => {
            let hmac_algorithm = hmac_algorithm(*other).ok_or(ErrorKind::UnsupportedAlgorithm)?;
            SigningKey::Secret(hmac::Key::new(hmac_algorithm, key.as_bytes()))
        }
    };
    Ok(Box::new(RingSigner { algorithm: *algorithm, key }))
}

/// An RSA private key, in PKCS#8 or PKCS#1 DER.
pub(super) fn rsa_key_pair(der: &[u8]) -> Result<RsaKeyPair> {
    let refused = |error: error::KeyRejected| ErrorKind::InvalidRsaKey(error.to_string()).into();
    RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).map_err(refused)
}

/// A P-256 private key, in PKCS#8 DER.
pub(super) fn ec_key_pair(der: &[u8]) -> Result<EcdsaKeyPair> {
    let key_pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new());
    key_pair.map_err(|_| ErrorKind::InvalidEcdsaKey.into())
}

/// An Ed25519 private key, in PKCS#8 DER; OpenSSL leaves out the public half.
pub(super) fn ed_key_pair(der: &[u8]) -> Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| ErrorKind::InvalidEddsaKey.into())
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        let random = SystemRandom::new();
        let failed = |error::Unspecified| signature::Error::new();
        match &self.key {
            SigningKey::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            SigningKey::Rsa(key) => {
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signed).map_err(failed)?;
                Ok(signed)
            }
            SigningKey::Ec(key) => Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_vec()),
            SigningKey::Ed(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
