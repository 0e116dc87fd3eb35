//! A host's /proc and /sys as files in a folder: what an untuned kernel shows, and what a test changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

/// What the kernel sets by itself on a host with 16 GiB.
const SYSCTLS: [(&str, &str); 14] = [
    ("fs.nr_open", "1048576"),
    ("fs.file-max", "1631022"),
    ("fs.epoll.max_user_watches", "3655557"),
    ("net.core.netdev_max_backlog", "1000"),
    ("net.core.somaxconn", "4096"),
    ("net.ipv4.ip_local_port_range", "32768 60999"),
    ("net.ipv4.tcp_max_orphans", "65536"),
    ("net.ipv4.tcp_max_syn_backlog", "1024"),
    ("net.ipv4.tcp_mem", "191346 255130 382692"),
    ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
    ("net.ipv4.tcp_syncookies", "1"),
    ("net.ipv4.tcp_wmem", "4096 16384 4194304"),
    ("net.netfilter.nf_conntrack_buckets", "262144"),
    ("net.netfilter.nf_conntrack_max", "262144"),
];

/// The fake host; its files go when it is dropped.
pub struct FakeHost(TempDir);

impl FakeHost {
    /// A host with 16 GiB and room for a million files, as the kernel and systemd leave it.
    pub fn new() -> FakeHost {
        let host = FakeHost(tempfile::tempdir().unwrap());
        host.put("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   15728640 kB\n");
        host.set_descriptors(1_048_576);
        host.put("proc/1/cgroup", "0::/system.slice/fanfare.service\n");
        host.put("proc/1/net/sockstat", "sockets: used 9\nTCP: inuse 3 orphan 0 tw 0 alloc 3 mem 0\n");
        host.put("proc/1/net/netstat", "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 0 0\n");
        host.put("sys/fs/cgroup/system.slice/fanfare.service/memory.max", "max\n");
        host.put("sys/fs/cgroup/system.slice/fanfare.service/pids.max", "4915\n");
        SYSCTLS.iter().for_each(|(key, value)| host.set(key, value));
        host
    }

    /// Where its root is.
    pub fn root(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    pub fn put(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What a file holds, if it exists.
    pub fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(file)).ok()
    }

    /// Every file with its content, by name.
    pub fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        files
    }

    /// Lets every user read it, and only root write.
    pub fn open_to_all(&self) {
        fs::create_dir_all(self.0.path().join("etc/sysctl.d")).unwrap();
        fs::set_permissions(self.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn set_descriptors(&self, hard: u64) {
        let head = "Limit                     Soft Limit           Hard Limit           Units\n";
        self.put("proc/1/limits", &format!("{head}Max open files            1024                 {hard}    files\n"));
    }

    /// Sets a sysctl, as `sysctl -w` would.
    pub fn set(&self, key: &str, value: &str) {
        self.put(&format!("proc/sys/{}", key.replace('.', "/")), &format!("{value}\n"));
    }

    pub fn get(&self, key: &str) -> String {
        fs::read_to_string(self.sysctl_file(key)).unwrap().trim().to_owned()
    }

    /// Takes a sysctl away, as a kernel without that part has none.
    pub fn remove(&self, key: &str) {
        fs::remove_file(self.sysctl_file(key)).unwrap();
    }

    /// Puts a file of sysctl.d in force: a key with a `-` may be missing.
    pub fn apply(&self, profile: &str) {
        for line in profile.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no setting: {line}"));
            let optional = key.trim().strip_prefix('-');
            let key = optional.unwrap_or(key.trim());
            assert!(optional.is_some() || self.sysctl_file(key).exists(), "no kernel has {key}");
            if self.sysctl_file(key).exists() {
                self.set(key, value.trim());
            }
        }
    }

    fn sysctl_file(&self, key: &str) -> PathBuf {
        self.0.path().join("proc/sys").join(key.replace('.', "/"))
    }
}
