//! A PostgreSQL of its own for a bench.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{CLIENT_CORE, pinned};
use super::redis::free_address;

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The user that Debian's package makes: the programs refuse to run as root.
const USER: &str = "postgres";

/// A server with default settings, so that every commit waits for the disk; ended when this is dropped.
pub struct Postgres {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Postgres {
    /// Starts one on the clients' core; none where it is not installed.
    pub fn start() -> Option<Postgres> {
        let programs = newest_programs()?;
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let data = folder.path().join("data");
        let owner = owner();
        if let Some((user, group)) = owner {
            std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
            chown(folder.path(), Some(user), Some(group)).expect("root may give it away");
        }
        let command = |program: &str| {
            let mut command = pinned(CLIENT_CORE, programs.join(program).as_ref());
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(folder.path());
            command.arg("-D").arg(&data);
            command
        };
        let made = command("initdb").args(["-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C"]).status();
        assert!(made.expect("it is installed").success(), "initdb failed");
        let port = free_address().port();
        let mut server = command("postgres");
        server.args(["-c", "listen_addresses=127.0.0.1", "-p", &port.to_string(), "-k"]).arg(folder.path());
        let mut postgres = Postgres { child: server.spawn().expect("it is installed"), port, _folder: folder };
        postgres.wait_until_ready(&programs);
        Some(postgres)
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    fn wait_until_ready(&mut self, programs: &Path) {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut probe = Command::new(programs.join("pg_isready"));
        probe.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        while !probe.status().expect("it is installed").success() {
            assert!(Instant::now() < deadline, "postgres does not answer");
            assert!(self.child.try_wait().expect("it is a child").is_none(), "postgres ended at once");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown, which ends its processes before itself.
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// The folder of Debian's newest version.
fn newest_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let number = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0);
    versions.max_by_key(number).map(|version| version.path().join("bin")).filter(|folder| folder.is_dir())
}

/// The user and the group to run as, if this is root.
fn owner() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    (id(&["-u"]) == Some(0)).then(|| Some((id(&["-u", USER])?, id(&["-g", USER])?))).flatten()
}
