//! Listings: the topics, and the latest event of each, one page at a time.
//!
//! Invariant: a page visits a bounded number of topics and decodes a bounded number of bytes, and it is charged before
//! it is built, so no request delays the others, whatever the number and the size of topics. If more remains, the
//! answer has the `after` of the next page.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::access::deny_reading;
use super::context::{Outcome, RequestContext};
use super::reports::{TopicView, head_of_json};
use super::subscribe::{check_topic_count, named_topic};
use super::{Api, json};
use crate::event::{Frame, RESERVED_TOPIC_PREFIX};
use crate::hub::{Hub, TopicInfo};
use crate::io::Io;
use crate::protocol::decoder::{Decoder, Item};
use crate::protocol::head::Method;
use crate::protocol::response::Response;
use crate::server::grant::ReadGrant;
use crate::server::node::Node;
use crate::server::node::figures::{merge, merge_topics};
use crate::server::node::letter::{LatestPage, Listed, Question, TopicsAsked, TopicsKnown};
use crate::server::window::{PAGE_BYTES_MAX, Page, TopicSearch, Window, place_in};

/// What a topic takes in the list in addition to its name.
const TOPIC_OBJECT_BYTES: usize = 160;

impl Api {
    /// The topics, in no particular order: those of the first loop, then those that only the next one has, and so on.
    pub(super) fn topic_list<I: Io>(
        &self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Outcome, Response> {
        let (window, index) = Window::read(&asked.head.target, node.member.loop_count())?;
        if asked.head.method == Method::Head {
            return Ok(head_of_json().into());
        }
        asked.admit_answer(PAGE_BYTES_MAX, node)?;
        let search = TopicSearch::new(window, &asked.head.target);
        Ok(match index {
            None => Outcome::Ask(Question::FirstTopicPages(search)),
            Some(index) => self.topics_of_loop(index, &search, || topic_page(&search, asked.hub), asked.hub, node),
        })
    }

    /// The list, if it fits on one page; otherwise its first page, which is of the first loop. `others`: the first pages of
    /// the other loops.
    pub(super) fn first_topics(
        &self,
        search: &TopicSearch,
        others: &[Page<TopicInfo>],
        hub: &Hub,
        node: &Node,
    ) -> Outcome {
        let own = topic_page(search, hub);
        let is_whole = own.next.is_none() && others.iter().all(|page| page.next.is_none());
        let infos = own.items.iter().chain(others.iter().flat_map(|page| &page.items));
        let topics = if is_whole { merge_topics(infos) } else { Vec::new() };
        if !is_whole || !search.window.holds(topics.len()) {
            return self.topics_of_loop(0, search, || own, hub, node);
        }
        let shown = topics.iter().map(TopicView::of).collect();
        let count = if search.is_for_all() { topics.len() } else { hub.topic_count().max(topics.len()) };
        json(200, &TopicList { count, topics: shown, next: None }).into()
    }

    /// The topics of a page of loop `index`; `own` builds it, if that is this loop.
    fn topics_of_loop(
        &self,
        index: usize,
        search: &TopicSearch,
        own: impl FnOnce() -> Page<TopicInfo>,
        hub: &Hub,
        node: &Node,
    ) -> Outcome {
        match index == node.member.index() {
            true => self.complete_topics(index, own(), hub, node),
            false => Outcome::Ask(Question::TopicPage(index, search.clone())),
        }
    }

    /// Asks the other loops, if there are any, about the topics of a page of loop `index`.
    pub(super) fn complete_topics(&self, index: usize, page: Page<TopicInfo>, hub: &Hub, node: &Node) -> Outcome {
        let next_loop = Some(index + 1).filter(|next| *next < node.member.loop_count()).map(|next| place_in(next, 0));
        let next = page.next.map(|place| place_in(index, place)).or(next_loop);
        let listed = Listed { index, infos: page.items, next };
        if index == node.member.index() && !node.member.has_peers() {
            return answer_topics(listed, Vec::new(), hub).into();
        }
        let names = listed.infos.iter().map(|info| info.name.clone()).collect();
        Outcome::Ask(Question::Topics(TopicsAsked { names, listed: Some(listed) }))
    }

    /// The latest event of each topic, and their position: a stream from that position loses nothing.
    pub(super) fn snapshot<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Outcome, Response> {
        let (head, hub) = (asked.head, &*asked.hub);
        let grant = self.access.may_read(asked, node)?;
        let (window, index) = Window::read(&head.target, node.member.loop_count())?;
        let named = topics_of_snapshot(asked, &grant, node)?;
        // A client that may subscribe to a topic may look at it. The list of all topics needs an operator's rights.
        if named.is_empty() && node.settings.jwt.is_none() {
            self.access.may_operate(asked, node)?;
        }
        if head.method == Method::Head {
            return Ok(head_of_json().with_header("Cache-Control", "no-store").into());
        }
        let own = node.member.index();
        let page = match (named.is_empty(), index.unwrap_or(own)) {
            (true, index) if index != own => return Ok(Outcome::Ask(Question::LatestPage(index, window, grant))),
            (true, _) => latest_page(window, &grant, hub),
            (false, _) => LatestPage { id: hub.id_of(hub.head()), page: latest_of(window, &named, hub) },
        };
        let index = if named.is_empty() { own } else { 0 };
        self.answer_snapshot(index, page, asked, node).map(Outcome::from)
    }

    /// The answer with a page of loop `index`.
    pub(super) fn answer_snapshot<I: Io>(
        &self,
        index: usize,
        LatestPage { id, page }: LatestPage,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Response, Response> {
        asked.admit_answer(page.bytes, node)?;
        let read = |(name, frame): (String, Frame)| Some((name, Latest::read(frame.bytes())?));
        let topics = page.items.into_iter().filter_map(read).collect();
        let next = page.next.map(|place| place_in(index, place));
        let snapshot = Snapshot { id: id.as_str(), topics, next };
        Ok(json(200, &snapshot).with_header("Cache-Control", "no-store"))
    }
}

/// A page of the topics of this loop.
pub(super) fn topic_page(search: &TopicSearch, hub: &Hub) -> Page<TopicInfo> {
    search.window.page(hub.topic_places(), |place| {
        let name = hub.topic_name_at(place).filter(|name| search.finds(name.as_str()))?;
        let bytes = TOPIC_OBJECT_BYTES + name.as_str().len();
        Some((hub.topic(name.as_str())?, bytes))
    })
}

/// A page of the snapshot of this loop.
pub(super) fn latest_page(window: Window, grant: &ReadGrant, hub: &Hub) -> LatestPage {
    LatestPage { id: hub.id_of(hub.head()), page: latest_of_all(window, grant, hub) }
}

/// The list of topics, of a page and what all loops have about them. A topic is listed by the first loop that has it.
pub(super) fn answer_topics(listed: Listed, mut others: Vec<TopicsKnown>, hub: &Hub) -> Response {
    others.retain(|of| of.index != listed.index);
    let is_earlier = |of: &&TopicsKnown| of.index < listed.index;
    let is_listed_before =
        |place: usize| others.iter().filter(is_earlier).any(|of| of.infos.get(place).is_some_and(Option::is_some));
    let mut infos = listed.infos;
    for (place, info) in infos.iter_mut().enumerate() {
        others.iter().filter_map(|of| of.infos.get(place)?.as_ref()).for_each(|other| merge(info, other));
    }
    let shown = infos.iter().enumerate().filter(|(place, _)| !is_listed_before(*place));
    let topics = shown.map(|(_, info)| TopicView::of(info)).collect();
    json(200, &TopicList { count: hub.topic_count(), topics, next: listed.next })
}

/// The topics that a snapshot names; none: all that the client may read.
fn topics_of_snapshot<'a, I: Io>(
    asked: &RequestContext<'a, I>,
    grant: &ReadGrant,
    node: &mut Node,
) -> Result<BTreeSet<&'a str>, Response> {
    let mut named = BTreeSet::new();
    for name in asked.head.target.get_all("topic") {
        named.insert(name);
        check_topic_count(named.len(), node)?;
        named_topic(name, node)?;
    }
    // What is reserved for operators is not shown here.
    let is_reserved = |name: &str| name.starts_with(RESERVED_TOPIC_PREFIX);
    if let Some(outside) = named.iter().find(|name| !is_reserved(name) && !grant.covers(name)) {
        return Err(deny_reading(asked.client.peer, grant, outside, node));
    }
    Ok(named)
}

fn latest_of_all(window: Window, grant: &ReadGrant, hub: &Hub) -> Page<(String, Frame)> {
    window.page(hub.topic_places(), |place| {
        let name = hub.topic_name_at(place).filter(|name| grant.covers(name.as_str()))?;
        latest(name.as_str(), hub)
    })
}

fn latest_of(window: Window, named: &BTreeSet<&str>, hub: &Hub) -> Page<(String, Frame)> {
    let named: Vec<_> = named.iter().collect();
    window.page(named.len(), |place| latest(named[place], hub))
}

fn latest(name: &str, hub: &Hub) -> Option<((String, Frame), usize)> {
    if name.starts_with(RESERVED_TOPIC_PREFIX) {
        return None;
    }
    let frame = hub.latest(name)?.clone();
    let bytes = name.len() + frame.len();
    Some(((name.to_owned(), frame), bytes))
}

/// The answer of `/topics`.
#[derive(Serialize)]
struct TopicList<'a> {
    count: usize,
    topics: Vec<TopicView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<usize>,
}

/// The answer of `/dashboard/data`.
#[derive(Serialize)]
struct Snapshot<'a> {
    id: &'a str,
    topics: BTreeMap<String, Latest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<usize>,
}

/// A topic's latest event.
#[derive(Serialize)]
struct Latest {
    id: String,
    event: String,
    #[serde(serialize_with = "json_or_text")]
    data: String,
}

/// Writes JSON data as JSON, byte for byte, and other data as a string.
fn json_or_text<S: Serializer>(data: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<&RawValue>(data) {
        Ok(raw) => raw.serialize(serializer),
        Err(_) => data.serialize(serializer),
    }
}

impl Latest {
    /// Decodes an event from its own frame, so that it is not stored twice.
    fn read(frame: &[u8]) -> Option<Latest> {
        let mut latest = None;
        // No size limit: the event was accepted before.
        let read = Decoder::with_event_bytes_max(u32::MAX).feed(frame, |item| {
            if let Item::Event { event_type, data, id } = item {
                latest = Some(Latest { id: id.to_owned(), event: event_type.to_owned(), data: data.to_owned() });
            }
        });
        read.ok().and(latest)
    }
}
