//! A real Prometheus, which scrapes as a file of docs/monitoring says.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::wait::wait_until;

/// A running Prometheus, killed when dropped.
pub struct Prometheus {
    _folder: TempDir,
    child: Child,
    port: u16,
}

impl Prometheus {
    /// Starts one with this configuration.
    pub fn start(configuration: &str) -> Prometheus {
        // Between choosing a port and binding it another process may take it: then Prometheus ends at once.
        for _ in 0..10 {
            if let Some(prometheus) = Prometheus::try_start(configuration) {
                return prometheus;
            }
        }
        panic!("Prometheus ended at once, ten times");
    }

    /// The `data` of an answer of its API.
    pub fn get(&self, target: &str) -> Value {
        let text = self.fetch(&format!("/api/v1/{target}")).expect("it answers");
        let mut answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"].take()
    }

    /// The body of an answer, unless it is an error.
    fn fetch(&self, target: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}{target}", self.port);
        let curl = Command::new("curl").args(["--silent", "--fail", "--globoff", &url]).output().unwrap();
        curl.status.success().then(|| String::from_utf8(curl.stdout).unwrap())
    }

    fn try_start(configuration: &str) -> Option<Prometheus> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/setup installs it");
        let mut prometheus = Prometheus { _folder: folder, child, port };
        let mut ended = false;
        wait_until("Prometheus is ready", || {
            ended = prometheus.child.try_wait().unwrap().is_some();
            ended || prometheus.fetch("/-/ready").is_some()
        });
        (!ended).then_some(prometheus)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
