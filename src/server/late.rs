//! Late streams: those whose client may have received, through another loop, what this loop has not appended yet. They start
//! once it has.

use std::collections::VecDeque;

use super::streams::open::StreamParams;
use crate::event::Sequence;
use crate::io::Token;

/// Streams that start in one turn. Each has a client that returns, and may begin a replay.
const STARTS_PER_TURN_MAX: usize = 256;

/// The streams that wait to start, in the order in which they came, which is that of the places they wait for.
#[derive(Debug, Default)]
pub(crate) struct LateStreams(VecDeque<LateStream>);

#[derive(Debug)]
struct LateStream {
    token: Token,
    params: StreamParams,
    /// What this loop has to append first.
    through: Sequence,
}

impl LateStreams {
    /// A stream waits until this loop has appended everything through a place, which is no earlier than those before.
    pub(crate) fn wait(&mut self, token: Token, params: StreamParams, through: Sequence) {
        self.0.push_back(LateStream { token, params, through });
    }

    /// True while one may start.
    pub(crate) fn has_due(&self, head: Sequence) -> bool {
        self.0.front().is_some_and(|late| late.through <= head)
    }

    /// Takes those that start in this turn.
    pub(crate) fn take_due(&mut self, head: Sequence) -> Vec<(Token, StreamParams)> {
        let due = self.0.iter().take(STARTS_PER_TURN_MAX).take_while(|late| late.through <= head).count();
        self.0.drain(..due).map(|late| (late.token, late.params)).collect()
    }

    /// Gives up all.
    pub(crate) fn take_all(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.0).into_iter().map(|late| late.token).collect()
    }

    /// Gives up one that has waited for too long. It is near the front.
    pub(crate) fn give_up(&mut self, token: Token) {
        if let Some(index) = self.0.iter().position(|late| late.token == token) {
            self.0.remove(index);
        }
    }
}
