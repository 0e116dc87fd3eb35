//! The fetcher: reads pages of older entries for subscribers that need what this node no longer remembers, on its own
//! connection and thread. Between pages it tidies the engine.
//!
//! The proof that a page lacks nothing is the follower's: offsets are dense in an epoch. What a page lacks is gone from the
//! bus, and the page says so.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError, Sender, unbounded};

use crate::event::archive::{ArchivedEntry, PAGE_POSITIONS, Page, PageKey};
use crate::event::timeline::Position;
use crate::event::{Frame, Topic};
use crate::protocol::encoder;
use crate::sources::backoff::{Backoff, BackoffLimits};
use crate::sources::bus::{self, Content, Engine, EngineError, Entry, event_frame};
use crate::sources::channel::{FetchPage, GapReason, Message, Outlet, SourceStatus};
use crate::sources::thread::Stop;
use crate::sources::throttle::LogThrottle;

/// How often the engine is tidied while nothing is requested.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// Requests pages for one loop, which bounds how many are under way.
pub struct PageRequests {
    requests: Sender<PageRequest>,
    outlet: Outlet,
}

/// A page that is requested, and the loop that gets it.
#[derive(Clone)]
pub(super) struct PageRequest {
    key: PageKey,
    outlet: Outlet,
}

impl PageRequests {
    /// For each of these loops, and where the requests of all come out.
    pub(super) fn new(outlets: &[Outlet]) -> (Vec<PageRequests>, Receiver<PageRequest>) {
        let (requests, receiver) = unbounded();
        let of_loop = |outlet: &Outlet| PageRequests { requests: requests.clone(), outlet: outlet.clone() };
        (outlets.iter().map(of_loop).collect(), receiver)
    }
}

impl FetchPage for PageRequests {
    fn fetch(&self, key: PageKey) {
        // The thread lives as long as the loops; when the process ends, no page is needed any more.
        let _ = self.requests.send(PageRequest { key, outlet: self.outlet.clone() });
    }
}

/// The thread's state.
pub(super) struct Fetcher {
    engine: Box<dyn Engine>,
    requests: Receiver<PageRequest>,
    status: Arc<SourceStatus>,
    /// The page that is being fetched, which is fetched again after an error.
    current: Option<PageRequest>,
    backoff: Backoff,
    log: LogThrottle,
}

impl Fetcher {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        requests: Receiver<PageRequest>,
        status: Arc<SourceStatus>,
        backoff: BackoffLimits,
    ) -> Fetcher {
        let (backoff, log) = (Backoff::new(backoff), LogThrottle::default());
        Fetcher { engine, requests, status, current: None, backoff, log }
    }

    /// Answers requests until asked to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        while let Ok(request) = self.current.clone().map_or_else(|| next(&self.requests, stop), |again| Ok(Some(again)))
        {
            self.engine.tidy();
            let Some(request) = request else {
                self.engine.rest();
                continue;
            };
            let PageRequest { key, outlet } = request.clone();
            self.current = Some(request);
            match fetch_page(&mut *self.engine, key) {
                Ok(page) => {
                    self.current = None;
                    self.backoff.reset();
                    self.log.reset();
                    self.status.bus().inspect(|figures| figures.count_page());
                    outlet.send(Message::Page(page));
                }
                Err(error) => {
                    if let Some(swallowed) = self.log.permit(std::time::Instant::now()) {
                        tracing::warn!(%error, swallowed, "older events can't be fetched; their subscribers wait");
                    }
                    if stop.wait(self.backoff.next_delay(getrandom::u64().unwrap_or_default())) {
                        return;
                    }
                }
            }
        }
    }
}

/// The next request; none if it is time to tidy. An error if asked to stop.
fn next(requests: &Receiver<PageRequest>, stop: &Stop) -> Result<Option<PageRequest>, RecvError> {
    crossbeam_channel::select_biased! {
        recv(stop.receiver()) -> _ => Err(RecvError),
        recv(requests) -> request => request.map(Some),
        default(TIDY_INTERVAL) => Ok(None),
    }
}

/// Reads one page.
pub fn fetch_page(engine: &mut dyn Engine, key: PageKey) -> Result<Page, EngineError> {
    let first = key.first();
    let read = engine.read_after(first.previous(), PAGE_POSITIONS as usize, Duration::ZERO)?;
    let is_whole = read.entries.first().is_some_and(|entry| entry.position == first);
    let has_earlier = is_whole || {
        let oldest = engine.read_after(Position::default(), 1, Duration::ZERO)?.entries;
        oldest.first().is_some_and(|entry| entry.position < first)
    };
    Ok(page_of(key, has_earlier, &read))
}

/// A page, of the entries that follow its beginning. What lacks there is trimmed, and so is everything before; unless the
/// bus has earlier entries. Then it is a hole, as between two entries.
fn page_of(key: PageKey, has_earlier: bool, read: &bus::Page) -> Page {
    let (first, last) = (key.first(), key.last());
    let mut page = Page { key, entries: Vec::new(), through: first.previous(), epoch_ended: false, lost_through: None };
    let mut entries = read.entries.iter().peekable();
    let mut scratch = Vec::new();
    let report = |page: &mut Page, lost: Position, place: Position| {
        if page.through == first.previous() && !has_earlier {
            page.lost_through = Some(lost);
        } else {
            page.entries.push(hole(place));
        }
    };
    let is_inside = |entry: &&Entry| entry.position.epoch == first.epoch && entry.position <= last;
    while let Some(Entry { position, content }) = entries.next_if(is_inside) {
        if position.previous() != page.through {
            report(&mut page, position.previous(), position.previous());
        }
        page.through = *position;
        page.entries.extend(archived(*position, content, &mut scratch));
    }
    match entries.next() {
        Some(next) if next.position.epoch != first.epoch => page.epoch_ended = true,
        Some(next) => {
            if page.through != last {
                report(&mut page, next.position.previous(), last);
            }
            page.through = last;
        }
        None if page.through != first.previous() => {}
        // All that it had of this epoch is trimmed.
        None if read.last.epoch == first.epoch && read.last >= first => page.lost_through = Some(read.last),
        // The engine is older than what this node has read of it.
        None => page.epoch_ended = true,
    }
    page
}

/// The gap for entries that are missing at or before a position, as the follower has it.
fn hole(position: Position) -> ArchivedEntry {
    ArchivedEntry { position, topics: Vec::new(), frame: gap_frame(position, GapReason::BusTrimmed, &[]) }
}

/// What subscribers receive of an entry.
fn archived(position: Position, content: &Content, scratch: &mut Vec<u8>) -> Option<ArchivedEntry> {
    let (topics, frame) = match content {
        Content::Event(event) => (vec![event.topic.clone()], event_frame(position, event, scratch)),
        // Also for a fork that lost nothing: what precedes it on the bus may be trimmed.
        Content::Fork { .. } => (Vec::new(), gap_frame(position, GapReason::BusForked, &[])),
        Content::Gap { reason, topics } => (topics.clone(), gap_frame(position, *reason, topics)),
        Content::Refused { topic, .. } => {
            let topics: Vec<_> = topic.iter().cloned().collect();
            (topics.clone(), gap_frame(position, GapReason::Refused, &topics))
        }
        Content::Disconnect(..) | Content::Nothing => return None,
    };
    Some(ArchivedEntry { position, topics, frame })
}

/// The gap names a topic only if it concerns that topic alone, as the loop's own gaps do.
fn gap_frame(position: Position, reason: GapReason, topics: &[Topic]) -> Frame {
    let name = if let [topic] = topics { topic.as_str() } else { "*" };
    let last_id = (position.offset > 0).then(|| position.previous().to_string());
    encoder::gap(&position.id(None), reason.as_str(), &[name], last_id.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    /// The page of 7-64 to 7-127, of these entries: what it holds, where it ends, and what is gone.
    fn page(has_earlier: bool, positions: &[String], last: &str) -> (usize, String, Option<String>) {
        let at = |text: &String| {
            let event = Event::message(Topic::new("t").unwrap(), text.as_str());
            Entry { position: Position::parse(text).unwrap(), content: Content::Event(event) }
        };
        let entries: Vec<_> = positions.iter().map(at).collect();
        let last = Position::parse(last).unwrap();
        let page =
            page_of(PageKey::of(Position { epoch: 7, offset: 70 }, 0), has_earlier, &bus::Page { entries, last });
        let end = if page.epoch_ended { "the epoch's end".to_owned() } else { String::new() };
        (page.entries.len(), format!("{} {end}", page.through), page.lost_through.map(|lost| lost.to_string()))
    }

    fn range(offsets: std::ops::Range<u64>) -> Vec<String> {
        offsets.map(|offset| format!("7-{offset}")).collect()
    }

    #[test]
    fn a_page_says_what_it_lacks() {
        let check = |entries: &[&[String]], trimmed: (usize, &str, Option<&str>), hole: (usize, &str, Option<&str>)| {
            for (has_earlier, (count, through, lost)) in [(false, trimmed), (true, hole)] {
                let expected = (count, through.to_owned(), lost.map(str::to_owned));
                assert_eq!(page(has_earlier, &entries.concat(), "7-60"), expected, "{has_earlier} {entries:?}");
            }
        };
        let same = |entries: &[&[String]], expected: (usize, &str, Option<&str>)| check(entries, expected, expected);
        let next_epoch = ["9-0".to_owned(), "9-1".to_owned()];
        same(&[&range(64..128)], (64, "7-127 ", None));
        same(&[&range(64..100)], (36, "7-99 ", None));
        same(&[&range(64..100), &next_epoch], (36, "7-99 the epoch's end", None));
        same(&[&range(64..70), &range(75..128)], (60, "7-127 ", None));
        same(&[&range(64..70), &range(200..210)], (7, "7-127 ", None));
        check(&[&range(80..144)], (48, "7-127 ", Some("7-79")), (49, "7-127 ", None));
        check(&[&range(300..310)], (0, "7-127 ", Some("7-299")), (1, "7-127 ", None));
        same(&[&next_epoch], (0, "7-63 the epoch's end", None));
        same(&[], (0, "7-63 the epoch's end", None));
        assert_eq!(page(false, &[], "7-200"), (0, "7-63 ".to_owned(), Some("7-200".to_owned())), "all are trimmed");
    }

    #[test]
    fn the_first_page_of_an_epoch_begins_with_its_fork() {
        let key = PageKey::of(Position { epoch: 7, offset: 3 }, 0);
        let fork = Entry { position: key.first(), content: Content::Fork { follows: None } };
        let page = page_of(key, false, &bus::Page { entries: vec![fork], last: key.first() });
        assert_eq!((page.entries.len(), page.through, page.lost_through), (1, key.first(), None));
        assert_eq!(key.first().previous(), Position { epoch: 6, offset: u64::MAX });
    }
}
