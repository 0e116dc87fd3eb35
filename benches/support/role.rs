//! A child process with a role, steered by lines: one command in, one answer out.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::process::pinned;

const ROLE: &str = "FANFARE_BENCH_ROLE";
/// However a bench goes wrong, its children are gone after this.
const LIFETIME_MAX: Duration = Duration::from_secs(1800);

/// The role of this process and its arguments, if it has one.
pub fn given() -> Option<(String, Vec<String>)> {
    let text = std::env::var(ROLE).ok()?;
    let mut words = text.split(' ').map(str::to_owned);
    let name = words.next().expect("split yields at least one");
    end_in_time();
    Some((name, words.collect()))
}

fn end_in_time() {
    let end = || {
        std::thread::sleep(LIFETIME_MAX);
        eprintln!("a bench's process outlived its bench");
        std::process::exit(1);
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(end).expect("a thread fits");
}

/// A child process, ended when this is dropped.
pub struct Role {
    name: String,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Role {
    /// Starts the bench's own binary in a role, on one core.
    pub fn start(name: &str, arguments: &[&dyn Display], core: usize) -> Role {
        let words: Vec<_> = arguments.iter().map(|word| format!(" {word}")).collect();
        let mut command = pinned(core, std::env::current_exe().expect("a process knows its binary").as_os_str());
        command.env(ROLE, format!("{name}{}", words.concat()));
        Role::spawn(name, command)
    }

    /// Starts any command that reads and writes lines.
    pub fn spawn(name: &str, mut command: Command) -> Role {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("can't start {name}: {error}"));
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Role { name: name.to_owned(), child, commands, answers }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command.
    pub fn tell(&mut self, command: impl Display) {
        let line = format!("{command}\n");
        let told = self.commands.write_all(line.as_bytes());
        told.unwrap_or_else(|error| panic!("{} is gone: {error}", self.name));
    }

    /// Reads the next line; its end of output is its failure, which it has explained on standard error.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("a pipe can be read");
        assert!(read > 0, "{} ended", self.name);
        line.truncate(line.trim_end().len());
        line
    }

    /// Reads the line that starts with `word`, and gives what follows it.
    pub fn hear_about(&mut self, word: &str) -> String {
        let line = self.hear();
        let rest = line.strip_prefix(word).map(|rest| rest.trim().to_owned());
        rest.unwrap_or_else(|| panic!("{} said {line:?} instead of {word}", self.name))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
