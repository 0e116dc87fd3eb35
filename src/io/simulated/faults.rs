//! What may go wrong on the network, and how often.

use std::time::Duration;

/// What goes wrong, and how often: chances are in a thousand.
#[derive(Clone, Debug)]
pub struct Faults {
    /// A send takes less than there was room for.
    pub short_send: u32,
    /// A send takes nothing although there was room.
    pub blocked_send: u32,
    /// A send finds that the peer has reset.
    pub reset_on_send: u32,
    /// A read brings only a part.
    pub partial_read: u32,
    /// A read brings nothing although there is something.
    pub blocked_read: u32,
    /// A connection is gone before it is accepted.
    pub aborted_accept: u32,
    /// Accepting fails, and the connection goes on waiting.
    pub failed_accept: u32,
    /// A new connection can't be watched.
    pub failed_watch: u32,
    /// Readiness is reported for a socket that was closed meanwhile.
    pub late_event: u32,
    /// Readiness is reported again without need, as epoll does when more arrives.
    pub repeated_edge: u32,
    /// What is ready is only reported by the next wait; or a wait ends for nothing.
    pub tardy_wait: u32,
    /// How long bytes travel at most.
    pub delay_max: Duration,
    /// What the kernel takes for a peer that reads nothing: at least, at most.
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
