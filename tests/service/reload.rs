//! SIGHUP: every setting that can change does, for later connections, and no existing connection is dropped.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::certificates;
use crate::support::http::Answer;
use crate::support::server::{Server, publish_request};
use crate::support::stream::Subscriber;
use crate::support::wait::wait_until;

const STREAM: &str = "/events?topic=a";

/// A server with a configuration file and a file of tokens that the tests change.
struct Stage {
    folder: TempDir,
    server: Server,
}

impl Stage {
    #[track_caller]
    fn start(config: &str) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("fanfare.toml"), config).unwrap();
        std::fs::write(folder.path().join("tokens"), "first").unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let options = ["--config", &path("fanfare.toml"), "--publish-token-file", &path("tokens")];
        let server = Server::start_with_env(&options, &[]);
        Stage { folder, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Reloads with another file, and waits until the log has these words.
    #[track_caller]
    fn reload(&self, config: &str, words: &[&str]) {
        std::fs::write(self.path("fanfare.toml"), config).unwrap();
        self.server.signal("HUP");
        self.server.wait_for_log(words);
    }

    #[track_caller]
    fn publish(&self, data: &str, token: &str) -> u16 {
        let body = format!(r#"{{"topic":"a","data":"{data}"}}"#);
        self.server.request(&publish_request(&body, &format!("Authorization: Bearer {token}\r\n"))).status
    }

    fn asked_from(&self, origin: &str) -> Answer {
        self.server.request(&format!("GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"))
    }

    /// True when one more stream is opened, not refused.
    #[track_caller]
    fn has_room(&self) -> bool {
        Subscriber::open(&self.server, STREAM).preamble.id().is_some()
    }
}

#[test]
fn a_reload_changes_limits_tokens_origins_and_the_log_level_and_drops_no_connection() {
    let stage = Stage::start("max-connections = 1\nlog-level = \"info\"");
    let server = &stage.server;
    let mut subscriber = Subscriber::open(server, STREAM);
    assert!(!stage.has_room());
    assert_eq!((stage.publish("1", "first"), stage.publish("x", "second")), (202, 401));
    assert_eq!(stage.asked_from("https://app.example").header("access-control-allow-origin"), None);
    assert_eq!(server.log().find(&["DEBUG", "closed"]), None);

    std::fs::write(stage.path("tokens"), "second").unwrap();
    let changed = "max-connections = 2\nlog-level = \"debug\"\ncors-origin = \"https://app.example\"\nmax-topics = 7";
    stage.reload(changed, &["reloaded"]);
    server.wait_for_log(&["WARN", "max-topics = 7 in /", "takes effect with a restart"]);
    assert!(stage.has_room());
    assert_eq!((stage.publish("2", "second"), stage.publish("x", "first")), (202, 401));
    let allowed = stage.asked_from("https://app.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    server.wait_for_log(&["DEBUG", "closed"]);
    assert_eq!(server.debug()["limits"]["topics_max"], 100_000);

    // One mistake, and nothing of it counts.
    let wrong = "cors-origin = \"https://other.example\"\nlog-level = \"off\"\nmax-connections = 0";
    stage.reload(wrong, &["not reloaded", "max-connections = 0"]);
    assert!(stage.has_room(), "what was in force still is");
    assert_eq!(stage.asked_from("https://other.example").header("access-control-allow-origin"), None);
    server.wait_for_log(&["--cors-origin \"https://other.example\" would permit it"]);
    assert_eq!(stage.publish("3", "second"), 202);
    subscriber.expect(&["1", "2", "3"]);
}

#[test]
fn a_publish_that_was_authorized_before_a_reload_may_finish() {
    let stage = Stage::start("");
    let request =
        publish_request(r#"{"topic":"a","data":"1"}"#, "Authorization: Bearer first\r\nExpect: 100-continue\r\n");
    let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
    let mut client = stage.server.connect();
    client.send(head);
    assert_eq!(client.answer().status, 100);
    std::fs::write(stage.path("tokens"), "second").unwrap();
    stage.reload("", &["reloaded"]);
    client.send(body);
    assert_eq!(client.answer().status, 202, "its token was good when it was checked");
    assert_eq!(stage.publish("x", "first"), 401);
}

#[test]
fn a_limit_for_each_address_counts_those_who_came_before_it() {
    let stage = Stage::start("");
    let mut before = [(); 2].map(|()| Subscriber::open(&stage.server, STREAM));
    stage.reload("max-connections-per-ip = 2", &["reloaded"]);
    assert!(!stage.has_room());
    let [first, second] = &mut before;
    assert_eq!(stage.publish("x", "first"), 202);
    first.expect(&["x"]);
    second.expect(&["x"]);
    drop(before);
    stage.server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 0.0);
    assert!(stage.has_room(), "who left is counted no more");
}

#[test]
fn every_reload_logs_that_changed_files_for_redis_need_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    certificates::write_into(folder.path());
    let [password, ca] = ["password", "ca.pem"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    std::fs::write(&password, "first").unwrap();
    // No server answers there; the server starts anyway.
    let redis = ["--redis-url", "rediss://127.0.0.1:1", "--redis-password-file", &password, "--redis-tls-ca", &ca];
    let server = Server::start(&redis);
    let logged = |words: &str| server.log().text().matches(words).count();
    let reload = |count: usize| {
        server.signal("HUP");
        wait_until("it is reloaded", || logged(" reloaded ") == count);
        logged("takes effect with a restart")
    };
    assert_eq!(reload(1), 0);
    std::fs::write(&password, "second").unwrap();
    assert_eq!(reload(2), 1);
    std::fs::copy(folder.path().join("other.pem"), &ca).unwrap();
    assert_eq!(reload(3), 3);
    assert_eq!(reload(4), 5);
    server.wait_for_log(&["WARN", "the new content of redis-tls-ca takes effect with a restart"]);
    std::fs::write(&ca, "no certificate").unwrap();
    server.signal("HUP");
    server.wait_for_log(&["not reloaded", "--redis-tls-ca", "the file holds no certificate"]);
}
