//! `fanfare load` in each of its scenarios against small servers of applications in Node, Go and Python, which serve their stream
//! at `/` and know nothing of Fanfare.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A running server; it ends with the test.
struct Peer {
    process: Child,
    url: String,
}

impl Peer {
    fn start(mut command: Command) -> Peer {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("tests/setup has installed it");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Peer { process, url: format!("http://127.0.0.1:{}/", line.trim()) }
    }

    /// Runs one scenario, and returns its figures.
    fn load(&self, args: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.args(["load", &self.url, "--publish-url", &self.url, "--publish-body", "raw"]);
        command.args(["--publish-rate", "50", "--publish-count", "50", "--server-pid", &self.process.id().to_string()]);
        if !args.contains(&"-n") {
            command.args(["-n", "50"]);
        }
        let output = command.args(["--json", "-"]).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {text}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn runs_every_scenario(&self) {
        let check = |args: &[&str], expected: &[(&str, u64)]| {
            let figures = self.load(args);
            for (name, value) in expected {
                assert_eq!(figures[name].as_f64(), Some(*value as f64), "{args:?}: {name} in {figures:#}");
            }
        };
        let all = ("delivered_events", 50 * 50);
        check(&["--scenario", "multi"], &[all, ("held_clients", 50)]);
        check(&["--scenario", "single", "-n", "1"], &[("delivered_events", 50)]);
        check(&["--scenario", "ramp", "--connect-rate", "100"], &[all, ("held_clients", 50)]);
        // A client that leaves before its first event has no id to come back with.
        check(&["--scenario", "churn", "--churn", "50%"], &[("lost_events", 0), ("unresolved_events", 0)]);
        check(&["--scenario", "storm", "--storm-after", "700ms"], &[all, ("reconnects", 50), ("duplicated_events", 0)]);
        check(&["--scenario", "slow", "--slow-share", "50%"], &[("slow_clients", 25), ("lost_events", 0)]);
        check(
            &["--scenario", "blackhole", "--blackhole-share", "50%"],
            &[("blackholed_clients", 25), ("lost_events", 0)],
        );
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn source(name: &str) -> String {
    format!("{}/tests/load_servers/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn node() {
    let mut command = Command::new("node");
    command.arg(source("server.mjs"));
    Peer::start(command).runs_every_scenario();
}

#[test]
fn python() {
    let mut command = Command::new("python3");
    command.arg(source("server.py"));
    Peer::start(command).runs_every_scenario();
}

#[test]
fn go() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("server");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&binary).arg(source("server.go")).env("GOTOOLCHAIN", "local");
    assert!(build.status().expect("tests/setup has installed go").success());
    Peer::start(Command::new(&binary)).runs_every_scenario();
}
