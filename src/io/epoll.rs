//! The IO contract over epoll, through mio: edge-triggered.
//!
//! Each connection is registered for reading and writing once, when it arrives. Readiness is edge-triggered, so watching
//! for writability costs nothing until a socket is full, and no further call then. With `--io io_uring` only the sends
//! differ ([`Sender`]); docs/decisions/0009-sends-go-through-the-ring.md says why readiness stays with epoll.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Waker};

use super::listener::Listener;
use super::send::{Sender, errno, gone, send_bytes};
use super::uring::Ring;
use super::{Accept, Close, Io, ListenerIndex, Peer, Read, Readiness, Sent, Socket, Token, Wire};
use crate::event::Frame;

/// The most events that one wait reports; the next wait reports the rest.
const EVENTS_PER_WAIT_MAX: usize = 1024;

/// Slots that are not connections, in the upper half of mio's token.
const WAKER: mio::Token = mio::Token(usize::MAX);
const LISTENERS: usize = usize::MAX - 1024;

/// The IO contract over epoll.
pub struct EpollIo {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    listeners: Vec<Option<Listener>>,
    /// Inherited listeners that no longer accept: they stay open, so that new connections wait in their backlog.
    left_open: Vec<Listener>,
    spare: Option<UnixDatagram>,
    started: Instant,
    sender: Sender,
}

impl EpollIo {
    /// Watches `listeners`; sends through `ring`, if there is one.
    pub fn new(listeners: Vec<Listener>, ring: Option<Ring>) -> io::Result<EpollIo> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        for (index, listener) in listeners.iter().enumerate() {
            let token = mio::Token(LISTENERS + index);
            match listener.is_exclusive() {
                true => watch_exclusively(&poll, listener, token)?,
                false => poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)?,
            }
        }
        Ok(EpollIo {
            poll,
            events: Events::with_capacity(EVENTS_PER_WAIT_MAX),
            waker,
            listeners: listeners.into_iter().map(Some).collect(),
            left_open: Vec::new(),
            spare: Some(open_spare()?),
            started: Instant::now(),
            sender: Sender::new(ring),
        })
    }

    /// Makes [`Io::wait`] return, from any thread.
    pub fn wake(&self) -> impl Fn() + Send + Sync + 'static {
        let waker = Arc::clone(&self.waker);
        // The eventfd's counter can't overflow with one wake outstanding, and the closure keeps its descriptor open.
        move || waker.wake().expect("an eventfd that is open takes a wake")
    }
}

impl Io for EpollIo {
    fn backend(&self) -> &'static str {
        self.sender.backend()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn unix_time(&self) -> SystemTime {
        SystemTime::now()
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            let mio::Token(value) = event.token();
            if event.token() == WAKER {
                continue; // the caller checks its channel after every wait
            }
            if value >= LISTENERS {
                ready.push(Readiness::Acceptable(ListenerIndex(value - LISTENERS)));
                continue;
            }
            let token = Token { slot: value as u32, generation: (value >> 32) as u32 };
            if event.is_writable() {
                ready.push(Readiness::Writable(token));
            }
            // A read finds the cause of errors and hang-ups.
            if event.is_readable() || event.is_error() || event.is_read_closed() {
                ready.push(Readiness::Readable(token));
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: ListenerIndex) -> Accept {
        let Some(Some(listener)) = self.listeners.get(listener.0) else { return Accept::WouldBlock };
        let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: storage and length are live and agree; the call writes within them.
        let accepted = unsafe { libc::accept4(listener.as_raw_fd(), storage.as_mut_ptr().cast(), &mut length, flags) };
        if accepted >= 0 {
            // SAFETY: zeroed storage is a valid sockaddr_storage, whatever the call wrote of it.
            return Accept::Connection(Socket(accepted), peer(&unsafe { storage.assume_init() }));
        }
        match errno() {
            libc::EAGAIN => Accept::WouldBlock,
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Accept::Exhausted,
            error => refused(error),
        }
    }

    fn release_reserved_fd(&mut self) -> bool {
        self.spare.take().is_some()
    }

    fn reserve_fd(&mut self) -> bool {
        if self.spare.is_none() {
            self.spare = open_spare().ok();
        }
        self.spare.is_some()
    }

    fn watch(&mut self, socket: Socket, token: Token) -> io::Result<()> {
        let value = token.slot as usize | (token.generation as usize) << 32;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&socket.0), mio::Token(value), interest)
    }

    fn read(&mut self, socket: Socket, buffer: &mut [u8]) -> Read {
        receive(socket, buffer)
    }

    fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        self.sender.send(run, skip_bytes, targets, outcomes);
    }

    fn end(&mut self, socket: Socket) {
        // SAFETY: no memory is involved. A connection that broke meanwhile makes it fail, which changes nothing.
        unsafe { libc::shutdown(socket.0, libc::SHUT_WR) };
    }

    fn close(&mut self, socket: Socket, how: Close) {
        if how == Close::Reset {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            let (option, length) = ((&raw const linger).cast(), size_of::<libc::linger>() as libc::socklen_t);
            // SAFETY: pointer and length are those of a live linger, which the call only reads.
            unsafe { libc::setsockopt(socket.0, libc::SOL_SOCKET, libc::SO_LINGER, option, length) };
        }
        // SAFETY: the descriptor came from accept, and the server closes each once. Closing ends the watching.
        unsafe { libc::close(socket.0) };
    }

    fn stop_listening(&mut self, listener: ListenerIndex) {
        let Some(listener) = self.listeners.get_mut(listener.0).and_then(Option::take) else { return };
        // Closing does not end the watching of a socket that another loop, or the process manager, has open. If it can't be
        // removed from epoll, its readiness is reported without effect.
        let _ = self.poll.registry().deregister(&mut SourceFd(&listener.as_raw_fd()));
        if listener.is_inherited() {
            self.left_open.push(listener);
        }
    }
}

impl Wire for EpollIo {
    fn write(&mut self, socket: Socket, bytes: &[u8]) -> Sent {
        send_bytes(bytes, socket)
    }
}

/// Reads what has arrived, without waiting.
pub(super) fn receive(socket: Socket, buffer: &mut [u8]) -> Read {
    loop {
        // SAFETY: the pointer and length are those of a live slice that is ours to write.
        let result = unsafe { libc::recv(socket.0, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        return match result {
            0 => Read::Ended,
            1.. => Read::Bytes(result as usize),
            _ => match errno() {
                libc::EINTR => continue,
                libc::EAGAIN => Read::WouldBlock,
                error => Read::Gone(gone(error)),
            },
        };
    }
}

/// Watches a listener that other loops watch, too: a connection wakes one of those that wait.
fn watch_exclusively(poll: &Poll, listener: &Listener, token: mio::Token) -> io::Result<()> {
    let events = (libc::EPOLLIN | libc::EPOLLET | libc::EPOLLEXCLUSIVE) as u32;
    let mut event = libc::epoll_event { events, u64: token.0 as u64 };
    // SAFETY: the event is live, and the call only reads it; both descriptors are open.
    let outcome = unsafe { libc::epoll_ctl(poll.as_raw_fd(), libc::EPOLL_CTL_ADD, listener.as_raw_fd(), &mut event) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The meaning of an error of accept(2) other than no waiting connection and no descriptors.
fn refused(error: i32) -> Accept {
    match error {
        // The connection is gone, or had this network error pending; accept(2) recommends continuing with the next.
        libc::ECONNABORTED
        | libc::EINTR
        | libc::EPROTO
        | libc::ENOPROTOOPT
        | libc::ENETDOWN
        | libc::ENETUNREACH
        | libc::EHOSTDOWN
        | libc::EHOSTUNREACH
        | libc::ENONET
        | libc::EOPNOTSUPP
        | libc::ETIMEDOUT
        | libc::ECONNRESET => Accept::Aborted,
        // EPERM, EINVAL, EBADF: an error of the listener itself would occur again at once.
        error => Accept::Failed(error),
    }
}

/// A descriptor that needs no file: a container's root may have none.
fn open_spare() -> io::Result<UnixDatagram> {
    UnixDatagram::unbound()
}

fn peer(storage: &libc::sockaddr_storage) -> Peer {
    let address = &raw const *storage;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure it is, and the storage is large enough and aligned for all.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Peer::Inet(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Peer::Inet(SocketAddr::from((Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port))))
        }
        _ => Peer::Unix,
    }
}

/// A raw descriptor's number, for reports.
impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::socket_options::SocketOptions;

    #[test]
    fn an_error_of_the_listener_is_not_taken_for_one_of_the_connection() {
        for error in [libc::EPERM, libc::EINVAL, libc::EBADF, libc::EFAULT] {
            assert_eq!(refused(error), Accept::Failed(error));
        }
        for error in [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN, libc::EHOSTUNREACH, libc::EINTR] {
            assert_eq!(refused(error), Accept::Aborted);
        }
    }

    #[test]
    fn a_listener_that_can_not_accept_reports_the_error() {
        let options = SocketOptions {
            backlog: 8,
            send_buffer_bytes: None,
            unsent_bytes_max: 16 << 10,
            user_timeout: Duration::from_secs(120),
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::open(&address, &options, false).unwrap();
        let descriptor = listener.as_raw_fd();
        let mut io = EpollIo::new(vec![listener], None).unwrap();
        // SAFETY: no memory is involved. A listener that is shut down is none any more: accept says EINVAL.
        assert_eq!(unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) }, 0);
        assert_eq!(io.accept(ListenerIndex(0)), Accept::Failed(libc::EINVAL));
    }
}
