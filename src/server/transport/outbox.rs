//! An outbox: the half-written data of one connection. It keeps a frame that the kernel took in part, and the rest of
//! the frame is sent before anything else.

use std::time::Duration;

use crate::event::Frame;
use crate::hub::HoldChange;

/// Frames of one connection that no log can supply again.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// The frames; of the first one, the bytes from `offset` on.
    unsent: Vec<Frame>,
    offset: usize,
    /// The first one, if it is from a log, which may evict it: it is held until its rest is sent.
    held: Option<Frame>,
    /// The first one is an event from a log: it counts as delivered once it is sent.
    has_begun_event: bool,
    /// When the kernel last took a byte.
    pub(crate) progress_at: Duration,
    /// When its socket was last writable after it had been full.
    pub(crate) writable_at: Option<Duration>,
}

/// Frames that are sent together: first those of an outbox, then frames from the logs.
pub(crate) struct Sending<'a, F: Fn(usize) -> bool> {
    pub(crate) frames: &'a [Frame],
    /// How many of them no log can supply again.
    pub(crate) unlogged: usize,
    /// Which of the others are events, by their index. (A gap is not.)
    pub(crate) is_event: F,
}

/// How far a send got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Frames that are sent.
    pub(crate) whole: usize,
    /// Frames of which at least a byte is sent.
    pub(crate) begun: usize,
    /// All frames are sent, and the socket may take more.
    pub(crate) is_all: bool,
}

impl Outbox {
    pub(crate) fn new(now: Duration) -> Outbox {
        Outbox {
            unsent: Vec::new(),
            offset: 0,
            held: None,
            has_begun_event: false,
            progress_at: now,
            writable_at: None,
        }
    }

    /// Adds a frame that no log can supply again.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.unsent.push(frame);
    }

    /// Adds a frame, if there is one.
    pub(crate) fn extend(&mut self, frame: Option<Frame>) {
        self.unsent.extend(frame);
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

    /// What is to be released with it.
    pub(super) fn into_held(self) -> Option<Frame> {
        self.held
    }

    /// The frames that it keeps in memory.
    pub(crate) fn unsent(&self) -> &[Frame] {
        &self.unsent
    }

    /// Keeps the unsent rest after `taken` more bytes were sent.
    pub(super) fn advance<F: Fn(usize) -> bool>(
        &mut self,
        sending: &Sending<'_, F>,
        taken: usize,
        delivered_events: &mut u64,
        holds: &mut Vec<HoldChange>,
    ) -> Progress {
        let Sending { frames, unlogged, is_event } = sending;
        let Reached { whole, offset } = reached(frames, self.offset + taken);
        let begun = whole + usize::from(offset > 0);
        if self.has_begun_event && whole > 0 {
            self.has_begun_event = false;
            *delivered_events += 1;
        }
        if whole > 0 {
            holds.extend(self.held.take().map(HoldChange::Released));
        }
        if whole >= *unlogged && offset > 0 {
            self.held = Some(frames[whole].clone());
            self.has_begun_event = is_event(whole);
            holds.push(HoldChange::Held(frames[whole].clone()));
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

    /// What is left of an outbox, and how far the send came.
    #[derive(Debug, PartialEq)]
    struct Left<'a> {
        unsent: Vec<&'a str>,
        offset: usize,
        whole: usize,
        begun: usize,
        delivered: u64,
    }

    /// Sends `unsent`, of which `offset` bytes are sent already, before the event "cd" and the gap "ef".
    fn check(unsent: &[&str], offset: usize, taken: usize, expected: &Left<'_>) {
        let frames_of = |texts: &[&str]| texts.iter().map(|text| Frame::from(text.as_bytes())).collect::<Vec<_>>();
        let mut outbox = Outbox::new(Duration::ZERO);
        (outbox.unsent, outbox.offset, outbox.has_begun_event) = (frames_of(unsent), offset, offset > 0);
        let frames = frames_of(&[unsent, &["cd", "ef"]].concat());
        let sending = Sending { frames: &frames, unlogged: unsent.len(), is_event: |index| index == unsent.len() };
        let mut delivered = 0;
        let Progress { whole, begun, is_all } = outbox.advance(&sending, taken, &mut delivered, &mut Vec::new());
        let left = outbox.unsent.iter().map(|frame| std::str::from_utf8(frame.bytes()).unwrap()).collect();
        let left = Left { unsent: left, offset: outbox.offset, whole, begun, delivered };
        assert_eq!(&left, expected, "{unsent:?} from {offset}, {taken} taken");
        assert_eq!(is_all, whole == frames.len());
    }

    #[test]
    fn what_the_kernel_did_not_take_is_kept() {
        let left = |unsent: &[&'static str], offset, whole, begun, delivered| Left {
            unsent: unsent.to_vec(),
            offset,
            whole,
            begun,
            delivered,
        };
        check(&[], 0, 0, &left(&[], 0, 0, 0, 0));
        check(&[], 0, 1, &left(&["cd"], 1, 0, 1, 0));
        check(&[], 0, 2, &left(&[], 0, 1, 1, 0));
        check(&[], 0, 3, &left(&["ef"], 1, 1, 2, 0));
        check(&[], 0, 4, &left(&[], 0, 2, 2, 0));
        check(&["ab"], 0, 0, &left(&["ab"], 0, 0, 0, 0));
        check(&["ab"], 0, 1, &left(&["ab"], 1, 0, 1, 0));
        check(&["ab"], 1, 0, &left(&["ab"], 1, 0, 1, 0));
        check(&["ab"], 1, 1, &left(&[], 0, 1, 1, 1));
        check(&["ab"], 1, 2, &left(&["cd"], 1, 1, 2, 1));
        check(&["ab", "x"], 1, 1, &left(&["x"], 0, 1, 1, 1));
        check(&["ab", "x"], 0, 3, &left(&[], 0, 2, 2, 0));
        check(&["ab", "x"], 1, 6, &left(&[], 0, 4, 4, 1));
    }

    #[test]
    fn an_event_that_was_begun_counts_once_it_is_through_and_a_gap_does_not() {
        let frames = ["cd", "ef"].map(|text| Frame::from(text.as_bytes()));
        for (index_of_event, expected) in [(0, 1), (1, 0)] {
            let (mut outbox, mut delivered) = (Outbox::new(Duration::ZERO), 0);
            let sending = Sending { frames: &frames, unlogged: 0, is_event: |index| index == index_of_event };
            let mut holds = Vec::new();
            outbox.advance(&sending, 1, &mut delivered, &mut holds);
            assert!(matches!(&holds[..], [HoldChange::Held(held)] if held.key() == frames[0].key()));
            let rest = outbox.unsent.clone();
            let sending = Sending { frames: &rest, unlogged: 1, is_event: |_| false };
            outbox.advance(&sending, 1, &mut delivered, &mut holds);
            assert!(matches!(&holds[1..], [HoldChange::Released(held)] if held.key() == frames[0].key()));
            assert_eq!((outbox.unsent.len(), delivered), (0, expected));
        }
    }

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
