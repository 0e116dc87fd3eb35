//! The figures of one loop, and their sum for the node.
//!
//! What all loops see alike, such as an event that reaches the logs, counts once in the sum: as the loop saw it that saw most.

use std::collections::BTreeMap;

use super::slow_clients::SlowClients;
use crate::event::Topic;
use crate::hub::TopicInfo;
use crate::observe::metrics::{Counters, LoopGauges};
use crate::sources::channel::GapReason;

/// What a loop counts and measures.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) counters: Counters,
    pub(crate) gauges: LoopGauges,
    /// Connections by phase; none: there are too many to look at each.
    pub(crate) phases: Option<Phases>,
    pub(crate) catching_up: usize,
    /// The topics with the most subscribers.
    pub(crate) busiest: Vec<TopicInfo>,
    /// Subscribers of the statistics.
    pub(crate) watchers: usize,
    /// Whose streams are behind.
    pub(crate) slow_clients: SlowClients,
}

/// How many connections are in each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    pub(crate) securing: usize,
    pub(crate) idle: usize,
    pub(crate) requesting: usize,
    pub(crate) responding: usize,
    pub(crate) publishing: usize,
    pub(crate) streaming: usize,
    pub(crate) lingering: usize,
    pub(crate) dead: usize,
}

impl Figures {
    /// Adds those of another loop.
    pub(crate) fn add(&mut self, other: &Figures) {
        let Figures { counters, gauges, phases, catching_up, busiest, watchers, slow_clients } = other;
        self.counters.add(counters, is_seen_by_all);
        self.gauges.add(gauges);
        self.phases = self.phases.zip(*phases).map(|(own, phases)| own.and(phases));
        self.catching_up += catching_up;
        self.busiest = merge_topics(self.busiest.iter().chain(busiest));
        self.watchers += watchers;
        self.slow_clients.add(slow_clients);
    }
}

/// True for the reason of a gap that each loop announces to its own subscribers.
fn is_seen_by_all(reason: &str) -> bool {
    GapReason::ALL.into_iter().any(|known| known != GapReason::ChannelFull && known.as_str() == reason)
}

impl Phases {
    fn and(self, other: Phases) -> Phases {
        let Phases { securing, idle, requesting, responding, publishing, streaming, lingering, dead } = other;
        Phases {
            securing: self.securing + securing,
            idle: self.idle + idle,
            requesting: self.requesting + requesting,
            responding: self.responding + responding,
            publishing: self.publishing + publishing,
            streaming: self.streaming + streaming,
            lingering: self.lingering + lingering,
            dead: self.dead + dead,
        }
    }
}

/// Puts together what loops have about topics: each once, those with the most subscribers first.
pub(crate) fn merge_topics<'a>(infos: impl Iterator<Item = &'a TopicInfo>) -> Vec<TopicInfo> {
    let mut topics = BTreeMap::<Topic, TopicInfo>::new();
    for info in infos {
        match topics.get_mut(&info.name) {
            Some(known) => merge(known, info),
            None => _ = topics.insert(info.name.clone(), info.clone()),
        }
    }
    let mut topics: Vec<_> = topics.into_values().collect();
    topics.sort_by_key(|info| std::cmp::Reverse(info.subscribers));
    topics
}

/// Adds what another loop has about a topic. Its log holds the same events.
pub(crate) fn merge(known: &mut TopicInfo, other: &TopicInfo) {
    known.subscribers += other.subscribers;
    known.published_events = known.published_events.max(other.published_events);
    known.retained_events = known.retained_events.max(other.retained_events);
    known.retained_bytes = known.retained_bytes.max(other.retained_bytes);
    if known.last_id.is_none() {
        known.last_id.clone_from(&other.last_id);
    }
}
