//! Very many outgoing connections, all watched by one epoll.
//!
//! A [`Line`] is one connection and as small as its descriptor. Readiness is edge-triggered: after a line is reported
//! readable, the caller reads until [`io::ErrorKind::WouldBlock`] or remembers that it did not. The caller's token
//! comes back with each readiness; an attempt number in the token identifies late ones for a replaced line.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use socket2::{SockAddr, SockFilter, Socket, Type};

/// Opens connections and waits for events on any of them.
pub struct Dialer {
    poll: Poll,
    events: Events,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remote {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket. Connecting completes at once or fails, with [`io::ErrorKind::WouldBlock`] while the server's
    /// backlog is full.
    Unix(PathBuf),
}

/// Where to connect, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Dial<'a> {
    /// The server.
    pub remote: &'a Remote,
    /// The local address to connect from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// The kernel's receive buffer, in bytes; `None` leaves the size to the kernel.
    pub receive_buffer_bytes: Option<usize>,
}

/// An event on one line.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The token given to [`Dialer::dial`].
    pub token: usize,
    /// There is something to read, including an end or an error.
    pub readable: bool,
    /// The line is connected, or there is room to write again.
    pub writable: bool,
    /// The other end has closed, or the connection has failed.
    pub closed: bool,
}

impl Dialer {
    /// A dialer that reports at most `events_max` lines at a time.
    pub fn new(events_max: usize) -> io::Result<Dialer> {
        Ok(Dialer { poll: Poll::new()?, events: Events::with_capacity(events_max) })
    }

    /// Starts to connect. The line becomes writable once it is connected or has failed; check [`Line::take_error`].
    pub fn dial(&self, token: usize, dial: &Dial<'_>) -> io::Result<Line> {
        let remote = match dial.remote {
            Remote::Tcp(address) => SockAddr::from(*address),
            Remote::Unix(path) => SockAddr::unix(path)?,
        };
        let socket = Socket::new(remote.domain(), Type::STREAM.nonblocking(), None)?;
        if let Some(bytes) = dial.receive_buffer_bytes {
            // Must precede connecting: the window that the handshake announces depends on it.
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = dial.source {
            choose_port_at_connect(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&remote) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(token), interests)?;
        Ok(Line(socket))
    }

    /// Waits for an event on a line, at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    /// The events of the last wait.
    pub fn ready(&self) -> impl Iterator<Item = Readiness> + '_ {
        self.events.iter().map(|event| Readiness {
            token: event.token().0,
            readable: event.is_readable() || event.is_read_closed() || event.is_error(),
            writable: event.is_writable() || event.is_error(),
            closed: event.is_read_closed() || event.is_error(),
        })
    }
}

/// One outgoing connection; dropping it closes it.
#[derive(Debug)]
pub struct Line(Socket);

const _: () = assert!(size_of::<Line>() <= 8);

impl Line {
    /// Reads what is there; 0 is the end.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(into)
    }

    /// Writes what fits.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    /// The error with which connecting ended, if any.
    pub fn take_error(&self) -> io::Result<()> {
        match self.0.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Makes the connection a black hole: from now on the kernel drops every segment that arrives for it, so that the
    /// other end sees neither an answer nor an end, as when a cable is unplugged. Needs no privilege.
    pub fn go_silent(&self) -> io::Result<()> {
        // `ret #0`: keep no byte of any packet. A TCP socket's filter runs before the segment is acknowledged.
        let drop_all = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
        self.0.attach_filter(&[drop_all])
    }

    /// Makes closing abort the connection, so that no port stays in TIME_WAIT for a minute.
    pub fn abort_on_close(&self) -> io::Result<()> {
        self.0.set_linger(Some(Duration::ZERO))
    }
}

/// Lets `bind` take an address without a port, and lets `connect` choose the port for the whole 4-tuple. Otherwise all
/// destinations share the ports of one source address.
#[allow(unsafe_code)]
fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the kernel reads one `c_int` that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
