//! `fanfare tune`: against a fake /proc and /etc, and in a network namespace, whose sysctls the kernel itself keeps.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::fake_host::FakeHost;

const FILE: &str = "etc/sysctl.d/60-fanfare.conf";
const MODULES: &str = "etc/modules-load.d/fanfare.conf";

fn fanfare(command: &str, host: &FakeHost, args: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_fanfare");
    Command::new(binary).args([command, "--root", host.root()]).args(args).env_clear().output().unwrap()
}

/// Tunes, and returns what is printed.
#[track_caller]
fn tune(host: &FakeHost, args: &[&str]) -> String {
    let output = fanfare("tune", host, args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The error of a call that has to fail.
#[track_caller]
fn refused(host: &FakeHost, args: &[&str], code: i32) -> String {
    let output = fanfare("tune", host, args);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The settings of the file, without its comments.
fn settings(host: &FakeHost) -> Vec<String> {
    let text = host.read(FILE).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
}

#[track_caller]
fn assert_fit(host: &FakeHost, connections: &str) {
    let report = fanfare("doctor", host, &["--connections", connections]);
    assert!(report.status.success(), "{report:?}");
}

#[test]
fn a_tuned_host_is_what_the_doctor_wants_now_and_after_a_boot() {
    for connections in ["100000", "1000000"] {
        let host = FakeHost::new();
        tune(&host, &["--connections", connections]);
        assert_fit(&host, connections);
        assert!(host.read(MODULES).unwrap().lines().any(|line| line == "nf_conntrack"));
        let booted = FakeHost::new();
        booted.apply(&host.read(FILE).unwrap());
        assert_fit(&booted, connections);
    }
}

#[test]
fn a_dry_run_names_each_change_and_changes_nothing() {
    let host = FakeHost::new();
    let before = host.files();
    let said = tune(&host, &["--dry-run"]);
    let change = |line: &&str| line.contains(" -> ");
    let said: Vec<_> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let changes: Vec<_> = said.iter().map(String::as_str).filter(change).collect();
    assert_eq!(
        changes,
        [
            "net.core.somaxconn 4096 -> 65535",
            "net.ipv4.tcp_max_syn_backlog 1024 -> 65535",
            "net.core.netdev_max_backlog 1000 -> 10000",
            "net.ipv4.tcp_max_orphans 65536 -> 262144",
            "net.ipv4.tcp_mem 191346 255130 382692 -> 786432 1048576 1572864",
        ]
    );
    assert!(said.contains(&"fs.file-max stays at 1631022, which is more than 316384.".to_owned()), "{said:?}");
    assert!(said.contains(&format!("Would write /{FILE}.")), "{said:?}");
    assert_eq!(host.files(), before);
}

#[test]
fn only_the_keys_of_the_profile_and_two_files_are_written() {
    let host = FakeHost::new();
    let before = host.files();
    tune(&host, &[]);
    let after = host.files();
    let touched: Vec<_> =
        after.iter().filter(|(name, text)| before.get(*name) != Some(text)).map(|(name, _)| name).collect();
    assert_eq!(
        touched,
        [
            MODULES,
            FILE,
            "proc/sys/net/core/netdev_max_backlog",
            "proc/sys/net/core/somaxconn",
            "proc/sys/net/ipv4/tcp_max_orphans",
            "proc/sys/net/ipv4/tcp_max_syn_backlog",
            "proc/sys/net/ipv4/tcp_mem",
        ]
    );
}

#[test]
fn a_value_that_is_higher_stays_and_is_not_in_the_file() {
    let host = FakeHost::new();
    host.set("net.netfilter.nf_conntrack_max", "1048576"); // as kube-proxy sets it
    host.set("net.core.somaxconn", "70000");
    host.set("net.ipv4.tcp_mem", "100 200 16777216");
    let said = tune(&host, &[]);
    assert!(said.contains("net.netfilter.nf_conntrack_max stays at 1048576, which is more than 262144."), "{said}");
    assert_eq!(host.get("net.netfilter.nf_conntrack_max"), "1048576");
    assert_eq!(host.get("net.core.somaxconn"), "70000");
    assert_eq!(host.get("net.ipv4.tcp_mem"), "786432 1048576 16777216");
    let of_others = |line: &&String| line.contains("nf_conntrack_max") || line.contains("somaxconn");
    assert_eq!(settings(&host).iter().find(of_others), None);
    let text = host.read(FILE).unwrap();
    assert!(text.contains("Left out") && text.contains("net.core.somaxconn = 70000"), "{text}");
}

#[test]
fn a_second_run_keeps_what_the_first_has_set() {
    let host = FakeHost::new();
    tune(&host, &["--connections", "1000000"]);
    let (large, values) = (settings(&host), host.get("net.ipv4.tcp_max_orphans"));
    assert!(tune(&host, &["--connections", "1000000"]).contains("No key has less"));
    assert_eq!(settings(&host), large);
    tune(&host, &["--connections", "1000"]);
    assert_eq!(settings(&host), large);
    assert_eq!(host.get("net.ipv4.tcp_max_orphans"), values);
}

#[test]
fn an_earlier_version_s_host_keeps_its_values_after_the_next_boot() {
    let host = FakeHost::new();
    host.apply(include_str!("../sysctl/60-fanfare.conf")); // in force, and the upgrade has removed the file
    let of_host = fanfare("doctor", &host, &["--sysctl=host"]).stdout;
    let of_host = String::from_utf8(of_host).unwrap();
    host.put("etc/sysctl.d/61-fanfare-host.conf", &of_host);
    host.apply(&of_host);
    tune(&host, &[]);
    let booted = FakeHost::new();
    booted.apply(&host.read(FILE).unwrap());
    assert_fit(&booted, "100000");
    assert_eq!(host.read("etc/sysctl.d/61-fanfare-host.conf").unwrap(), of_host);
}

#[test]
fn a_later_file_that_lowers_a_key_at_boot_is_named() {
    let host = FakeHost::new();
    host.put("usr/lib/sysctl.d/99-small.conf", "net.core.somaxconn = 128\nnet.ipv4.tcp_max_orphans = 500000\n");
    let said = tune(&host, &[]);
    assert!(said.contains("At boot /usr/lib/sysctl.d/99-small.conf sets net.core.somaxconn to 128 again"), "{said}");
    assert!(!said.contains("tcp_max_orphans to 500000"), "{said}");
}

#[test]
fn the_number_is_the_configured_limit_unless_it_is_given() {
    let host = FakeHost::new();
    let of = |args: &[&str]| {
        let said = tune(&host, &[&["--dry-run"], args].concat());
        said.split("For ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    assert_eq!(of(&[]), "100000");
    host.put("etc/fanfare/fanfare.toml", "heartbeat = \"30s\"\n");
    assert_eq!(of(&[]), "100000");
    host.put("etc/fanfare/fanfare.toml", "max-connections = 250000\n");
    assert_eq!(of(&[]), "250000");
    assert_eq!(of(&["--connections", "300000"]), "300000");
    host.put("etc/fanfare/fanfare.toml", "max-connections = \"many\"\n");
    let said = refused(&host, &[], 2);
    assert!(said.contains("max-connections = \"many\"") && said.contains("whole number"), "{said}");
}

#[test]
fn keys_that_a_kernel_lacks_are_left_out_and_so_is_their_module() {
    let host = FakeHost::new();
    host.remove("net.netfilter.nf_conntrack_max");
    host.remove("net.netfilter.nf_conntrack_buckets");
    let said = tune(&host, &[]);
    assert!(said.contains("net.netfilter.nf_conntrack_max does not exist on this host."), "{said}");
    assert_eq!(settings(&host).iter().find(|line| line.contains("nf_conntrack")), None);
    assert_eq!(host.read(MODULES), None);
    assert_fit(&host, "100000");
}

#[test]
fn removing_takes_its_own_two_files_and_nothing_else() {
    let host = FakeHost::new();
    host.put("etc/sysctl.d/61-fanfare-host.conf", "net.ipv4.tcp_mem = 1 2 3\n");
    tune(&host, &[]);
    let tuned = host.files();
    assert!(tune(&host, &["--remove", "--dry-run"]).contains("Would remove"));
    assert_eq!(host.files(), tuned);
    assert!(tune(&host, &["--remove"]).contains("until the next boot"));
    let left = tuned.into_iter().filter(|(name, _)| name != FILE && name != MODULES).collect();
    assert_eq!(host.files(), left);
    assert!(tune(&host, &["--remove"]).contains("no file of fanfare tune"));
}

#[test]
fn lines_of_others_in_its_files_are_not_lost() {
    for (file, text, named) in [
        (FILE, "net.core.somaxconn = 1\nnet.ipv4.ip_forward = 1\n", "net.ipv4.ip_forward"),
        (MODULES, "nf_conntrack\nbr_netfilter\n", "br_netfilter"),
    ] {
        let host = FakeHost::new();
        host.put(file, text);
        let before = host.files();
        for args in [&[][..], &["--remove"]] {
            let said = refused(&host, args, 1);
            assert!(said.contains(file) && said.contains(named) && said.contains("another file"), "{said}");
        }
        assert_eq!(host.files(), before);
    }
}

#[test]
fn a_user_without_rights_is_referred_to_root() {
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        return check_rights(Command::new(env!("CARGO_BIN_EXE_fanfare")));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", env!("CARGO_BIN_EXE_fanfare")]);
    check_rights(command);
}

/// Tunes as a user who may write nothing.
fn check_rights(mut command: Command) {
    let host = FakeHost::new();
    host.open_to_all();
    let output = command.args(["tune", "--root", host.root(), "--connections", "5000"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("needs root: use sudo, or --dry-run"), "{said}");
}

/// Runs a script as root in its own network and mount namespace, in which /etc is a copy and only net.* can be changed.
fn in_namespace(script: &str) -> String {
    const PREPARE: &str = "set -eu
        mount -t tmpfs tmpfs /etc/sysctl.d && mount -t tmpfs tmpfs /etc/modules-load.d
        mount --bind /proc/sys/fs /proc/sys/fs && mount -o remount,ro,bind /proc/sys/fs";
    let binary = Path::new(env!("CARGO_BIN_EXE_fanfare")).parent().unwrap().display();
    let script = format!("PATH={binary}:$PATH\n{PREPARE}\n{script}");
    let output = Command::new("unshare").args(["--net", "--mount", "bash", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs network namespaces: tests/with-network-namespaces"]
fn a_kernel_takes_the_profile_and_other_files_are_not_applied() {
    let said = in_namespace(
        "echo 512 >/proc/sys/net/core/somaxconn
        echo 90000 >/proc/sys/net/ipv4/tcp_max_syn_backlog
        echo 1 >/proc/sys/net/ipv4/ip_forward # as a container engine does at run time
        printf 'net.ipv4.ip_forward = 0\\nnet.ipv4.tcp_max_syn_backlog = 128\\n' >/etc/sysctl.d/10-others.conf
        fanfare tune --connections 20000 >/dev/null
        cd /proc/sys/net; cat core/somaxconn ipv4/tcp_max_syn_backlog ipv4/ip_forward; ls /etc/sysctl.d
        fanfare tune --remove >/dev/null; cat core/somaxconn; ls /etc/sysctl.d /etc/modules-load.d",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..5], ["65535", "90000", "1", "10-others.conf", "60-fanfare.conf"]);
    assert_eq!(lines[5..], ["65535", "/etc/modules-load.d:", "", "/etc/sysctl.d:", "10-others.conf"]);
}

#[test]
#[ignore = "needs network namespaces: tests/with-network-namespaces"]
fn a_key_that_the_kernel_refuses_fails_alone() {
    let said = in_namespace(
        "cd /proc/sys/net; echo 512 >core/somaxconn; echo 512 >ipv4/tcp_max_syn_backlog
        mount --bind core/somaxconn core/somaxconn && mount -o remount,ro,bind core/somaxconn
        code=0; fanfare tune --connections 20000 2>&1 || code=$?
        echo $code; cat core/somaxconn ipv4/tcp_max_syn_backlog",
    );
    assert!(said.contains("error: can't set net.core.somaxconn to 65535: Read-only file system"), "{said}");
    assert!(said.ends_with("\n1\n512\n65535\n"), "{said}");
}
