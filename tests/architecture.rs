//! The module map as a test: which module may know which, where `unsafe` may stand, and who has no clock or chance of
//! its own. A new arrow fails here first; adding it to the table wants a reason.

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may name of the others: a module, or one part of it.
const ARROWS: &[(&str, &[&str])] = &[
    ("event", &[]),
    ("protocol", &["event"]),
    ("hub", &["event"]),
    ("io", &["event"]),
    ("auth", &[]),
    // How to reach a Redis is one decision, whoever publishes there.
    ("redis_address", &[]),
    // Publishers can flood the log, and each entry, as well as strangers can: one limit for both.
    ("sources", &["event", "protocol", "redis_address", "observe::log_limit", "observe::clip"]),
    // Of the sources only the receiving end of their channel.
    ("server", &["event", "hub", "protocol", "io", "auth", "observe", "sources::channel"]),
    // What is logged, and how, is said in the configuration's own words: nothing else would be left of a copy.
    ("observe", &["config::LogConfig", "config::LogFilter", "config::LogFormat"]),
    // An address to listen on and a proxy to trust are flags' values; each says in one type what it may be.
    // How short a timeout TCP can keep is the kernel's matter.
    // Keys too are values: what a file of them holds, and topics' patterns; and so is where Redis is.
    (
        "config",
        &[
            "event",
            "io::listener::ListenAddress",
            "io::socket_options::Patience",
            "auth::proxies::TrustedProxy",
            "auth::KeyError",
            "auth::Keys",
            "auth::Patterns",
            "redis_address",
        ],
    ),
    // A token is a secret wherever it is: read from a file, and never shown.
    (
        "client",
        &["event", "protocol", "config::Secret", "config::SecretFile", "config::redact_url", "config::duration_text"],
    ),
    // It looks at the host, and at nothing of the server.
    ("doctor", &[]),
    // How an address is written is one decision, what a failed request means, whom the clients trust, and what of a
    // URL is shown.
    (
        "load",
        &[
            "event",
            "protocol",
            "redis_address",
            "io::dialer",
            "io::limits",
            "client::endpoint",
            "client::explain",
            "client::trust",
            "config::redact_url",
        ],
    ),
    // The flags of each command are declared by what it runs.
    (
        "cli",
        &[
            "event",
            "config",
            "load::args",
            "doctor::profile::Part",
            "io::listener::ListenAddress",
            "auth::SIGNING_ALGORITHMS",
        ],
    ),
    ("commands", &["*"]),
    ("lib", &[]),
    ("main", &["*"]),
];

/// Where time and chance are passed in, never asked for, and no file is read: a read of /proc may take milliseconds.
const PURE: &[&str] = &["protocol", "hub", "server"];
const AMBIENT: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "thread::sleep",
    "getrandom",
    "RandomState::new",
    "rand::",
    "fs::",
    "process::",
];

/// What a file of the crate does that the design forbids.
fn violations(path: &str, source: &str) -> Vec<String> {
    let code = without_comments(source);
    let module = path.split(['/', '.']).next().unwrap_or_default();
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{path}: the module {module} has no place in the table of arrows")];
    };
    let is_allowed = |named: &String| {
        let covers = |allowed: &&str| *allowed == "*" || named == allowed || named.starts_with(&format!("{allowed}::"));
        named.split("::").next() == Some(module) || allowed.iter().any(covers)
    };
    let arrows = named_paths(path, &code).into_iter().filter(|named| !is_allowed(named));
    let mut violations: Vec<_> = arrows.map(|named| format!("{path}: {module} may not know {named}")).collect();
    if module != "io" && words(&code).any(|word| word == "unsafe") {
        violations.push(format!("{path}: unsafe is for src/io"));
    }
    let ambient = AMBIENT.iter().filter(|ambient| PURE.contains(&module) && code.contains(**ambient));
    violations.extend(ambient.map(|ambient| format!("{path}: {module} asks for {ambient}; it is to be passed in")));
    violations
}

/// The paths below the crate's root that the code names, through `crate::` or enough `super::`.
fn named_paths(path: &str, code: &str) -> Vec<String> {
    let depth = path.split('/').filter(|part| !matches!(*part, "mod.rs" | "lib.rs" | "main.rs")).count();
    let to_root = "super::".repeat(depth);
    let mut paths = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("::") {
        let start = rest[..at].rfind(|letter: char| !is_of_a_name(letter)).map_or(0, |before| before + 1);
        let (first, tail) = (&rest[start..at], &rest[at + 2..]);
        let below_root = match first {
            "crate" => Some(tail),
            "super" => format!("super::{tail}").strip_prefix(&to_root).map(|below| &tail[tail.len() - below.len()..]),
            _ => None,
        };
        if let Some(tail) = below_root {
            flatten(tail, "", &mut paths);
        }
        // Past the whole chain, so that `super::super::x` is looked at once.
        let chain = tail.find(|letter: char| !is_of_a_name(letter) && letter != ':').unwrap_or(tail.len());
        rest = &tail[chain..];
    }
    paths
}

/// The paths of a use tree: `a::{b, c::{d, e}}` are `a::b`, `a::c::d` and `a::c::e`. The rest of the tree.
fn flatten<'a>(tree: &'a str, prefix: &str, paths: &mut Vec<String>) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut inner) = tree.strip_prefix('{') {
        loop {
            inner = inner.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
            if let Some(after) = inner.strip_prefix('}') {
                return after;
            }
            let rest = flatten(inner, prefix, paths);
            if rest.len() == inner.len() {
                return rest; // no use tree after all
            }
            // What is imported under another name counts under its own.
            inner = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
        }
    }
    let end = tree.find(|letter: char| !is_of_a_name(letter)).unwrap_or(tree.len());
    let named = if prefix.is_empty() { tree[..end].to_owned() } else { format!("{prefix}::{}", &tree[..end]) };
    if let Some(below) = tree[end..].strip_prefix("::") {
        return flatten(below, &named, paths);
    }
    if end > 0 {
        paths.push(named);
    }
    &tree[end..]
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter: char| !is_of_a_name(letter))
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn without_comments(source: &str) -> String {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_arrow_is_one_that_the_design_draws() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files_below(&root);
    assert!(files.len() > 50, "the sources are found");
    let found: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            violations(&path, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_forbidden_arrow_is_caught() {
    let check = |path: &str, source: &str, expected: &[&str]| {
        let found = violations(path, source);
        let told = found.iter().zip(expected).all(|(found, expected)| found.contains(expected));
        assert!(found.len() == expected.len() && told, "{path}: {source}\n{found:?}");
    };
    check("hub/mod.rs", "use crate::event::Frame;", &[]);
    check("hub/mod.rs", "use crate::io::Io;", &["hub may not know io::Io"]);
    check(
        "hub/log.rs",
        "use crate::{event::Frame, server::{self, settings::Limits}};",
        &["server", "server::settings"],
    );
    check("hub/log.rs", "fn f() -> crate::protocol::Parsed<()> {}", &["protocol::Parsed"]);
    check("hub/log.rs", "use super::super::server::Server;", &["server::Server"]);
    check("hub/log.rs", "use super::server::Server;", &[]);
    check("hub/mod.rs", "use super::server::Server;", &["server::Server"]);
    check("event.rs", "use super::hub;", &["hub"]);
    check("hub/mod.rs", "//! See [`crate::server`].\n// use crate::server;", &[]);
    check("server/accept.rs", "use crate::sources::channel::Inbox;", &[]);
    check("server/accept.rs", "use crate::sources::{channel, sequencer::Sequencer};", &["sources::sequencer"]);
    check("sources/redis.rs", "use crate::server::Server;", &["server::Server"]);
    check("sources/redis.rs", "use crate::config::Secret as Text;", &["config::Secret"]);
    check("auth/mod.rs", "use crate::event::Topic;", &["event::Topic"]);
    check("commands/serve.rs", "use crate::server::Server;", &[]);
    check("novelty.rs", "", &["no place in the table"]);
    check("server/mod.rs", "let x = unsafe { y() };", &["unsafe"]);
    check("io/epoll.rs", "let x = unsafe { y() };", &[]);
    check("main.rs", "#![allow(unsafe_code)]", &[]);
    check("server/mod.rs", "let now = std::time::Instant::now();", &["Instant::now"]);
    check("server/reports.rs", "let bytes = process::resident_bytes();", &["process::"]);
    check("server/reports.rs", "let text = std::fs::read_to_string(path);", &["fs::"]);
    check("sources/sequencer.rs", "let now = Instant::now();", &[]);
}
