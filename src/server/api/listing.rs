//! Listings: the topics, and the latest event of each, one page at a time.
//!
//! Invariant: a page visits a bounded number of topics and decodes a bounded number of bytes, and it is charged before
//! it is built, so no request delays the others, whatever the number and the size of topics. If more remains, the
//! answer has the `after` of the next page.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::access::{ReadGrant, deny_reading};
use super::context::RequestContext;
use super::reports::{TopicView, head_of_json};
use super::subscribe::{check_topic_count, named_topic};
use super::{Api, json};
use crate::event::{Frame, RESERVED_TOPIC_PREFIX};
use crate::hub::Hub;
use crate::io::Io;
use crate::protocol::decoder::{Decoder, Item};
use crate::protocol::head::Method;
use crate::protocol::response::{self, Response};
use crate::protocol::target::Target;
use crate::server::node::Node;

/// Topics on one page, at most and by default.
pub(super) const TOPICS_MAX: usize = 500;
/// Places visited for one page, whether or not they hold a topic that may be shown.
const PLACES_MAX: usize = 4096;
/// Bytes on one page before decoding; a single event may be larger. About 0.2 ms of the loop.
const PAGE_BYTES_MAX: usize = 64 << 10;
/// What a topic takes in the list in addition to its name.
const TOPIC_OBJECT_BYTES: usize = 160;

/// The part of a listing that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    after: usize,
    limit: usize,
}

impl Window {
    fn read(target: &Target) -> Result<Window, Response> {
        let bad = |detail: String| response::problem(400, "Bad parameter", &detail);
        let after = match target.get("after") {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| bad(format!("after={text:?}: allowed is the number that \"next\" of a page said")))?,
        };
        let limit = match target.get("limit").map(|text| (text, text.parse())) {
            None => TOPICS_MAX,
            Some((_, Ok(limit))) if (1..=TOPICS_MAX).contains(&limit) => limit,
            Some((text, _)) => return Err(bad(format!("limit={text:?}: allowed are 1 to {TOPICS_MAX}"))),
        };
        Ok(Window { after, limit })
    }

    /// Fills a page from the places below `end`; `take` returns the item at a place, and its bytes.
    fn page<T>(&self, end: usize, mut take: impl FnMut(usize) -> Option<(T, usize)>) -> Page<T> {
        let last = end.min(self.after.saturating_add(PLACES_MAX));
        let mut page = Page { items: Vec::new(), bytes: 0, next: (last < end).then_some(last) };
        for place in self.after..last {
            let Some((item, bytes)) = take(place) else { continue };
            let is_over = page.bytes + bytes > PAGE_BYTES_MAX && !page.items.is_empty();
            if page.items.len() == self.limit || is_over {
                page.next = Some(place);
                break;
            }
            page.items.push(item);
            page.bytes += bytes;
        }
        page
    }
}

/// A part of a listing.
#[derive(Debug)]
struct Page<T> {
    items: Vec<T>,
    bytes: usize,
    /// Where the next page begins, if there is one.
    next: Option<usize>,
}

impl Api {
    /// The topics, in no particular order.
    pub(super) fn topic_list<I: Io>(
        &self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Response, Response> {
        let (head, hub) = (asked.head, &*asked.hub);
        let window = Window::read(&head.target)?;
        if head.method == Method::Head {
            return Ok(head_of_json());
        }
        asked.admit_answer(PAGE_BYTES_MAX, node)?;
        let page = window.page(hub.topic_places(), |place| {
            let name = hub.topic_name_at(place)?;
            let bytes = TOPIC_OBJECT_BYTES + name.as_str().len();
            Some((name, bytes))
        });
        let infos: Vec<_> = page.items.iter().filter_map(|name| hub.topic(name.as_str())).collect();
        let topics = infos.iter().map(TopicView::of).collect();
        Ok(json(200, &TopicList { count: hub.topic_count(), topics, next: page.next }))
    }

    /// The latest event of each topic, and their position: a stream from that position loses nothing.
    pub(super) fn snapshot<I: Io>(
        &mut self,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Result<Response, Response> {
        let (head, hub) = (asked.head, &*asked.hub);
        let grant = self.access.may_read(asked, node)?;
        let window = Window::read(&head.target)?;
        let named = topics_of_snapshot(asked, &grant, node)?;
        // A client that may subscribe to a topic may look at it. The list of all topics needs an operator's rights.
        if named.is_empty() && node.settings.jwt.is_none() {
            self.access.may_operate(asked, node)?;
        }
        if head.method == Method::Head {
            return Ok(head_of_json().with_header("Cache-Control", "no-store"));
        }
        let page = match named.is_empty() {
            true => latest_of_all(window, &grant, hub),
            false => latest_of(window, &named, hub),
        };
        asked.admit_answer(page.bytes, node)?;
        let read = |(name, frame): (String, Frame)| Some((name, Latest::read(frame.bytes())?));
        let topics = page.items.into_iter().filter_map(read).collect();
        let id = hub.id_of(hub.head());
        let snapshot = Snapshot { id: id.as_str(), topics, next: page.next };
        Ok(json(200, &snapshot).with_header("Cache-Control", "no-store"))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(after: usize, limit: usize, sizes: &[Option<usize>], expected: (&[usize], Option<usize>)) {
        let window = Window { after, limit };
        let page = window.page(sizes.len(), |place| sizes[place].map(|bytes| (place, bytes)));
        assert_eq!((&page.items[..], page.next), expected, "{window:?}");
    }

    #[test]
    fn a_page_ends_at_its_limit_or_its_bytes_and_names_the_next() {
        let small = [Some(1), None, Some(1), Some(1), None];
        check(0, 10, &small, (&[0, 2, 3], None));
        check(0, 2, &small, (&[0, 2], Some(3)));
        check(3, 2, &small, (&[3], None));
        check(5, 2, &small, (&[], None));
        check(usize::MAX, 2, &small, (&[], None));
        let half = Some(PAGE_BYTES_MAX / 2);
        check(0, 10, &[half, half, Some(1)], (&[0, 1], Some(2)));
        let whole = Some(PAGE_BYTES_MAX + 1);
        check(0, 10, &[whole, whole], (&[0], Some(1)));
        check(0, 10, &[half, whole, half], (&[0], Some(1)));
    }

    #[test]
    fn a_page_looks_at_no_more_places_than_its_bound() {
        let mut looked_at = 0;
        let page = Window { after: 0, limit: 1 }.page(usize::MAX, |_| {
            looked_at += 1;
            None::<((), usize)>
        });
        assert_eq!((looked_at, page.next), (PLACES_MAX, Some(PLACES_MAX)));
    }

    #[test]
    fn a_window_is_read_strictly() {
        let read = |query: &str| Window::read(&Target::parse(&format!("/topics?{query}")).unwrap());
        let check = |query: &str, after, limit| assert_eq!(read(query).unwrap(), Window { after, limit }, "{query}");
        check("", 0, TOPICS_MAX);
        check("after=17&limit=500", 17, 500);
        for bad in ["after=-1", "after=x", "after=", "limit=0", "limit=501", "limit=many"] {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
