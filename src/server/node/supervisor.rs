//! What whoever supervises the process is told: that it serves, that its loop still turns, that it leaves.

/// The one who is told; systemd, or nobody.
pub trait Supervisor {
    /// Takes note. Called from the loop, so it must not block.
    fn notify(&mut self, event: Lifecycle);
}

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Connections are accepted from now on.
    Serving,
    /// The loop turns; once a second, and never while it hangs.
    Alive {
        /// Open streams.
        streams: usize,
        /// The server is on its way out.
        is_leaving: bool,
    },
    /// A reload is over: new settings are in force, or were refused.
    Reloaded,
    /// The server begins to leave.
    Leaving,
}

impl Supervisor for () {
    fn notify(&mut self, _: Lifecycle) {}
}
