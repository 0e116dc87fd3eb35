//! A subscriber on a bus: it moves from node to node with its id.

use std::collections::VecDeque;

use fanfare::io::simulated::Random;

use super::life::{Known, Life};
use super::totals::Totals;
use crate::client::Link;
use crate::ledger::Checked;
use crate::reception::{Arrived, Reception, stream_request};

/// What a diary holds.
const DIARY_LINES_MAX: usize = 60;

/// A subscriber, through all its connections.
pub(crate) struct Client {
    pub(crate) topics: Vec<String>,
    pub(crate) node: usize,
    pub(crate) link: Link,
    /// How often, in a thousand, its connection is cut while it receives.
    pub(crate) cuts: u32,
    /// How often, in a thousand, it returns to another node.
    pub(crate) moves: u32,
    replays_all: bool,
    id_in_query: bool,
    wants_positions: bool,
    pub(crate) accepts_gzip: bool,
    pub(crate) reception: Reception,
    pub(crate) life: Life,
    asked_with: String,
    last_id: String,
    diary: VecDeque<String>,
}

impl Client {
    pub(crate) fn drawn(random: &mut Random, topics: &[String], nodes: usize) -> Client {
        let count = 1 + random.below(topics.len().min(3));
        let mut own = topics.to_vec();
        while own.len() > count {
            own.remove(random.below(own.len()));
        }
        Client {
            life: Life::new(&own),
            topics: own,
            node: random.below(nodes),
            link: Link::Away { until: std::time::Duration::ZERO },
            cuts: [0, 20, 100, 300][random.below(4)],
            moves: [100, 500, 900][random.below(3)],
            replays_all: random.chance(300),
            id_in_query: random.chance(300),
            wants_positions: random.chance(400),
            accepts_gzip: false,
            reception: Reception::default(),
            asked_with: String::new(),
            last_id: String::new(),
            diary: VecDeque::new(),
        }
    }

    /// The request for its stream.
    pub(crate) fn request(&mut self) -> Vec<u8> {
        let id = self.reception.last_event_id().to_owned();
        let mut target = String::from("/events?");
        self.topics.iter().for_each(|topic| target.push_str(&format!("topic={topic}&")));
        target.push_str(if self.replays_all { "replay=all" } else { "replay=missed" });
        if self.wants_positions {
            target.push_str("&heartbeat=position");
        }
        self.note(format!("asks node {} for {target} with {id:?}", self.node));
        self.reception.begin();
        let request = stream_request(target, &id, self.id_in_query, true, self.accepts_gzip);
        self.asked_with = id;
        request
    }

    /// The connection is over.
    pub(crate) fn leave(&mut self, link: Link) {
        self.note(format!("leaves: {link:?}"));
        self.link = link;
        self.reception.end();
        self.life.disconnect();
    }

    /// Takes what arrived.
    pub(crate) fn receive(&mut self, bytes: &[u8], known: Known<'_>, totals: &mut Totals) -> Checked {
        let mut reception = std::mem::take(&mut self.reception);
        let received = reception.receive(bytes, |arrived| match arrived {
            Arrived::Preamble { id, is_compressed } => {
                totals.count_many("compressed", usize::from(is_compressed));
                self.note(format!("preamble {id:?}"));
                totals.count("streams");
                totals.count_many("resumed", usize::from(!self.asked_with.is_empty()));
                self.last_id = id.unwrap_or_default().to_owned();
                self.life.connect(&self.asked_with, self.replays_all, id, known)
            }
            Arrived::Item(received) => {
                self.note(format!("  {} {} {}", received.event_type, received.id, received.data));
                totals.count_received(received.event_type, received.data);
                self.last_id = received.id.to_owned();
                self.life.take(received, known)
            }
        });
        // A heartbeat with a position is an id without an event.
        let id = reception.last_event_id().to_owned();
        self.reception = reception;
        received?;
        if self.life.is_streaming() && !self.last_id.is_empty() && id != self.last_id {
            self.note(format!("  position {id}"));
            totals.count("heartbeats with a position");
            self.life.move_on(&id, known)?;
            self.last_id = id;
        }
        Ok(())
    }

    fn note(&mut self, line: String) {
        self.diary.push_back(line);
        if self.diary.len() > DIARY_LINES_MAX {
            self.diary.pop_front();
        }
    }

    /// The end of what happened to it.
    pub(crate) fn diary(&self) -> String {
        self.diary.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
