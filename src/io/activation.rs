//! Socket activation: the listening sockets that the process manager passed to this process (sd_listen_fds(3)).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A socket that was passed, with its name: the `FileDescriptorName` of its unit.
#[derive(Debug)]
pub struct Passed {
    /// The socket.
    pub descriptor: OwnedFd,
    /// `unknown` when no name was given.
    pub name: String,
}

/// Takes the sockets that were passed to this process, in their order; a second call returns no sockets.
pub fn take_passed() -> io::Result<Vec<Passed>> {
    static ARE_TAKEN: AtomicBool = AtomicBool::new(false);
    if ARE_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?.map(|(descriptor, name)| {
        // SAFETY: it is open, or setting FD_CLOEXEC on it had failed; it was passed for us to own, and is taken once.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Passed { descriptor, name }
    });
    Ok(passed.collect())
}
