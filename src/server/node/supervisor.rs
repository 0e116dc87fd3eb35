//! Reports to the supervisor of the process: that the server serves, that its loop still turns, that it leaves.

/// Receives the reports: systemd, or `()`, which ignores them.
pub trait Supervisor {
    /// Takes note. Called from the loop, so it must not block.
    fn notify(&mut self, event: Lifecycle);
}

/// The reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Connections are accepted from now on.
    Serving,
    /// The loop turns; sent once a second, and never while it hangs.
    Alive {
        /// Open streams.
        streams: usize,
        /// The server is leaving.
        is_leaving: bool,
    },
    /// A reload is over: the new settings are in force, or were refused.
    Reloaded,
    /// The server begins to leave.
    Leaving,
}

impl Supervisor for () {
    fn notify(&mut self, _: Lifecycle) {}
}
