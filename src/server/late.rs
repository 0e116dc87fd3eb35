//! Late streams: those whose client may have received, through another loop, what this loop has not appended yet. They start
//! once it has.

use super::streams::open::StreamParams;
use crate::event::Sequence;
use crate::io::Token;

/// The streams that wait to start.
#[derive(Debug, Default)]
pub(crate) struct LateStreams(Vec<LateStream>);

#[derive(Debug)]
struct LateStream {
    token: Token,
    params: StreamParams,
    /// What this loop has to append first.
    through: Sequence,
}

impl LateStreams {
    /// A stream waits until this loop has appended everything through a place.
    pub(crate) fn wait(&mut self, token: Token, params: StreamParams, through: Sequence) {
        self.0.push(LateStream { token, params, through });
    }

    /// Takes those that may start now.
    pub(crate) fn take_due(&mut self, head: Sequence) -> Vec<(Token, StreamParams)> {
        let due = self.0.extract_if(.., |late| late.through <= head);
        due.map(|late| (late.token, late.params)).collect()
    }

    /// Gives up one that has waited for too long.
    pub(crate) fn give_up(&mut self, token: Token) {
        self.0.retain(|late| late.token != token);
    }
}
