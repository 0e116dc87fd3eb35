//! The units themselves: systemd reads them without a warning, finds them as restricted as they claim, and the template
//! is the service it is a template of.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What `systemd-analyze security` may find exposed at most, in tenths.
const EXPOSURE_TENTHS_MAX: &str = "15";

fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The units as they are installed, templates also as an instance `one`; only the binary's path is this build's.
fn installed() -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let units = ["fanfare.service", "fanfare.socket", "fanfare@.service", "fanfare@.socket"].map(|name| {
        let text = source(name).replace("/usr/bin/fanfare", env!("CARGO_BIN_EXE_fanfare"));
        fs::write(folder.path().join(name), &text).unwrap();
        let instance = folder.path().join(name.replace('@', "@one"));
        fs::write(&instance, text).unwrap();
        instance
    });
    (folder, units.into())
}

#[track_caller]
fn analyze(arguments: &[&str], unit: &Path) -> String {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.expect("this test needs systemd-analyze, which tests/setup installs");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(output.status.success(), "{arguments:?} {}: {said}", unit.display());
    said
}

#[test]
fn systemd_reads_every_unit_without_a_warning() {
    let (_folder, units) = installed();
    for unit in &units {
        assert_eq!(analyze(&["verify", "--man=no"], unit), "", "{}", unit.display());
    }
}

#[test]
fn every_service_is_as_closed_as_it_claims() {
    let (_folder, units) = installed();
    let services: Vec<_> = units.iter().filter(|unit| unit.extension().unwrap() == "service").collect();
    assert_eq!(services.len(), 2);
    for unit in services {
        let threshold = format!("--threshold={EXPOSURE_TENTHS_MAX}");
        let found = analyze(&["security", "--offline=true", &threshold], unit);
        assert!(found.contains("Overall exposure level"), "{found}");
    }
}

/// A setting's values in a unit, in their order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_template_is_the_service_but_for_its_names() {
    let settings = |unit: &str| -> Vec<String> {
        unit.lines().filter(|line| line.contains('=') && !line.starts_with('#')).map(str::to_owned).collect()
    };
    let named = |text: String| {
        let text =
            text.replace("fanfare@%i.socket", "fanfare.socket").replace("/etc/fanfare/%i.", "/etc/fanfare/fanfare.");
        text.replace("fanfare-%i", "fanfare").replace(" (%i)", "")
    };
    assert_eq!(settings(&named(source("fanfare@.service"))), settings(&source("fanfare.service")));
}

/// The system calls of a group, with those of the groups that it names.
fn system_calls(group: &str) -> HashSet<String> {
    let listed = analyze(&["syscall-filter"], Path::new(group));
    let named = listed.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    named.flat_map(|name| if name.starts_with('@') { system_calls(name) } else { [name.to_owned()].into() }).collect()
}

#[test]
fn a_service_may_use_io_uring() {
    let unit = source("fanfare.service");
    let [allowed, refused, added] = values(&unit, "SystemCallFilter")[..] else {
        panic!("what is allowed, less, and one more")
    };
    assert_eq!(added, "sched_setaffinity setpriority");
    let allowed = system_calls(allowed);
    let refused: HashSet<_> = refused.strip_prefix('~').unwrap().split_whitespace().flat_map(system_calls).collect();
    for call in ["io_uring_setup", "io_uring_enter", "epoll_wait", "accept4", "sendmsg"] {
        assert!(allowed.contains(call) && !refused.contains(call), "{call}");
    }
}

#[test]
fn a_missing_secret_does_not_fail_the_start() {
    // systemd.exec(5): what LoadCredential can't retrieve is fatal, unless SetCredential has a default for it.
    let unit = source("fanfare.service");
    let loaded = values(&unit, "LoadCredential");
    let defaults: Vec<_> = values(&unit, "SetCredential").iter().map(|value| value.split_once(':').unwrap()).collect();
    assert_eq!(loaded.len(), 5);
    for credential in loaded {
        let (name, path) = credential.split_once(':').unwrap();
        assert_eq!(path, format!("/etc/fanfare/{name}"));
        assert!(defaults.contains(&(name, "off")), "{name}");
    }
}
