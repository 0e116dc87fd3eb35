//! Other processes: signals to them, and what they write.

use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::wait::eventually;

/// Sends a signal, by its name without `SIG`. By the shell's own `kill`: not every system has it as a program.
pub fn signal(process_id: u32, name: &str) {
    let script = format!("kill -{name} {process_id}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success(), "{script}");
}

/// The lines that a process has written so far.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<String>>);

impl Lines {
    /// Collects them, in a thread of its own, until the process ends.
    pub fn collect(from: impl Read + Send + 'static) -> Lines {
        let lines = Lines::default();
        let collected = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let mut text = collected.0.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        lines
    }

    /// All of them.
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// The first line that has all these words.
    pub fn find(&self, words: &[&str]) -> Option<String> {
        let text = self.0.lock().unwrap();
        text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
    }

    #[track_caller]
    pub fn wait_for(&self, words: &[&str]) -> String {
        eventually(&format!("a line with {words:?} in:\n{}", self.text()), || self.find(words))
    }
}
