//! The commands: each puts the pieces together and turns an outcome into an exit code.

use std::process::ExitCode;

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
