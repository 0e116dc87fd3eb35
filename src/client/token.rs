//! The bearer token that a client sends, and the advice when it is missing or wrong.

use std::path::Path;

use anyhow::Context;
use ureq::http::StatusCode;

use crate::config::{Secret, SecretFile};

/// A bearer token, if one was given.
#[derive(Clone, Debug)]
pub struct BearerToken {
    secret: Option<Secret>,
    /// The token's origin, or else the environment variable that may hold one.
    place: String,
}

impl BearerToken {
    /// The token from a file, or else from the environment variable `variable`.
    pub fn read(file: Option<&Path>, variable: &str) -> anyhow::Result<BearerToken> {
        let (place, secret) = match (file, std::env::var(variable)) {
            (Some(path), _) => {
                let place = format!("--token-file {}", path.display());
                (place, Some(SecretFile::read(path).and_then(|file| file.token())))
            }
            (None, Ok(text)) if !text.is_empty() => (variable.to_owned(), Some(Secret::token(text.trim()))),
            _ => (variable.to_owned(), None),
        };
        let secret = secret.transpose().with_context(|| place.clone())?;
        Ok(BearerToken { secret, place })
    }

    /// The value of the `Authorization` header.
    pub fn header(&self) -> Option<String> {
        self.secret.as_ref().map(|secret| format!("Bearer {}", secret.expose()))
    }

    /// The advice for a refusal that concerns the token.
    pub(super) fn advice(&self, status: StatusCode) -> Option<String> {
        let place = &self.place;
        match (status, &self.secret) {
            (StatusCode::UNAUTHORIZED, None) => Some(format!("give a token with --token-file FILE or in {place}")),
            (StatusCode::UNAUTHORIZED, Some(_)) => Some(format!("the refused token comes from {place}")),
            _ => None,
        }
    }
}
