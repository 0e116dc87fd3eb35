//! `fanfare tune`: writes the sysctl profile that a host lacks, and puts it in force. Touches no other setting and no other
//! file: it runs neither `sysctl` nor systemd-sysctl, which would apply everyone's files again.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _, stderr, stdout};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{fs, io};

use anyhow::{Context, bail};

use super::doctor::{demand, examine, is_this_host};
use crate::cli::TuneArgs;
use crate::config;
use crate::doctor::host::Host;
use crate::doctor::profile::joined;
use crate::doctor::sysctl_files::{OWN_FILE, SysctlFiles};
use crate::doctor::tuning::{self, MODULE, MODULE_KEYS, MODULES_FILE, MODULES_TEXT, Tuning};

/// A listener reads this key when it is opened, and not again.
const LISTEN_QUEUE: &str = "net.core.somaxconn";
/// As long as the longest key.
const NAME_WIDTH: usize = 34;
/// Where the packages keep the configuration, below the root of the host.
const CONFIG_FILE: &str = "etc/fanfare/fanfare.toml";
/// Without an argument and without a configured limit.
const CONNECTIONS_DEFAULT: u32 = 100_000;

pub(super) fn run(args: &TuneArgs) -> anyhow::Result<ExitCode> {
    let own = OwnFiles::read(&args.root)?;
    if args.remove {
        return own.remove(args.dry_run);
    }
    let connections = connections(args)?;
    let mut host = examine(&args.root)?;
    let has_module = |host: &Host| host.sysctls.keys().any(|key| key.starts_with(MODULE_KEYS));
    if !has_module(&host) && is_this_host(&args.root) && !args.dry_run {
        // Fails where there is no such module, and in containers: then there are no such keys.
        let _ = Command::new("modprobe").args(["--quiet", MODULE]).status();
        host = examine(&args.root)?;
    }
    let tuning = Tuning::new(&host, &demand(connections), &own.sysctls);
    let texts = [(OWN_FILE, tuning.file()), (MODULES_FILE, tuning.needs_module().then(|| MODULES_TEXT.to_owned()))];
    let mut said = described(&tuning);
    if args.dry_run {
        for (file, _) in texts.iter().filter(|(_, text)| text.is_some()) {
            let _ = writeln!(said, "Would write /{file}."); // writing to a String can't fail
        }
        stdout().write_all(said.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    stdout().write_all(said.as_bytes())?;
    for (file, text) in texts {
        let Some(text) = text else { continue };
        write(&args.root.join(file), &text).map_err(|error| explained(&format!("can't write /{file}"), &error))?;
        writeln!(stdout(), "Wrote /{file}.")?;
    }
    apply(&args.root, &tuning)
}

/// The number asked for, or the one that the host's configuration file names.
fn connections(args: &TuneArgs) -> anyhow::Result<u32> {
    if let Some(connections) = args.connections {
        return Ok(connections);
    }
    let file = args.root.join(CONFIG_FILE);
    let configured = if file.exists() { config::connections_max(&file)? } else { None };
    Ok(configured.unwrap_or(CONNECTIONS_DEFAULT))
}

/// What changes and what stays, for a person.
fn described(tuning: &Tuning) -> String {
    let connections = tuning.connections;
    let mut said = String::new();
    let mut say = |line: String| said += &(line + "\n");
    match tuning.changes.is_empty() {
        true => say(format!("No key has less than the profile for {connections} connections.")),
        false => say(format!("For {connections} connections, from the current value to the wanted one:")),
    }
    for key in &tuning.changes {
        say(format!("  {:NAME_WIDTH$}  {} -> {}", key.name, joined(&key.current), joined(&key.wanted)));
    }
    for key in &tuning.higher {
        let (current, wanted) = (joined(&key.current), joined(&key.wanted));
        say(format!("{} stays at {current}, which is more than {wanted}.", key.name));
    }
    let of_module = tuning.absent.iter().filter(|key| key.starts_with(MODULE_KEYS)).count();
    for key in &tuning.absent {
        say(format!("{key} does not exist on this host."));
    }
    if of_module > 0 {
        say(format!(
            "The keys {MODULE_KEYS}* appear with the module {MODULE}, which fanfare tune loads where there is one."
        ));
    }
    for line in &tuning.overruled_by {
        let (key, file, values) = (&line.key, line.file.display(), joined(&line.values));
        say(format!("At boot {file} sets {key} to {values} again: change it there."));
    }
    said
}

/// Sets the keys that differ; exit code 1 if the kernel refuses one.
fn apply(root: &Path, tuning: &Tuning) -> anyhow::Result<ExitCode> {
    let mut is_done = true;
    for key in &tuning.changes {
        let (name, wanted) = (key.name, joined(&key.wanted));
        let file = root.join("proc/sys").join(name.replace('.', "/"));
        match fs::write(file, format!("{wanted}\n")) {
            Ok(()) => writeln!(stdout(), "Set {name}.")?,
            Err(error) => {
                is_done = false;
                writeln!(stderr(), "error: can't set {name} to {wanted}: {error}")?;
            }
        }
    }
    if tuning.changes.iter().any(|key| key.name == LISTEN_QUEUE) {
        writeln!(
            stdout(),
            "Open listeners keep their backlog: stop fanfare.socket and fanfare.service, then start both."
        )?;
    }
    writeln!(stdout(), "What else this host lacks: fanfare doctor --connections {}", tuning.connections)?;
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The two files that this command writes, as they are.
struct OwnFiles<'a> {
    root: &'a Path,
    sysctls: SysctlFiles,
}

impl OwnFiles<'_> {
    /// Reads them, and refuses any that holds what this command did not write.
    fn read(root: &Path) -> anyhow::Result<OwnFiles<'_>> {
        let sysctls = SysctlFiles::read(root).with_context(|| format!("can't read /{OWN_FILE}"))?;
        let modules = match fs::read_to_string(root.join(MODULES_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("can't read /{MODULES_FILE}")),
        };
        let foreign = [(OWN_FILE, tuning::foreign_keys(&sysctls)), (MODULES_FILE, tuning::foreign_modules(&modules))];
        for (file, lines) in foreign {
            if !lines.is_empty() {
                let lines = lines.join(", ");
                bail!("/{file} has lines that fanfare tune does not write ({lines}): move them to another file");
            }
        }
        Ok(OwnFiles { root, sysctls })
    }

    fn remove(&self, is_dry_run: bool) -> anyhow::Result<ExitCode> {
        let there = |file: &&&str| self.root.join(file).exists();
        let files: Vec<_> = [OWN_FILE, MODULES_FILE].iter().filter(there).copied().collect();
        for file in &files {
            if is_dry_run {
                writeln!(stdout(), "Would remove /{file}.")?;
                continue;
            }
            let removed = fs::remove_file(self.root.join(file));
            removed.map_err(|error| explained(&format!("can't remove /{file}"), &error))?;
            writeln!(stdout(), "Removed /{file}.")?;
        }
        writeln!(
            stdout(),
            "{}",
            match files.is_empty() {
                true => "There is no file of fanfare tune to remove.",
                false => "The values in force stay until the next boot.",
            }
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Replaces a file in one step, readable for everyone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let next = path.with_extension("conf.new"); // which neither systemd-sysctl nor systemd-modules-load reads
    fs::write(&next, text)?;
    fs::set_permissions(&next, fs::Permissions::from_mode(0o644))?;
    fs::rename(next, path)
}

fn explained(what: &str, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{what}: {error}; fanfare tune needs root: use sudo, or --dry-run to change nothing")
        }
        _ => anyhow::anyhow!("{what}: {error}"),
    }
}
