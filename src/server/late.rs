//! Late streams: those whose client may have received, through another loop, what this loop has not appended yet. They start
//! once it has.

use std::collections::VecDeque;

use super::streams::open::StreamParams;
use crate::event::Sequence;
use crate::io::Token;

/// The streams that wait to start, in the order in which they came, which is that of the places they wait for. The connection
/// of each stays until it starts, is refused, or has waited for too long.
#[derive(Debug, Default)]
pub(crate) struct LateStreams {
    waiting: VecDeque<LateStream>,
    /// How many of them, from the front on, are to be refused.
    refused: usize,
}

#[derive(Debug)]
struct LateStream {
    token: Token,
    params: StreamParams,
    /// What this loop has to append first.
    through: Sequence,
}

/// What becomes of a late stream.
pub(crate) enum Verdict {
    Start(Token, StreamParams),
    Refuse(Token),
}

impl LateStreams {
    /// A stream waits until this loop has appended everything through a place, which is no earlier than those before.
    pub(crate) fn wait(&mut self, token: Token, params: StreamParams, through: Sequence) {
        self.waiting.push_back(LateStream { token, params, through });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Refuses all that wait now.
    pub(crate) fn refuse_all(&mut self) {
        self.refused = self.waiting.len();
    }

    /// True while one is to start or to be refused.
    pub(crate) fn has_due(&self, head: Sequence) -> bool {
        self.refused > 0 || self.waiting.front().is_some_and(|late| late.through <= head)
    }

    /// Takes the next one that is to start or to be refused.
    pub(crate) fn next_due(&mut self, head: Sequence) -> Option<Verdict> {
        if !self.has_due(head) {
            return None;
        }
        let LateStream { token, params, .. } = self.waiting.pop_front()?;
        let is_refused = self.refused > 0;
        self.refused = self.refused.saturating_sub(1);
        Some(if is_refused { Verdict::Refuse(token) } else { Verdict::Start(token, params) })
    }

    /// Gives up one that has waited for too long. It is near the front.
    pub(crate) fn give_up(&mut self, token: Token) {
        if let Some(index) = self.waiting.iter().position(|late| late.token == token) {
            self.waiting.remove(index);
            self.refused -= usize::from(index < self.refused);
        }
    }
}
