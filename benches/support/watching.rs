//! What the kernel keeps to watch an idle connection: in epoll, and in a ring, by a poll that stays (multishot) or one for
//! each edge (one-shot).
#![allow(unsafe_code, reason = "an entry of io_uring is pushed")]

use std::any::Any;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, opcode, types};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use super::process;

/// Starts to watch all; dropping the result ends it.
type Watch = fn(&[UnixStream]) -> Box<dyn Any>;

const WAYS: [(&str, Watch); 3] =
    [("epoll", by_epoll), ("ring, multishot poll", by_multishot), ("ring, one-shot poll", by_one_shot)];

/// Bytes of the kernel for each of `count` watched sockets, by the way of watching them.
pub fn kernel_bytes(count: usize) -> [(&'static str, f64); 3] {
    let sockets: Vec<_> =
        (0..count.div_ceil(2)).flat_map(|_| <[_; 2]>::from(UnixStream::pair().expect("room"))).collect();
    WAYS.map(|(name, watch)| {
        let before = process::kernel().slab;
        let watched = watch(&sockets);
        let grown = process::kernel().slab as f64 - before as f64;
        drop(watched);
        (name, grown / sockets.len() as f64)
    })
}

fn by_epoll(sockets: &[UnixStream]) -> Box<dyn Any> {
    let poll = Poll::new().expect("epoll is there");
    for (index, socket) in sockets.iter().enumerate() {
        let registered = poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(index), Interest::READABLE);
        registered.expect("it can be watched");
    }
    Box::new(poll)
}

fn by_multishot(sockets: &[UnixStream]) -> Box<dyn Any> {
    by_ring(sockets, true)
}

fn by_one_shot(sockets: &[UnixStream]) -> Box<dyn Any> {
    by_ring(sockets, false)
}

fn by_ring(sockets: &[UnixStream], multi: bool) -> Box<dyn Any> {
    let mut ring = IoUring::new(256).expect("io_uring is allowed here");
    for (index, socket) in sockets.iter().enumerate() {
        let poll = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), libc::POLLIN as u32).multi(multi);
        // SAFETY: the entry refers to no memory of ours.
        unsafe { ring.submission().push(&poll.build().user_data(index as u64)) }.expect("the queue is emptied below");
        if ring.submission().is_full() {
            ring.submit().expect("the kernel takes polls");
        }
    }
    ring.submit().expect("the kernel takes polls");
    Box::new(ring)
}
