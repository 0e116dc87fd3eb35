//! The floor's work by way of io_uring: batches of send entries driven directly, and tokio-uring's writes.
//!
//! Both spare the process a system call for each send. What is left, the kernel's walk down and up the network stack,
//! is nearly all of the cost.
#![allow(unsafe_code, reason = "an entry of io_uring holds a pointer to what it sends")]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use io_uring::{IoUring, opcode, squeue, types};

/// Sends that go to the kernel at once.
const BATCH: usize = 256;

/// False where a sandbox or `kernel.io_uring_disabled` forbids it.
pub fn is_allowed() -> bool {
    Ring::new().is_ok()
}

/// A ring that sends in batches.
pub struct Ring(IoUring);

impl Ring {
    /// Sets one up, for this thread alone.
    pub fn new() -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        Ok(Ring(builder.build(BATCH as u32)?))
    }

    /// Sends `frame` to all. Each send is made while its batch is submitted, so no entry outlives the call.
    pub fn send_to_all(&mut self, streams: &[TcpStream], frame: &[u8]) {
        // Without MSG_WAITALL a short send would count as a success, and successes leave no trace.
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        for batch in streams.chunks(BATCH) {
            for stream in batch {
                let target = types::Fd(stream.as_raw_fd());
                let send = opcode::Send::new(target, frame.as_ptr(), frame.len() as u32).flags(FLAGS);
                let entry = send.build().flags(squeue::Flags::SKIP_SUCCESS);
                // SAFETY: `frame` outlives the submission below, during which MSG_DONTWAIT makes the send complete.
                unsafe { self.0.submission().push(&entry) }.expect("a batch fits the ring");
            }
            self.0.submit().expect("the kernel takes the batch");
            assert!(self.0.completion().is_empty(), "a send was short or failed");
        }
    }
}

/// Runs `drive` with a broadcast by tokio-uring: a batch of writes in flight, then another.
pub fn with_tokio(streams: Vec<TcpStream>, frame: Vec<u8>, drive: impl FnOnce(Box<dyn FnMut()>)) {
    let frame = Bytes::from(frame);
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(BATCH as u32)).expect("io_uring is allowed");
    // Sockets can be made, and dropped, only inside the runtime.
    let sockets = runtime.block_on(async { streams.into_iter().map(tokio_uring::net::TcpStream::from_std).collect() });
    let sockets: std::rc::Rc<Vec<_>> = std::rc::Rc::new(sockets);
    let broadcast = move || {
        let (sockets, frame) = (std::rc::Rc::clone(&sockets), frame.clone());
        runtime.block_on(async move {
            for batch in sockets.chunks(BATCH) {
                let writes: Vec<_> = batch.iter().map(|socket| socket.write(frame.clone()).submit()).collect();
                for write in writes {
                    let (sent, _) = write.await;
                    assert_eq!(sent.expect("a socket whose peer reads takes a frame"), frame.len());
                }
            }
        });
    };
    drive(Box::new(broadcast));
    std::process::exit(0);
}
