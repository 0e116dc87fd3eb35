//! The options about JSON Web Tokens, and the keys read from the files that they name.

use std::path::PathBuf;

use clap::Args;

use super::options::RELOADABLE;
use super::secret::{SecretError, read_bounded};
use super::{ConfigError, SecretReader, count_within};
use crate::auth::{KeyError, Keys, Patterns};

/// Holds a secret that tokens are signed with; read by `fanfare token` too.
pub const JWT_SECRET_VARIABLE: &str = "FANFARE_JWT_SECRET";

/// About 100 bytes each.
const DENIED_TOKENS_MAX: u32 = 10_000_000;

/// The options about tokens as given; [`JwtConfig`] holds the keys themselves.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "JSON Web Tokens")]
pub(super) struct JwtOptions {
    /// A file of keys to check tokens with: public keys in PEM, a JWKS, or secrets, one per line; repeatable
    ///
    /// With a key, subscribing takes a token that names the topics, and publishing may take one. Several keys, in one
    /// file or several, allow a rotation. FANFARE_JWT_SECRET holds a secret itself. `fanfare token` makes tokens.
    #[arg(id = "jwt-key-file", group = RELOADABLE, long, value_name = "FILE")]
    key_files: Vec<PathBuf>,

    /// The audience (aud) that tokens must name; repeatable, one is enough. Unset: tokens must name none
    #[arg(id = "jwt-audience", group = RELOADABLE, long, value_name = "TEXT")]
    audiences: Vec<String>,

    /// The issuer (iss) that tokens must name; repeatable, one is enough. Unset: any, or none
    #[arg(id = "jwt-issuer", group = RELOADABLE, long, value_name = "TEXT")]
    issuers: Vec<String>,

    /// The cookie in which a subscriber's token may come
    #[arg(id = "jwt-cookie", group = RELOADABLE, long, value_name = "NAME", default_value = "fanfare_token", value_parser = cookie_name)]
    cookie: String,

    /// A topic to subscribe to without a token; with a * at its end, every topic with this beginning; repeatable
    #[arg(id = "public-topic", group = RELOADABLE, long, value_name = "PATTERN")]
    public_topics: Vec<String>,

    /// Maximum subjects and token ids that POST /disconnect denies at the same time
    #[arg(id = "max-denied-tokens", group = RELOADABLE, long, value_name = "N", default_value = "100000",
          value_parser = count_within(1, DENIED_TOKENS_MAX))]
    denied_tokens_max: u32,
}

/// How JSON Web Tokens are checked.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// The keys that check signatures.
    pub keys: Keys,
    /// Accepted audiences; if empty, a token must name no audience.
    pub audiences: Vec<String>,
    /// Accepted issuers; if empty, any issuer or none.
    pub issuers: Vec<String>,
    /// The cookie that may hold a token.
    pub cookie: String,
    /// Topics that need no token to subscribe to.
    pub public_topics: Patterns,
    /// Subjects and token ids that may be denied at a time.
    pub denied_tokens_max: u32,
}

impl JwtOptions {
    /// Reads the keys; none if there is no key.
    pub(super) fn read(self, secrets: &mut SecretReader<'_>) -> Result<Option<JwtConfig>, ConfigError> {
        let mut keys = Keys::default();
        let refused = |setting: String, reason: String| ConfigError::Value { setting, reason };
        for path in &self.key_files {
            let setting = secrets.settings.get("jwt-key-file").to_string();
            // Names the file if there are several; the setting itself shows a single one.
            let place = if self.key_files.len() > 1 { format!("{}: ", path.display()) } else { String::new() };
            let of_file = |error: SecretError| refused(setting.clone(), format!("{place}{error}"));
            let of_key = |error: KeyError| refused(setting.clone(), format!("{place}{error}"));
            let (text, is_open_to_others) = read_bounded(path).map_err(of_file)?;
            let read = Keys::read(&text).map_err(of_key)?;
            if is_open_to_others && read.has_secret() {
                let path = path.display();
                secrets.warnings.push(format!("{setting}: every user of this host may read it; chmod o-r {path}"));
            }
            keys.extend(read).map_err(of_key)?;
        }
        if let Some(secret) = secrets.env.get(JWT_SECRET_VARIABLE).filter(|secret| !secret.is_empty()) {
            let of_variable = |error: KeyError| refused(JWT_SECRET_VARIABLE.to_owned(), error.to_string());
            keys.extend(Keys::from_secret(secret).map_err(of_variable)?).map_err(of_variable)?;
        }
        if keys.is_empty() {
            for name in ["jwt-audience", "jwt-issuer", "jwt-cookie", "public-topic", "max-denied-tokens"] {
                let setting = secrets.settings.get(name);
                if setting.is_explicit() {
                    secrets.warnings.push(format!("{setting} has no effect without jwt-key-file"));
                }
            }
            return Ok(None);
        }
        Ok(Some(JwtConfig {
            keys,
            audiences: self.audiences,
            issuers: self.issuers,
            cookie: self.cookie,
            public_topics: Patterns::new(self.public_topics),
            denied_tokens_max: self.denied_tokens_max,
        }))
    }
}

/// A cookie's name is a token (RFC 6265, 4.1.1).
fn cookie_name(text: &str) -> Result<String, String> {
    let is_of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.bytes().all(is_of_token) {
        true => Ok(text.to_owned()),
        false => Err("allowed is a cookie's name: letters, digits and !#$%&'*+-.^_`|~".to_owned()),
    }
}
