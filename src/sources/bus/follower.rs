//! The follower: turns pages of a bus into what the loop gets, and proves that no entry was skipped. Pure.
//!
//! The proof: offsets are dense in an epoch, and an epoch begins with a fork. So each entry must have the next offset, or
//! be a fork, which is a gap by itself, unless it follows the entry that was read last. Anything else is a loss, and the
//! follower puts a gap in its place: entries that were trimmed before this node read them, or an engine that was restored
//! from an old copy.

use crate::event::timeline::{Epoch, Position, Timeline};
use crate::event::{Event, Sequence, Topic};
use crate::protocol::disconnect::Disconnect;
use crate::sources::bus::{Content, Entry, Page};
use crate::sources::channel::GapReason;

/// The most positions that are skipped without beginning anew.
const SKIPPED_MAX: u64 = 1 << 20;

/// What the loop gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An epoch begins; what follows is in it.
    Begin(Epoch),
    /// An event at its place.
    Event(Sequence, Position, Event),
    /// Streams to end, and the node that passed this on.
    Disconnect(Disconnect, String),
    /// Entries are missing at or before this place.
    Gap(Sequence, Position, Loss),
}

/// Why entries are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The engine may have lost entries before this fork.
    Fork,
    /// The engine no longer had entries that this node had not read.
    Trimmed,
    /// An entry of this topic, or of an unknown one, is not an event.
    Refused(Option<Topic>, String),
    /// Events of these topics, or of any, never reached the bus.
    Announced(GapReason, Vec<Topic>),
}

/// How far a node has read, and how sequences follow from positions.
#[derive(Debug, Default)]
pub struct Follower {
    timeline: Timeline,
    read: Option<Position>,
    head: Sequence,
}

impl Follower {
    /// One that continues after a position.
    pub fn after(position: Position) -> Follower {
        let mut follower = Follower::default();
        follower.begin(position, None, &mut Vec::new());
        follower
    }

    /// The last position that was read; the engine is asked for what follows it.
    pub fn read(&self) -> Option<Position> {
        self.read
    }

    /// Takes a page that was read after [`Follower::read`], or with the first entries that a node keeps.
    pub fn take(&mut self, page: Page, steps: &mut Vec<Step>) {
        let is_complete = page.entries.last().is_none_or(|entry| entry.position >= page.last);
        for entry in page.entries {
            self.take_entry(entry, steps);
        }
        // Nothing is left to read, but the engine's last entry is another one than the last that was read.
        if is_complete && self.read.is_none_or(|read| read != page.last) {
            self.jump(page.last, steps);
        }
    }

    fn take_entry(&mut self, Entry { position, content }: Entry, steps: &mut Vec<Step>) {
        let (before_it, follows) = (self.read, content.follows());
        match self.read {
            Some(read) if position <= read => return,
            Some(read) if position == read.next() => self.advance(position),
            Some(read) if position.epoch == read.epoch => {
                self.skip_to(position.previous(), steps);
                self.push_gap(Loss::Trimmed, steps);
                self.advance(position);
            }
            Some(_) if !matches!(content, Content::Fork { .. }) && position.offset > 0 => {
                // The fork itself is trimmed.
                self.begin(position.previous(), None, steps);
                self.push_gap(Loss::Trimmed, steps);
                self.advance(position);
            }
            Some(_) | None => self.begin(position, follows, steps),
        }
        match content {
            Content::Event(event) => steps.push(Step::Event(self.head, position, event)),
            Content::Disconnect(disconnect, node) => steps.push(Step::Disconnect(disconnect, node)),
            Content::Refused { topic, reason } => self.push_gap(Loss::Refused(topic, reason), steps),
            Content::Gap { reason, topics } => self.push_gap(Loss::Announced(reason, topics), steps),
            Content::Nothing => {}
            // What came before the first entry is before what this node remembers.
            Content::Fork { .. } if before_it.is_none() => {}
            Content::Fork { follows: Some(_) } if follows == before_it => {}
            Content::Fork { follows: Some(_) } if follows > before_it => self.push_gap(Loss::Trimmed, steps),
            Content::Fork { .. } => self.push_gap(Loss::Fork, steps),
        }
    }

    /// Continues after an entry that is the engine's newest, although it is not what was read last.
    fn jump(&mut self, last: Position, steps: &mut Vec<Step>) {
        match self.read {
            // This node keeps no entry: the newest one is missing, too.
            None => self.begin(last, None, steps),
            Some(read) if read.epoch == last.epoch && read < last => self.skip_to(last, steps),
            // A newer epoch whose entries are all trimmed; or an older engine: none of its positions was read.
            Some(_) => self.begin(last, None, steps),
        }
        self.push_gap(Loss::Trimmed, steps);
    }

    fn begin(&mut self, position: Position, follows: Option<Position>, steps: &mut Vec<Step>) {
        let epoch = self.timeline.begin(position, follows, self.head);
        steps.push(Step::Begin(epoch));
        self.advance(position);
    }

    /// Continues further on in the same epoch. Far ahead, sequences begin anew: an application that appends with an id of its
    /// own may name any offset.
    fn skip_to(&mut self, position: Position, steps: &mut Vec<Step>) {
        match self.read {
            Some(read) if position.offset - read.offset <= SKIPPED_MAX => self.advance(position),
            _ => self.begin(position, None, steps),
        }
    }

    fn advance(&mut self, position: Position) {
        self.read = Some(position);
        self.head = self.timeline.sequence_of(position).expect("it is in the epoch that is read");
    }

    fn push_gap(&self, loss: Loss, steps: &mut Vec<Step>) {
        steps.extend(self.read.map(|read| Step::Gap(self.head, read, loss)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `7-1 7-2` as events, `9-0<` as a fork, `9-0<7-2` as one that follows 7-2, `9-3?` as a gap, `9-3_` as nothing,
    /// `9-3!` as something else.
    fn page(entries: &str, last: &str) -> Page {
        let at = |text: &str| Position::parse(text).unwrap();
        let entry = |text: &str| {
            let number = text.split(['<', '?', '!', '_']).next().unwrap();
            let content = match &text[number.len()..] {
                "" => Content::Event(Event::message(Topic::new("t").unwrap(), text)),
                "?" => Content::Gap { reason: GapReason::SourceLost, topics: Vec::new() },
                "_" => Content::Nothing,
                "!" => Content::Refused { topic: None, reason: String::new() },
                fork => Content::Fork { follows: Position::parse(&fork[1..]) },
            };
            Entry { position: at(number), content }
        };
        Page { entries: entries.split_whitespace().map(entry).collect(), last: at(last) }
    }

    /// What the loop gets for these pages, which are (entries, the engine's last entry).
    fn follow(pages: &[(&str, &str)]) -> String {
        let (mut follower, mut steps, mut head) = (Follower::default(), Vec::new(), Sequence::ZERO);
        pages.iter().for_each(|(entries, last)| follower.take(page(entries, last), &mut steps));
        let show = |step: &Step| match step {
            Step::Begin(epoch) => format!("[{}", epoch.first),
            Step::Disconnect(..) => "disconnect".to_owned(),
            Step::Event(sequence, position, event) => {
                assert!(*sequence > head && event.data == position.to_string());
                head = *sequence;
                position.to_string()
            }
            Step::Gap(sequence, position, loss) => {
                assert!(*sequence > head, "{position}");
                head = *sequence;
                let loss = format!("{loss:?}");
                format!("gap@{position} {}", loss.split('(').next().unwrap())
            }
        };
        steps.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn entries_without_a_break_are_events() {
        assert_eq!(follow(&[("7-0< 7-1 7-2", "7-2"), ("", "7-2"), ("7-3", "7-3")]), "[7-0, 7-1, 7-2, 7-3");
        assert_eq!(follow(&[("7-5 7-6", "7-9"), ("7-7 7-8 7-9", "7-9")]), "[7-5, 7-5, 7-6, 7-7, 7-8, 7-9");
        assert_eq!(follow(&[("", "7-4"), ("7-5", "7-5")]), "[7-4, gap@7-4 Trimmed, 7-5");
        assert_eq!(follow(&[("7-0_ 7-1", "7-1"), ("7-2_ 7-3_", "7-3"), ("7-4", "7-4")]), "[7-0, 7-1, 7-4");
    }

    #[test]
    fn a_break_is_a_gap_in_its_place() {
        let check = |pages: &[(&str, &str)], expected: &str| assert_eq!(follow(pages), expected, "{pages:?}");
        check(&[("7-1", "7-1"), ("7-4", "7-4")], "[7-1, 7-1, gap@7-3 Trimmed, 7-4");
        check(&[("7-1", "7-1"), ("", "7-4"), ("7-5", "7-5")], "[7-1, 7-1, gap@7-4 Trimmed, 7-5");
        check(&[("7-1 7-2", "7-4"), ("", "7-4")], "[7-1, 7-1, 7-2, gap@7-4 Trimmed");
        check(&[("7-1 7-2!", "7-2"), ("7-3", "7-3")], "[7-1, 7-1, gap@7-2 Refused, 7-3");
        check(&[("7-1 7-2? 7-3", "7-3")], "[7-1, 7-1, gap@7-2 Announced, 7-3");
        // A client that has everything before the first entry has missed something.
        check(&[("7-2? 7-3", "7-3")], "[7-2, gap@7-2 Announced, 7-3");
    }

    #[test]
    fn a_fork_is_a_gap_also_where_it_takes_back_what_was_read() {
        let check = |pages: &[(&str, &str)], expected: &str| assert_eq!(follow(pages), expected, "{pages:?}");
        check(&[("7-1", "7-1"), ("9-0< 9-1", "9-1")], "[7-1, 7-1, [9-0, gap@9-0 Fork, 9-1");
        check(&[("7-1 7-2 7-3", "7-3"), ("9-0< 9-1", "9-1")], "[7-1, 7-1, 7-2, 7-3, [9-0, gap@9-0 Fork, 9-1");
        check(&[("7-1", "7-1"), ("9-4", "9-4")], "[7-1, 7-1, [9-3, gap@9-3 Trimmed, 9-4");
        check(&[("7-1", "7-1"), ("9-4?", "9-4")], "[7-1, 7-1, [9-3, gap@9-3 Trimmed, gap@9-4 Announced");
        check(&[("7-1", "7-1"), ("", "9-4"), ("9-5", "9-5")], "[7-1, 7-1, [9-4, gap@9-4 Trimmed, 9-5");
        check(&[("7-1", "7-1"), ("9-4!", "9-4")], "[7-1, 7-1, [9-3, gap@9-3 Trimmed, gap@9-4 Refused");
        let far = "7-18446744073709551615";
        check(
            &[("7-1", "7-1"), (far, far)],
            "[7-1, 7-1, [7-18446744073709551614, gap@7-18446744073709551614 Trimmed, 7-18446744073709551615",
        );
        // Appended with another id than the function's, and repaired with a fork.
        check(&[("7-1 9-0! 10-0< 10-1", "10-1")], "[7-1, 7-1, [9-0, gap@9-0 Refused, [10-0, gap@10-0 Fork, 10-1");
    }

    #[test]
    fn a_fork_that_follows_what_was_read_is_no_gap() {
        let check = |pages: &[(&str, &str)], expected: &str| assert_eq!(follow(pages), expected, "{pages:?}");
        check(&[("7-1 7-2", "7-2"), ("9-0<7-2 9-1", "9-1")], "[7-1, 7-1, 7-2, [9-0, 9-1");
        check(&[("7-1 7-2 9-0<7-2 9-1", "9-1")], "[7-1, 7-1, 7-2, [9-0, 9-1");
        check(&[("9-0<7-2 9-1", "9-1")], "[9-0, 9-1");
        // What it follows was trimmed before it was read.
        check(&[("7-1", "7-1"), ("9-0<7-2 9-1", "9-1")], "[7-1, 7-1, [9-0, gap@9-0 Trimmed, 9-1");
        check(&[("7-1", "7-1"), ("9-0<8-2 9-1", "9-1")], "[7-1, 7-1, [9-0, gap@9-0 Trimmed, 9-1");
        // The proof is wrong: this node has read more.
        check(&[("7-1 7-2", "7-2"), ("9-0<7-1 9-1", "9-1")], "[7-1, 7-1, 7-2, [9-0, gap@9-0 Fork, 9-1");
    }

    #[test]
    fn an_engine_that_went_back_begins_anew() {
        let pages = [("7-1 7-2", "7-2"), ("", "5-3"), ("5-4", "5-4")];
        assert_eq!(follow(&pages), "[7-1, 7-1, 7-2, [5-3, gap@5-3 Trimmed, 5-4");
    }
}
