//! `fanfare doctor`: reads the host, compares it with the demand, and prints what is short.

use std::io::{IsTerminal, Write, stdout};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::listeners::Part;
use super::settings::descriptors_for;
use super::{UsageError, backend, tls};
use crate::cli::DoctorArgs;
use crate::config::{Config, read_certificates};
use crate::doctor::certificate::CertificateState;
use crate::doctor::host::Host;
use crate::doctor::unit::Unit;
use crate::doctor::{Demand, Report, host::Cgroup, profile, queue, table};
use crate::io::limits::page_bytes;
use crate::io::listener::{ListenAddress, Listener};

/// Warnings at start assume at most this many connections, unless the configuration names a number.
const CONNECTIONS_ASSUMED_MAX: u32 = 100_000;

/// Examines this host, or the one below `--root`.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut host = examine(&args.root)?;
    if is_this_host(&args.root) {
        ask_programs(&mut host, &args.unit);
        host.io_uring = Some(backend::io_uring_here());
    }
    host.certificates = certificates(args)?;
    let demand = Demand {
        loopback_listeners: loopback_listeners(args.listen.iter().map(|it| &it.address)),
        drain: args.drain,
        ..demand(args.connections)
    };
    if let Some(part) = args.sysctl {
        return print(&profile::text(part, &host, &demand), ExitCode::SUCCESS);
    }
    let report = Report::new(&host, &demand);
    let code = if report.is_enough { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        return print(&(serde_json::to_string_pretty(&report)? + "\n"), code);
    }
    let is_coloured = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    print(&(table::lines(&report, is_coloured).join("\n") + "\n"), code)
}

/// Reads the host below a root.
pub(super) fn examine(root: &Path) -> Result<Host, UsageError> {
    // Below another root, /proc/self would mean this process, which is not there.
    let process = if is_this_host(root) { "self" } else { "1" };
    Host::read(root, process, page_bytes()).map_err(|error| UsageError(format!("--root {}: {error}", root.display())))
}

pub(super) fn is_this_host(root: &Path) -> bool {
    root == Path::new("/")
}

/// What this many connections need, wherever the server listens and however long it takes to leave.
pub(super) fn demand(connections: u32) -> Demand {
    let connections = u64::from(connections);
    Demand {
        connections,
        descriptors: descriptors_for(connections),
        loopback_listeners: 0,
        backlog: None,
        drain: Duration::ZERO,
    }
}

/// Reads the certificates and keys that the arguments name.
fn certificates(args: &DoctorArgs) -> Result<Vec<CertificateState>, UsageError> {
    let (certificates, _) =
        read_certificates(&args.tls_certificate, &args.tls_key).map_err(|error| UsageError(error.to_string()))?;
    let states = certificates.iter().zip(&args.tls_key).map(|(certificate, key)| {
        let mode = std::fs::metadata(key).map(|found| found.permissions().mode() & 0o777);
        let key_mode = mode.map_err(|error| UsageError(format!("--tls-key {}: {error}", key.display())))?;
        Ok(CertificateState {
            file: certificate.name.clone(),
            valid_for: tls::expires_in(certificate).unwrap_or_default(),
            key_file: key.display().to_string(),
            key_mode,
        })
    });
    states.collect()
}

fn print(text: &str, code: ExitCode) -> anyhow::Result<ExitCode> {
    stdout().write_all(text.as_bytes())?;
    Ok(code)
}

/// Reads what is in no file: the service manager's unit, and the queues of the network interfaces.
fn ask_programs(host: &mut Host, unit: &str) {
    // sd_booted(3): only then does systemd run and answer systemctl.
    if Path::new("/run/systemd/system").is_dir() {
        let show = |unit: String, properties: &str| answer(&["systemctl", "show", &unit, "--property", properties]);
        let unit = unit.trim_end_matches(".service");
        let service = show(format!("{unit}.service"), Unit::PROPERTIES);
        let socket = show(format!("{unit}.socket"), Unit::SOCKET_PROPERTIES);
        host.unit = Unit::parse(&service, &socket);
        if let Some(path) = host.unit.as_ref().and_then(|unit| unit.cgroup.as_deref()) {
            host.cgroup = Cgroup::read(Path::new("/"), path);
        }
    }
    let tx_queue_len = |device: &str| {
        let file = Path::new("/sys/class/net").join(device).join("tx_queue_len");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    host.queues = queue::parse(&answer(&["tc", "-j", "qdisc", "show"]), tx_queue_len);
}

/// A program's output; empty if there is no such program.
fn answer(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// The number of listeners if all are TCP on loopback, where only a local proxy connects, using ports per listener;
/// else 0.
fn loopback_listeners<'a>(listeners: impl IntoIterator<Item = &'a ListenAddress>) -> u64 {
    let is_loopback = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(_)) && address.is_local();
    let listeners: Vec<bool> = listeners.into_iter().map(is_loopback).collect();
    if listeners.contains(&false) { 0 } else { listeners.len() as u64 }
}

/// The short form at the server's start: logs one warning if the host is short of something.
pub(super) fn warn(config: &Config, streams_max: usize, listeners: &[Listener], parts: &[Part]) {
    let asked = config.limits.connections_max;
    // With --dev, the server is only tried out, and does not need what a service needs.
    if asked.is_none() && config.security.dev {
        return;
    }
    let assumed = || u32::try_from(streams_max).unwrap_or(u32::MAX).min(CONNECTIONS_ASSUMED_MAX);
    let connections = asked.unwrap_or_else(assumed);
    let public = listeners.iter().zip(parts).filter(|(_, part)| part.is_public());
    // Without the time to leave: the server can't see the stop timeout from here.
    let demand = Demand {
        loopback_listeners: loopback_listeners(public.map(|(listener, _)| listener.address())),
        backlog: Some(u64::from(config.listen.backlog)),
        ..demand(connections)
    };
    let host = match Host::read(Path::new("/"), "self", page_bytes()) {
        Ok(host) => host,
        Err(error) => return tracing::info!(%error, "the host can't be examined"),
    };
    let report = Report::new(&host, &demand);
    if !report.is_enough {
        tracing::warn!("{}", table::summary(&report, asked.is_some()));
    }
}
