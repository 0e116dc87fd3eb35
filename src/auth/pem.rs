//! Keys as OpenSSL writes them: PEM, and the part of DER that is needed to find a public key in it (RFC 5280, 4.1).

use rustls::pki_types::alg_id;
use rustls::pki_types::pem::{PemObject, SectionKind};

/// One section of a PEM file.
#[derive(Debug)]
pub(super) enum Section {
    Public(PublicKey),
    /// A private key's DER, PKCS#8 or, of RSA, PKCS#1.
    Private(Vec<u8>),
    /// A kind or an algorithm that is not used here.
    Other,
}

/// A public key in the form that is needed to check signatures.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// An `RSAPublicKey` (RFC 8017, A.1.1).
    Rsa(Vec<u8>),
    /// A point of P-256, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The sections of a PEM file; none if it is not one.
pub(super) fn sections(text: &str) -> Option<Vec<Section>> {
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes());
    let read = |(kind, der): (SectionKind, Vec<u8>)| match kind {
        SectionKind::PublicKey => public_key(&der).map_or(Section::Other, Section::Public),
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey => Section::Private(der),
        _ => Section::Other,
    };
    sections.map(|section| section.ok().map(read)).collect()
}

/// The key of a `SubjectPublicKeyInfo`, if its algorithm is used here.
fn public_key(mut der: &[u8]) -> Option<PublicKey> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let mut info = element(SEQUENCE, &mut der)?;
    let algorithm = element(SEQUENCE, &mut info)?;
    let (unused_bits, key) = element(BIT_STRING, &mut info)?.split_first()?;
    if *unused_bits != 0 || !info.is_empty() || !der.is_empty() {
        return None;
    }
    let is = |known: alg_id::AlgorithmIdentifier| known.as_ref() == algorithm;
    let key = key.to_vec();
    match () {
        () if is(alg_id::RSA_ENCRYPTION) => Some(PublicKey::Rsa(key)),
        () if is(alg_id::ECDSA_P256) => Some(PublicKey::P256(key)),
        () if is(alg_id::ED25519) => Some(PublicKey::Ed25519(key)),
        () => None,
    }
}

/// Bytes of the modulus of an `RSAPublicKey`, without the zero that keeps it positive.
pub(super) fn modulus_bytes(mut rsa_public_key: &[u8]) -> Option<usize> {
    let modulus = element(0x02, &mut element(0x30, &mut rsa_public_key)?)?;
    Some(modulus.strip_prefix(&[0]).unwrap_or(modulus).len())
}

/// Takes one DER element with this tag off the front, and returns its content.
fn element<'a>(tag: u8, der: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // One or two bytes of length: no key is larger.
        0x81 | 0x82 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    (*found == tag).then_some(content)
}
