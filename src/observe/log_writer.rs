//! The path of log lines to standard error: a bounded queue, and a thread that writes what waits in it.
//!
//! ```text
//!  any thread ──▶ Queue (never waits; what finds no place is counted) ──▶ the thread "log" ──▶ Sink ──▶ standard error
//! ```
//!
//! Invariants: no thread that logs waits for a reader of the log. Every lost line is counted, and the number is logged
//! as soon as lines are written again. The end of the process waits for the last lines, but at most a second.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
pub(super) const LINES_MAX: usize = 4096;
/// How long the last lines may take to be written. A log that is read takes less than a millisecond.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two checks of a condition that is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Starts the thread that writes to `out`.
pub(super) fn start(out: impl Write + Send + 'static) -> (Queue, LastLines) {
    let counts = Arc::<Counts>::default();
    let sink = Sink { out, counts: Arc::clone(&counts) };
    let (lines, worker) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).thread_name("log").finish(sink);
    let _ = counts.queue_full.set(lines.error_counter()); // nothing else sets it
    (Queue { lines, counts: Arc::clone(&counts) }, LastLines { counts, worker: Some(worker) })
}

/// What happened to lines.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Lines that were logged, whether they were written or lost.
    logged: AtomicU64,
    written: AtomicU64,
    write_failed: AtomicU64,
    queue_full: OnceLock<ErrorCounter>,
    /// Lost lines that an entry of the log has reported.
    reported: AtomicU64,
    /// True if the newest line was written.
    is_writing: AtomicBool,
}

impl Counts {
    /// Lines for which the queue had no room.
    pub(super) fn queue_full(&self) -> u64 {
        self.queue_full.get().map_or(0, |counter| counter.dropped_lines() as u64)
    }

    /// Lines that standard error did not take: its disk is full, or it is closed.
    pub(super) fn write_failed(&self) -> u64 {
        self.write_failed.load(Ordering::Relaxed)
    }

    /// Logs how many lines were lost since the last such entry, unless this entry would be lost too.
    fn report_lost(&self) {
        let lost = self.queue_full() + self.write_failed();
        if !self.is_writing.load(Ordering::Relaxed) {
            return;
        }
        let reported = self.reported.swap(lost, Ordering::Relaxed);
        if lost > reported {
            tracing::warn!(
                lines = lost - reported,
                "log lines were lost: standard error took them too slowly, or not at all"
            );
        }
    }

    /// Waits until no line waits to be written, or until the deadline; false if a line still waits.
    fn wait_until_written(&self, deadline: Instant) -> bool {
        let is_done = || {
            let settled = self.written.load(Ordering::Acquire) + self.write_failed() + self.queue_full();
            settled >= self.logged.load(Ordering::Acquire)
        };
        while !is_done() && Instant::now() < deadline {
            std::thread::sleep(LOOK_INTERVAL);
        }
        is_done()
    }
}

/// Takes lines, and never waits. Each write is a line.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    lines: NonBlocking,
    counts: Arc<Counts>,
}

impl Queue {
    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.counts.logged.fetch_add(1, Ordering::AcqRel);
        self.lines.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end of the queue, in the thread that writes.
struct Sink<W> {
    out: W,
    counts: Arc<Counts>,
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_written = write_whole(&mut self.out, line).is_ok();
        self.counts.is_writing.store(is_written, Ordering::Relaxed);
        let count = if is_written { &self.counts.written } else { &self.counts.write_failed };
        count.fetch_add(1, Ordering::AcqRel);
        // Where lines come faster than they are written, the queue never runs empty.
        if self.counts.written.load(Ordering::Relaxed).is_multiple_of(LINES_MAX as u64) {
            self.counts.report_lost();
        }
        Ok(line.len())
    }

    /// Called when the queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        self.counts.report_lost();
        Ok(())
    }
}

/// Like `write_all`, but also waits for a reader where another process made standard error non-blocking.
fn write_whole(out: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK_INTERVAL),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// When it is dropped, the lines that wait are written, or given up after a timeout if no process reads them.
#[derive(Debug)]
pub(super) struct LastLines {
    counts: Arc<Counts>,
    worker: Option<WorkerGuard>,
}

impl Drop for LastLines {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_LINES_TIMEOUT;
        if self.counts.wait_until_written(deadline) {
            self.counts.report_lost();
        }
        let worker = self.worker.take();
        if !self.counts.wait_until_written(deadline) {
            // Its drop would print on standard output that it gave up, and wait forever where no process reads that.
            std::mem::forget(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn say(queue: &Queue, text: &str) {
        queue.make_writer().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|length| length as u64)
        });
        let (queue, last_lines) = start(writer);
        (0..LINES_MAX).for_each(|_| say(&queue, "x"));
        drop(last_lines);
        assert_eq!(reading.join().unwrap().unwrap() + queue.counts.queue_full(), LINES_MAX as u64);
    }

    #[test]
    fn without_a_reader_lines_beyond_the_queue_are_counted_and_shutdown_finishes() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let (queue, last_lines) = start(writer);
        let line = "x".repeat(4096);
        // More than the socket and the queue take together.
        (0..3 * LINES_MAX).for_each(|_| say(&queue, &line));
        assert!(queue.counts.queue_full() > 0);
        drop(last_lines);
        assert_eq!(queue.counts.write_failed(), 0);
        drop(reader);
    }

    #[test]
    fn a_pipe_that_does_not_wait_gets_whole_lines() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let (queue, _last_lines) = start(writer);
        let line = "x".repeat(1 << 20);
        say(&queue, &line);
        let mut read = vec![0; line.len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(read, line.as_bytes());
    }

    #[test]
    fn a_line_that_can_not_be_written_is_counted() {
        let (queue, last_lines) = start(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        (0..3).for_each(|_| say(&queue, "x"));
        drop(last_lines);
        assert_eq!((queue.counts.write_failed(), queue.counts.queue_full()), (3, 0));
    }
}
