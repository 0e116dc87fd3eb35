//! The service manager's unit, as `systemctl show` prints it.

use std::collections::HashMap;
use std::time::Duration;

/// A unit that is loaded, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name, such as `fanfare.service`.
    pub name: String,
    /// LimitNOFILE, the hard one.
    pub descriptors_max: u64,
    /// TimeoutStopSec; none means no limit.
    pub stop_timeout: Option<Duration>,
    /// True if the server can ask for more time to stop, which it does (Type=notify).
    pub is_notified: bool,
    /// MemoryMax.
    pub memory_max_bytes: Option<u64>,
    /// TasksMax.
    pub threads_max: Option<u64>,
    /// Its cgroup while it runs.
    pub cgroup: Option<String>,
    /// The backlog of its socket, when it is activated by one.
    pub backlog: Option<u64>,
}

impl Unit {
    /// The properties to request of a service.
    pub const PROPERTIES: &str = "Id,LoadState,Type,LimitNOFILE,TimeoutStopUSec,MemoryMax,TasksMax,ControlGroup";
    /// The properties to request of its socket.
    pub const SOCKET_PROPERTIES: &str = "LoadState,Backlog";

    /// Parses the answers; none when no such unit is loaded.
    pub fn parse(service: &str, socket: &str) -> Option<Unit> {
        let (service, socket) = (properties(service), properties(socket));
        if service.get("LoadState") != Some(&"loaded") {
            return None;
        }
        let limit = |name: &str| service.get(name).and_then(|text| text.parse().ok()); // otherwise it is infinity
        let is_activated = socket.get("LoadState") == Some(&"loaded");
        Some(Unit {
            name: (*service.get("Id")?).to_owned(),
            descriptors_max: limit("LimitNOFILE").unwrap_or(u64::MAX),
            stop_timeout: time_span(service.get("TimeoutStopUSec")?),
            is_notified: service.get("Type").is_some_and(|kind| kind.starts_with("notify")),
            memory_max_bytes: limit("MemoryMax"),
            threads_max: limit("TasksMax"),
            cgroup: service.get("ControlGroup").filter(|path| !path.is_empty()).map(|path| (*path).to_owned()),
            backlog: socket.get("Backlog").filter(|_| is_activated).and_then(|text| text.parse().ok()),
        })
    }
}

fn properties(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// A time span as systemd writes it: `1min 30s`; `infinity` is none.
fn time_span(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] = [
        ("us", 1e-6),
        ("ms", 1e-3),
        ("min", 60.0),
        ("s", 1.0),
        ("h", 3600.0),
        ("d", 86_400.0),
        ("w", 604_800.0),
        ("month", 2_629_800.0),
    ];
    let seconds = |word: &str| {
        let digits = word.find(|letter: char| letter.is_ascii_alphabetic())?;
        let (_, seconds) = UNITS.iter().find(|(unit, _)| *unit == &word[digits..])?;
        Some(word[..digits].parse::<f64>().ok()? * seconds)
    };
    let sum: Option<f64> = text.split_whitespace().map(seconds).sum();
    sum.filter(|_| !text.is_empty()).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_as_systemctl_shows_it() {
        let service = "Id=fanfare.service\nLoadState=loaded\nType=notify\nLimitNOFILE=1048576\nTimeoutStopUSec=1min 30s\n\
                       MemoryMax=infinity\nTasksMax=4915\nControlGroup=/system.slice/fanfare.service\n";
        let unit = Unit {
            name: "fanfare.service".to_owned(),
            descriptors_max: 1_048_576,
            stop_timeout: Some(Duration::from_secs(90)),
            is_notified: true,
            memory_max_bytes: None,
            threads_max: Some(4915),
            cgroup: Some("/system.slice/fanfare.service".to_owned()),
            backlog: Some(65_535),
        };
        assert_eq!(Unit::parse(service, "LoadState=loaded\nBacklog=65535\n").as_ref(), Some(&unit));
        let alone = Unit { backlog: None, ..unit };
        assert_eq!(Unit::parse(service, "LoadState=not-found\nBacklog=4096\n"), Some(alone));
        assert_eq!(Unit::parse("Id=fanfare.service\nLoadState=not-found\n", ""), None);
        assert_eq!(Unit::parse("", ""), None);
    }

    #[test]
    fn time_spans_are_systemds() {
        let check = |text: &str, seconds: Option<f64>| {
            assert_eq!(time_span(text), seconds.map(Duration::from_secs_f64), "{text}");
        };
        check("45s", Some(45.0));
        check("1min 30s", Some(90.0));
        check("2h 500ms", Some(7200.5));
        check("1.5s", Some(1.5));
        check("infinity", None);
        check("", None);
        check("5 potatoes", None);
    }
}
