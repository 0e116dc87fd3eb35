//! Drafts: events that are formatted before they are numbered.
//!
//! Only the sequencer's lock decides an event's number. The number is at the front of the frame, in the id
//! `<run>-<sequence>`. So a draft is the whole frame with the expected number. Under the lock, the real number
//! overwrites those digits. The number of digits grows nineteen times in the life of a process; the draft is then
//! written again ([`Draft::expect`]), outside the lock. A frame that was named elsewhere has no number.
//!
//! Invariant: once a draft exists, numbering it neither formats nor copies its data, nor allocates.

use crate::event::{Broadcast, Frame, Naming, RunName, Sequence, Topic, join};
use crate::protocol::encoder::{self, Fields};

/// Offset of the number's digits in a frame whose id has this run's form.
const DIGITS_AT: usize = encoder::ID_AT + RunName::LEN + "-".len();

/// An event that is complete except for its number.
#[derive(Debug)]
pub(super) struct Draft {
    topic: Topic,
    naming: Naming,
    /// How many digits its frame has room for; `None` when it was named elsewhere.
    digits: Option<usize>,
    frame: Frame,
}

impl Draft {
    /// Formats an event of the run `run`, using `scratch` as a buffer. `expected` is most likely its number.
    pub(super) fn new(
        run: RunName,
        expected: Sequence,
        (topic, naming): (Topic, Naming),
        fields: &Fields<'_>,
        scratch: &mut Vec<u8>,
    ) -> Draft {
        scratch.clear();
        let mut buffer = [0; RunName::ID_BYTES_MAX];
        let digits = match &naming {
            Naming::Here(None) => {
                encoder::write_event(scratch, run.write_id(&mut buffer, expected), fields);
                Some(digits_of(expected))
            }
            Naming::Here(publisher_id) => {
                let id = join(run.id(expected), publisher_id.as_ref());
                encoder::write_event(scratch, id.as_str(), fields);
                Some(digits_of(expected))
            }
            Naming::Elsewhere(id) => {
                encoder::write_event(scratch, id.as_str(), fields);
                None
            }
        };
        Draft { topic, naming, digits, frame: Frame::from(&scratch[..]) }
    }

    /// The bytes it takes in a channel.
    pub(super) fn bytes(&self) -> usize {
        self.frame.len()
    }

    #[cfg(test)]
    pub(super) fn bytes_at(&self) -> *const u8 {
        self.frame.bytes().as_ptr()
    }

    /// True when the frame has room for this number.
    pub(super) fn fits(&self, sequence: Sequence) -> bool {
        self.digits.is_none_or(|digits| digits == digits_of(sequence))
    }

    /// Rewrites the frame so that it fits a number.
    pub(super) fn expect(&mut self, sequence: Sequence) {
        let Some(digits) = self.digits else { return };
        let bytes = self.frame.bytes();
        let mut number = itoa::Buffer::new();
        let number = number.format(sequence.0).as_bytes();
        self.frame = [&bytes[..DIGITS_AT], number, &bytes[DIGITS_AT + digits..]].concat().into();
        self.digits = Some(number.len());
    }

    /// Sets the number. The draft must fit it.
    pub(super) fn number(mut self, sequence: Sequence) -> Broadcast {
        debug_assert!(self.fits(sequence), "a draft is made to fit before it is numbered");
        if self.digits.is_some() {
            self.frame.overwrite(DIGITS_AT, itoa::Buffer::new().format(sequence.0).as_bytes());
        }
        Broadcast { sequence, topic: self.topic, naming: self.naming, frame: self.frame }
    }
}

fn digits_of(sequence: Sequence) -> usize {
    sequence.0.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId};

    const RUN: u64 = 7;

    fn draft(event: &Event, naming: &Naming, expected: u64) -> Draft {
        let head = (event.topic.clone(), naming.clone());
        Draft::new(RunName::from_bits(RUN), Sequence(expected), head, &Fields::from(event), &mut Vec::new())
    }

    #[test]
    fn a_draft_becomes_the_frame_that_is_formatted_with_its_id() {
        let run = RunName::from_bits(RUN);
        let message = Event::message(Topic::new("t").unwrap(), "two\nlines");
        let id = |text: &str| EventId::new(text).unwrap();
        let own_form = run.id(Sequence(9));
        let here = [None, Some(id("own")), Some(own_form)].map(Naming::Here);
        let namings =
            here.into_iter().chain(["aaaaaaaaaaaa-7~own", "aaaaaaaaaaaa-7"].map(|it| Naming::Elsewhere(id(it))));
        for naming in namings {
            for number in [0, 1, 9, 10, 11, 99, 100, 12_345, u64::MAX - 1, u64::MAX] {
                for expected in [0, 1, 9, 10, 99, number, u64::MAX] {
                    let mut draft = draft(&message, &naming, expected);
                    if !draft.fits(Sequence(number)) {
                        draft.expect(Sequence(number));
                    }
                    let broadcast = draft.number(Sequence(number));
                    assert_eq!(broadcast.naming, naming);
                    let id = naming.whole_id(|| run.id(Sequence(number)));
                    assert_eq!(broadcast.frame, encoder::event(&message, &id), "{number}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn numbering_leaves_the_bytes_where_they_are() {
        let draft = draft(&Event::message(Topic::new("t").unwrap(), "x"), &Naming::Here(None), 7);
        let bytes = draft.frame.bytes().as_ptr();
        assert_eq!(draft.number(Sequence(8)).frame.bytes().as_ptr(), bytes);
    }
}
