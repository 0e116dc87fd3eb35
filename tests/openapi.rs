//! The description of all routes, web/openapi.json: it is valid, and a real server gives no answer outside of it. The tests
//! in `src/server/api/openapi_tests.rs` compare it with the source.
//!
//! schemathesis makes the requests, from the description and against it. Its settings, with what is left out and why, are
//! in tests/openapi. A run makes the same requests each time; `FANFARE_OPENAPI_EXAMPLES` sets how many an operation gets, and
//! makes them random.

mod support;

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::server::{Server, TOKEN};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi");
const DESCRIPTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/web/openapi.json");
/// The bounds in the description are those of any configuration, so the servers here have the largest limits.
const LARGEST: [&str; 6] = ["--topic-bytes", "1024", "--topics-per-subscriber", "500", "--head-bytes", "1MiB"];

fn tool(name: &str) -> Command {
    let mut tool = Command::new(format!("{FOLDER}/.venv/bin/{name}"));
    tool.current_dir(FOLDER);
    tool
}

fn run(tool: &mut Command) -> (bool, String) {
    let Output { status, stdout, stderr } = tool.output().expect("tests/setup has installed it");
    (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// Lets schemathesis request what `description` describes; whether all answers were as described, and its report.
fn schemathesis(settings: &str, description: &str, url: &str, token: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut tool = tool("schemathesis");
    tool.args(["--config-file", settings, "--no-color", "run", description, "--url", url]);
    match std::env::var("FANFARE_OPENAPI_EXAMPLES") {
        Ok(count) => tool.args(["--max-examples", &count]),
        Err(_) => tool.args(["--max-examples", "10", "--generation-deterministic"]),
    };
    run(tool.env("HYPOTHESIS_STORAGE_DIRECTORY", folder.path()).env("FANFARE_TOKEN", token))
}

#[track_caller]
fn check(settings: &str, url: &str, token: &str) {
    let (is_as_described, report) = schemathesis(settings, DESCRIPTION, url, token);
    assert!(is_as_described, "{}", shorten(&report));
}

/// A report with the beginnings of its lines: some hold a whole request.
fn shorten(report: &str) -> String {
    report.lines().map(|line| line.chars().take(300).chain(['\n']).collect::<String>()).collect()
}

#[test]
fn the_description_is_valid_and_served_as_it_is() {
    let mut validator = tool("openapi-spec-validator");
    let (is_valid, report) = run(validator.arg(DESCRIPTION));
    assert!(is_valid, "{report}");
    let served = Server::start(&[]).get("/openapi.json");
    assert_eq!(served.header("content-type"), Some("application/json"));
    assert_eq!(served.text(), fs::read_to_string(DESCRIPTION).unwrap());
}

#[test]
fn a_server_under_dev_gives_no_answer_outside_of_the_description() {
    let server = Server::start(&[&["--dev"][..], &LARGEST].concat());
    check("dev.toml", &server.url(""), "");
}

/// A server with every kind of token, and a token that permits everything.
fn with_tokens() -> (Server, String) {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("secret").display().to_string();
    fs::write(&key, "a-secret-that-is-long-enough-0123456789").unwrap();
    let mut token = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    token.args(["token", "--key-file", &key, "--subscribe", "*", "--publish", "*", "--operator", "--expires-in", "1d"]);
    let token = String::from_utf8(token.output().unwrap().stdout).unwrap();

    let mut options = vec!["--jwt-key-file", &key];
    if cfg!(feature = "kafka") {
        // No broker is there, so the copies wait, and /kafka/status shows them.
        options.extend(["--kafka-brokers", "127.0.0.1:1", "--kafka-publish", "copies"]);
    }
    let env = [("FANFARE_PUBLISH_TOKEN", TOKEN), ("FANFARE_OPERATOR_TOKEN", "operators-own")];
    (Server::start_with_env(&[&options[..], &LARGEST].concat(), &env), token.trim().to_owned())
}

#[test]
fn a_server_with_tokens_gives_no_answer_outside_of_the_description() {
    let (server, token) = with_tokens();
    check("tokens.toml", &server.url(""), &token);
}

#[test]
fn the_admin_listener_gives_no_answer_outside_of_the_description() {
    let (server, _) = with_tokens();
    server.publish("orders.17", "so that an example has a topic");
    check("admin.toml", &server.admin_url(""), "");
}

/// What the checks would miss, they would miss above: here they find a status, a header and a title that are not described.
#[test]
fn an_answer_outside_of_the_description_is_found() {
    let mut description: Value = serde_json::from_str(&fs::read_to_string(DESCRIPTION).unwrap()).unwrap();
    let changed = ["/topics", "/topics/{topic}", "/health"];
    description["paths"].as_object_mut().unwrap().retain(|path, _| changed.contains(&path.as_str()));
    let answers = |path: &str| format!("/paths/{}/get/responses", path.replace('/', "~1"));
    description.pointer_mut(&answers("/topics")).unwrap().as_object_mut().unwrap().remove("400");
    description.pointer_mut(&answers("/health")).unwrap()["200"].as_object_mut().unwrap().remove("headers");
    description["components"]["responses"]["NoSuchTopic"]["content"]["application/problem+json"]["schema"] =
        json!({ "properties": { "title": { "const": "Another title" } } });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openapi.json").display().to_string();
    fs::write(&path, description.to_string()).unwrap();

    let server = Server::start(&["--dev"]);
    let (is_as_described, report) = schemathesis("dev.toml", &path, &server.url(""), "");
    assert!(!is_as_described);
    for found in
        ["Undocumented status code", "not in web/openapi.json: ['cache-control']", "\"Another title\" was expected"]
    {
        assert!(report.contains(found), "{found}: {}", shorten(&report));
    }
}
