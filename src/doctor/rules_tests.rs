//! Each rule at its bound: enough, one less, and no other shortage reported. tests/doctor.rs tests what files contain;
//! these tests cover what only programs report, and what depends on both.

use std::time::Duration;

use super::*;
use crate::doctor::queue::Queue;
use crate::doctor::{Report, table};

const CONNECTIONS: u64 = 100_000;

fn demand() -> Demand {
    Demand {
        connections: CONNECTIONS,
        descriptors: CONNECTIONS + 320,
        loopback_listeners: 0,
        backlog: None,
        drain: Duration::from_secs(10),
    }
}

/// A host with just enough of everything.
fn host() -> Host {
    let demand = demand();
    let mut host = Host {
        page_bytes: 4096,
        memory_total_bytes: 16 << 30,
        memory_available_bytes: CONNECTIONS * (4096 + 150 + 4096) + (128 << 20),
        descriptors_max: demand.descriptors,
        ..Host::default()
    };
    let keys = profile::FIXED.iter().chain(profile::OF_HOST);
    host.sysctls.extend(keys.map(|key| (key.name, vec![(key.least)(&demand)])));
    host.sysctls.insert(TCP_MEM, vec![75_000, 100_000, 150_000]);
    host.sysctls.insert("net.ipv4.tcp_rmem", vec![6144, 131_072, 6_291_456]);
    host.sysctls.insert("net.ipv4.tcp_wmem", vec![6144, 16_384, 4_194_304]);
    host.sysctls.insert("net.ipv4.ip_local_port_range", vec![32_768, 60_999]);
    host.sysctls.insert("net.ipv4.tcp_syncookies", vec![0]);
    host
}

fn unit() -> Unit {
    Unit {
        name: "fanfare.service".to_owned(),
        descriptors_max: CONNECTIONS + 320,
        stop_timeout: Some(Duration::from_secs(12)),
        is_notified: false,
        memory_max_bytes: Some(CONNECTIONS * (4096 + 150 + 4096) + (128 << 20)),
        threads_max: Some(16),
        cgroup: None,
        backlog: Some(65_535),
    }
}

/// Checks the reported shortages of a host, each by a part of its name.
#[track_caller]
fn check(host: &Host, demand: &Demand, named: &[&str]) {
    let found = shortages(host, demand);
    let is_named = found.iter().zip(named).all(|(shortage, named)| shortage.what.contains(named));
    assert!(found.len() == named.len() && is_named, "{named:?} were to be named: {found:#?}");
    for Shortage { has, needs, short_by, consequence, fixes, .. } in &found {
        assert!(*short_by > 0 && has.abs_diff(*needs) == *short_by, "{found:#?}");
        assert!(!consequence.is_empty() && !fixes.is_empty(), "{found:#?}");
    }
}

#[test]
fn just_enough_is_enough() {
    check(&host(), &demand(), &[]);
    check(&Host { unit: Some(unit()), ..host() }, &demand(), &[]);
    // An unknown value is not reported; the values that are always known are enough here.
    let unknown =
        Host { page_bytes: 4096, memory_available_bytes: u64::MAX, descriptors_max: u64::MAX, ..Host::default() };
    check(&unknown, &demand(), &[]);
}

#[test]
fn the_limits_of_a_unit_take_precedence() {
    let check = |unit: Unit, named: &[&str]| {
        check(&Host { descriptors_max: 1024, unit: Some(unit.clone()), ..host() }, &demand(), named);
        let found = shortages(&Host { unit: Some(unit), ..host() }, &demand());
        let line = &found.first().map(|shortage| shortage.fixes[0].clone()).unwrap_or_default();
        assert!(named.is_empty() || line.contains("/etc/systemd/system/fanfare."), "{line}");
    };
    check(unit(), &[]);
    check(Unit { descriptors_max: CONNECTIONS + 319, ..unit() }, &["RLIMIT_NOFILE"]);
    check(Unit { stop_timeout: Some(Duration::from_secs(11)), ..unit() }, &["TimeoutStopSec"]);
    check(Unit { stop_timeout: Some(Duration::from_secs(11)), is_notified: true, ..unit() }, &[]);
    check(Unit { stop_timeout: None, ..unit() }, &[]);
    check(Unit { memory_max_bytes: Some(900 << 20), ..unit() }, &["memory.max"]);
    check(Unit { memory_max_bytes: None, ..unit() }, &[]);
    check(Unit { threads_max: Some(15), ..unit() }, &["pids.max"]);
    check(Unit { backlog: Some(65_534), ..unit() }, &["backlog"]);
    check(Unit { backlog: None, ..unit() }, &[]);
}

#[test]
fn a_drop_in_is_one_command() {
    let host = Host { unit: Some(Unit { descriptors_max: 1024, ..unit() }), ..host() };
    assert_eq!(
        shortages(&host, &demand())[0].fixes,
        ["printf '[Service]\\nLimitNOFILE=1048576\\n' | sudo install -Dm644 /dev/stdin \
          /etc/systemd/system/fanfare.service.d/zz-LimitNOFILE.conf && sudo systemctl daemon-reload && \
          sudo systemctl restart fanfare.service"]
    );
    let host = Host { unit: Some(Unit { backlog: Some(128), ..unit() }), ..host };
    let found = shortages(&host, &demand());
    let line = &found[0].fixes[0];
    assert!(
        line.contains("'[Socket]\\nBacklog=65535\\n'")
            && line.ends_with(
                "daemon-reload && sudo systemctl stop fanfare.socket fanfare.service && \
                 sudo systemctl start fanfare.socket fanfare.service"
            ),
        "{line}"
    );
}

#[test]
fn the_backlog_of_a_socket_unit_takes_precedence() {
    check(&host(), &Demand { backlog: Some(65_535), ..demand() }, &[]);
    check(&host(), &Demand { backlog: Some(65_534), ..demand() }, &["backlog"]);
    // The backlog of the socket is the one that counts.
    check(&Host { unit: Some(unit()), ..host() }, &Demand { backlog: Some(128), ..demand() }, &[]);
}

#[test]
fn connections_that_are_open_have_their_memory_already() {
    let lack = Host { memory_available_bytes: host().memory_available_bytes - 1, ..host() };
    check(&lack, &demand(), &["memory available"]);
    check(&Host { sockets_open: 1, ..lack }, &demand(), &[]);
    let full = Host { sockets_open: CONNECTIONS + 1, memory_available_bytes: 128 << 20, ..host() };
    check(&full, &demand(), &[]);
}

#[test]
fn more_of_the_memory_than_a_quarter_is_not_given_to_tcp() {
    let mut host = host();
    host.sysctls.insert(TCP_MEM, vec![75_000, 99_999, 150_000]);
    check(&host, &demand(), &[TCP_MEM]);
    let fixed_by = |host: &Host| shortages(host, &demand())[0].fixes[0].clone();
    assert_eq!(fixed_by(&host), "sudo sysctl -w net.ipv4.tcp_mem='786432 1048576 1572864'");
    host.memory_total_bytes = 99_999 * 4 * 4096;
    assert_eq!(fixed_by(&host), "fanfare serve --max-connections 99999");
}

#[test]
fn a_broadcast_must_fit_the_interfaces() {
    let queue = |packets_max| Queue { device: "eth0".to_owned(), kind: "fq".to_owned(), packets_max };
    let host = |queues: &[Queue]| Host { queues: queues.to_vec(), ..host() };
    check(&host(&[queue(CONNECTIONS)]), &demand(), &[]);
    check(&host(&[queue(CONNECTIONS - 1), queue(10)]), &demand(), &["eth0 (fq)", "eth0 (fq)"]);
}

#[test]
fn ports_limit_only_connections_from_this_host() {
    let with = |loopback_listeners| Demand { loopback_listeners, ..demand() };
    check(&host(), &with(3), &["ip_local_port_range"]);
    check(&host(), &with(4), &[]);
    let lines = &shortages(&host(), &with(1))[0].fixes;
    assert!(lines[1].contains(" --listen 127.0.0.4:3001 ") && !lines[1].contains("127.0.0.5"), "{lines:?}");
}

#[test]
fn a_summary_says_where_a_number_comes_from_that_was_not_asked_for() {
    let host = Host { descriptors_max: 10, ..host() };
    let report = Report::new(&host, &demand());
    let shortage = "limit on open files (RLIMIT_NOFILE) has 10 and needs 100320";
    let fix = "fanfare doctor --connections 100000 prints the fix";
    assert_eq!(table::summary(&report, true), format!("short for 100000 connections: {shortage}; {fix}"));
    assert_eq!(
        table::summary(&report, false),
        format!(
            "short for 100000 connections, which the limit on open files allows: {shortage}; --max-connections sets the \
             number you need, and {fix}"
        )
    );
}
