//! JSON Web Tokens (RFC 7519): signature, times, audience and issuer checked, in this order; then what they grant.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Header, Validation, decode, decode_header};
use serde::Deserialize;

use super::keys::{Key, Keys};
use super::{Denied, Grants};

/// How far the clocks of who makes tokens and who checks them may differ.
pub const LEEWAY: Duration = Duration::from_secs(10);

/// Checks tokens.
#[derive(Clone)]
pub struct Verifier(Vec<VerifyingKey>);

#[derive(Clone)]
struct VerifyingKey {
    id: Option<String>,
    decoding: DecodingKey,
    /// Its algorithms, and what every token must say.
    validation: Validation,
}

/// What a token that was checked is good for.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// What its holder may do.
    pub grants: Grants,
    /// Until when, since 1970, the leeway included.
    pub expires_at: Duration,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default)]
    fanfare: Grants,
}

impl Verifier {
    /// Accepts tokens that one of the keys signed and that name one of the audiences and one of the issuers; where no
    /// audience is given, those that name none, and where no issuer is given, anybody's.
    pub fn new(keys: Keys, audiences: &[String], issuers: &[String]) -> Verifier {
        let verifying = |Key { id, algorithms, decoding }| {
            let mut validation = Validation::new_for_family(decoding.family());
            validation.algorithms = algorithms;
            // Times are checked below, against the time that is passed in.
            validation.validate_exp = false;
            let mut required = vec!["exp"];
            if !audiences.is_empty() {
                required.push("aud");
                validation.set_audience(audiences);
            }
            if !issuers.is_empty() {
                required.push("iss");
                validation.set_issuer(issuers);
            }
            validation.set_required_spec_claims(&required);
            VerifyingKey { id, decoding, validation }
        };
        Verifier(keys.into_keys().into_iter().map(verifying).collect())
    }

    /// What a token is good for, at `now` since 1970.
    pub fn verify(&self, token: &str, now: Duration) -> Result<Verified, Denied> {
        let header = decode_header(token).map_err(|_| Denied::Invalid("this is no token that is known here"))?;
        if header.crit.is_some() {
            return Err(Denied::Invalid("the token's header asks for what is not known here"));
        }
        for key in self.0.iter().filter(|key| key.may_have_signed(&header)) {
            match decode::<Claims>(token, &key.decoding, &key.validation) {
                Ok(data) => return data.claims.check(now),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(Denied::Invalid(reason(error.kind()))),
            }
        }
        Err(Denied::Invalid("no key of this server signed the token"))
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl VerifyingKey {
    /// A key without an id, as PEM and secrets are, may have signed whatever a token calls it.
    fn may_have_signed(&self, header: &Header) -> bool {
        let is_named = match (&self.id, &header.kid) {
            (Some(id), Some(named)) => id == named,
            _ => true,
        };
        is_named && self.validation.algorithms.contains(&header.alg)
    }
}

impl Claims {
    fn check(self, now: Duration) -> Result<Verified, Denied> {
        let expires_at = self.exp.map_or(0.0, |exp| exp + LEEWAY.as_secs_f64());
        if now.as_secs_f64() >= expires_at {
            return Err(Denied::Invalid("the token has expired"));
        }
        if self.nbf.is_some_and(|nbf| now.as_secs_f64() + LEEWAY.as_secs_f64() < nbf) {
            return Err(Denied::Invalid("the token is not valid yet"));
        }
        // A time that no clock will reach is as good as none.
        let expires_at = Duration::try_from_secs_f64(expires_at).unwrap_or(Duration::MAX);
        Ok(Verified { grants: self.fanfare, expires_at })
    }
}

/// What is wrong with a token whose signature is right, or could not be looked at.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => "the token names no audience (aud)",
            "iss" => "the token names no issuer (iss)",
            _ => "the token has no time of expiry (exp)",
        },
        ErrorKind::InvalidAudience => "the token is for another audience (aud)",
        ErrorKind::InvalidIssuer => "the token is of another issuer (iss)",
        ErrorKind::Json(_) | ErrorKind::InvalidClaimFormat(_) => "the token's claims are not as documented",
        _ => "this is no token that is known here",
    }
}
