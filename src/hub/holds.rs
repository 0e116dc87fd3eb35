//! Holds: which frames of the logs are half written, to how many connections, and which of those frames are in no log any
//! more.
//!
//! A frame that is evicted while it is held is *pinned*: its bytes stay in memory until the last connection has sent its
//! rest or is closed, so they count towards the bound on all logs.
//!
//! Invariant: each hold is released once. Absent: who holds a frame.

use std::collections::HashMap;

use crate::event::{Frame, FrameKey};

/// A change of what one connection holds.
#[derive(Clone, Debug)]
pub enum HoldChange {
    /// It has sent a part of this frame.
    Held(Frame),
    /// It has sent the rest of it, or is closed.
    Released(Frame),
}

#[derive(Debug, Default)]
pub(super) struct Holds {
    held: HashMap<FrameKey, Held>,
    pinned_bytes: usize,
}

#[derive(Debug)]
struct Held {
    /// The address is the frame's while one of its owners is here.
    frame: Frame,
    connections: usize,
    is_evicted: bool,
}

impl Holds {
    pub(super) fn apply(&mut self, change: HoldChange) {
        match change {
            HoldChange::Held(frame) => {
                let held = Held { frame: frame.clone(), connections: 0, is_evicted: false };
                self.held.entry(frame.key()).or_insert(held).connections += 1;
            }
            HoldChange::Released(frame) => self.release(&frame),
        }
    }

    fn release(&mut self, frame: &Frame) {
        let held = self.held.get_mut(&frame.key()).expect("what is released was held");
        held.connections -= 1;
        if held.connections == 0 {
            self.pinned_bytes -= if held.is_evicted { held.frame.len() } else { 0 };
            self.held.remove(&frame.key());
        }
    }

    /// A log has evicted this frame.
    pub(super) fn note_evicted(&mut self, frame: &Frame) {
        if let Some(held) = self.held.get_mut(&frame.key())
            && !held.is_evicted
        {
            held.is_evicted = true;
            self.pinned_bytes += frame.len();
        }
    }

    pub(super) fn is_pinned(&self, frame: &Frame) -> bool {
        self.held.get(&frame.key()).is_some_and(|held| held.is_evicted)
    }

    pub(super) fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_evicted_counts_until_its_last_holder_releases_it() {
        let [held, free] = ["held", "free"].map(|text| Frame::from(text.as_bytes()));
        let mut holds = Holds::default();
        holds.apply(HoldChange::Held(held.clone()));
        holds.apply(HoldChange::Held(held.clone()));
        assert_eq!(holds.pinned_bytes(), 0);
        holds.note_evicted(&held);
        holds.note_evicted(&free);
        assert_eq!((holds.pinned_bytes(), holds.is_pinned(&held), holds.is_pinned(&free)), (4, true, false));
        holds.apply(HoldChange::Released(held.clone()));
        assert_eq!(holds.pinned_bytes(), 4);
        holds.apply(HoldChange::Released(held.clone()));
        assert_eq!((holds.pinned_bytes(), holds.is_pinned(&held)), (0, false));
    }
}
