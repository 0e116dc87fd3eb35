//! The package for npm (packaging/npm), packed, installed into a project, and used in node and in Chromium.

use std::process::Command;

#[test]
fn the_package_for_npm_is_whole_and_works_where_it_is_installed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/npm");
    let mut tests = Command::new("node");
    tests.args(["--test", "package.test.mjs"]).current_dir(folder).env("FANFARE_BIN", env!("CARGO_BIN_EXE_fanfare"));
    assert!(tests.status().expect("tests/setup has installed node").success());
}
