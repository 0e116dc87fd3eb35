//! `fanfare tune` as typed.

use std::path::PathBuf;

use clap::Args;

use crate::config::{COUNT_MAX, count_within};

const TUNE_HELP: &str = "\
Raises the kernel settings that fanfare doctor checks. Writes /etc/sysctl.d/60-fanfare.conf and, where the kernel has the \
firewall's connection tracking, /etc/modules-load.d/fanfare.conf; applies these two files alone, and keeps every value that is \
higher already. Limits of units, memory and network interfaces stay as they are: see fanfare doctor.

Examples:
  fanfare tune --dry-run                       each key, its value, and what it would become
  sudo fanfare tune --connections 250000
  sudo fanfare tune --remove

Exit codes: 0 done, 1 a file could not be written or a key could not be set, 2 wrong usage, or a host that can't be read.";

/// `fanfare tune`.
#[derive(Args, Clone, Debug)]
#[command(after_help = TUNE_HELP)]
pub struct TuneArgs {
    /// The subscribers that the host is to hold. Unset: max-connections of /etc/fanfare/fanfare.toml, or else 100000
    #[arg(long, value_name = "N", value_parser = count_within(1, COUNT_MAX), conflicts_with = "remove")]
    pub connections: Option<u32>,

    /// Print what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Remove the two files; the values in force stay until the next boot
    #[arg(long)]
    pub remove: bool,

    /// Tune the host, container or copy whose root is this folder; no module is loaded there
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}
