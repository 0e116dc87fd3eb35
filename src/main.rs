//! Turns the arguments into a command and its exit code; contains no logic.

fn main() -> std::process::ExitCode {
    fanfare::commands::run()
}
