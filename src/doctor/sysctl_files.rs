//! What the files of sysctl.d set at boot: Fanfare's own file, those that apply before it, and those that apply after it.
//!
//! As sysctl.d(5) says: files apply in the order of their names, the last value of a key counts, and a file hides those
//! of the same name in later folders. Patterns of keys are not expanded. Changes no file.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Fanfare's own file, below the root of the host.
pub const OWN_FILE: &str = "etc/sysctl.d/60-fanfare.conf";

/// Where such files are, the folder that counts first.
const FOLDERS: [&str; 4] = ["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"];

/// A line that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The file, as its host names it.
    pub file: PathBuf,
    /// The key, as sysctl writes it.
    pub key: String,
    /// Its numbers; none if it has other values.
    pub values: Vec<u64>,
}

/// The lines of all files, in the order in which they apply.
#[derive(Clone, Debug, Default)]
pub struct SysctlFiles {
    /// Before Fanfare's own file.
    pub earlier: Vec<Line>,
    /// In Fanfare's own file.
    pub own: Vec<Line>,
    /// After it.
    pub later: Vec<Line>,
}

impl SysctlFiles {
    /// Reads the files below a root. Only Fanfare's own has to be readable, if it exists.
    pub fn read(root: &Path) -> io::Result<SysctlFiles> {
        let own_path = root.join(OWN_FILE);
        let own = match fs::read_to_string(&own_path) {
            Ok(text) => lines(&Path::new("/").join(OWN_FILE), &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let own_name = own_path.file_name().unwrap_or_default();
        let (mut earlier, mut later) = (Vec::new(), Vec::new());
        for (name, path) in by_name(root) {
            let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
            let found = lines(&Path::new("/").join(path), &text);
            match name.as_os_str().cmp(own_name) {
                std::cmp::Ordering::Less => earlier.extend(found),
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => later.extend(found),
            }
        }
        Ok(SysctlFiles { earlier, own, later })
    }
}

/// The line of a key that counts.
pub fn last<'a>(lines: &'a [Line], key: &str) -> Option<&'a Line> {
    lines.iter().rfind(|line| line.key == key)
}

/// Every file that applies, by name, as a path below the root.
fn by_name(root: &Path) -> BTreeMap<OsString, PathBuf> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if Path::new(&name).extension() == Some(OsStr::new("conf")) {
                files.entry(name.clone()).or_insert_with(|| Path::new(folder).join(name));
            }
        }
    }
    files
}

fn lines(file: &Path, text: &str) -> Vec<Line> {
    let settings = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let parse = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let key = key.trim().trim_start_matches('-').replace('/', ".");
        let values: Option<Vec<u64>> = value.split_whitespace().map(|number| number.parse().ok()).collect();
        Some(Line { file: file.to_owned(), key, values: values.unwrap_or_default() })
    };
    settings.filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn files_apply_by_name_and_hide_those_of_the_same_name() {
        let held = tempfile::tempdir().unwrap();
        let root = held.path();
        put(root, "etc/sysctl.d/10-a.conf", "# a comment = 1\n;net.x = 1\nnet.core.somaxconn=1\n\n");
        put(root, "usr/lib/sysctl.d/10-a.conf", "net.core.somaxconn = 7\n");
        put(root, "usr/lib/sysctl.d/50-b.conf", "-net/core/somaxconn = 2\nkernel.core_pattern = core\n");
        put(root, "usr/lib/sysctl.d/60-fanfare.conf", "net.core.somaxconn = 3\n");
        put(root, "usr/lib/sysctl.d/README", "net.core.somaxconn = 4\n");
        put(root, "run/sysctl.d/99-c.conf", "net.ipv4.tcp_mem = 1 2\t3\n");
        let files = SysctlFiles::read(root).unwrap();
        assert_eq!(files.own, []);
        let somaxconn = last(&files.earlier, "net.core.somaxconn").unwrap();
        assert_eq!((somaxconn.file.to_str(), &somaxconn.values[..]), (Some("/usr/lib/sysctl.d/50-b.conf"), &[2][..]));
        assert_eq!(files.earlier.len(), 3, "{files:?}");
        assert!(last(&files.earlier, "kernel.core_pattern").unwrap().values.is_empty());
        assert_eq!(last(&files.later, "net.ipv4.tcp_mem").unwrap().values, [1, 2, 3]);
        put(root, OWN_FILE, "net.core.somaxconn = 5\n");
        let files = SysctlFiles::read(root).unwrap();
        assert_eq!(last(&files.own, "net.core.somaxconn").unwrap().values, [5]);
        assert_eq!((files.earlier.len(), files.later.len()), (3, 1));
    }
}
