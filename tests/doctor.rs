//! `fanfare doctor` against a fake /proc and /sys: silent about a tuned host, and naming exactly what was taken away.

mod support;

use std::process::{Command, Output};

use serde_json::Value;
use support::fake_host::FakeHost;
use support::server::Server;

const OF_100_000: &str = include_str!("../sysctl/60-fanfare.conf");
const OF_1_000_000: &str = include_str!("../sysctl/60-fanfare-1m.conf");

fn doctor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanfare")).arg("doctor").args(args).env_clear().output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The profile of a host, or a part of it.
fn profile(host: &FakeHost, connections: &str, part: &str) -> String {
    let output = doctor(&["--root", host.root(), "--connections", connections, &format!("--sysctl={part}")]);
    assert!(output.status.success(), "{output:?}");
    text(&output)
}

/// A host that was tuned as sysctl/README.md says: the shipped file, and what depends on the host.
fn tuned(connections: &str) -> FakeHost {
    let host = FakeHost::new();
    host.apply(if connections == "1000000" { OF_1_000_000 } else { OF_100_000 });
    host.apply(&profile(&host, connections, "host"));
    host
}

/// The shortages of a host; the exit code must agree.
#[track_caller]
fn shortages(host: &FakeHost, args: &[&str]) -> Vec<Value> {
    let output = doctor(&[&["--root", host.root(), "--json"], args].concat());
    let report: Value = serde_json::from_str(&text(&output)).unwrap();
    let shortages = report["shortages"].as_array().unwrap().clone();
    assert_eq!(report["is_enough"], shortages.is_empty());
    assert_eq!(output.status.code(), Some(if shortages.is_empty() { 0 } else { 1 }));
    shortages
}

/// Checks that exactly these are named.
#[track_caller]
fn check(host: &FakeHost, args: &[&str], named: &[&str]) {
    let found = shortages(host, args);
    let found: Vec<_> = found.iter().map(|shortage| shortage["what"].as_str().unwrap()).collect();
    let matches = found.len() == named.len() && found.iter().zip(named).all(|(found, named)| found.contains(named));
    assert!(matches, "{named:?} were to be named, and {found:?} are");
}

#[test]
fn the_shipped_files_are_what_the_doctor_expects() {
    let host = FakeHost::new();
    assert_eq!(profile(&host, "100000", "fixed"), OF_100_000);
    assert_eq!(profile(&host, "1000000", "fixed"), OF_1_000_000);
}

#[test]
fn the_report_of_a_tuned_host_is_one_line() {
    for connections in ["100000", "1000000"] {
        let host = tuned(connections);
        let output = doctor(&["--root", host.root(), "--connections", connections]);
        assert_eq!(text(&output), format!("This host carries {connections} connections.\n"));
        assert_eq!(output.status.code(), Some(0));
        check(&host, &["--connections", connections], &[]);
    }
}

#[test]
fn the_report_of_an_untuned_host_lists_its_shortages_and_the_whole_profile_fixes_them() {
    let host = FakeHost::new();
    check(&host, &[], &["net.core.somaxconn", "net.core.netdev_max_backlog", "net.ipv4.tcp_max_orphans"]);
    check(&host, &["--connections", "1000"], &[]);
    host.apply(&profile(&host, "250000", "all"));
    check(&host, &["--connections", "250000"], &[]);
}

#[test]
fn the_profile_takes_nothing_away_and_stays_as_it_is() {
    let host = FakeHost::new();
    host.set("fs.file-max", "9223372036854775807");
    host.set("net.ipv4.tcp_max_orphans", "500000");
    host.set("net.ipv4.tcp_mem", "100 200 16777216");
    let first = profile(&host, "100000", "all");
    assert!(first.contains("fs.file-max = 9223372036854775807\n"), "{first}");
    assert!(first.contains("net.ipv4.tcp_max_orphans = 500000\n"), "{first}");
    assert!(first.contains("net.ipv4.tcp_mem = 786432 1048576 16777216\n"), "{first}");
    host.apply(&first);
    assert_eq!(profile(&host, "100000", "all"), first);
}

#[test]
fn each_sysctl_that_is_too_low_is_reported_alone_and_its_line_fixes_it() {
    let check = |key: &str, args: &[&str], enough: &str, short: &str| {
        let host = tuned("100000");
        host.set("net.ipv4.tcp_syncookies", "0");
        host.set(key, enough);
        self::check(&host, args, &[]);
        host.set(key, short);
        self::check(&host, args, &[key]);
        let shortage = &shortages(&host, args)[0];
        assert!(!shortage["consequence"].as_str().unwrap().is_empty());
        let line = shortage["mend"][0].as_str().unwrap();
        let setting = line.strip_prefix("sudo sysctl -w ").unwrap_or_else(|| panic!("{line}"));
        host.apply(&setting.replace('\'', ""));
        self::check(&host, args, &[]);
    };
    check("fs.nr_open", &[], "100320", "100319");
    check("fs.file-max", &[], "316384", "316383");
    check("fs.epoll.max_user_watches", &[], "216384", "216383");
    check("net.core.somaxconn", &[], "65535", "65534");
    check("net.core.somaxconn", &["--connections", "5000"], "5000", "4999");
    check("net.ipv4.tcp_max_syn_backlog", &[], "65535", "65534");
    check("net.core.netdev_max_backlog", &[], "10000", "9999");
    check("net.core.netdev_max_backlog", &["--connections", "20000"], "2000", "1999");
    check("net.ipv4.tcp_max_orphans", &[], "100000", "99999");
    check("net.netfilter.nf_conntrack_max", &[], "200000", "199999");
    check("net.netfilter.nf_conntrack_buckets", &[], "50000", "49999");
    check("net.ipv4.tcp_mem", &[], "75000 100000 1572864", "75000 99999 1572864");
    check("net.ipv4.tcp_rmem", &[], "64424 131072 6291456", "64425 131072 6291456");
    check("net.ipv4.tcp_wmem", &[], "64424 65536 4194304", "64425 65536 4194304");
}

#[test]
fn shortages_that_no_sysctl_fixes_are_reported_alone_too() {
    let lowered = |named: &[&str], args: &[&str], lower: &dyn Fn(&FakeHost)| {
        let host = tuned("100000");
        check(&host, args, &[]);
        lower(&host);
        check(&host, args, named);
    };
    let cgroup = "sys/fs/cgroup/system.slice/fanfare.service";
    lowered(&["RLIMIT_NOFILE"], &[], &|host| host.set_descriptors(100_319));
    lowered(&["memory available"], &[], &|host| {
        host.put("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 900000 kB\n");
    });
    lowered(&["memory.max"], &[], &|host| host.put(&format!("{cgroup}/memory.max"), "900000000\n"));
    lowered(&["memory.max"], &[], &|host| host.put("sys/fs/cgroup/system.slice/memory.max", "900000000\n"));
    lowered(&["pids.max"], &[], &|host| host.put(&format!("{cgroup}/pids.max"), "15\n"));
    // Only a proxy on the same host, over TCP, takes ports of this host.
    let host = tuned("100000");
    let ports = ["net.ipv4.ip_local_port_range"];
    check(&host, &["--listen", "127.0.0.1:3001"], &ports);
    check(&host, &["--listen", "127.0.0.1:3001", "--connections", "28232"], &[]);
    check(&host, &["--listen", "127.0.0.1:3001", "--connections", "28233"], &ports);
    check(&host, &["--listen", "127.0.0.1:3001", "--listen", "127.0.0.2:3001", "--connections", "56464"], &[]);
    check(&host, &["--listen", "unix:/run/fanfare/fanfare.sock"], &[]);
    check(&host, &["--listen", "0.0.0.0:3001"], &[]);
}

#[test]
fn a_million_connections_fit_the_shipped_units_and_clients_on_the_same_host_need_36_addresses() {
    let host = tuned("1000000");
    for unit in [include_str!("../systemd/fanfare.service"), include_str!("../systemd/fanfare@.service")] {
        let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
        host.set_descriptors(limit.parse().unwrap());
        check(&host, &["--connections", "1000000"], &[]);
    }
    let addresses: Vec<_> = (1..=36).map(|last| format!("127.0.0.{last}:3001")).collect();
    let listens: Vec<_> = addresses.iter().flat_map(|address| ["--listen", address]).collect();
    check(&host, &[&["--connections", "1000000"], &listens[..]].concat(), &[]);
    check(&host, &[&["--connections", "1000000"], &listens[2..]].concat(), &["net.ipv4.ip_local_port_range"]);
    // Loopback traffic passes through this queue, whose size a kernel's default leaves at 1,000.
    host.set("net.core.netdev_max_backlog", "1000");
    check(&host, &["--connections", "1000000"], &["net.core.netdev_max_backlog"]);
}

#[test]
fn a_limit_that_a_host_does_not_have_is_not_reported() {
    let host = tuned("100000");
    host.remove("net.netfilter.nf_conntrack_max");
    host.remove("net.netfilter.nf_conntrack_buckets");
    host.put("proc/1/cgroup", "4:memory:/old\n"); // version 1 of cgroups
    check(&host, &[], &[]);
    host.apply(OF_100_000);
    // With cookies the kernel never asks for it.
    host.set("net.ipv4.tcp_max_syn_backlog", "1");
    check(&host, &[], &[]);
}

#[test]
fn an_unreadable_value_does_not_count_as_enough() {
    let host = tuned("100000");
    host.remove("net.ipv4.tcp_mem");
    let output = doctor(&["--root", host.root()]);
    assert!(text(&output).contains("Not checked, because it can't be read: net.ipv4.tcp_mem."), "{output:?}");
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(&["--root", folder.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("proc/meminfo"), "{output:?}");
}

#[test]
fn the_table_has_each_shortage_its_size_its_effect_and_its_fix() {
    let host = tuned("100000");
    host.set("net.core.somaxconn", "128");
    let report = text(&doctor(&["--root", host.root()]));
    for line in [
        "For 100000 connections this host is short of:",
        "net.core.somaxconn  128  65535     65407",
        "    sudo sysctl -w net.core.somaxconn=65535",
    ] {
        assert!(report.lines().any(|printed| printed == line), "{line:?} is not in {report}");
    }
    assert!(report.contains("If ignored: ") && !report.contains('\x1b'), "{report}");
    assert!(!report.contains("so far"), "{report}");
    // Queues that overflowed already are the reason to look at this key first.
    host.put("proc/1/net/netstat", "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 0 417\n");
    let report = text(&doctor(&["--root", host.root()])).replace('\n', " ");
    assert!(report.contains("417 so far"), "{report}");
}

#[test]
fn this_shells_limit_on_open_files_is_named() {
    let script = "ulimit -n 1500 && exec \"$0\" doctor --connections 2000 --json";
    let output = Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_fanfare")]).output().unwrap();
    let report: Value = serde_json::from_str(&text(&output)).unwrap();
    let shortage = &report["shortages"][0];
    assert!(shortage["what"].as_str().unwrap().contains("RLIMIT_NOFILE"), "{report}");
    assert_eq!(
        (&shortage["has"], &shortage["needs"], &shortage["short_by"]),
        (&1500.into(), &2320.into(), &820.into())
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_server_warns_of_its_host_when_it_starts() {
    let server = Server::start_after("ulimit -n 1500", &["--max-connections", "2000"]);
    server.wait_for_log(&["WARN", "RLIMIT_NOFILE", "1500", "2320", "fanfare doctor --connections 2000"]);
    let quiet = Server::start_after("ulimit -n 1500", &["--max-connections", "1000"]);
    assert_eq!(quiet.get("/health/live").status, 200);
    assert_eq!(quiet.log().find(&["RLIMIT_NOFILE"]), None);
}

#[test]
fn a_server_warns_of_all_shortages_in_one_line() {
    // Two of them on every host: descriptors, and memory for a billion connections.
    let server = Server::start_after("ulimit -n 1500", &["--max-connections", "1000000000"]);
    server.wait_for_log(&[
        "WARN",
        "short for 1000000000 connections: ",
        "RLIMIT_NOFILE) has 1500 and needs ",
        "memory available has",
    ]);
}
