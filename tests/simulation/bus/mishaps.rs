//! What happens in a world on a bus: faults of the engine and of nodes, and publishing.

use std::time::Duration;

use fanfare::event::{Event, EventId, Topic};
use fanfare::io::ListenerIndex;
use fanfare::io::simulated::Pace;
use fanfare::protocol::disconnect::Disconnect;
use fanfare::sources::bus::Content;
use serde_json::{Value, json};

use super::plan::Mishaps;
use super::world::{World, address};
use crate::client::Link;
use crate::ledger::Checked;

impl World {
    pub(super) fn mishap(&mut self) -> Checked {
        let Mishaps { trim, lose, go_back, refuse } = self.plan.mishaps;
        let node = self.random.below(self.nodes.len());
        if self.random.chance(20) {
            self.restart(node)?;
        }
        match self.random.below(100) {
            0..3 => {
                self.totals.count("outages");
                self.nodes[node].link.lock().unwrap().is_away = true;
            }
            3..20 => self.nodes[node].link.lock().unwrap().is_away = false,
            20..24 => self.nodes[node].hangs_until = self.now + self.random.up_to(Duration::from_secs(5)),
            24..26 => self.disconnect(),
            _ => {}
        }
        if self.random.chance(trim) {
            self.totals.count("trims");
            let count = if self.random.chance(100) { usize::MAX } else { 1 + self.random.below(30) };
            self.model().trim(count);
        }
        if self.random.chance(lose) {
            let count = [0, 1, 3, 1 + self.random.below(40), usize::MAX][self.random.below(5)];
            self.totals.count(if count == usize::MAX { "deletions" } else { "losses with a fork" });
            self.model().lose(count);
        }
        if self.random.chance(refuse) {
            self.append_refused();
        }
        if self.random.chance(2 * go_back) {
            self.model().copy();
        }
        if self.random.chance(go_back) { self.go_back() } else { Ok(()) }
    }

    fn append_refused(&mut self) {
        self.totals.count("refused entries");
        let topic = Some(self.a_topic()).filter(|_| self.random.chance(600));
        let ahead = self.random.below(4) as u64;
        match self.random.below(4) {
            0 => self.model().append_raw(Some(ahead), topic),
            1 => self.model().append_raw(None, topic),
            _ => self.model().append_refused(topic),
        }
    }

    /// The engine is replaced by a copy. Every node reads it before it has what that node has read: no later read could
    /// notice.
    fn go_back(&mut self) -> Checked {
        if !self.model().go_back() {
            return Ok(());
        }
        self.totals.count("returns to an older copy");
        self.clients.iter_mut().for_each(|client| client.life.set_adrift());
        let left = self.model().last();
        let read = self.nodes.iter().map(|node| node.served().through);
        let unread = read.filter(|read| read.epoch == left.epoch && *read > left).map(|read| read.offset - left.offset);
        let room = unread.min().unwrap_or(5) as usize;
        for _ in 0..self.random.below(room) {
            let event = self.an_event(false);
            self.model().append(&[event]);
        }
        for index in 0..self.nodes.len() {
            self.nodes[index].link.lock().unwrap().is_steady = true;
            while !self.nodes[index].read(self.now)? {
                self.pass(Duration::from_millis(50))?;
            }
            self.nodes[index].link.lock().unwrap().is_steady = false;
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        self.totals.count("disconnects");
        let topic = Some(self.a_topic()).filter(|_| self.random.chance(700));
        let network = topic.is_none().then(|| "192.0.2.0/30".parse().unwrap());
        let disconnect = Disconnect { holder: None, topic, network, for_seconds: None, asked_at_s: 0 };
        self.model().append(&[Content::Disconnect(disconnect, "another".into())]);
    }

    /// The process ends, and another takes its place: it remembers nothing.
    fn restart(&mut self, index: usize) -> Checked {
        self.totals.count("restarts");
        let node = self.start();
        let mut old = std::mem::replace(&mut self.nodes[index], node);
        self.hash = self.hash.rotate_left(7) ^ old.io().trace_hash();
        for client in 0..self.clients.len() {
            let Link::Joined(peer) = self.clients[client].link else { continue };
            if self.clients[client].node == index {
                let bytes = old.io().take(peer);
                self.receive(client, &bytes, &old.served())?;
                self.part(client, Duration::ZERO);
            }
        }
        let World { publishers, totals, .. } = self;
        for publisher in
            publishers.iter_mut().filter(|publisher| publisher.asked.is_some_and(|(node, _)| node == index))
        {
            publisher.fail(totals);
        }
        Ok(())
    }

    fn a_topic(&mut self) -> Topic {
        let index = self.random.below(self.plan.of_node.topics.len());
        Topic::new(&self.plan.of_node.topics[index]).unwrap()
    }

    /// An event, with an id or without, and now and then with one that was used before.
    fn an_event(&mut self, needs_id: bool) -> Content {
        self.serial += 1;
        let padding = [0, 30, 300][self.random.below(3)];
        let data = format!("{} {}", self.serial, "y".repeat(self.random.below(padding + 1)));
        let mut topic = self.a_topic();
        let mut own = (needs_id || self.random.chance(500)).then(|| format!("own/{}", self.serial));
        if own.is_some() && !self.used_ids.is_empty() && self.random.chance(150) {
            let (used_in, used) = self.used_ids[self.random.below(self.used_ids.len())].clone();
            own = Some(used);
            topic = if self.random.chance(800) { Topic::new(&used_in).unwrap() } else { topic };
        }
        self.used_ids.extend(own.iter().map(|own| (topic.to_string(), own.clone())));
        let id = own.map(|own| EventId::new(&own).unwrap());
        Content::Event(Event { id, ..Event::message(topic, data) })
    }

    /// Applications append through the function, or publish over HTTP.
    pub(super) fn publish(&mut self) {
        let count = [0, 0, 1, 3, self.random.below(20)][self.random.below(5)];
        for _ in 0..count {
            let event = self.an_event(false);
            self.model().append(&[event]);
        }
        for index in 0..self.publishers.len() {
            let publisher = &self.publishers[index];
            if publisher.asked.is_some() || publisher.rests_until > self.now {
                continue;
            }
            if !publisher.has_work() {
                if !self.random.chance(500) {
                    continue;
                }
                let events = self.events_to_post();
                self.publishers[index].take_on(events, &mut self.random);
            }
            self.post(index);
        }
    }

    pub(super) fn post(&mut self, index: usize) {
        let node = self.random.below(self.nodes.len());
        let io = self.nodes[node].io();
        let peer = io.connect(ListenerIndex(0), address(9), Pace::Eager);
        let request = self.publishers[index].ask(node, peer);
        io.peer_send(peer, &request);
    }

    fn events_to_post(&mut self) -> Vec<Value> {
        let has_ids = self.random.chance(700);
        let mut events: Vec<Value> = (0..1 + self.random.below(4)).map(|_| as_json(&self.an_event(has_ids))).collect();
        if has_ids && self.random.chance(200) {
            events.push(events[0].clone());
        }
        events
    }
}

/// An event as it is posted.
fn as_json(content: &Content) -> Value {
    let Content::Event(event) = content else { unreachable!("events are posted") };
    let mut json = json!({ "topic": event.topic.as_str(), "data": event.data });
    if let Some(id) = &event.id {
        json["id"] = id.as_str().into();
    }
    json
}
