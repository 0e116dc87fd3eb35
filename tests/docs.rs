//! The documentation: every code block of the README and of docs/ runs, or tests/docs/left_out.toml says why not; what the
//! pages refer to exists. `tests/docs/check` does the work.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The faults that the check finds in a checkout, one in each line, each with further lines perhaps.
fn faults(checkout: &Path, variables: &[(&str, &str)]) -> (bool, String) {
    let mut check = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docs/check"));
    check.env("DOCS_ROOT", checkout).env("FANFARE_BIN", env!("CARGO_BIN_EXE_fanfare")).envs(variables.iter().copied());
    let output = check.output().expect("this test needs python3, which tests/setup installs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_block_runs_or_has_a_reason_and_every_reference_exists() {
    let (is_right, faults) = faults(Path::new(env!("CARGO_MANIFEST_DIR")), &[]);
    assert!(is_right, "{faults}");
}

#[test]
fn a_page_that_renews_its_token_survives_an_application_that_is_away() {
    let mut drive = Command::new("node");
    drive
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docs/renew.mjs"))
        .env("FANFARE_BIN", env!("CARGO_BIN_EXE_fanfare"));
    let output = drive.output().expect("this test needs node and Chromium, which tests/setup installs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A checkout whose pages have a fault of every kind, and the beginnings of the lines that should report them, in order.
#[test]
fn every_kind_of_fault_is_found() {
    let wrong = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docs/wrong"));
    let (is_right, faults) = faults(wrong, &[("DOCS_SECONDS", "1")]);
    assert!(!is_right);
    let mut lines = faults.lines();
    for expected in fs::read_to_string(wrong.join("expected.txt")).unwrap().lines() {
        assert!(lines.any(|line| line.starts_with(expected)), "not found in its place: {expected}\n{faults}");
    }
}
