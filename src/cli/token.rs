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
    /// A topic that its holder may subscribe to, or the beginning of such topics' names and a *; repeatable
    #[arg(long, value_name = "PATTERN", group = "grants")]
    pub subscribe: Vec<String>,

    /// A topic that its holder may publish to, or the beginning of such topics' names and a *; repeatable
    #[arg(long, value_name = "PATTERN", group = "grants")]
    pub publish: Vec<String>,

    /// Its holder may see debug view, metrics, list of topics and statistics, and disconnect streams
    #[arg(long, group = "grants")]
    pub operator: bool,

    /// How long it is good for
    #[arg(long, value_name = "TIME", default_value = "1h",
          value_parser = duration_within(Duration::from_secs(1), 3650 * DAY))]
    pub expires_in: Duration,

    /// A file with the private key in PEM, or whose first line is a secret
    #[arg(long, value_name = "FILE", help_heading = "Signature")]
    pub key_file: Option<PathBuf>,

    /// How it is signed. Unset: the usual way of the key, which is HS256 with a secret
    #[arg(long, value_name = "ALG", help_heading = "Signature",
          value_parser = PossibleValuesParser::new(SIGNING_ALGORITHMS))]
    pub alg: Option<String>,

    /// The key's id (kid), where the server has its keys from a JWKS
    #[arg(long, value_name = "ID", help_heading = "Signature")]
    pub key_id: Option<String>,

    /// For whom it is (aud)
    #[arg(long, value_name = "TEXT", help_heading = "Claims")]
    pub audience: Option<String>,

    /// Who makes it (iss)
    #[arg(long, value_name = "TEXT", help_heading = "Claims")]
    pub issuer: Option<String>,

    /// Whose it is (sub); fanfare disconnect --subject takes all of them back
    #[arg(long, value_name = "TEXT", help_heading = "Claims")]
    pub subject: Option<String>,

    /// Its own id (jti), which no other token has; fanfare disconnect --token-id takes this one back
    #[arg(long, value_name = "ID", help_heading = "Claims")]
    pub token_id: Option<String>,
}
