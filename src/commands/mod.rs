//! The commands: each assembles the parts that it needs and turns an outcome into an exit code.
//!
//! Only these commands print, and [`crate::load`] during a test. Exit codes: 0 done, 1 failed, 2 wrong usage or
//! configuration.

mod backend;
mod bus;
mod disconnect;
mod doctor;
mod health;
#[cfg_attr(not(feature = "kafka"), path = "absent.rs")]
#[allow(clippy::duplicate_mod, reason = "one stand-in for all features that are off")]
mod kafka;
#[cfg_attr(not(feature = "kafka"), path = "no_kafka_flows.rs")]
mod kafka_flows;
mod listeners;
mod load;
mod loops;
mod manual;
#[cfg_attr(not(feature = "postgres"), path = "absent.rs")]
#[allow(clippy::duplicate_mod, reason = "one stand-in for all features that are off")]
mod postgres;
mod publish;
mod redis;
mod reload;
mod serve;
mod settings;
mod sources;
mod subscribe;
mod systemd;
mod tls;
mod token;
mod tune;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::cli::{Cli, Command, ServeArgs};
use crate::client::{endpoint::Endpoint, trust::Trust};
use crate::config::{self, ConfigError, Environment, Loaded, SecretError, redact_url};
use crate::observe::logging;

/// The exit code for wrong usage or configuration; clap's own as well.
const USAGE_EXIT_CODE: u8 = 2;

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // a closed terminal must not cause another failure
            return if error.use_stderr() { ExitCode::from(USAGE_EXIT_CODE) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match cli.command {
        Command::Serve(args) => serve(args),
        Command::Subscribe(args) => subscribe::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Disconnect(args) => disconnect::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Bus(args) => bus::run(&args),
        Command::Completions(args) => manual::completions(args.shell),
        Command::Man(args) => manual::write_pages(&args.folder),
    };
    outcome.unwrap_or_else(|error| explain(&error, |text| drop(writeln!(io::stderr(), "{text}"))))
}

/// Resolves the configuration, then shows it or runs the server with it.
fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    if args.print_template {
        io::stdout().write_all(config::template().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let env = environment();
    let loaded = Loaded::new(&args.flags, args.config.as_deref(), &env)?;
    if args.print_config {
        io::stdout().write_all(loaded.to_toml().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let log = logging::start(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let outcome = serve::run(args, env, loaded, log.filter());
    // Queued behind the entries that wait; like them, it is given up after a timeout.
    Ok(outcome.unwrap_or_else(|error| explain(&error, |text| log.say(text))))
}

/// Replaces what is not Unicode in a variable, so that the error about it can show the rest.
fn environment() -> Environment {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Parses a server's URL as typed. Clap's own error would show a malformed one with its password or token.
fn endpoint(text: &str, default_path: &str) -> Result<Endpoint, UsageError> {
    Endpoint::read(text, default_path).map_err(|advice| UsageError(format!("{}: {advice}", redact_url(text))))
}

/// The certificates to trust over TLS; a file that holds none is wrong usage.
fn trust(ca: Option<&Path>) -> Result<Trust, UsageError> {
    Trust::new(ca).map_err(|error| UsageError(format!("{error:#}")))
}

/// Wrong usage that clap can't see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Prints what failed, and returns the exit code for it.
fn explain(error: &anyhow::Error, say: impl FnOnce(&str)) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS; // the reader of our output, such as `head`, has closed it
    }
    say(&format!("error: {error:#}"));
    // A file that should hold a secret and does not is a wrong argument, wherever it is read.
    match error.is::<ConfigError>() || error.is::<UsageError>() || error.is::<SecretError>() {
        true => ExitCode::from(USAGE_EXIT_CODE),
        false => ExitCode::FAILURE,
    }
}

/// True only for a failed write to our own output, not for failures on a connection.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
