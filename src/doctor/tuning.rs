//! What `fanfare tune` changes on a host: which settings of the profile it writes to its file, and which of these differ
//! from the values in force.
//!
//! Invariant: no value is lowered. A value in force above the profile's stays, and is no line of the file, unless it has
//! been there before: then the file is where the value comes from. The file repeats what an earlier file sets, if that is
//! more. Pure: the command writes the files and sets the keys.

use super::Demand;
use super::host::Host;
use super::profile::{self, Part, Setting, joined};
use super::sysctl_files::{Line, SysctlFiles, last};
use super::table::wrapped;

/// The file that loads [`MODULE`] at boot, below the root of the host.
pub const MODULES_FILE: &str = "etc/modules-load.d/fanfare.conf";
/// What that file holds.
pub const MODULES_TEXT: &str = include_str!("../../sysctl/fanfare-modules.conf");
/// The kernel module without which [`MODULE_KEYS`] do not exist.
pub const MODULE: &str = "nf_conntrack";
/// How the keys of that module begin.
pub const MODULE_KEYS: &str = "net.netfilter.";

/// A key with its value in force and the profile's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub name: &'static str,
    /// In force.
    pub current: Vec<u64>,
    /// In the profile.
    pub wanted: Vec<u64>,
}

/// What is to be done for a demand.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The connections that it is for.
    pub connections: u64,
    /// The keys to set now.
    pub changes: Vec<Difference>,
    /// Keys with more than the profile has: they stay as they are, and are not in the file.
    pub higher: Vec<Difference>,
    /// Keys of the profile that the kernel does not show.
    pub absent: Vec<&'static str>,
    /// Lines of later files with less than this one: at boot they win.
    pub overruled_by: Vec<Line>,
    /// The lines of the file.
    lines: Vec<Setting>,
}

impl Tuning {
    /// Compares a host and its files with the profile of a demand.
    pub fn new(host: &Host, demand: &Demand, files: &SysctlFiles) -> Tuning {
        let mut tuning = Tuning {
            connections: demand.connections,
            changes: Vec::new(),
            higher: Vec::new(),
            absent: Vec::new(),
            overruled_by: Vec::new(),
            lines: Vec::new(),
        };
        for setting in profile::settings(Part::All, host, demand) {
            match host.sysctls.get(setting.name) {
                Some(current) => tuning.add(setting, current, files),
                None => tuning.absent.push(setting.name),
            }
        }
        tuning
    }

    fn add(&mut self, setting: Setting, current: &Vec<u64>, files: &SysctlFiles) {
        let name = setting.name;
        let earlier = last(&files.earlier, name).map(|line| &line.values);
        let wanted = setting.at_least(earlier);
        let line = wanted.clone().at_least(Some(current));
        let is_enough = line.values == *current;
        if is_enough && wanted.values != *current && last(&files.own, name).is_none() {
            self.higher.push(Difference { name, current: current.clone(), wanted: wanted.values });
            return;
        }
        if !is_enough {
            self.changes.push(Difference { name, current: current.clone(), wanted: line.values.clone() });
        }
        let has_less = |later: &&Line| line.clone().at_least(Some(&later.values)).values != later.values;
        self.overruled_by.extend(last(&files.later, name).filter(has_less).cloned());
        self.lines.push(line);
    }

    /// The text of the file; none if no setting belongs there.
    pub fn file(&self) -> Option<String> {
        if self.lines.is_empty() {
            return None;
        }
        let connections = self.connections;
        let mut text = format!("# Fanfare: this host for {connections} connections.\n");
        text += &format!("# Written by: fanfare tune --connections {connections}\n");
        text += "# Removed by: fanfare tune --remove\n";
        self.lines.iter().for_each(|line| text += &line.text());
        if !self.higher.is_empty() {
            let stays = |key: &Difference| format!("{} = {}", key.name, joined(&key.current));
            let list: Vec<String> = self.higher.iter().map(stays).collect();
            let comment = format!("Left out, because this host had more when this was written: {}.", list.join(", "));
            text += "\n";
            wrapped(&comment, 110).iter().for_each(|line| text += &format!("# {line}\n"));
        }
        Some(text)
    }

    /// True if the file has keys that exist only once [`MODULE`] is loaded.
    pub fn needs_module(&self) -> bool {
        self.lines.iter().any(|line| line.name.starts_with(MODULE_KEYS))
    }
}

/// Keys of Fanfare's own file that are not the profile's: an operator's, which must not be lost.
pub fn foreign_keys(files: &SysctlFiles) -> Vec<&str> {
    files.own.iter().map(|line| line.key.as_str()).filter(|key| !profile::has(key)).collect()
}

/// Modules of Fanfare's own list that it does not load itself.
pub fn foreign_modules(text: &str) -> Vec<&str> {
    let modules = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    modules.filter(|module| *module != MODULE).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: &str = "net.core.somaxconn";
    const PROFILE: u64 = 65_535;

    fn line(value: u64) -> Vec<Line> {
        vec![Line { file: "/etc/sysctl.d/x.conf".into(), key: KEY.to_owned(), values: vec![value] }]
    }

    /// What becomes of a key: its line in the file, what it is set to now, and whether it is reported as higher or as
    /// overruled.
    fn tuned(current: u64, files: &SysctlFiles) -> (Option<u64>, Option<u64>, bool, bool) {
        let mut host = Host { page_bytes: 4096, ..Host::default() };
        host.sysctls.insert(KEY, vec![current]);
        let demand = Demand {
            connections: 100_000,
            descriptors: 100_320,
            loopback_listeners: 0,
            backlog: None,
            drain: Duration::ZERO,
        };
        let tuning = Tuning::new(&host, &demand, files);
        let line = tuning.lines.first().map(|line| line.values[0]);
        let set = tuning.changes.first().map(|change| change.wanted[0]);
        assert_eq!(tuning.file().is_some(), line.is_some());
        (line, set, !tuning.higher.is_empty(), !tuning.overruled_by.is_empty())
    }

    #[test]
    fn no_value_is_lowered_now_or_at_boot() {
        let none = SysctlFiles::default();
        let own = |value| SysctlFiles { own: line(value), ..SysctlFiles::default() };
        let earlier = |value| SysctlFiles { earlier: line(value), ..SysctlFiles::default() };
        let later = |value| SysctlFiles { later: line(value), ..SysctlFiles::default() };
        assert_eq!(tuned(4096, &none), (Some(PROFILE), Some(PROFILE), false, false));
        assert_eq!(tuned(PROFILE, &none), (Some(PROFILE), None, false, false));
        // Set by others, who may change it: no line of the file.
        assert_eq!(tuned(70_000, &none), (None, None, true, false));
        // Its own from before, for more connections.
        assert_eq!(tuned(70_000, &own(70_000)), (Some(70_000), None, false, false));
        assert_eq!(tuned(70_000, &own(PROFILE)), (Some(70_000), None, false, false));
        assert_eq!(tuned(4096, &own(70_000)), (Some(PROFILE), Some(PROFILE), false, false));
        // An earlier file with more, whose value this file would replace at boot.
        assert_eq!(tuned(4096, &earlier(70_000)), (Some(70_000), Some(70_000), false, false));
        assert_eq!(tuned(80_000, &earlier(70_000)), (None, None, true, false));
        assert_eq!(tuned(4096, &earlier(100)), (Some(PROFILE), Some(PROFILE), false, false));
        assert_eq!(tuned(4096, &later(4096)), (Some(PROFILE), Some(PROFILE), false, true));
        assert_eq!(tuned(4096, &later(70_000)), (Some(PROFILE), Some(PROFILE), false, false));
    }

    #[test]
    fn lines_of_others_in_its_files_are_found() {
        let mut own = line(1);
        own.push(Line { key: "net.ipv4.ip_forward".to_owned(), ..own[0].clone() });
        let files = SysctlFiles { own, ..SysctlFiles::default() };
        assert_eq!(foreign_keys(&files), ["net.ipv4.ip_forward"]);
        assert_eq!(foreign_modules(MODULES_TEXT), [""; 0]);
        assert_eq!(foreign_modules("# br_netfilter\nnf_conntrack\n br_netfilter\n"), ["br_netfilter"]);
    }
}
