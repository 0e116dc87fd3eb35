//! The maximum age: streams that are old end while all is well, to be resumed at once, so that clients spread anew over the
//! servers behind a balancer.

use std::time::Duration;

use super::connection::Flags;
use super::wheel::Tick;
use super::{CloseReason, Server};
use crate::io::Io;
use crate::protocol::encoder;

/// When a stream that ended for its age may come back: soon, since nothing is wrong, but not all at the same moment.
const RETRY_MAX: Duration = Duration::from_secs(1);

impl<I: Io> Server<I> {
    /// When a stream that starts now is to end: between half the maximum age and all of it, so that those who came
    /// together don't leave together.
    pub(super) fn retirement(&mut self, slot: u32) -> Tick {
        let is_admin = self.connections[slot as usize].flags.has(Flags::ADMIN);
        match self.settings.limits.connection_age_max.filter(|_| !is_admin) {
            Some(age_max) => Tick::of(self.now).after(self.jitter.upper_half(age_max)),
            None => Tick::NEVER,
        }
    }

    /// Ends a stream for its age; its subscriber resumes where it was.
    pub(super) fn retire(&mut self, slot: u32) {
        let retry = self.jitter.upper_half(RETRY_MAX);
        self.flush_stream(slot);
        self.end_stream(slot, encoder::retry_only(retry), CloseReason::Aged);
    }
}
