//! One thread of another process, stopped, as a bug that never returns would stop it.
#![allow(unsafe_code, reason = "no safe call stops a single thread")]

use std::io;
use std::ptr::null_mut;

/// The thread continues when this is dropped, by the thread that made it.
pub struct Paused(libc::pid_t);

impl Paused {
    /// Stops the main thread of a child process; its other threads continue.
    #[track_caller]
    pub fn main_thread(process_id: u32) -> Paused {
        let thread = libc::pid_t::try_from(process_id).unwrap();
        request(libc::PTRACE_SEIZE, thread);
        let paused = Paused(thread);
        request(libc::PTRACE_INTERRUPT, thread);
        // SAFETY: a null status is allowed, and the call touches no other memory.
        let stopped = unsafe { libc::waitpid(thread, null_mut(), libc::__WALL) };
        assert_eq!(stopped, thread, "{}", io::Error::last_os_error());
        paused
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        request(libc::PTRACE_DETACH, self.0);
    }
}

#[track_caller]
fn request(request: libc::c_uint, thread: libc::pid_t) {
    // SAFETY: none of these requests reads or writes memory through its arguments.
    let result = unsafe { libc::ptrace(request, thread, null_mut::<libc::c_void>(), null_mut::<libc::c_void>()) };
    assert_ne!(result, -1, "{}", io::Error::last_os_error());
}
