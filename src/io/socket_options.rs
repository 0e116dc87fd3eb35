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

use socket2::{Domain, Socket};

/// A listener's options.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Connections that may wait to be accepted (capped by `net.core.somaxconn`).
    pub backlog: u32,
    /// SO_SNDBUF, which the kernel doubles. None: the kernel tunes it for each TCP connection.
    pub send_buffer_bytes: Option<usize>,
    /// TCP_NOTSENT_LOWAT.
    pub unsent_bytes_max: usize,
    /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before the kernel gives the peer up.
    pub user_timeout: Duration,
}

/// The shortest user timeout: TCP sends a lost packet four times within it.
pub const USER_TIMEOUT_MIN: Duration = Duration::from_secs(4);

impl SocketOptions {
    /// Sets the options on a listener; later connections inherit them.
    pub(super) fn set_on(&self, socket: &Socket, domain: Domain) -> io::Result<()> {
        if domain == Domain::UNIX {
            return socket.set_send_buffer_size(self.send_buffer_bytes.unwrap_or(UNIX_SEND_BUFFER_BYTES));
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        // The kernel need not probe: heartbeats do, and what is no stream has a deadline of the server's. When a host is overloaded
        // and heartbeats are late, probes of all connections would only come on top. A socket that was passed may have them on.
        socket.set_keepalive(false)?;
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
