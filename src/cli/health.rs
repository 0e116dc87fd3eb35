//! `fanfare health` as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::duration_within;

const HEALTH_HELP: &str = "\
Prints the server's answer. The default path says whether the event loop runs; /health/ready says whether a balancer is \
to send clients, and /health has the state of each source (with status 200, whatever it is).

Examples:
  fanfare health
  fanfare health http://127.0.0.1:3001/health/ready
  fanfare health unix:/run/fanfare/fanfare.sock --timeout 1s

Exit codes: 0 the status is 200, 1 it is another one, or there was no answer in time, 2 wrong usage.";

/// `fanfare health`.
#[derive(Args, Clone, Debug)]
#[command(after_help = HEALTH_HELP)]
pub struct HealthArgs {
    /// The server: http://, https:// or unix:PATH; the default scheme is http, the default path /health/live
    // As text: clap's own error would show a malformed one with its password or token.
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:3001")]
    pub url: String,

    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "5s",
          value_parser = duration_within(Duration::from_millis(1), Duration::from_secs(60)))]
    pub timeout: Duration,

    /// A PEM file with the certificates to trust over https:// instead of this host's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}
