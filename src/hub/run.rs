//! A run: the frames that one visit sends, in order, and the position of a subscriber after each of them.
//!
//! One run serves every subscriber whose position it [covers](Run::covers), so a broadcast to 100,000 subscribers reads
//! the log once.

use std::ops::Range;

use crate::event::{Frame, Sequence};
use crate::hub::MissedReason;

/// What the receiver of a frame got immediately before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// The frame is for this subscriber alone, or reports a loss: it is in no log.
    Private,
    /// An event, and before it anything.
    Any,
    /// An event, and before it the event before it in its log, if the receiver got one. Of its segment of the log, this
    /// many bytes precede it.
    Segment(u32),
}

impl Context {
    /// Whether a receiver of this frame has all of the frame's segment through it, and nothing in between; `had` is the
    /// same of the frame before it.
    fn completes_segment(self, had: bool) -> bool {
        match self {
            Context::Private | Context::Any => false,
            Context::Segment(preceding_bytes) => had || preceding_bytes == 0,
        }
    }
}

/// How much one run may hold.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    /// Frames at most (a vectored write takes no more than 1024).
    pub frames_max: usize,
    /// Bytes after which no further frame is added; the first is added whatever its size.
    pub bytes_max: usize,
}

impl RunLimits {
    /// Everything in one run.
    pub const NONE: RunLimits = RunLimits { frames_max: usize::MAX, bytes_max: usize::MAX };
}

/// A frame that is to be sent in another form.
#[derive(Debug)]
pub struct Form<'a> {
    /// The frame.
    pub frame: &'a Frame,
    /// The position of a subscriber that received it.
    pub position: Sequence,
    /// What precedes it.
    pub context: Context,
    /// Its receiver has the preceding frames of its segment, and nothing in between.
    pub has_segment: bool,
}

/// Frames to send, in order.
#[derive(Clone, Debug, Default)]
pub struct Run {
    frames: Vec<Frame>,
    positions: Vec<Sequence>,
    contexts: Vec<Context>,
    /// Which of the frames are gaps for this one subscriber, and why.
    gaps: Vec<(usize, MissedReason)>,
    bytes: usize,
    /// The first and the last position of subscribers for which this is the right run.
    covered: Option<(Sequence, Sequence)>,
    /// The position of a subscriber that received all of it.
    through: Sequence,
    complete: bool,
}

impl Run {
    /// The frames.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// How many bytes in all.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The position of a subscriber that received all of it.
    pub fn through(&self) -> Sequence {
        self.through
    }

    /// True when nothing more follows it.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The position of a subscriber that received the frame at `index`.
    pub fn position(&self, index: usize) -> Sequence {
        self.positions[index]
    }

    /// The reasons of the gaps for this one subscriber that are among these frames.
    pub fn gaps_among(&self, frames: Range<usize>) -> impl Iterator<Item = MissedReason> {
        self.gaps.iter().filter(move |(index, _)| frames.contains(index)).map(|(_, reason)| *reason)
    }

    /// True when this run is what a subscriber at `position` needs next.
    pub fn covers(&self, position: Sequence) -> bool {
        self.covered.is_some_and(|(first, last)| first <= position && position <= last)
    }

    /// Releases the frames, and keeps the buffers.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.positions.clear();
        self.contexts.clear();
        self.gaps.clear();
        self.bytes = 0;
        self.covered = None;
        self.complete = false;
    }

    /// Adds a frame that is in no log (a preamble, or the rest of a partly written one), before any logged frame.
    pub fn push_unlogged(&mut self, frame: Frame, position: Sequence) {
        self.push_frame(frame, position, Context::Private);
    }

    fn push_frame(&mut self, frame: Frame, position: Sequence, context: Context) {
        self.bytes += frame.len();
        self.frames.push(frame);
        self.positions.push(position);
        self.contexts.push(context);
    }

    /// Replaces the frames from `first` on by what `form` makes of each; `has_segment` as in [`Run::completes_segment`].
    pub fn reform(&mut self, first: usize, mut has_segment: bool, mut form: impl FnMut(&Form<'_>) -> Frame) {
        for index in first..self.frames.len() {
            let (frame, context) = (&self.frames[index], self.contexts[index]);
            let formed = form(&Form { frame, position: self.positions[index], context, has_segment });
            has_segment = context.completes_segment(has_segment);
            self.bytes = self.bytes - frame.len() + formed.len();
            self.frames[index] = formed;
        }
    }

    /// True when a subscriber that received these frames has all of the last one's segment through it, and nothing in
    /// between; `had` says the same of what it received before them.
    pub fn completes_segment(&self, frames: Range<usize>, had: bool) -> bool {
        self.contexts.get(frames).into_iter().flatten().fold(had, |had, context| context.completes_segment(had))
    }

    /// Adds a gap that is due to this subscriber; false when there was no room for it.
    pub(super) fn push_gap(&mut self, frame: &Frame, gap: (Sequence, MissedReason), limits: RunLimits) -> bool {
        let (position, reason) = gap;
        let fits = self.push(frame, position, Context::Private, limits);
        self.gaps.extend(fits.then(|| (self.frames.len() - 1, reason)));
        fits
    }

    /// Ends a run that holds only unlogged frames.
    pub fn end_at(&mut self, position: Sequence) {
        self.finish(true, position, position);
    }

    /// Adds a logged frame; false when there was no room for it.
    pub(super) fn push(&mut self, frame: &Frame, position: Sequence, context: Context, limits: RunLimits) -> bool {
        let first = self.frames.is_empty();
        if !first && (self.frames.len() >= limits.frames_max || self.bytes + frame.len() > limits.bytes_max) {
            return false;
        }
        self.push_frame(frame.clone(), position, context);
        true
    }

    /// Ends the run at a position that more follows, also if nothing up to there is for this subscriber.
    pub(super) fn stop_at(&mut self, through: Sequence) {
        self.complete = false;
        self.through = through;
    }

    pub(super) fn cover(&mut self, first: Sequence, last: Sequence) {
        self.covered = Some((first, last));
    }

    /// Completes the run: through `head` if everything fitted, else through the last frame that did.
    pub(super) fn finish(&mut self, fitted: bool, after: Sequence, head: Sequence) {
        self.complete = fitted;
        self.through = if fitted { head } else { self.positions.last().copied().unwrap_or(after) };
    }
}
