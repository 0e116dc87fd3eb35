//! The reader's thread: lets the reader turn, and pauses when the channel is full or the engine is away.

use std::time::{Duration, Instant};

use crate::sources::backoff::{Backoff, BackoffLimits};
use crate::sources::bus::reader::{Reader, Turn};
use crate::sources::thread::Stop;
use crate::sources::throttle::LogThrottle;

/// How long a read waits for the next entry, and so the longest time until the thread notices a stop.
const READ_WAIT: Duration = Duration::from_millis(500);
/// How often it checks for room in the channel.
const ROOM_WAIT: Duration = Duration::from_millis(1);

/// The thread's state.
pub(super) struct ReaderThread {
    reader: Reader,
    started_at: Instant,
    backoff: Backoff,
    log: LogThrottle,
}

impl ReaderThread {
    pub(super) fn new(reader: Reader, backoff: BackoffLimits) -> ReaderThread {
        let backoff = Backoff::new(backoff);
        ReaderThread { reader, started_at: Instant::now(), backoff, log: LogThrottle::default() }
    }

    /// Reads until asked to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        while !stop.is_asked() {
            let pause = match self.reader.turn(self.started_at.elapsed(), READ_WAIT) {
                Ok(Turn::Loaded) => continue,
                Ok(Turn::Read) => {
                    self.backoff.reset();
                    self.log.reset();
                    continue;
                }
                Ok(Turn::Full) => ROOM_WAIT,
                Err(error) => {
                    if let Some(swallowed) = self.log.permit(Instant::now()) {
                        tracing::warn!(error = %error, swallowed, "the bus can't be read; subscribers wait");
                    }
                    self.backoff.next_delay(getrandom::u64().unwrap_or_default())
                }
            };
            if stop.wait(pause) {
                return;
            }
        }
    }
}
