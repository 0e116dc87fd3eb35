//! The Redis that `fanfare publish` and `fanfare load` publish to.

use std::path::Path;

use anyhow::Context;

use super::UsageError;
use crate::config::{REDIS_PASSWORD_VARIABLE, RedisUrl, Secret, SecretFile, redact_url};
use crate::redis_address::RedisAddress;

/// Reads `--redis-url`; the password is the one in `password_file`, or in the environment, or else the URL's own.
pub(super) fn redis_address(url: &str, password_file: Option<&Path>) -> anyhow::Result<RedisAddress> {
    let refused = |reason: String| UsageError(format!("--redis-url {}: {reason}", redact_url(url)));
    let parsed: RedisUrl = url.parse().map_err(refused)?;
    let password = password("--redis-password-file", password_file, REDIS_PASSWORD_VARIABLE)?;
    let complete = password.map_or_else(|| parsed.clone(), |password| parsed.with_password(&password));
    Ok(RedisAddress::new(complete.expose(), None).map_err(|error| refused(error.to_string()))?)
}

/// The password in a file, or else in the environment.
pub(super) fn password(flag: &str, file: Option<&Path>, variable: &str) -> anyhow::Result<Option<Secret>> {
    let Some(path) = file else {
        return Ok(std::env::var(variable).ok().and_then(|text| Secret::password(&text).ok()));
    };
    let password = SecretFile::read(path).and_then(|file| file.password());
    password.map(Some).with_context(|| format!("{flag} {}", path.display()))
}
