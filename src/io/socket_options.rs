//! The options that every accepted connection inherits from its listener, without a call per connection.
//!
//! Two bounds limit the memory that the kernel holds for a subscriber, without slowing down one that reads:
//! - **Unsent bytes** (TCP_NOTSENT_LOWAT): data for which the peer's window has no room. A reader that stalls closes
//!   its window, so this bounds the memory that it pins. The kernel takes no more than this and one packet (64 KiB on a
//!   fast path).
//! - **Bytes in flight** (SO_SNDBUF): data that is sent and not acknowledged yet. The kernel tunes the size for each
//!   connection, up to the third number of `net.ipv4.tcp_wmem`: a large event on a long path needs the room. With a
//!   fixed size, such an event takes one round trip for each buffer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive};

/// A listener's options.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Connections that may wait to be accepted (capped by `net.core.somaxconn`).
    pub backlog: u32,
    /// SO_SNDBUF, which the kernel doubles. None: the kernel tunes it for each TCP connection.
    pub send_buffer_bytes: Option<usize>,
    /// TCP_NOTSENT_LOWAT.
    pub unsent_bytes_max: usize,
    /// When TCP gives up a silent peer.
    pub patience: Patience,
}

/// How long TCP waits for a peer: to acknowledge data, and to answer probes of an idle connection.
///
/// Invariant: the kernel gives an idle connection up only when at least two probes in a row have got no answer. With
/// TCP_USER_TIMEOUT set, the kernel ignores the usual count of probes (`net.ipv4.tcp_keepalive_probes`): it gives up
/// at the first unanswered probe that finds the peer silent for the user timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// TCP_USER_TIMEOUT: how long sent data, or probes, may stay unacknowledged.
    pub user_timeout: Duration,
    /// TCP_KEEPIDLE: how long a connection may be silent before the kernel probes it.
    pub probe_after: Duration,
    /// TCP_KEEPINTVL: how long until the next probe.
    pub probe_interval: Duration,
}

impl Patience {
    /// The shortest user timeout that outlasts a lost probe: the kernel counts probes in whole seconds.
    pub const USER_TIMEOUT_MIN: Duration = Duration::from_secs(4);

    /// Four probes, the first after three quarters of the user timeout; after half of one that is too short for that. A server
    /// whose heartbeats are late because its host is overloaded would only be slower with the kernel's probes on top.
    pub fn new(user_timeout: Duration) -> Patience {
        const SECOND: Duration = Duration::from_secs(1);
        let whole_seconds = |time: Duration| Duration::from_secs(time.as_secs()).max(SECOND);
        // In sixteenths.
        let (first, each) = if user_timeout >= 16 * SECOND { (12, 1) } else { (8, 2) };
        Patience {
            user_timeout,
            probe_after: whole_seconds(user_timeout / 16 * first),
            probe_interval: whole_seconds(user_timeout / 16 * each),
        }
    }
}

impl SocketOptions {
    /// Sets the options on a listener; later connections inherit them.
    pub(super) fn set_on(&self, socket: &Socket, domain: Domain) -> io::Result<()> {
        if domain == Domain::UNIX {
            return socket.set_send_buffer_size(self.send_buffer_bytes.unwrap_or(UNIX_SEND_BUFFER_BYTES));
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(self.patience.user_timeout))?;
        let Patience { probe_after, probe_interval, .. } = self.patience;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe_after).with_interval(probe_interval))?;
        socket.set_tcp_notsent_lowat(u32::try_from(self.unsent_bytes_max).unwrap_or(u32::MAX))?;
        match self.send_buffer_bytes {
            Some(bytes) => socket.set_send_buffer_size(bytes),
            None => {
                tune_send_buffer(socket.as_raw_fd());
                Ok(())
            }
        }
    }
}

/// A unix socket needs no room for round trips, and has no tuning: the kernel holds written data until the peer reads
/// it.
const UNIX_SEND_BUFFER_BYTES: usize = 16 << 10;

/// Lets the kernel tune the send buffer again after a fixed size was set: a unit's `SendBuffer=` on a socket that was
/// passed to this process. Before Linux 5.14 the kernel does not have this option, and the size stays fixed.
fn tune_send_buffer(descriptor: RawFd) {
    /// From asm-generic/socket.h; libc does not define it.
    const SO_BUF_LOCK: libc::c_int = 72;
    let unlocked: libc::c_int = 0;
    let length = size_of_val(&unlocked) as libc::socklen_t;
    // SAFETY: the pointer and length are those of a live integer, which the call only reads.
    unsafe { libc::setsockopt(descriptor, libc::SOL_SOCKET, SO_BUF_LOCK, (&raw const unlocked).cast(), length) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_closes_no_connection_for_one_lost_probe() {
        for seconds in (4..300).chain([600, 1200, 7200, 86_400]) {
            let Patience { user_timeout, probe_after, probe_interval } = Patience::new(Duration::from_secs(seconds));
            let unanswered = |probes: u32| probe_after + probe_interval * probes;
            assert!(unanswered(1) < user_timeout, "{seconds}: the first unanswered probe is the last");
            assert!(seconds < 8 || unanswered(3) < user_timeout, "{seconds}");
            assert!(unanswered(8) >= user_timeout, "{seconds}: the probes continue without effect");
            assert!(probe_after.subsec_nanos() == 0 && probe_interval.subsec_nanos() == 0, "{seconds}");
        }
        let usual = Patience::new(Duration::from_secs(120));
        assert_eq!((usual.probe_after.as_secs(), usual.probe_interval.as_secs()), (90, 7));
    }
}
