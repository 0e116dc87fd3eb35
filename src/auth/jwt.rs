//! JSON Web Tokens (RFC 7519): checks signature, times, audience and issuer, in this order, and returns the grants.
//! Audience and issuer can be checked again without the token, when the settings change.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use super::keys::{Key, Keys};
use super::{Denied, Digest, Grants, Identity, identity};

/// How far the clocks of issuer and server may differ.
pub const LEEWAY: Duration = Duration::from_secs(10);

/// Checks tokens.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<VerifyingKey>,
    audiences: Vec<Digest>,
    issuers: Vec<Digest>,
}

#[derive(Clone)]
struct VerifyingKey {
    id: Option<String>,
    digest: Digest,
    decoding: DecodingKey,
    /// Holds the algorithms of the key.
    validation: Validation,
}

/// The result of a checked token.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// What it permits.
    pub grants: Grants,
    /// Until when, since 1970, the leeway included.
    pub expires_at: Duration,
    /// What decides whether it stays accepted.
    pub identity: Identity,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default)]
    fanfare: Grants,
    // Of any type: a claim of a wrong type is refused only where it matters.
    #[serde(default)]
    iss: Value,
    #[serde(default)]
    aud: Value,
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    jti: Value,
    #[serde(default)]
    iat: Value,
}

impl Verifier {
    /// Accepts tokens that one of the keys signed and that name one of the audiences and one of the issuers. Without
    /// configured audiences, a token must name none; without configured issuers, any issuer is accepted.
    pub fn new(keys: Keys, audiences: &[String], issuers: &[String]) -> Verifier {
        let verifying = |key: Key| {
            let digest = key.digest();
            let Key { id, algorithms, decoding } = key;
            let mut validation = Validation::new_for_family(decoding.family());
            validation.algorithms = algorithms;
            // All claims are checked below: times against the time that is passed in, audience and issuer again at a
            // reload.
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            VerifyingKey { id, digest, decoding, validation }
        };
        Verifier {
            keys: keys.into_keys().into_iter().map(verifying).collect(),
            audiences: audiences.iter().map(Digest::of).collect(),
            issuers: issuers.iter().map(Digest::of).collect(),
        }
    }

    /// Checks a token at `now` since 1970.
    pub fn verify(&self, token: &str, now: Duration) -> Result<Verified, Denied> {
        let header = decode_header(token).map_err(|error| Denied::Invalid(reason_of_header(error.kind())))?;
        if header.crit.is_some() {
            return Err(Denied::Invalid(
                "the token's header requires an extension (crit) that this server does not support",
            ));
        }
        for key in self.keys.iter().filter(|key| key.may_have_signed(&header)) {
            match decode::<Claims>(token, &key.decoding, &key.validation) {
                Ok(data) => {
                    let verified = data.claims.check(key.digest, now)?;
                    self.check_parties(&verified.identity)?;
                    return Ok(verified);
                }
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(Denied::Invalid(reason(error.kind()))),
            }
        }
        Err(Denied::Invalid("no key of this server signed the token"))
    }

    /// True if a token that was accepted once is still accepted, apart from its times: its key is configured, and so
    /// are its audience and issuer.
    pub fn accepts(&self, identity: &Identity) -> bool {
        self.keys.iter().any(|key| key.digest == identity.key) && self.check_parties(identity).is_ok()
    }

    fn check_parties(&self, identity: &Identity) -> Result<(), Denied> {
        let is_for_us = identity.audiences.iter().any(|audience| self.audiences.contains(audience));
        match (self.audiences.is_empty(), identity.audiences.is_empty()) {
            (true, true) => {}
            (false, true) => return Err(Denied::Invalid("the token names no audience (aud)")),
            (_, false) if is_for_us => {}
            (_, false) => return Err(Denied::Invalid("the token is for another audience (aud)")),
        }
        match &identity.issuer {
            _ if self.issuers.is_empty() => Ok(()),
            None => Err(Denied::Invalid("the token names no issuer (iss)")),
            Some(issuer) if self.issuers.contains(issuer) => Ok(()),
            Some(_) => Err(Denied::Invalid("the token comes from another issuer (iss)")),
        }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.keys.len())
    }
}

impl VerifyingKey {
    /// A key without an id, such as one from PEM or a secret, may have signed a token with any key id.
    fn may_have_signed(&self, header: &Header) -> bool {
        let is_named = match (&self.id, &header.kid) {
            (Some(id), Some(named)) => id == named,
            _ => true,
        };
        is_named && self.validation.algorithms.contains(&header.alg)
    }
}

impl Claims {
    fn check(self, key: Digest, now: Duration) -> Result<Verified, Denied> {
        let exp = self.exp.ok_or(Denied::Invalid("the token has no expiry time (exp)"))?;
        let expires_at = exp + LEEWAY.as_secs_f64();
        if now.as_secs_f64() >= expires_at {
            return Err(Denied::Invalid("the token has expired"));
        }
        if self.nbf.is_some_and(|nbf| now.as_secs_f64() + LEEWAY.as_secs_f64() < nbf) {
            return Err(Denied::Invalid("the token is not valid yet"));
        }
        // A time beyond the clock's range counts as no expiry.
        let expires_at = Duration::try_from_secs_f64(expires_at).unwrap_or(Duration::MAX);
        let identity = Identity {
            key,
            issuer: self.iss.as_str().map(Digest::of),
            audiences: identity::audiences(&self.aud)?,
            subject: identity::name(&self.sub),
            token_id: identity::name(&self.jti),
            issued_at_s: self.iat.as_f64().map(|seconds| seconds as u64),
            // Rounded up: a denial must be kept until then.
            expires_at_s: expires_at.as_secs().saturating_add(1),
        };
        Ok(Verified { grants: self.fanfare, expires_at, identity })
    }
}

/// Why a token's header could not be read.
fn reason_of_header(kind: &ErrorKind) -> &'static str {
    match kind {
        // A publish token, for example, which opens no stream.
        ErrorKind::InvalidToken => "the token is not a JSON Web Token",
        _ => "the token is malformed or of an unsupported kind",
    }
}

/// Why a token could not be read.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Json(_) | ErrorKind::InvalidClaimFormat(_) => "the token's claims do not have the documented types",
        _ => "the token is malformed or of an unsupported kind",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::{SigningKey, TokenName};

    const NOW: Duration = Duration::from_secs(1_000_000);
    const SECRETS: [&str; 2] = ["the-first-secret-of-thirty-two-bytes!", "the-other-secret-of-thirty-two-bytes!"];

    fn verifier(secret: &str, audiences: &[&str], issuers: &[&str]) -> Verifier {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Verifier::new(Keys::from_secret(secret).unwrap(), &owned(audiences), &owned(issuers))
    }

    fn signed(secret: &str, claims: &Value) -> String {
        SigningKey::from_secret(secret).unwrap();
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
    }

    /// A reload decides about an open stream as the server would decide about a new request with its token.
    #[test]
    fn an_identity_is_accepted_where_its_token_is() {
        let lists = [&[][..], &["a"], &["b"], &["b", "a"]];
        let verifiers: Vec<_> = SECRETS
            .iter()
            .flat_map(|secret| lists.iter().flat_map(|aud| lists.iter().map(|iss| verifier(secret, aud, iss))))
            .collect();
        let mut accepted = 0;
        for aud in [Value::Null, json!("a"), json!(["b"]), json!(["c", "a"])] {
            for iss in [Value::Null, json!("a"), json!("b"), json!(7)] {
                let mut claims = json!({ "exp": 2_000_000, "aud": aud, "iss": iss });
                claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                let token = signed(SECRETS[0], &claims);
                let identities: Vec<_> =
                    verifiers.iter().filter_map(|verifier| verifier.verify(&token, NOW).ok()).collect();
                for verifier in &verifiers {
                    let is_let_in = verifier.verify(&token, NOW).is_ok();
                    accepted += usize::from(is_let_in);
                    for verified in &identities {
                        assert_eq!(verifier.accepts(&verified.identity), is_let_in, "{claims} {verifier:?}");
                    }
                }
            }
        }
        assert!(accepted > 20, "{accepted}");
    }

    #[test]
    fn what_is_no_token_and_what_is_one_of_another_kind_are_told_apart() {
        let check = |token: &str, reason: &'static str| {
            let refused = verifier(SECRETS[0], &[], &[]).verify(token, NOW).unwrap_err();
            assert_eq!(refused, Denied::Invalid(reason), "{token}");
        };
        check("f81d4fae7dec11d0a76500a0c91e6bf6", "the token is not a JSON Web Token");
        check("", "the token is not a JSON Web Token");
        check("e30.e30.AA", "the token is malformed or of an unsupported kind"); // a header without an algorithm
    }

    #[test]
    fn subjects_and_ids_are_known_by_their_text() {
        let identity =
            |claims: Value| verifier(SECRETS[0], &[], &[]).verify(&signed(SECRETS[0], &claims), NOW).unwrap().identity;
        let named = identity(json!({ "exp": 2_000_000, "sub": "user-7", "jti": 17, "iat": 900_000.5 }));
        let [subject, other] = ["user-7", "user-70"].map(|name| TokenName::Subject(Digest::of(name)));
        assert!(named.is_called(subject) && !named.is_called(other));
        assert!(named.is_called(TokenName::Id(Digest::of("17"))));
        assert_eq!((named.issued_at_s, named.expires_at_s), (Some(900_000), 2_000_011));
        let odd = identity(json!({ "exp": 2_000_000, "sub": true, "jti": null, "iat": "yesterday" }));
        assert_eq!((odd.subject, odd.token_id, odd.issued_at_s), (None, None, None));
    }
}
