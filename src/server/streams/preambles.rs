//! Preambles: the first frame of a stream, with `retry:` and `id:`.

use std::time::Duration;

use crate::event::{EventId, Frame, Sequence};
use crate::protocol::encoder;
use crate::server::jitter::Jitter;

/// The first frames of streams that start now: one for each of 64 reconnection times, shared by all streams.
#[derive(Debug, Default)]
pub(crate) struct Preambles {
    position: Sequence,
    frames: Vec<Option<Frame>>,
}

impl Preambles {
    const COUNT: u64 = 64;

    pub(super) fn get(&mut self, position: Sequence, id: &EventId, retry: Duration, jitter: &mut Jitter) -> Frame {
        if self.position != position || self.frames.is_empty() {
            self.position = position;
            self.frames = vec![None; Preambles::COUNT as usize];
        }
        let choice = jitter.next() % Preambles::COUNT;
        let frame = &mut self.frames[choice as usize];
        frame.get_or_insert_with(|| encoder::preamble(spread(retry, choice), id)).clone()
    }
}

/// One of 64 times between 80 and 120 percent of `retry`: browsers add no jitter of their own.
fn spread(retry: Duration, choice: u64) -> Duration {
    retry * (800 + 400 * choice as u32 / (Preambles::COUNT as u32 - 1)) / 1000
}
