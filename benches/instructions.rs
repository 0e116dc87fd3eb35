//! Instructions and allocations, counted by valgrind: the same on a noisy machine as on a quiet one, so they can be
//! held to a baseline.
//!
//! Each figure is the difference between two runs that differ in nothing but how often something is done: start-up
//! and shutdown divide out. The server is the real binary with real sockets; what a delivered event costs is what
//! more subscribers cost, and what a broadcast costs besides is the rest.
//!
//! `cargo bench --bench instructions` fails when a figure has grown past its baseline by more than
//! 3 %, or when a delivered event allocates; `-- --save` writes a new baseline. Without valgrind, or on
//! another processor than the baseline's x86-64, it says so and passes.
#![allow(clippy::print_stdout, reason = "a bench's output")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use support::arena::{body, done, expect, start_sink};
use support::baseline::{self, Figures};
use support::server::{Requests, Server};
use support::{cases, payload};

/// Allocations for each delivered event that count as none: housekeeping allocates each second, and on a busy machine
/// the same broadcasts take more of them.
const ALLOCATIONS_MAX: f64 = 0.01;
/// Runs of the server, of which the one with the least counts: a busy machine adds turns of the loop, and takes none away.
const RUNS: usize = 3;
/// Keeps glibc to the copies and comparisons that every x86-64 has, whichever processor counts.
const GLIBC_TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-EVEX,-ERMS,-FSRM";

fn main() -> ExitCode {
    if support::play_role() {
        return ExitCode::SUCCESS;
    }
    if support::is_smoke_test() {
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("valgrind is not installed: nothing was counted");
        return ExitCode::SUCCESS;
    }
    if !cfg!(target_arch = "x86_64") {
        println!("the baseline is for x86-64: nothing was counted");
        return ExitCode::SUCCESS;
    }
    let mut figures = Figures::new();
    for (name, _) in cases::ALL.into_iter().filter(|(name, _)| support::wants(name)) {
        figures.insert(format!("pure.{name}"), of_case(name));
    }
    if support::wants("server") {
        of_server(&mut figures);
    }
    let no_allocations = |name: &str| (name == "server.allocations_per_delivered_event").then_some(ALLOCATIONS_MAX);
    baseline::hold("instructions", &figures, no_allocations)
}

// ---- the pure cases ----

/// What a case's work costs once.
fn of_case(name: &str) -> f64 {
    const TIMES: [u64; 2] = [100, 1100];
    let [few, many] = TIMES.map(|times| {
        let mut valgrind = Valgrind::new("callgrind");
        valgrind.command.arg(std::env::current_exe().expect("a process knows its binary"));
        valgrind.command.env("FANFARE_BENCH_ROLE", format!("case {name} {times}"));
        let status = valgrind.command.status().expect("valgrind runs");
        assert!(status.success(), "{name} failed under valgrind");
        valgrind.instructions()
    });
    (many - few) / (TIMES[1] - TIMES[0]) as f64
}

// ---- the server ----

/// What one broadcast costs the server, as a part for the broadcast and one for each subscriber.
fn of_server(figures: &mut Figures) {
    for (what, tool) in [("instructions", "callgrind"), ("allocations", "memcheck")] {
        const SUBSCRIBERS: [usize; 2] = [100, 1000];
        let [few, many] = SUBSCRIBERS.map(|subscribers| {
            let runs = (0..RUNS).map(|_| per_broadcast(tool, subscribers, "/events?topic=bench"));
            runs.fold(f64::INFINITY, f64::min)
        });
        let each = (many - few) / (SUBSCRIBERS[1] - SUBSCRIBERS[0]) as f64;
        figures.insert(format!("server.{what}_per_delivered_event"), each);
        figures.insert(format!("server.{what}_per_broadcast_besides"), few - each * SUBSCRIBERS[0] as f64);
    }
    // Each has two more topics, which are quiet.
    let of = |subscribers| per_broadcast("callgrind", subscribers, "/events?topic=bench&topic=quiet&topic=other");
    figures.insert("server.instructions_per_event_of_3_topics".to_owned(), (of(600) - of(100)) / 500.0);
}

fn per_broadcast(tool: &str, subscribers: usize, path: &str) -> f64 {
    // What opening a connection takes differs, as its request happens to arrive: among more broadcasts, that is too
    // little to count.
    const BROADCASTS: [usize; 2] = [20, 1020];
    let [few, many] = BROADCASTS.map(|broadcasts| {
        let valgrind = Valgrind::new(tool);
        let (log, callgrind) = (valgrind.log.clone(), tool == "callgrind");
        let server = Server::start_under(valgrind.command, &["--drain", "0s"]);
        let mut sink = start_sink(server.address, path, subscribers);
        let mut requests = Requests::new(server.address);
        let body = body(&payload::data(100, 0));
        for _ in 0..broadcasts {
            expect(&mut sink, 1);
            assert!(requests.publish("/publish", &body), "one event at a time always fits");
            done(&mut sink);
        }
        drop(sink);
        server.terminate();
        if callgrind { instructions(&valgrind.out) } else { allocations(&log) }
    });
    (many - few) / (BROADCASTS[1] - BROADCASTS[0]) as f64
}

// ---- valgrind ----

/// A command under one of valgrind's tools, and where that writes.
struct Valgrind {
    command: Command,
    out: PathBuf,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Valgrind {
    fn new(tool: &str) -> Valgrind {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (out, log) = (folder.path().join("out"), folder.path().join("log"));
        let mut command = Command::new("valgrind");
        command.arg(format!("--tool={tool}")).arg(format!("--log-file={}", log.display()));
        command.env("GLIBC_TUNABLES", GLIBC_TUNABLES);
        match tool {
            "callgrind" => command.arg(format!("--callgrind-out-file={}", out.display())),
            _ => command.args(["--leak-check=no", "--undef-value-errors=no"]),
        };
        Valgrind { command, out, log, _folder: folder }
    }

    fn instructions(&self) -> f64 {
        instructions(&self.out)
    }
}

/// The total of a callgrind run, all threads.
fn instructions(out: &Path) -> f64 {
    number_after(out, "summary:")
}

/// The allocations of a memcheck run.
fn allocations(log: &Path) -> f64 {
    number_after(log, "total heap usage:")
}

fn number_after(path: &Path, words: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rest = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}")).1;
    let number: String = rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
    number.replace(',', "").parse().expect("a number")
}
