//! `fanfare token` as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args};

use crate::auth::SIGNING_ALGORITHMS;
use crate::config::duration_within;

const DAY: Duration = Duration::from_secs(24 * 3600);

const TOKEN_HELP: &str = "\
Examples:
  (umask 077; openssl rand -hex 32 > secret)
  fanfare serve --jwt-key-file secret
  fanfare token --key-file secret --subscribe 'orders.*' --subscribe prices
  fanfare token --key-file secret --publish orders.17 --expires-in 5m

  openssl genpkey -algorithm ed25519 -out private.pem && openssl pkey -in private.pem -pubout -out public.pem
  fanfare serve --jwt-key-file public.pem --jwt-audience fanfare
  FANFARE_TOKEN=$(fanfare token --key-file private.pem --audience fanfare --subscribe '*') \\
    fanfare subscribe localhost:3001 --topic orders

FANFARE_JWT_SECRET holds a secret; no flag does, since every user of a host sees its arguments.";

/// `fanfare token`.
#[derive(Args, Clone, Debug)]
#[command(after_help = TOKEN_HELP, group = ArgGroup::new("grants").required(true).multiple(true))]
pub struct TokenArgs {
    /// A topic that the holder may subscribe to, or a prefix of such topics followed by *; repeatable
    #[arg(long, value_name = "PATTERN", group = "grants")]
    pub subscribe: Vec<String>,

    /// A topic that the holder may publish to, or a prefix of such topics followed by *; repeatable
    #[arg(long, value_name = "PATTERN", group = "grants")]
    pub publish: Vec<String>,

    /// The holder may see the debug view, metrics, list of topics and statistics, and disconnect streams
    #[arg(long, group = "grants")]
    pub operator: bool,

    /// How long the token is valid
    #[arg(long, value_name = "TIME", default_value = "1h",
          value_parser = duration_within(Duration::from_secs(1), 3650 * DAY))]
    pub expires_in: Duration,

    /// A file with the private key in PEM, or whose first line is a secret
    #[arg(long, value_name = "FILE", help_heading = "Signature")]
    pub key_file: Option<PathBuf>,

    /// The signing algorithm. Unset: the default for the key, which is HS256 for a secret
    #[arg(long, value_name = "ALG", help_heading = "Signature",
          value_parser = PossibleValuesParser::new(SIGNING_ALGORITHMS))]
    pub alg: Option<String>,

    /// The key's id (kid), if the server reads its keys from a JWKS
    #[arg(long, value_name = "ID", help_heading = "Signature")]
    pub key_id: Option<String>,

    /// The audience (aud)
    #[arg(long, value_name = "TEXT", help_heading = "Claims")]
    pub audience: Option<String>,

    /// The issuer (iss)
    #[arg(long, value_name = "TEXT", help_heading = "Claims")]
    pub issuer: Option<String>,

    /// The subject (sub); fanfare disconnect --subject revokes all of its tokens
    #[arg(long, value_name = "TEXT", help_heading = "Claims")]
    pub subject: Option<String>,

    /// The token's unique id (jti); fanfare disconnect --token-id revokes this token
    #[arg(long, value_name = "ID", help_heading = "Claims")]
    pub token_id: Option<String>,
}
