//! The cursor of a feed, as the bus stores it: `<position> <node> <beat>`, with `-` for a node that gave up the lead.

use std::fmt;

use crate::event::timeline::Position;

/// How far a log was read, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The last entry that was read.
    pub(super) position: Position,
    /// The node that leads; none: it gave up the lead.
    pub(super) node: Option<String>,
    /// Rises with each move, so that no text comes twice.
    pub(super) beat: u64,
}

impl Cursor {
    pub(super) fn parse(text: &str) -> Option<Cursor> {
        let mut words = text.split(' ');
        let (position, node, beat) = (Position::parse(words.next()?)?, words.next()?, words.next()?.parse().ok()?);
        let node = (node != "-").then(|| node.to_owned());
        words.next().is_none().then_some(Cursor { position, node, beat })
    }

    pub(super) fn moved_to(&self, position: Position, node: Option<&str>) -> Cursor {
        Cursor { position, node: node.map(str::to_owned), beat: self.beat.wrapping_add(1) }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.position, self.node.as_deref().unwrap_or("-"), self.beat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["7-1 node 3", "7-1 - 4", "0-0 x 18446744073709551615"] {
            assert_eq!(Cursor::parse(text).unwrap().to_string(), text);
        }
        for other in ["", "7-1", "7-1 a", "7-1 a b", "7 a 1", "7-1 a 1 2", "7-1 a 1 "] {
            assert_eq!(Cursor::parse(other), None, "{other:?}");
        }
    }
}
