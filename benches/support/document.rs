//! docs/benchmarks.md, whose tables beside others the benches write themselves.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the documentation.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Replaces the table that stands between the marks of this name.
pub fn replace_table(name: &str, table: &str) {
    let path = path("benchmarks.md");
    let text = fs::read_to_string(&path).expect("it is committed");
    let (first, last) = (format!("<!-- {name}: written by benches/peers/run -->\n"), format!("<!-- end of {name} -->"));
    let replaced = text.split_once(&first).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&last)?;
        Some(format!("{before}{first}{table}{last}{after}"))
    });
    fs::write(&path, replaced.unwrap_or_else(|| panic!("the document lacks {first}"))).expect("docs is writable");
}
