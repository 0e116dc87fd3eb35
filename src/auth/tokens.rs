//! Bearer tokens (RFC 6750) as they are configured, compared in constant time.

use std::fmt;

use subtle::ConstantTimeEq;

use super::{Denied, Digest};

/// The accepted tokens; several, so that they can be rotated. Never printed.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Box<[u8]>>);

impl Tokens {
    /// Accepts these; empty ones are left out.
    pub fn new<T: AsRef<str>>(tokens: impl IntoIterator<Item = T>) -> Tokens {
        let nonempty = |token: T| (!token.as_ref().is_empty()).then(|| token.as_ref().as_bytes().into());
        Tokens(tokens.into_iter().filter_map(nonempty).collect())
    }

    /// True when no token is accepted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if one of the tokens has this digest.
    pub fn holds(&self, digest: Digest) -> bool {
        self.0.iter().any(|token| Digest::of(token) == digest)
    }

    /// Accepts an `Authorization` header with one of the bearer tokens.
    pub fn check(&self, authorization: Option<&str>) -> Result<(), Denied> {
        let shown = bearer(authorization.ok_or(Denied::Missing)?).ok_or(Denied::Missing)?;
        // Every token is compared, also after a match: the time shows neither which one matched nor how much of one was
        // right.
        let matches = self.0.iter().fold(0u8, |matches, token| matches | token.ct_eq(shown.as_bytes()).unwrap_u8());
        if matches == 1 { Ok(()) } else { Err(Denied::Invalid("this token is not accepted here")) }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

/// The token of an `Authorization` header, if its scheme is `Bearer`.
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_token_is_accepted() {
        let tokens = Tokens::new(["first", "", "second"]);
        let wrong = Denied::Invalid("this token is not accepted here");
        let check = |authorization: Option<&str>, expected| assert_eq!(tokens.check(authorization), expected);
        check(Some("Bearer first"), Ok(()));
        check(Some("bearer  second "), Ok(()));
        check(Some("Bearer firs"), Err(wrong));
        check(Some("Bearer first2"), Err(wrong));
        check(Some("Bearer "), Err(wrong));
        check(Some("Basic first"), Err(Denied::Missing));
        check(Some("first"), Err(Denied::Missing));
        check(None, Err(Denied::Missing));
        assert_eq!(Tokens::default().check(Some("Bearer x")), Err(wrong));
        assert!(tokens.holds(Digest::of("second")) && !tokens.holds(Digest::of("secon")));
        assert_eq!(format!("{tokens:?}"), "2 tokens");
    }
}
