//! The applications of examples/, each with its real framework, in Chromium. tests/examples/drive.mjs does the same with all of them:
//! a first load without a race, tokens that expire, a Fanfare that restarts. What they need, tests/setup has installed.

use std::fs;
use std::path::Path;
use std::process::Command;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// Makes a test for each folder.
macro_rules! drive {
    ($($example:ident,)*) => {
        $(#[test]
        fn $example() {
            drive(stringify!($example));
        })*

        const DRIVEN: &[&str] = &[$(stringify!($example),)*];
    };
}

drive! {
    django,
    express,
    go,
    htmx,
    laravel,
    turbo,
}

#[track_caller]
fn drive(example: &str) {
    let mut driver = Command::new("node");
    driver.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/examples/drive.mjs")).arg(example);
    let output = driver.env("FANFARE_BIN", env!("CARGO_BIN_EXE_fanfare")).output().expect("node is on the PATH");
    let [steps, log] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "it failed in the last of these steps:\n{steps}\n{log}");
}

#[test]
fn every_example_that_starts_is_driven() {
    let folders = fs::read_dir(EXAMPLES).unwrap().map(|entry| entry.unwrap().path());
    let mut starting: Vec<_> = folders.filter(|folder| folder.join("start").exists()).collect();
    starting.sort();
    assert_eq!(starting, DRIVEN.iter().map(|name| Path::new(EXAMPLES).join(name)).collect::<Vec<_>>());
}
