//! `fanfare health`: asks a server whether it works, for health checks that have no other program, such as a container's.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use ureq::http::StatusCode;

use crate::cli::HealthArgs;
use crate::client::{self, explain, printable};

/// Asks, and prints the answer.
pub(super) fn run(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let endpoint = super::endpoint(&args.url, "/health/live")?;
    let agent = client::request_agent(&endpoint, &super::trust(args.ca.as_deref())?);
    let request = agent.get(endpoint.url.as_str()).config().timeout_global(Some(args.timeout)).build();
    let mut response = request.call().map_err(|error| anyhow!(explain::failure(&error, &endpoint)))?;
    if response.status() != StatusCode::OK {
        bail!("{}", explain::problem(&mut response));
    }
    let text = response.body_mut().read_to_string().context("reading the server's response")?;
    writeln!(io::stdout(), "{}", printable(text.trim_end()))?;
    Ok(ExitCode::SUCCESS)
}
