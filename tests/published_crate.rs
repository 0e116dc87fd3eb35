//! What `cargo publish` would upload: everything that the crate needs to build, and nothing that is large. The whole
//! publication, up to the upload, is tests/acceptance/publish.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FILE_BYTES_MAX: u64 = 100_000;
const ALL_BYTES_MAX: u64 = 6_000_000;

/// The files of the crate, by their paths in the repository, with their sizes.
fn packaged() -> BTreeMap<PathBuf, u64> {
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo.args(["package", "--list", "--allow-dirty", "--offline"]).current_dir(ROOT).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("warning"), "{complaints}");
    let made_by_cargo = [".cargo_vcs_info.json", "Cargo.toml.orig"];
    let list = String::from_utf8(output.stdout).unwrap();
    let names = list.lines().filter(|name| !made_by_cargo.contains(name));
    names.map(|name| (name.into(), fs::metadata(Path::new(ROOT).join(name)).unwrap().len())).collect()
}

/// All files below a folder of the repository.
fn below(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
        let path = Path::new(folder).join(entry.unwrap().file_name());
        match Path::new(ROOT).join(&path).is_dir() {
            true => found.extend(below(path.to_str().unwrap())),
            false => found.push(path),
        }
    }
    found
}

/// The files that a source compiles in, where it names them with a literal: by their paths in the repository.
fn compiled_in(source: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(Path::new(ROOT).join(source)).unwrap();
    let parts = ["include_str!(\"", "include_bytes!(\""].map(|start| text.split(start).skip(1));
    let names = parts.into_iter().flatten().filter_map(|rest| rest.split('"').next());
    names.map(|name| without_dots(&source.parent().unwrap().join(name))).collect()
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|extension| extensions.iter().any(|known| extension == *known))
}

/// `a/../b` is `b`.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut whole, part| {
        match part {
            Component::ParentDir => _ = whole.pop(),
            part => whole.push(part),
        }
        whole
    })
}

#[test]
fn the_crate_has_all_that_it_builds_from() {
    let packaged = packaged();
    let is_packaged = |path: &Path| assert!(packaged.contains_key(path), "{} is not in the crate", path.display());
    for needed in ["build.rs", "Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "CHANGELOG.md"] {
        is_packaged(Path::new(needed));
    }
    for path in [below("src"), below("web")].concat() {
        is_packaged(&path);
    }
    let is_test = |path: &Path| path.to_str().unwrap().ends_with("_tests.rs"); // which need the whole repository
    let sources = packaged.keys().filter(|path| path.starts_with("src") && has_extension(path, &["rs"]));
    let sources = sources.filter(|path| !is_test(path));
    let texts: Vec<_> = sources.flat_map(|source| compiled_in(source)).collect();
    assert!(texts.contains(&"src/sources/bus/postgres/schema.sql".into()), "{texts:?}");
    texts.iter().for_each(|text| is_packaged(text));
}

#[test]
fn the_crate_has_nothing_that_is_large() {
    let packaged = packaged();
    let texts = ["conf", "css", "html", "js", "json", "lock", "lua", "md", "rs", "sql", "svg", "toml", "ts"];
    for (path, bytes) in &packaged {
        assert!(*bytes <= FILE_BYTES_MAX, "{}: {bytes} bytes", path.display());
        assert!(
            path.as_os_str() == "LICENSE" || has_extension(path, &texts),
            "{} is no text that the crate needs",
            path.display()
        );
    }
    let sum: u64 = packaged.values().sum();
    assert!(sum <= ALL_BYTES_MAX, "{sum} bytes in all");
}
