//! `fanfare token`: makes a token that `fanfare serve` accepts, from a key in a file or the environment.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::UsageError;
use crate::auth::{Grants, MintError, NewToken, Patterns, SigningKey};
use crate::cli::TokenArgs;
use crate::config::{JWT_SECRET_VARIABLE, read_bounded};

/// Prints only the token.
pub(super) fn run(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let (key, place) = signing_key(args)?;
    let token = NewToken {
        subject: args.subject.clone(),
        token_id: args.token_id.clone(),
        issuer: args.issuer.clone(),
        audience: args.audience.clone(),
        grants: Grants {
            subscribe: Patterns::new(args.subscribe.clone()),
            publish: Patterns::new(args.publish.clone()),
            operator: args.operator,
        },
        ..NewToken::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("this host's clock is before 1970")?;
    let token = token.valid_for(now, args.expires_in);
    let minted = key.mint(&token, args.alg.as_deref(), args.key_id.as_deref()).map_err(refused(&place))?;
    writeln!(io::stdout(), "{minted}")?;
    Ok(ExitCode::SUCCESS)
}

/// The key, and how the user named its place.
fn signing_key(args: &TokenArgs) -> anyhow::Result<(SigningKey, String)> {
    if let Some(path) = &args.key_file {
        let place = format!("--key-file {}", path.display());
        let (text, _) = read_bounded(path).with_context(|| place.clone())?;
        return Ok((SigningKey::read(&text).map_err(refused(&place))?, place));
    }
    match std::env::var(JWT_SECRET_VARIABLE) {
        Ok(secret) if !secret.is_empty() => {
            let place = JWT_SECRET_VARIABLE.to_owned();
            Ok((SigningKey::from_secret(&secret).map_err(refused(&place))?, place))
        }
        _ => Err(UsageError(format!("no key: give --key-file FILE, or a secret in {JWT_SECRET_VARIABLE}")).into()),
    }
}

fn refused(place: &str) -> impl Fn(MintError) -> anyhow::Error {
    let place = place.to_owned();
    move |error| UsageError(format!("{place} {error}")).into()
}
