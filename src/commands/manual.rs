//! `fanfare completions` and `fanfare man`: generate completions and manual pages from the one declaration of the
//! command line, so that the repository holds no generated copy of them.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// Prints the completions of one shell.
pub(super) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics when a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fanfare", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes `fanfare.1` and a page for each command into the folder.
pub(super) fn write_pages(folder: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder).with_context(|| format!("can't write to {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
