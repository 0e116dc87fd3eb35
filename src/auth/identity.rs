//! Identities: the parts of a checked token that decide later whether it is still accepted, and the names by which it
//! can be revoked. Holds digests only, from which no token can be made.

use serde_json::Value;

use super::{Denied, Digest};

/// The key, subject, issuer, audiences, id and times of a token. Two tokens with equal identities are accepted or
/// refused alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The key that signed it.
    pub(super) key: Digest,
    /// The issuer (`iss`).
    pub(super) issuer: Option<Digest>,
    /// The audiences (`aud`); empty if it names none.
    pub(super) audiences: Box<[Digest]>,
    /// The subject (`sub`).
    pub(super) subject: Option<Digest>,
    /// Its own id (`jti`).
    pub(super) token_id: Option<Digest>,
    /// When it was issued (`iat`), in seconds since 1970.
    pub(super) issued_at_s: Option<u64>,
    /// When it expires, the leeway included, in seconds since 1970.
    pub(super) expires_at_s: u64,
}

const _: () = assert!(size_of::<Identity>() <= 112, "one for each token that is in use");

/// How an operator names tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenName {
    /// The token of this id (`jti`).
    Id(Digest),
    /// All tokens of this subject (`sub`).
    Subject(Digest),
}

impl Identity {
    /// True if this name refers to it, perhaps among others.
    pub fn is_called(&self, name: TokenName) -> bool {
        match name {
            TokenName::Id(id) => self.token_id == Some(id),
            TokenName::Subject(subject) => self.subject == Some(subject),
        }
    }
}

/// The audiences of an `aud`: one, or several (RFC 7519, 4.1.3).
pub(super) fn audiences(claim: &Value) -> Result<Box<[Digest]>, Denied> {
    let several = match claim {
        Value::Null => return Ok(Box::default()),
        Value::Array(several) if !several.is_empty() => several.as_slice(),
        one => std::slice::from_ref(one),
    };
    let digests = several.iter().map(|audience| audience.as_str().map(Digest::of)).collect::<Option<_>>();
    digests.ok_or(Denied::Invalid("the token's audience (aud) must be a string or a list of strings"))
}

/// A `sub` or `jti`: a text, or a number by its digits, as many issuers use one. Any other value is no name.
pub(super) fn name(claim: &Value) -> Option<Digest> {
    match claim {
        Value::String(text) => Some(Digest::of(text)),
        Value::Number(number) => Some(Digest::of(number.to_string())),
        _ => None,
    }
}
