//! A loop among the loops of its node: what they have in common, and its mailbox.
//!
//! Invariant: a loop that has ended is known to all others, so that no question waits for it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, SendError, Sender, unbounded};

use super::common::Common;
use super::figures::Figures;
use super::letter::{Accepted, Asker, Letter, Question};
use crate::io::Token;
use crate::sources::channel::Outlet;

/// One loop's place among them.
pub struct Member {
    common: Arc<Common>,
    index: usize,
    letters: Receiver<Letter>,
    /// The other loops that have not ended.
    peers: Vec<Mailbox>,
    /// Loops whose reload is not over, while one is under way. Counted by the first loop.
    reloading: usize,
    /// The reload that is under way has put settings in force here.
    is_put_in_force: bool,
}

/// The way to another loop.
#[derive(Clone)]
struct Mailbox {
    index: usize,
    // Bounded by what letters are about: connections, requests that wait, and refused origins.
    letters: Sender<Letter>,
    /// Wakes the loop.
    outlet: Outlet,
}

impl Member {
    /// The only loop of a node.
    pub fn alone() -> Member {
        let (_, letters) = unbounded();
        Member {
            common: Arc::new(Common::new(1)),
            index: 0,
            letters,
            peers: Vec::new(),
            reloading: 0,
            is_put_in_force: false,
        }
    }

    /// The loops behind these outlets, in their order.
    pub fn of(outlets: &[Outlet]) -> Vec<Member> {
        let common = Arc::new(Common::new(outlets.len()));
        let (senders, receivers): (Vec<_>, Vec<_>) = outlets.iter().map(|_| unbounded()).unzip();
        let mailbox = |(index, (letters, outlet)): (usize, (Sender<Letter>, &Outlet))| Mailbox {
            index,
            letters,
            outlet: outlet.clone(),
        };
        let mailboxes: Vec<_> = senders.into_iter().zip(outlets).enumerate().map(mailbox).collect();
        let member = |(own, letters): (usize, Receiver<Letter>)| Member {
            common: Arc::clone(&common),
            index: own,
            letters,
            peers: mailboxes.iter().filter(|mailbox| mailbox.index != own).cloned().collect(),
            reloading: 0,
            is_put_in_force: false,
        };
        receivers.into_iter().enumerate().map(member).collect()
    }

    pub(super) fn common(&self) -> Arc<Common> {
        Arc::clone(&self.common)
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// True for the loop that reports for all: statistics, and to the supervisor.
    pub(crate) fn is_first(&self) -> bool {
        self.index == 0
    }

    /// True while there are other loops.
    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// How many loops the node was started with.
    pub(crate) fn loop_count(&self) -> usize {
        self.common.loop_count()
    }

    // ---- letters ----

    /// The next letter, if there is one.
    pub(crate) fn next_letter(&mut self) -> Option<Letter> {
        if self.common.loop_count() == 1 {
            return None;
        }
        let letter = self.letters.try_recv().ok()?;
        if let Letter::Left(left) = letter {
            self.peers.retain(|peer| peer.index != left);
        }
        Some(letter)
    }

    /// True when letters wait.
    pub(crate) fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    /// Sends a letter to a loop; gives it back if that loop has ended.
    pub(crate) fn send(&self, index: usize, letter: Letter) -> Result<(), Letter> {
        let Some(peer) = self.peers.iter().find(|peer| peer.index == index) else { return Err(letter) };
        peer.letters.send(letter).map_err(SendError::into_inner)?;
        peer.outlet.wake();
        Ok(())
    }

    /// Sends a letter to each of the other loops.
    pub(crate) fn send_to_all(&self, letter: impl Fn() -> Letter) {
        for peer in &self.peers {
            // One that has ended meanwhile needs none.
            let _ = self.send(peer.index, letter());
        }
    }

    /// Asks the loops that a question is for. Returns those that will reply.
    pub(crate) fn ask(&self, ticket: Token, question: &Arc<Question>) -> Vec<usize> {
        let asker = Asker { index: self.index, ticket };
        let is_meant = |peer: &&Mailbox| question.recipient().is_none_or(|index| index == peer.index);
        let asked = self.peers.iter().filter(is_meant).map(|peer| peer.index);
        asked.filter(|index| self.send(*index, Letter::Ask(asker, Arc::clone(question))).is_ok()).collect()
    }

    // ---- connections ----

    /// Hands a connection over to the loop that has the fewest; returns it if that is this one.
    pub(crate) fn hand_over(&self, accepted: Accepted, now: Duration) -> Option<Accepted> {
        if !self.has_peers() {
            return Some(accepted);
        }
        let index = self.common.loop_for_next(self.index, now);
        if index == self.index {
            return Some(accepted);
        }
        // Before the letter, so that the next connection goes elsewhere.
        self.common.count_connection(index);
        match self.send(index, Letter::Connection(accepted)) {
            Err(Letter::Connection(accepted)) => {
                self.common.uncount_connection(index);
                Some(accepted)
            }
            _ => None,
        }
    }

    /// This loop keeps a connection that it has accepted.
    pub(crate) fn count_connection(&self) {
        self.common.count_connection(self.index);
    }

    /// A connection of this loop is gone.
    pub(super) fn uncount_connection(&self) {
        self.common.uncount_connection(self.index);
    }

    // ---- reports ----

    /// This loop turns.
    pub(crate) fn note_alive(&self, now: Duration) {
        self.common.note_alive(self.index, now);
    }

    /// Leaves this loop's figures for the others.
    pub(crate) fn leave(&self, figures: Figures) {
        self.common.leave(self.index, figures);
    }

    /// The last figures of the other loops.
    pub(crate) fn others_figures(&self) -> impl Iterator<Item = Arc<Figures>> {
        let others = (0..self.common.loop_count()).filter(|index| *index != self.index);
        others.filter_map(|index| self.common.figures_of(index))
    }

    /// A reload has put settings in force here.
    pub(crate) fn note_put_in_force(&mut self) {
        self.is_put_in_force = true;
    }

    /// True if the reload that is over has done that.
    pub(crate) fn take_put_in_force(&mut self) -> bool {
        std::mem::take(&mut self.is_put_in_force)
    }

    /// A reload is over in this loop, or, on the first one, in another. True on the first loop when it is over in all.
    pub(crate) fn note_reloaded(&mut self) -> bool {
        if !self.is_first() {
            // Without the first loop, the process is ending.
            let _ = self.send(0, Letter::Reloaded);
            return false;
        }
        if self.reloading == 0 {
            self.reloading = self.peers.len() + 1;
        }
        self.reloading -= 1;
        self.reloading == 0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.common.note_left(self.index);
        self.send_to_all(|| Letter::Left(self.index));
    }
}
