//! A client of a stream in a process of its own (tests/clients), which reports everything that happens to it.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use serde::Deserialize;
use tempfile::TempDir;

use super::process::Lines;
use super::wait::eventually;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A script that watches one stream.
pub struct Watcher {
    child: Child,
    reports: Lines,
    complaints: Lines,
    /// What the script and its browser leave behind when they are killed.
    _temporary: TempDir,
}

/// Something that happened to the EventSource.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Happened {
    /// The event's type; or `ready`, or `request`, which the scripts tell on their own.
    pub kind: String,
    pub data: Option<String>,
    /// Its id; of a request, the one it names.
    pub id: Option<String>,
    /// 0 connecting, 1 open, 2 closed permanently.
    pub ready_state: Option<u8>,
}

impl Watcher {
    /// Runs a script of tests/clients.
    #[track_caller]
    pub fn start(script: &str) -> Watcher {
        let mut command = Command::new("node");
        command.arg(script);
        Watcher::run(command, "node_modules/.package-lock.json")
    }

    /// Reads with one of the clients of tests/clients/stream.py.
    #[track_caller]
    pub fn start_python(client: &str) -> Watcher {
        let mut command = Command::new(format!("{FOLDER}/.venv/bin/python"));
        command.args(["stream.py", client]);
        Watcher::run(command, ".venv/installed")
    }

    #[track_caller]
    fn run(mut command: Command, installed: &str) -> Watcher {
        let is_installed = std::fs::exists(format!("{FOLDER}/{installed}")).unwrap();
        assert!(is_installed, "these tests need what tests/setup installs");
        let temporary = tempfile::tempdir().unwrap();
        command.current_dir(FOLDER).env("TMPDIR", temporary.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("these tests need node on the PATH, and what tests/setup installs");
        let reports = Lines::collect(child.stdout.take().expect("it is piped"));
        let complaints = Lines::collect(child.stderr.take().expect("it is piped"));
        Watcher { child, reports, complaints, _temporary: temporary }
    }

    /// Opens the EventSource.
    #[track_caller]
    pub fn watch(&mut self, url: &str) {
        writeln!(self.child.stdin.as_mut().expect("it is piped"), "{url}").expect("the script runs");
    }

    /// Everything so far.
    #[track_caller]
    pub fn happened(&self) -> Vec<Happened> {
        self.reports.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until something of this kind, which `is_it`, has happened.
    #[track_caller]
    pub fn wait_for(&mut self, kind: &str, is_it: impl Fn(&Happened) -> bool) -> Happened {
        eventually(kind, || {
            let ended = self.child.try_wait().unwrap();
            let found = self.happened().into_iter().find(|happened| happened.kind == kind && is_it(happened));
            assert!(found.is_some() || ended.is_none(), "the script ended: {}", self.complaints.text());
            found
        })
    }

    /// Waits for an event with this data.
    #[track_caller]
    pub fn wait_for_message(&mut self, data: &str) -> Happened {
        self.wait_for("message", |message| message.data.as_deref() == Some(data))
    }

    /// How often something of this kind has happened.
    pub fn count(&self, kind: &str) -> usize {
        self.happened().iter().filter(|happened| happened.kind == kind).count()
    }

    /// Checks that the EventSource never gave up.
    #[track_caller]
    pub fn never_closed(&self) {
        let happened = self.happened();
        assert!(happened.iter().all(|happened| happened.ready_state != Some(2)), "it is closed: {happened:#?}");
    }

    /// The events in short, in order: the data of messages, the reasons of gaps.
    pub fn received(&self) -> Vec<String> {
        self.happened().iter().filter_map(Happened::received).collect()
    }
}

impl Happened {
    fn received(&self) -> Option<String> {
        let data = self.data.clone()?;
        match self.kind.as_str() {
            "message" => Some(data),
            "gap" => Some(format!("gap: {}", self.gap_reason())),
            _ => None,
        }
    }

    /// Why something is missing.
    #[track_caller]
    pub fn gap_reason(&self) -> String {
        let data = self.data.as_deref().expect("a gap has data");
        let gap: serde_json::Value = serde_json::from_str(data).unwrap();
        gap["reason"].as_str().expect("a gap has a reason").to_owned()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Chromium ends when the pipe to it closes, however its script ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("what the client reported:\n{}{}", self.reports.text(), self.complaints.text());
        }
    }
}
