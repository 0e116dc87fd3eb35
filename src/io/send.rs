//! Sends of one run of frames to many sockets: a system call for each socket, or through a ring.
//!
//! A ring that fails is given up, and the system calls take over with the first send that was not made. So a failure of
//! io_uring loses no send and makes none twice.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

use super::uring::Ring;
use super::{FRAMES_PER_SEND_MAX, Gone, Sent, Socket};
use crate::event::Frame;

/// Up to this size, a run of several small frames to many sockets is joined once and sent as one buffer: cheaper than a
/// vector that the kernel walks for each socket.
const JOINED_BYTES_MAX: usize = 64 << 10;
const JOINED_TARGETS_MIN: usize = 4;

/// The most sends in one batch of a ring: as many as a slice of a walk has visits.
pub(super) const BATCH_MAX: usize = 256;
/// A batch of one saves no system call.
const BATCH_TARGETS_MIN: usize = 2;
/// The most bytes in a send of a batch. The kernel cuts longer ones (at 2 GiB) without a completion that says so.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 30;

const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Sends, with the buffers that it reuses.
pub(super) struct Sender {
    ring: Option<Ring>,
    batch: Vec<Socket>,
    joined: Vec<u8>,
    vector: Vec<libc::iovec>,
}

// SAFETY: `vector` holds pointers only within a call of `send`; it is empty whenever the value could be moved.
unsafe impl Send for Sender {}

impl Sender {
    pub(super) fn new(ring: Option<Ring>) -> Sender {
        Sender { ring, batch: Vec::new(), joined: Vec::new(), vector: Vec::new() }
    }

    pub(super) fn backend(&self) -> &'static str {
        if self.ring.is_some() { "io_uring" } else { "epoll" }
    }

    /// As [`super::Io::send`].
    pub(super) fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        debug_assert!(!run.is_empty() && run.len() <= FRAMES_PER_SEND_MAX);
        if let [frame] = run {
            return self.send_bytes(&frame.bytes()[skip_bytes..], targets, outcomes);
        }
        let bytes: usize = run.iter().map(Frame::len).sum();
        if targets.len() < JOINED_TARGETS_MIN || bytes > JOINED_BYTES_MAX {
            return self.send_vector(run, skip_bytes, targets, outcomes);
        }
        let mut joined = std::mem::take(&mut self.joined);
        unsent(run, skip_bytes).for_each(|bytes| joined.extend_from_slice(bytes));
        self.send_bytes(&joined, targets, outcomes);
        joined.clear();
        self.joined = joined;
    }

    fn send_bytes(&mut self, bytes: &[u8], targets: impl ExactSizeIterator<Item = Socket>, outcomes: &mut Vec<Sent>) {
        if self.ring.is_some() && targets.len() >= BATCH_TARGETS_MIN && bytes.len() <= BATCH_BYTES_MAX {
            self.send_batches(bytes, targets, outcomes);
        } else {
            send_each(bytes, targets, outcomes);
        }
    }

    fn send_batches(&mut self, bytes: &[u8], mut targets: impl Iterator<Item = Socket>, outcomes: &mut Vec<Sent>) {
        while let Some(ring) = &mut self.ring {
            self.batch.clear();
            self.batch.extend(targets.by_ref().take(BATCH_MAX));
            if self.batch.is_empty() {
                return;
            }
            let made_before = outcomes.len();
            if let Err(error) = ring.send(bytes, &self.batch, outcomes) {
                tracing::warn!(%error, "io_uring failed: from now on each send is a system call");
                self.ring = None;
                let made = outcomes.len() - made_before;
                send_each(bytes, self.batch[made..].iter().copied(), outcomes);
            }
        }
        send_each(bytes, targets, outcomes);
    }

    fn send_vector(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl Iterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
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
            sent_by_call(unsafe { libc::sendmsg(socket.0, &message, FLAGS) })
        }));
        self.vector.clear();
    }
}

/// Sends the same bytes to each socket, with one system call each.
fn send_each(bytes: &[u8], targets: impl Iterator<Item = Socket>, outcomes: &mut Vec<Sent>) {
    outcomes.extend(targets.map(|socket| send_bytes(bytes, socket)));
}

#[inline]
pub(super) fn send_bytes(bytes: &[u8], socket: Socket) -> Sent {
    // SAFETY: the pointer and length are those of a live slice, which the call only reads.
    sent_by_call(unsafe { libc::send(socket.0, bytes.as_ptr().cast(), bytes.len(), FLAGS) })
}

/// The bytes of a run starting at `skip_bytes`, frame by frame.
pub(super) fn unsent(run: &[Frame], skip_bytes: usize) -> impl Iterator<Item = &[u8]> {
    let mut skip = skip_bytes;
    run.iter().filter_map(move |frame| {
        let skipped = skip.min(frame.len());
        skip -= skipped;
        (skipped < frame.len()).then(|| &frame.bytes()[skipped..])
    })
}

fn sent_by_call(result: isize) -> Sent {
    if result >= 0 { Sent::Bytes(result as usize) } else { not_sent(errno()) }
}

/// The outcome of a send that failed with this error.
pub(super) fn not_sent(error: i32) -> Sent {
    match error {
        libc::EAGAIN => Sent::WouldBlock,
        error => Sent::Gone(gone(error)),
    }
}

pub(super) fn gone(error: i32) -> Gone {
    match error {
        libc::ECONNRESET | libc::EPIPE => Gone::Reset,
        libc::ETIMEDOUT => Gone::TimedOut,
        error => Gone::Error(error),
    }
}

pub(super) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsent_is_the_run_without_what_was_sent() {
        let run = ["ab", "c", "def"].map(|text| Frame::from(text.as_bytes()));
        for skip in 0..=6 {
            let rest: Vec<u8> = unsent(&run, skip).flatten().copied().collect();
            assert_eq!(rest, &b"abcdef"[skip..]);
            assert!(unsent(&run, skip).all(|bytes| !bytes.is_empty()));
        }
    }

    #[cfg(feature = "io-uring")]
    #[test]
    fn sends_that_a_failed_ring_did_not_make_are_made_once_by_system_calls() {
        use std::io::Read as _;
        use std::os::fd::AsRawFd as _;
        use std::os::unix::net::UnixStream;

        let Ok(ring) = Ring::open() else { return eprintln!("io_uring is left out") };
        ring.spoil();
        let mut sender = Sender::new(Some(ring));
        let (near, far): (Vec<_>, Vec<_>) = (0..BATCH_MAX + 2).map(|_| UnixStream::pair().unwrap()).unzip();
        let targets: Vec<_> = near.iter().map(|near| Socket(near.as_raw_fd())).collect();
        let mut outcomes = Vec::new();
        sender.send(&[Frame::from(b"once".as_slice())], 0, targets.into_iter(), &mut outcomes);
        assert_eq!(outcomes, vec![Sent::Bytes(4); BATCH_MAX + 2]);
        assert_eq!(sender.backend(), "epoll");
        drop((near, sender));
        for mut far in far {
            let mut received = String::new();
            far.read_to_string(&mut received).unwrap();
            assert_eq!(received, "once");
        }
    }
}
