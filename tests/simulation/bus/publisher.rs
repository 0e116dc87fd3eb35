//! Publishers over HTTP: each posts to any node, and posts again under the same ids while the answer is an error.

use std::time::Duration;

use fanfare::event::timeline::Position;
use fanfare::io::simulated::{PeerId, Random};
use serde_json::{Value, json};

use super::totals::Totals;
use super::truth::{Truth, What};
use crate::ledger::{Checked, must};
use crate::wire::find;

/// A publisher, which has one publish under way at a time.
#[derive(Default)]
pub(crate) struct Publisher {
    /// What is to be published.
    events: Vec<Value>,
    is_batch: bool,
    pub(crate) asked: Option<(usize, PeerId)>,
    received: Vec<u8>,
    pub(crate) rests_until: Duration,
}

/// What an answer means to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    /// Whether it was published is not known.
    Error,
}

impl Publisher {
    pub(crate) fn has_work(&self) -> bool {
        !self.events.is_empty()
    }

    /// Takes on these events.
    pub(crate) fn take_on(&mut self, events: Vec<Value>, random: &mut Random) {
        self.is_batch = events.len() > 1 || random.chance(200);
        self.events = events;
    }

    /// The request, and where it goes.
    pub(crate) fn ask(&mut self, node: usize, peer: PeerId) -> Vec<u8> {
        self.asked = Some((node, peer));
        self.received.clear();
        let body = if self.is_batch { json!(self.events) } else { self.events[0].clone() }.to_string();
        format!("POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    }

    /// Takes what arrived. True: there is nothing to wait for any more.
    pub(crate) fn receive(&mut self, bytes: &[u8], truth: &mut Truth, totals: &mut Totals) -> Result<bool, String> {
        self.received.extend_from_slice(bytes);
        let Some(end) = find(&self.received, b"\r\n\r\n") else { return Ok(false) };
        let head = String::from_utf8_lossy(&self.received[..end + 4]).into_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let Some(body) = self.received.get(end + 4..end + 4 + length) else { return Ok(false) };
        let body = serde_json::from_slice(body).unwrap_or_default();
        let answer = match head.split(' ').nth(1) {
            Some("202") => Answer::Accepted,
            Some("503" | "408") => Answer::Error,
            _ => return Err(format!("no answer to a publish: {head:?}")),
        };
        if answer == Answer::Accepted {
            self.check_accepted(&body, truth, totals).map_err(|what| format!("{what}\n{body}\n{:?}", self.events))?;
            self.events.clear();
        }
        self.fail(totals);
        Ok(true)
    }

    /// The connection is over. What has no id is not repeated, since it may have been published.
    pub(crate) fn fail(&mut self, totals: &mut Totals) {
        self.asked = None;
        self.events.retain(|event| event["id"].is_string());
        totals.count_many("publishes repeated", usize::from(self.has_work()));
    }

    /// Each id is the position of one of the events, on the bus or lost with it.
    fn check_accepted(&self, body: &Value, truth: &mut Truth, totals: &mut Totals) -> Checked {
        let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
        let is_duplicate = body["duplicate"] == true;
        let one: Vec<_> = body.get("id").cloned().into_iter().collect();
        let (mut ids, mut duplicates) = (list("ids"), list("duplicates"));
        let single = if is_duplicate { &mut duplicates } else { &mut ids };
        single.extend(one);
        let count = ids.len() + duplicates.len();
        must(count == self.events.len(), || format!("B1: {count} of {} events are accepted", self.events.len()))?;
        totals.count_many("duplicates", duplicates.len());
        let is_new = |(_, is_duplicate): &(Value, bool)| !is_duplicate;
        let all: Vec<_> =
            ids.into_iter().map(|id| (id, false)).chain(duplicates.into_iter().map(|id| (id, true))).collect();
        totals.count_many("acknowledged", all.iter().filter(|id| is_new(id)).count());
        for (id, is_duplicate) in all {
            let id = id.as_str().ok_or("an id is text")?;
            let position = Position::of_id(id).ok_or_else(|| format!("B1: {id} is no position"))?;
            let is_one_of_them = |what: &What| {
                let What::Event { topic, data, own } = what else { return false };
                self.events.iter().any(|event| {
                    let has_id = event["id"].as_str() == own.as_deref();
                    event["topic"] == topic.as_str() && has_id && (is_duplicate || event["data"] == data.as_str())
                })
            };
            let mut there = truth.records_mut().iter_mut().filter(|record| record.position == position);
            let record = there.find(|record| is_one_of_them(&record.what));
            record.ok_or_else(|| format!("B1: {id} is the position of none of them"))?.is_acknowledged = true;
        }
        Ok(())
    }
}
