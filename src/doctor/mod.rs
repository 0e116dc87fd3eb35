//! `fanfare doctor`: can this host carry this many connections, and if not, which commands fix it?
//!
//! ```text
//!  /proc, /sys, systemctl, tc ──▶ Host (a snapshot) ──▶ rules ──▶ Report ──▶ a table, JSON, or the server's log
//!                                                  profile ──┘└──▶ the sysctl profile of this host
//!                                            sysctl_files ────┴──▶ Tuning: what fanfare tune changes
//! ```
//!
//! `host`, `unit`, `queue` and `sysctl_files` read the host; the rules are pure. `profile` sets the values that `rules` checks
//! and that `sysctl/` ships; `tuning` says which of them a host needs. Changes nothing on the host.

pub mod certificate;
pub mod host;
pub mod profile;
pub mod queue;
pub mod rules;
pub mod shortage;
pub mod sysctl_files;
pub mod table;
pub mod tuning;
pub mod unit;

use std::time::Duration;

use serde::Serialize;

use host::Host;
use shortage::Shortage;

/// What a server needs from its host.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Subscribers at one time.
    pub connections: u64,
    /// Open files for that many: the connections, and what the server itself needs.
    pub descriptors: u64,
    /// Listeners that only this host can reach over TCP; 0 if there are others, or if they are unknown.
    pub loopback_listeners: u64,
    /// The backlog that the server asks for, when it is known.
    pub backlog: Option<u64>,
    /// How long the server takes to leave.
    pub drain: Duration,
}

/// What a host is short of.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The connections asked about.
    pub connections: u64,
    /// Nothing is short.
    pub is_enough: bool,
    /// What is short, the most pressing first.
    pub shortages: Vec<Shortage>,
    /// Whether `--io io_uring` can be used here; none: the host was read from files alone.
    pub io_uring: Option<String>,
    /// What could not be read, so that no rule looked at it.
    pub unread: Vec<String>,
}

impl Report {
    /// Compares a host with a demand.
    pub fn new(host: &Host, demand: &Demand) -> Report {
        let shortages = rules::shortages(host, demand);
        Report {
            connections: demand.connections,
            is_enough: shortages.is_empty(),
            shortages,
            io_uring: host.io_uring.as_ref().map(|usable| match usable {
                Ok(()) => "can be used".to_owned(),
                Err(why) => format!("can't be used, {why}"),
            }),
            unread: host.unread.clone(),
        }
    }
}
