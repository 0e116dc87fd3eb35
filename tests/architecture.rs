//! The module map as a test: which module may use which, where `unsafe` is allowed, and which modules have no clock or
//! random source of its own. A new arrow fails here first; adding it to the table wants a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may name of the others: a module, or one part of it.
const ARROWS: &[(&str, &[&str])] = &[
    ("event", &[]),
    ("protocol", &["event"]),
    ("hub", &["event"]),
    ("io", &["event", "tls"]),
    ("tls", &[]),
    ("auth", &[]),
    // How to reach a Redis is one decision for all publishers.
    ("redis_address", &[]),
    // Publishers can flood the log, and each entry, as well as strangers can: one limit for both.
    ("sources", &["event", "protocol", "redis_address", "observe::log_limit", "observe::clip", "observe::quiet"]),
    // Of the sources only the receiving end of their channel.
    // Options that the loop reads as they are have no second form in it.
    (
        "server",
        &[
            "event",
            "hub",
            "protocol",
            "io",
            "auth",
            "observe",
            "tls::handshake::Failure",
            "sources::channel",
            "sources::bus_figures",
            "sources::kafka_figures",
            "config::DeliveryConfig",
            "config::DrainConfig",
            "config::EndpointPath",
            "config::LimitsConfig",
            "config::SlowPolicy",
        ],
    ),
    // What is logged, and how, is said in the configuration's own words: nothing else would be left of a copy.
    ("observe", &["config::LogConfig", "config::LogFilter", "config::LogFormat"]),
    // An address to listen on and a proxy to trust are flags' values; each says in one type what it may be.
    // How short a timeout TCP can keep is the kernel's matter.
    // Keys too are values: what a file of them holds, and topics' patterns; and so is where Redis is.
    (
        "config",
        &[
            "event",
            "protocol::head::HeadLimits",
            "protocol::publish::PublishLimits",
            "io::listener::ListenAddress",
            "io::socket_options::USER_TIMEOUT_MIN",
            "auth::proxies::TrustedProxy",
            "auth::KeyError",
            "auth::Keys",
            "auth::Patterns",
            "redis_address",
            "tls::certificates::Certificates",
        ],
    ),
    // A token is a secret wherever it is: read from a file, and never shown.
    (
        "client",
        &["event", "protocol", "config::Secret", "config::SecretFile", "config::redact_url", "config::duration_text"],
    ),
    // It looks at the host, and at nothing of the server.
    ("doctor", &[]),
    // How an address is written is one decision, what a failed request means, whom the clients trust, what of a URL is
    // shown, and what a number may be.
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
            "client::header",
            "client::token",
            "client::trust",
            "config::redact_url",
            "config::REDACTED",
            "config::COUNT_MAX",
            "config::count_within",
            "config::number_within",
        ],
    ),
    // The flags of each command are declared by what it runs.
    ("cli", &["event", "config", "load::args", "doctor::profile::Part", "auth::SIGNING_ALGORITHMS"]),
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

// ---- inside the server ----

/// The files of the crate that a file of it names, by paths through `crate::`, `super::`, or the modules that it declares.
fn named_files(path: &str, source: &str, files: &BTreeSet<String>) -> BTreeSet<String> {
    let code = without_comments(source.split("#[cfg(test)]").next().unwrap_or_default());
    let module = module_of(path);
    let declared: Vec<&str> = code
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name))
        .collect();
    let mut named = BTreeSet::new();
    let mut rest = &*code;
    while let Some(at) = rest.find("::") {
        let start = rest[..at].rfind(|letter: char| !is_of_a_name(letter)).map_or(0, |before| before + 1);
        let (first, mut tail) = (&rest[start..at], &rest[at + 2..]);
        let mut base = match first {
            "crate" => Some(Vec::new()),
            "super" => Some(module[..module.len() - 1].to_vec()),
            name if declared.contains(&name) => Some([&module[..], &[name.to_owned()]].concat()),
            _ => None,
        };
        let chain = tail.find(|letter: char| !is_of_a_name(letter) && letter != ':').unwrap_or(tail.len());
        rest = &tail[chain..];
        if let Some(base) = &mut base {
            while let Some(further) = tail.strip_prefix("super::") {
                (tail, _) = (further, base.pop());
            }
            let mut paths = Vec::new();
            flatten(tail, "", &mut paths);
            let whole = |path: String| base.iter().cloned().chain(path.split("::").map(str::to_owned)).collect();
            named.extend(paths.into_iter().map(whole).filter_map(|path: Vec<String>| file_of(&path, files)));
        }
    }
    named.remove(path);
    named
}

/// The module that a file is: `server/transport/mod.rs` is `server::transport`.
fn module_of(path: &str) -> Vec<String> {
    let parts = path.trim_end_matches(".rs").split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    parts.map(str::to_owned).collect()
}

/// The file where a path is declared: that of its innermost module.
fn file_of(path: &[String], files: &BTreeSet<String>) -> Option<String> {
    (1..=path.len()).rev().find_map(|length| {
        let module = path[..length].join("/");
        [format!("{module}.rs"), format!("{module}/mod.rs")].into_iter().find(|file| files.contains(file))
    })
}

/// Files that name each other in a circle, if there are any.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        file: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(start) = path.iter().position(|earlier| earlier == file) {
            path.drain(..start);
            return true;
        }
        if done.contains(file) {
            return false;
        }
        path.push(file.to_owned());
        if graph.get(file).into_iter().flatten().any(|next| visit(next, graph, path, done)) {
            return true;
        }
        done.insert(path.pop().expect("it was pushed"));
        false
    }
    let (mut path, mut done) = (Vec::new(), BTreeSet::new());
    graph.keys().any(|file| visit(file, graph, &mut path, &mut done)).then_some(path)
}

fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let named = |file: PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (path, fs::read_to_string(&file).unwrap())
    };
    files_below(&root).into_iter().map(named).collect()
}

#[test]
fn files_of_the_server_depend_on_each_other_one_way() {
    let sources = sources();
    let files: BTreeSet<_> = sources.keys().cloned().collect();
    let of_server = sources.iter().filter(|(path, _)| path.starts_with("server/"));
    let graph: BTreeMap<_, _> =
        of_server.map(|(path, source)| (path.clone(), named_files(path, source, &files))).collect();
    assert!(graph.len() > 40 && graph.values().map(BTreeSet::len).sum::<usize>() > 200, "the arrows are found");
    let circle = circle(&graph);
    assert!(circle.is_none(), "these files depend on each other: {circle:#?}");
}

#[test]
fn a_circle_of_files_is_caught() {
    let check = |sources: &[(&str, &str)], expected: Option<&[&str]>| {
        let files: BTreeSet<_> = sources.iter().map(|(path, _)| (*path).to_owned()).collect();
        let graph = sources.iter().map(|(path, source)| ((*path).to_owned(), named_files(path, source, &files)));
        let found = circle(&graph.collect());
        assert_eq!(
            found.as_deref(),
            expected.map(|files| files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>()).as_deref()
        );
    };
    let child = ("a/b.rs", "use super::c::D;");
    check(&[child, ("a/c.rs", "use crate::x::Y;")], None);
    check(&[child, ("a/c.rs", "use crate::a::b::{E, F};")], Some(&["a/b.rs", "a/c.rs"]));
    check(&[("a/mod.rs", "mod b;\nuse b::E;"), ("a/b.rs", "use super::A;")], Some(&["a/b.rs", "a/mod.rs"]));
    check(&[("a/mod.rs", "mod b;"), ("a/b.rs", "use super::A;")], None);
    check(&[("a/b.rs", "use super::super::d::D;"), ("d.rs", "fn f() { crate::a::b::g() }")], Some(&["a/b.rs", "d.rs"]));
    check(&[("a/b.rs", "// use super::b;\n#[cfg(test)]\nuse super::c::D;"), ("a/c.rs", "use super::b::E;")], None);
}

#[test]
fn only_the_turn_sees_the_whole_server() {
    for (path, source) in sources() {
        if path.starts_with("server/") && path != "server/mod.rs" {
            let code = without_comments(&source);
            assert!(!words(&code).any(|word| word == "Server"), "{path} is to take the parts that it needs");
        }
    }
}

/// The walks through the source that docs/architecture.md lists: their names, how many files each may have, and the files.
#[test]
fn the_walks_of_the_map_are_short_and_their_files_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    for (name, files_max) in
        [("A message to a socket", 12), ("A GET to its replay", 12), ("A slow subscriber", 5), ("A drain", 6)]
    {
        let walk = map.split_once(&format!("### {name}\n")).unwrap_or_else(|| panic!("no walk {name:?}")).1;
        let walk = walk.split("\n#").next().unwrap_or_default();
        let files: Vec<_> = walk.lines().filter_map(|line| line.split_once(". `")?.1.split('`').next()).collect();
        assert!((3..=files_max).contains(&files.len()), "{name}: {} files, at most {files_max}", files.len());
        assert_eq!(files.iter().collect::<BTreeSet<_>>().len(), files.len(), "{name} names a file twice");
        for file in files {
            assert!(root.join(file).is_file(), "{name}: {file} is not there");
        }
    }
}

#[test]
fn a_forbidden_arrow_is_caught() {
    let check = |path: &str, source: &str, expected: &[&str]| {
        let found = violations(path, source);
        let is_named = found.iter().zip(expected).all(|(found, expected)| found.contains(expected));
        assert!(found.len() == expected.len() && is_named, "{path}: {source}\n{found:?}");
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
