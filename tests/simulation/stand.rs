//! Where a client stands: what survives its connections.

use std::collections::BTreeMap;

use super::ledger::{Checked, must};
use super::order::Order;

/// Where the client stands. It survives connections.
#[derive(Clone, Debug)]
pub(super) struct Stand {
    /// The run whose order `position` and `reach` belong to.
    pub(super) run: String,
    /// Where the id stands that the client holds.
    pub(super) position: u64,
    /// The newest place from which it received something. Beyond `position` after an id that was used twice.
    pub(super) reach: u64,
    /// What it received last, if that was an event.
    pub(super) last_event: Option<(String, usize)>,
    /// Through where everything of each topic was received, named by a gap, or not owed.
    pub(super) accounted: BTreeMap<String, Account>,
    /// Through where the past of a topic is wanted but not owed. It ends with the topic's first event.
    pub(super) wanted: BTreeMap<String, Account>,
}

/// A place in a topic, as events count, and as the losses of this run do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) place: usize,
    pub(super) losses: u64,
}

impl Stand {
    /// The worlds' publishers reuse an id only when every node was given its first event, so that what the id means here
    /// can be determined. A node that remembered the first event refused the second one: then the id means the earlier.
    pub(super) fn must_stand_at(&self, position: u64, order: &Order) -> Checked {
        let Some((topic, place)) = &self.last_event else { return Ok(()) };
        let here = order.sequence_of(topic, *place);
        must(here.is_none_or(|here| here >= position), || format!("the id stands at {here:?}, not at {position}"))
    }

    /// Comes to a node that knows the client's id as this position. Places count across nodes, sequences do not.
    pub(super) fn enter(&mut self, position: u64, order: &Order) {
        let had = self.accounted.iter().map(|(topic, had)| order.sequence_through(topic, had.place));
        self.reach = had.max().unwrap_or(0).max(position);
        self.run = order.run.to_string();
        for account in self.accounted.values_mut().chain(self.wanted.values_mut()) {
            account.losses = self.reach;
        }
    }

    pub(super) fn account(&mut self, topic: &str, through: Account) {
        let had = self.accounted.get_mut(topic).expect("a topic of this client");
        *had = Account { place: through.place.max(had.place), losses: through.losses.max(had.losses) };
    }

    pub(super) fn advance(&mut self, sequence: u64) {
        self.position = sequence;
        self.reach = self.reach.max(sequence);
    }
}

impl Account {
    /// Everything through a sequence.
    pub(super) fn at(topic: &str, sequence: u64, order: &Order) -> Account {
        Account { place: order.place_at(topic, sequence), losses: sequence }
    }
}
