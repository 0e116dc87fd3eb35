//! The IO contract over epoll, through mio: edge-triggered, one system call for each send.
//!
//! Each connection is registered for reading and writing once, when it arrives. Readiness is edge-triggered, so watching
//! for writability costs nothing until a socket is full, and no further call then.
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
use super::{Accept, Close, FRAMES_PER_SEND_MAX, Gone, Io, ListenerIndex, Peer, Read, Readiness, Sent, Socket, Token};
use crate::event::Frame;

/// The most events that one wait reports; the next wait reports the rest.
const EVENTS_PER_WAIT_MAX: usize = 1024;

/// Up to this size, a run of several small frames to many sockets is joined once and sent as one buffer: cheaper than a
/// vector that the kernel walks for each socket.
const JOINED_BYTES_MAX: usize = 64 << 10;
const JOINED_TARGETS_MIN: usize = 4;

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
    joined: Vec<u8>,
    vector: Vec<libc::iovec>,
}

// SAFETY: `vector` holds pointers only within a call of `send`; it is empty whenever the value could be moved.
unsafe impl Send for EpollIo {}

impl EpollIo {
    /// Watches `listeners`.
    pub fn new(listeners: Vec<Listener>) -> io::Result<EpollIo> {
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
            joined: Vec::new(),
            vector: Vec::new(),
        })
    }

    /// Makes [`Io::wait`] return, from any thread.
    pub fn wake(&self) -> impl Fn() + Send + Sync + 'static {
        let waker = Arc::clone(&self.waker);
        // The eventfd's counter can't overflow with one wake outstanding, and the closure keeps its descriptor open.
        move || waker.wake().expect("an eventfd that is open takes a wake")
    }

    fn send_joined(&self, bytes: &[u8], targets: impl Iterator<Item = Socket>, outcomes: &mut Vec<Sent>) {
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        outcomes.extend(targets.map(|socket| {
            // SAFETY: the pointer and length are those of a live slice, which the call only reads.
            sent(unsafe { libc::send(socket.0, bytes.as_ptr().cast(), bytes.len(), FLAGS) })
        }));
    }

    fn send_vector(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl Iterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        self.vector.extend(
            unsent(run, skip_bytes)
                .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }),
        );
        // SAFETY: msghdr is plain data for which zero means absent.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = self.vector.as_mut_ptr();
        // A size_t with glibc, an int with musl.
        message.msg_iovlen = self.vector.len() as _;
        outcomes.extend(targets.map(|socket| {
            // SAFETY: the message points to the vector, and that into `run`; both outlive the call, which reads them.
            sent(unsafe { libc::sendmsg(socket.0, &message, FLAGS) })
        }));
        self.vector.clear();
    }
}

impl Io for EpollIo {
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

    fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        debug_assert!(!run.is_empty() && run.len() <= FRAMES_PER_SEND_MAX);
        if let [frame] = run {
            return self.send_joined(&frame.bytes()[skip_bytes..], targets, outcomes);
        }
        let bytes: usize = run.iter().map(Frame::len).sum();
        if targets.len() < JOINED_TARGETS_MIN || bytes > JOINED_BYTES_MAX {
            return self.send_vector(run, skip_bytes, targets, outcomes);
        }
        let mut joined = std::mem::take(&mut self.joined);
        unsent(run, skip_bytes).for_each(|bytes| joined.extend_from_slice(bytes));
        self.send_joined(&joined, targets, outcomes);
        joined.clear();
        self.joined = joined;
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
        if listener.is_inherited() {
            // If a listener can't be removed from epoll, its readiness is reported without effect.
            let _ = self.poll.registry().deregister(&mut SourceFd(&listener.as_raw_fd()));
            self.left_open.push(listener);
        }
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

/// The bytes of a run starting at `skip_bytes`, frame by frame.
fn unsent(run: &[Frame], skip_bytes: usize) -> impl Iterator<Item = &[u8]> {
    let mut skip = skip_bytes;
    run.iter().filter_map(move |frame| {
        let skipped = skip.min(frame.len());
        skip -= skipped;
        (skipped < frame.len()).then(|| &frame.bytes()[skipped..])
    })
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

fn sent(result: isize) -> Sent {
    if result >= 0 {
        return Sent::Bytes(result as usize);
    }
    match errno() {
        libc::EAGAIN => Sent::WouldBlock,
        error => Sent::Gone(gone(error)),
    }
}

fn gone(error: i32) -> Gone {
    match error {
        libc::ECONNRESET | libc::EPIPE => Gone::Reset,
        libc::ETIMEDOUT => Gone::TimedOut,
        error => Gone::Error(error),
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
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
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::socket_options::{Patience, SocketOptions};

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
            patience: Patience::new(Duration::from_secs(120)),
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::open(&address, &options, false).unwrap();
        let descriptor = listener.as_raw_fd();
        let mut io = EpollIo::new(vec![listener]).unwrap();
        // SAFETY: no memory is involved. A listener that is shut down is none any more: accept says EINVAL.
        assert_eq!(unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) }, 0);
        assert_eq!(io.accept(ListenerIndex(0)), Accept::Failed(libc::EINVAL));
    }

    #[test]
    fn unsent_is_the_run_without_what_was_sent() {
        let run = ["ab", "c", "def"].map(|text| Frame::from(text.as_bytes()));
        for skip in 0..=6 {
            let rest: Vec<u8> = unsent(&run, skip).flatten().copied().collect();
            assert_eq!(rest, &b"abcdef"[skip..]);
            assert!(unsent(&run, skip).all(|bytes| !bytes.is_empty()));
        }
    }
}
