//! The faults of the network, and how often they happen.

use std::time::Duration;

/// The faults, and how often they happen: chances are per thousand.
#[derive(Clone, Debug)]
pub struct Faults {
    /// A send takes less than there was room for.
    pub short_send: u32,
    /// A send takes nothing although there was room.
    pub blocked_send: u32,
    /// A send finds that the peer has reset the connection.
    pub reset_on_send: u32,
    /// A read returns only a part.
    pub partial_read: u32,
    /// A read returns nothing although data is there.
    pub blocked_read: u32,
    /// A connection is gone before it is accepted.
    pub aborted_accept: u32,
    /// Accepting fails, and the connection keeps waiting.
    pub failed_accept: u32,
    /// A new connection can't be watched.
    pub failed_watch: u32,
    /// Readiness is reported for a socket that was closed in the meantime.
    pub late_event: u32,
    /// Readiness is reported again without need, as epoll does when more arrives.
    pub repeated_edge: u32,
    /// Readiness is only reported by the next wait, or a wait ends without a reason.
    pub tardy_wait: u32,
    /// The longest time that bytes are in transit.
    pub delay_max: Duration,
    /// How many bytes the kernel buffers for a peer that reads nothing: minimum, maximum.
    pub send_buffer_bytes: (usize, usize),
    /// When the kernel gives up on a peer that vanished.
    pub user_timeout: Duration,
}

impl Faults {
    /// A network without faults, and without delay.
    pub fn none() -> Faults {
        Faults {
            short_send: 0,
            blocked_send: 0,
            reset_on_send: 0,
            partial_read: 0,
            blocked_read: 0,
            aborted_accept: 0,
            failed_accept: 0,
            failed_watch: 0,
            late_event: 0,
            repeated_edge: 0,
            tardy_wait: 0,
            delay_max: Duration::ZERO,
            send_buffer_bytes: (16 << 10, 16 << 10),
            user_timeout: Duration::from_secs(60),
        }
    }
}
