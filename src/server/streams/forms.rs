//! Forms: what compressed streams send in place of frames. Each is made once and shared, like the frame itself.
//!
//! An event has two forms: one for every receiver, and one for those that have all of its segment of the log before it, and
//! nothing in between ([`Context`]). Which of the two a subscriber gets is the only state that compression needs for each
//! of them. What is for one subscriber alone, and each loss, is sent as stored blocks.
//!
//! Invariants: a form decodes to its frame, whatever the budget and the bound leave of the others: one that is forgotten can
//! be made again. Forms take at most [`BYTES_MAX`], or the newest one; what is half written after that counts as pinned.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::event::{Frame, FrameKey};
use crate::hub::{Context, Form, Hub, Run, Subscriber};
use crate::protocol::gzip::{self, Deflater};
use crate::server::node::Node;

/// Bytes of forms and of the frames that they belong to.
const BYTES_MAX: usize = 8 << 20;
/// What a form costs in addition to its bytes and its frame's.
const OVERHEAD_BYTES: usize = 192;
/// Replays of older events are rare: their forms are made again.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Bytes deflated in one turn, at most 5 ms. What exceeds it is stored in that turn; a larger frame is always stored.
const DEFLATED_PER_TURN_MAX: usize = 128 << 10;
/// What beginning a form takes, as the bytes that could be deflated in that time: about 10 us.
const BEGINNING_BYTES: usize = 256;

/// The forms of frames that were sent recently.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    deflater: Deflater,
    kept: HashMap<FormKey, Kept>,
    /// In the order in which they were first made.
    order: VecDeque<FormKey>,
    bytes: usize,
    /// Forms that were forgotten, and that the hub does not know of.
    forgotten: Vec<Frame>,
    budget: Budget,
    turn: u64,
}

/// Whose form, and whether it is the one for receivers that have the segment before it.
type FormKey = (FrameKey, bool);

#[derive(Debug)]
struct Kept {
    form: Frame,
    /// The key is this frame's as long as it is here.
    frame: Frame,
    made_at: Duration,
    /// The turn that stored it for lack of budget; in another turn, it is made again.
    stored_in: Option<u64>,
}

impl Kept {
    fn cost_bytes(&self) -> usize {
        self.form.len() + self.frame.len() + OVERHEAD_BYTES
    }
}

impl Forms {
    /// Gives the turn that begins its budget.
    pub(crate) fn begin_turn(&mut self) {
        self.budget = Budget::default();
        self.turn += 1;
    }

    /// Replaces the frames of a run, from `first` on, by their forms for a subscriber that has its segment or not.
    pub(super) fn compress(
        &mut self,
        run: &mut Run,
        first: usize,
        receiver: (Subscriber, bool),
        hub: &Hub,
        node: &mut Node,
    ) {
        let (subscriber, has_segment) = receiver;
        run.reform(first, has_segment, |frame| match frame.context {
            Context::Private => gzip::stored(frame.frame.bytes()),
            Context::Any | Context::Segment(_) => self.of_event(frame, subscriber, hub, node),
        });
    }

    fn of_event(&mut self, frame: &Form<'_>, subscriber: Subscriber, hub: &Hub, node: &mut Node) -> Frame {
        let follows = frame.has_segment && matches!(frame.context, Context::Segment(bytes) if bytes > 0);
        let key = (frame.frame.key(), follows);
        let turn = self.turn;
        if let Some(kept) = self.kept.get(&key).filter(|kept| kept.stored_in.is_none_or(|stored_in| stored_in == turn))
        {
            return kept.form.clone();
        }
        let deflated = self.deflate(frame, follows, || hub.segment_before(subscriber, frame.position), node);
        let stored_in = (deflated.is_none() && frame.frame.len() <= DEFLATED_PER_TURN_MAX).then_some(turn);
        let form = deflated.unwrap_or_else(|| {
            node.counters.forms.count("stored");
            gzip::stored(frame.frame.bytes())
        });
        let kept = Kept { form: form.clone(), frame: frame.frame.clone(), made_at: node.now, stored_in };
        node.counters.forms_evicted += self.keep(key, kept);
        form
    }

    /// None: the turn has no budget for it.
    fn deflate<'a, I: Iterator<Item = &'a Frame>>(
        &mut self,
        Form { frame, context, .. }: &Form<'_>,
        follows: bool,
        segment_before: impl Fn() -> I,
        node: &mut Node,
    ) -> Option<Frame> {
        let last = segment_before().next().filter(|_| follows);
        let has_window = last.is_some_and(|last| self.deflater.has_window_after(last.key()));
        let window_bytes = match context {
            Context::Segment(bytes) if follows && !has_window => *bytes as usize,
            _ => 0,
        };
        if !self.budget.take(frame.len(), window_bytes) {
            return None;
        }
        let form = match (context, last) {
            (_, Some(last)) if has_window => self.deflater.deflate_after(frame, &[last]),
            (_, Some(_)) => {
                let mut before: Vec<_> = segment_before().collect();
                before.reverse();
                self.deflater.deflate_after(frame, &before)
            }
            (Context::Segment(0), None) => self.deflater.deflate_first(frame),
            (_, None) => self.deflater.deflate(frame),
        };
        node.counters.forms.count(if follows { "after_others" } else { "alone" });
        node.counters.compressed_bytes.add("before", frame.len() as u64);
        node.counters.compressed_bytes.add("after", form.len() as u64);
        Some(form)
    }

    /// Returns how many others had to make room.
    fn keep(&mut self, key: FormKey, mut kept: Kept) -> u64 {
        let mut evicted = 0;
        self.bytes += kept.cost_bytes();
        match self.kept.remove(&key) {
            // The new one takes its place in the order, and so its age.
            Some(replaced) => {
                self.bytes -= replaced.cost_bytes();
                kept.made_at = replaced.made_at;
                self.forgotten.push(replaced.form);
            }
            None => self.order.push_back(key),
        }
        self.kept.insert(key, kept);
        while self.bytes > BYTES_MAX && self.order.len() > 1 {
            self.forget_oldest();
            evicted += 1;
        }
        evicted
    }

    fn forget_oldest(&mut self) {
        if let Some(kept) = self.order.pop_front().and_then(|key| self.kept.remove(&key)) {
            self.bytes -= kept.cost_bytes();
            self.forgotten.push(kept.form);
        }
    }

    /// Forgets what was made long ago.
    pub(super) fn age(&mut self, now: Duration) {
        let is_old = |kept: &Kept| now.saturating_sub(kept.made_at) > AGE_MAX;
        while self.order.front().and_then(|key| self.kept.get(key)).is_some_and(is_old) {
            self.forget_oldest();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            *self = Forms { forgotten: std::mem::take(&mut self.forgotten), turn: self.turn, ..Forms::default() };
        }
    }

    /// The forms that were forgotten since the last call, of which some may be half written.
    pub(crate) fn take_forgotten(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.forgotten)
    }
}

/// What a turn has deflated.
#[derive(Debug, Default)]
struct Budget {
    spent_bytes: usize,
}

impl Budget {
    /// True if a frame may be deflated, after a window that has to be filled again. The turn's first may be as large as all of
    /// the budget.
    fn take(&mut self, frame_bytes: usize, window_bytes: usize) -> bool {
        let bytes = BEGINNING_BYTES + frame_bytes + window_bytes;
        let is_first = self.spent_bytes == 0 && frame_bytes <= DEFLATED_PER_TURN_MAX;
        let may = is_first || self.spent_bytes + bytes <= DEFLATED_PER_TURN_MAX;
        self.spent_bytes += if may { bytes } else { 0 };
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_deflates_up_to_its_budget_or_one_frame_as_large() {
        const MAX: usize = DEFLATED_PER_TURN_MAX;
        let check = |frames: &[(usize, usize)], expected: &[bool]| {
            let mut budget = Budget::default();
            let taken: Vec<_> = frames.iter().map(|(frame, window)| budget.take(*frame, *window)).collect();
            assert_eq!(taken, expected, "{frames:?}");
        };
        check(&[(MAX, 0), (1, 0)], &[true, false]);
        check(&[(MAX, 16 << 10)], &[true]);
        check(&[(MAX + 1, 0), (1, 0)], &[false, true]);
        check(&[(1, 0), (MAX, 0), (MAX - 1 - 2 * BEGINNING_BYTES, 0), (1, 0)], &[true, false, true, false]);
        check(&[(1, 0), (MAX - 2 * BEGINNING_BYTES - 2, 1), (0, 0)], &[true, true, false]);
    }

    #[test]
    fn a_form_that_replaces_another_has_its_place_and_its_age() {
        let mut forms = Forms::default();
        let (key, stored) = kept(100, Duration::ZERO);
        let made_again =
            Kept { form: vec![b'z'; 10].into(), frame: stored.frame.clone(), made_at: AGE_MAX, stored_in: None };
        forms.keep(key, stored);
        forms.keep(key, made_again);
        assert_eq!((forms.order.len(), forms.bytes), (1, 10 + 50 + OVERHEAD_BYTES));
        assert_eq!(forms.take_forgotten().len(), 1, "the hub learns of the one that was replaced");
        forms.age(AGE_MAX + Duration::from_nanos(1));
        assert_eq!((forms.order.len(), forms.bytes, forms.take_forgotten().len()), (0, 0, 1));
    }

    fn kept(bytes: usize, made_at: Duration) -> (FormKey, Kept) {
        let frame = Frame::from(vec![b'x'; bytes / 2]);
        ((frame.key(), false), Kept { form: vec![b'y'; bytes / 2].into(), frame, made_at, stored_in: None })
    }

    #[test]
    fn forms_are_bounded_but_for_the_newest_one_and_the_hub_learns_of_each_that_is_forgotten() {
        let (mut forms, mut evicted) = (Forms::default(), 0);
        for (n, bytes) in [BYTES_MAX / 2, BYTES_MAX / 4, BYTES_MAX / 2, 2 * BYTES_MAX, 16].into_iter().enumerate() {
            let (key, kept) = kept(bytes, Duration::ZERO);
            evicted += forms.keep(key, kept);
            assert!(forms.bytes <= BYTES_MAX || forms.order.len() == 1, "form {n}");
            assert!(forms.kept.contains_key(&key), "the newest is kept");
        }
        assert_eq!((forms.take_forgotten().len(), evicted, forms.order.len()), (4, 4, 1));
        assert_eq!(forms.bytes, 16 + OVERHEAD_BYTES);
    }
}
