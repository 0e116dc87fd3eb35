//! An outbox: what is half written on one connection. A frame that the kernel took in part is kept here, and sent to its
//! end before anything else.

use std::time::Duration;

use crate::event::Frame;
use crate::observe::metrics::Counters;

/// Frames that no log will supply again, for one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// The first one from `offset` on.
    unsent: Vec<Frame>,
    offset: usize,
    /// The first one is an event from a log: it counts as delivered once it is sent.
    has_begun_event: bool,
    /// When the kernel last took a byte.
    pub(crate) progress_at: Duration,
    /// When its socket was last writable after it had been full.
    pub(crate) writable_at: Option<Duration>,
}

/// Frames that go out together: at the front those of an outbox, behind them frames from the logs.
pub(crate) struct Sending<'a, F: Fn(usize) -> bool> {
    pub(crate) frames: &'a [Frame],
    /// How many of them no log will supply again.
    pub(crate) unlogged: usize,
    /// Which of the others are events, by their index. (A gap is none.)
    pub(crate) is_event: F,
}

/// How far a send came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Frames that are sent.
    pub(crate) whole: usize,
    /// Frames of which at least a byte is sent.
    pub(crate) begun: usize,
    /// Nothing is left.
    pub(crate) is_all: bool,
}

impl Outbox {
    pub(crate) fn new(now: Duration) -> Outbox {
        Outbox { unsent: Vec::new(), offset: 0, has_begun_event: false, progress_at: now, writable_at: None }
    }

    /// Adds a frame that no log will supply again.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.unsent.push(frame);
    }

    /// Bytes that are still to be sent.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent.iter().map(Frame::len).sum::<usize>() - self.offset
    }

    /// Bytes of the first frame that are sent already.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn take_unsent(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.unsent)
    }

    /// The frames that it keeps in memory.
    pub(crate) fn unsent(&self) -> &[Frame] {
        &self.unsent
    }

    /// Keeps what is left after `taken` bytes more were sent.
    pub(super) fn advance<F: Fn(usize) -> bool>(
        &mut self,
        sending: &Sending<'_, F>,
        taken: usize,
        counters: &mut Counters,
    ) -> Progress {
        let Sending { frames, unlogged, is_event } = sending;
        let Reached { whole, offset } = reached(frames, self.offset + taken);
        let begun = whole + usize::from(offset > 0);
        if self.has_begun_event && whole > 0 {
            self.has_begun_event = false;
            counters.delivered_events += 1;
        }
        if whole >= *unlogged && offset > 0 {
            self.has_begun_event = is_event(whole);
        }
        self.unsent.clear();
        self.unsent.extend_from_slice(&frames[whole..begun.max(*unlogged).max(whole)]);
        self.offset = offset;
        Progress { whole, begun, is_all: whole == frames.len() }
    }
}

/// How far into some frames a number of bytes reaches.
#[derive(Debug, PartialEq, Eq)]
struct Reached {
    /// Frames that are complete.
    whole: usize,
    /// Bytes of the next one.
    offset: usize,
}

fn reached(frames: &[Frame], bytes: usize) -> Reached {
    let mut offset = bytes;
    let mut whole = 0;
    while let Some(frame) = frames.get(whole)
        && frame.len() <= offset
    {
        offset -= frame.len();
        whole += 1;
    }
    Reached { whole, offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_reach_whole_frames_and_into_the_next_one() {
        let frames = ["ab", "c", "def"].map(|text| Frame::from(text.as_bytes()));
        let check = |bytes, whole, offset| assert_eq!(reached(&frames, bytes), Reached { whole, offset }, "{bytes}");
        check(0, 0, 0);
        check(1, 0, 1);
        check(2, 1, 0);
        check(3, 2, 0);
        check(5, 2, 2);
        check(6, 3, 0);
    }
}
