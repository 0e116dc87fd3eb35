//! A source's thread: named, stoppable, and restarted after a panic.
//!
//! Invariant: while the thread lives its body runs; a body that panics is reported and started again. Dropping the
//! [`SourceThread`] asks the body to stop and waits a bounded time: a thread blocked in a slow system call is left
//! running and ends when the call returns.

use std::any::Any;
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

/// Enough for a TLS handshake, also in an unoptimized build. The kernel allocates only the pages that are used.
const STACK_BYTES: usize = 2 << 20;
/// How long a drop waits for the thread to end.
const END_WAIT_MAX: Duration = Duration::from_secs(1);
/// Delay between a panic and the next start, so that a body that always panics does not spin.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A running thread; dropped, it stops.
#[derive(Debug)]
pub struct SourceThread {
    // No value is ever sent on either: each end only detects that the other end was dropped.
    stop: Option<Sender<Infallible>>,
    end: Receiver<Infallible>,
}

impl SourceThread {
    /// Starts `body`, which must return soon after [`Stop`] reports a stop. After each panic, `panicked` is called with
    /// the cause. The kernel shows only the first 15 bytes of `name`.
    pub fn spawn(
        name: &'static str,
        panicked: impl Fn(String) + Send + 'static,
        mut body: impl FnMut(&Stop) + Send + 'static,
    ) -> io::Result<SourceThread> {
        let (stop, stopped) = bounded(0);
        let (ending, end) = bounded(0);
        let run = move || {
            let _ending: Sender<Infallible> = ending;
            let stop = Stop(stopped);
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&stop))) {
                let cause = panic_message(&*panic);
                tracing::error!(thread = name, cause, "a source's thread panicked and is restarted");
                panicked(format!("its thread {name} panicked: {cause}"));
                if stop.wait(RESTART_PAUSE) {
                    break;
                }
            }
        };
        Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run)?;
        Ok(SourceThread { stop: Some(stop), end })
    }

    /// Asks the thread to stop, without waiting for it.
    pub fn ask_to_stop(&mut self) {
        self.stop = None;
    }
}

impl Drop for SourceThread {
    fn drop(&mut self) {
        self.ask_to_stop();
        if self.end.recv_timeout(END_WAIT_MAX) == Err(RecvTimeoutError::Timeout) {
            tracing::debug!("a source's thread is busy and will end later");
        }
    }
}

/// How a thread learns that it should stop.
#[derive(Debug)]
pub struct Stop(Receiver<Infallible>);

impl Stop {
    /// True once the thread should stop.
    pub fn is_asked(&self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits; true when asked to stop during the wait.
    pub fn wait(&self, duration: Duration) -> bool {
        self.0.recv_timeout(duration) == Err(RecvTimeoutError::Disconnected)
    }

    /// A receiver for waiting on it together with other channels: it becomes ready, disconnected, on a stop.
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.0
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_reported_and_the_body_starts_again() {
        let (starts, started) = bounded(2);
        let (tell, told) = bounded(1);
        let mut first = true;
        let panicked = move |error| tell.send(error).unwrap();
        let thread = SourceThread::spawn("test", panicked, move |stop| {
            let _ = starts.send(());
            assert!(!std::mem::take(&mut first), "on purpose");
            while !stop.wait(Duration::from_secs(60)) {}
        });
        let deadline = Duration::from_secs(30);
        started.recv_timeout(deadline).unwrap();
        started.recv_timeout(deadline).unwrap();
        assert_eq!(told.try_recv().unwrap(), "its thread test panicked: on purpose");
        drop(thread);
        assert_eq!(started.recv_timeout(deadline), Err(RecvTimeoutError::Disconnected), "the body is gone");
    }

    #[test]
    fn a_drop_does_not_wait_for_a_thread_that_is_stuck() {
        let ((enter, entered), (release, stuck)) = (bounded(1), bounded(0));
        let thread = SourceThread::spawn("test", drop, move |_| {
            enter.send(()).unwrap();
            stuck.recv().unwrap();
        });
        let deadline = Duration::from_secs(30);
        entered.recv_timeout(deadline).unwrap();
        drop(thread);
        release.send_timeout((), deadline).expect("it was left behind, stuck as it was");
        assert_eq!(entered.recv_timeout(deadline), Err(RecvTimeoutError::Disconnected), "it ends by itself");
    }
}
