//! A ring of io_uring for sends: the same bytes to many sockets, with one system call for each batch.
//!
//! Each entry says MSG_DONTWAIT, so the kernel completes it while it is submitted: when [`Ring::send`] returns, the
//! kernel refers to no memory of ours. A send that took all bytes leaves no completion; one that took fewer, or failed,
//! leaves one with its place in the batch.
//!
//! Invariants:
//! - [`Ring::open`] has seen the kernel do all of this: other kernels, and filters that forbid a part of it, get no ring.
//! - The completion queue has room for a whole batch and is emptied after each, so it never overflows.
//! - A ring that returned an error is dropped, and with it the entries that the kernel did not take.
//!
//! Not here: readiness, accepting, reading and closing, which epoll and system calls do for all backends.
#![allow(unsafe_code)]

use std::io::{self, Read as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, opcode, squeue, types};
use socket2::SockRef;

use super::send::{BATCH_BYTES_MAX, BATCH_MAX, not_sent};
use super::{Gone, Sent, Socket};

/// A ring of this process; any thread may use it, one at a time.
pub struct Ring(IoUring);

impl Ring {
    /// Sets a ring up and tries what [`Ring::send`] relies on. The error says why there is none.
    pub fn open() -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        // Linux 5.18. Without it, an entry that the kernel rejects keeps those behind it from being submitted.
        builder.setup_submit_all();
        let ring = builder.build(BATCH_MAX as u32).map_err(|error| refused(&error))?;
        let mut ring = Ring(ring);
        if !ring.0.params().is_feature_skip_cqe_on_success() || (ring.0.params().cq_entries() as usize) < BATCH_MAX {
            return Err(unfit("its completions"));
        }
        ring.try_sends()?;
        Ok(ring)
    }

    /// Sends the bytes to each of at most [`BATCH_MAX`] sockets and appends an outcome for each, in order.
    ///
    /// After an error, there are outcomes only for the sends that the kernel took. It made none of the others, and the
    /// ring must be dropped.
    pub(super) fn send(&mut self, bytes: &[u8], targets: &[Socket], outcomes: &mut Vec<Sent>) -> io::Result<()> {
        // MSG_WAITALL makes a send that took fewer bytes a failure to io_uring, with that number as its result.
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        debug_assert!(bytes.len() <= BATCH_BYTES_MAX && targets.len() <= BATCH_MAX);
        let mut entries = self.0.submission();
        for (place, socket) in targets.iter().enumerate() {
            let send = opcode::Send::new(types::Fd(socket.0), bytes.as_ptr(), bytes.len() as u32).flags(FLAGS);
            let entry = send.build().flags(squeue::Flags::SKIP_SUCCESS).user_data(place as u64);
            // SAFETY: `bytes` outlives the submission below, during which the send completes. If the kernel does not
            // take the entry, it is dropped with the ring.
            unsafe { entries.push(&entry) }.expect("the queue is empty, and a batch fits");
        }
        drop(entries);
        let (taken, result) = self.submit(targets.len());
        let first = outcomes.len();
        outcomes.resize(first + taken, Sent::Bytes(bytes.len()));
        for completion in self.0.completion() {
            let result = completion.result();
            outcomes[first + completion.user_data() as usize] =
                if result >= 0 { Sent::Bytes(result as usize) } else { not_sent(-result) };
        }
        result
    }

    /// Submits the queue's entries; how many of them the kernel took, and the error if it was not all.
    fn submit(&mut self, count: usize) -> (usize, io::Result<()>) {
        let mut taken = 0;
        while taken < count {
            match self.0.submit() {
                Ok(0) => return (taken, Err(io::Error::other("the kernel takes no more sends"))),
                Ok(more) => taken += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (taken, Err(error)),
            }
        }
        (taken, Ok(()))
    }

    /// Sends on sockets of its own: two at once, more than fits, to a full socket, and to one whose peer is gone.
    fn try_sends(&mut self) -> io::Result<()> {
        const FITS: &[u8] = b"probe";
        const TOO_LONG: &[u8] = &[0; 1 << 20];
        let (one, mut its_peer) = UnixStream::pair()?;
        let (other, other_peer) = UnixStream::pair()?;
        its_peer.set_nonblocking(true)?;
        SockRef::from(&one).set_send_buffer_size(4096)?;
        let [one, other] = [one.as_raw_fd(), other.as_raw_fd()].map(Socket);
        let outcomes = self.outcomes(FITS, &[one, other])?;
        if outcomes != [Sent::Bytes(FITS.len()); 2] || received(&mut its_peer) != FITS.len() {
            return Err(unfit("whole sends"));
        }
        let outcomes = self.outcomes(TOO_LONG, &[one, one])?;
        let has_received = received(&mut its_peer);
        if outcomes != [Sent::Bytes(has_received), Sent::WouldBlock] || has_received == TOO_LONG.len() {
            return Err(unfit("short sends"));
        }
        drop(other_peer);
        if self.outcomes(FITS, &[other, one])? != [Sent::Gone(Gone::Reset), Sent::Bytes(FITS.len())] {
            return Err(unfit("failed sends"));
        }
        Ok(())
    }

    /// Replaces its descriptor, so that the kernel takes nothing more.
    #[cfg(test)]
    pub(super) fn spoil(&self) {
        let other = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: no memory is involved. Both descriptors are open; the ring keeps its number, and closes it.
        assert!(unsafe { libc::dup2(other.as_raw_fd(), self.0.as_raw_fd()) } >= 0);
    }

    fn outcomes(&mut self, bytes: &[u8], targets: &[Socket]) -> io::Result<Vec<Sent>> {
        let mut outcomes = Vec::new();
        self.send(bytes, targets, &mut outcomes).map_err(|error| refused(&error))?;
        Ok(outcomes)
    }
}

/// How many bytes can be read now.
fn received(peer: &mut UnixStream) -> usize {
    let (mut count, mut buffer) = (0, [0; 4096]);
    while let Ok(more @ 1..) = peer.read(&mut buffer) {
        count += more;
    }
    count
}

fn refused(error: &io::Error) -> io::Error {
    let cause = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "forbidden by kernel.io_uring_disabled or a seccomp filter",
        Some(libc::ENOSYS) => "this kernel or a seccomp filter has no io_uring",
        Some(libc::EINVAL) => "this kernel is older than 5.18",
        Some(libc::ENOMEM) => "no memory, or the limit on locked memory (RLIMIT_MEMLOCK)",
        _ => "the kernel refuses",
    };
    io::Error::new(error.kind(), format!("{cause}: {error}"))
}

fn unfit(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("this kernel does not report {what} as needed (Linux 5.19)"))
}
