//! `fanfare disconnect`: asks a server to end streams, on itself and on all nodes that share its Redis.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use super::UsageError;
use crate::cli::DisconnectArgs;
use crate::client::token::BearerToken;
use crate::client::{self, explain};
use crate::config::OPERATOR_TOKEN_VARIABLE;
use crate::event::Topic;
use crate::protocol::disconnect::{Disconnect, DisconnectBody};

/// What the server answers.
#[derive(Deserialize)]
struct Answer {
    disconnected: u64,
}

/// Disconnects, and prints how many streams the server itself had.
pub(super) fn run(args: &DisconnectArgs) -> anyhow::Result<ExitCode> {
    let body = body(args)?;
    let endpoint = super::endpoint(&args.url, "/disconnect")?;
    let agent = client::request_agent(&endpoint, &super::trust(args.ca.as_deref())?);
    let token = BearerToken::read(args.token_file.as_deref(), OPERATOR_TOKEN_VARIABLE)?;
    let mut request = agent.post(endpoint.url.as_str()).header("Content-Type", "application/json");
    if let Some(value) = token.header() {
        request = request.header("Authorization", value);
    }
    let sent = request.send(body.as_slice());
    let mut response = sent.map_err(|error| anyhow!(explain::failure(&error, &endpoint)))?;
    if !response.status().is_success() {
        bail!("{}", explain::refusal(&mut response, &token));
    }
    let text = response.body_mut().read_to_string().context("reading the server's response")?;
    let Answer { disconnected } = serde_json::from_str(&text).context("the response is not from a Fanfare server")?;
    writeln!(io::stdout(), "{disconnected} disconnected")?;
    Ok(ExitCode::SUCCESS)
}

/// The request's body, checked with the server's own parser: an error in it is wrong usage.
fn body(args: &DisconnectArgs) -> anyhow::Result<Vec<u8>> {
    let body = DisconnectBody {
        subject: args.subject.as_deref().map(Into::into),
        token_id: args.token_id.as_deref().map(Into::into),
        topic: args.topic.as_ref().map(Topic::as_str).map(Into::into),
        address: args.address.as_deref().map(Into::into),
        // Rounded up: a little longer is safe, and 0 would mean no denial.
        for_seconds: args.denied_for.map(|time| time.as_millis().div_ceil(1000) as u64),
    };
    let body = serde_json::to_vec(&body)?;
    Disconnect::parse(&body, 0).map_err(|error| UsageError(error.to_string()))?;
    Ok(body)
}
