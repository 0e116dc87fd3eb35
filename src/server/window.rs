//! Windows on listings: which part a request asks for, and what one page holds.
//!
//! A listing is paged by places, and each loop has places of its own: a place names its loop.

use crate::protocol::response::{self, Response};
use crate::protocol::target::Target;

/// Topics on one page, at most and by default.
pub(crate) const TOPICS_MAX: usize = 500;
/// Places visited for one page, whether or not they hold a topic that may be shown.
const PLACES_MAX: usize = 4096;
/// Bytes on one page before decoding; a single event may be larger. About 0.2 ms of the loop.
pub(crate) const PAGE_BYTES_MAX: usize = 64 << 10;
/// The bits of a place in its loop. A number in JSON has 53.
const PLACE_BITS: u32 = 40;

/// The topics that a request asks to list: a part of those whose names contain a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicSearch {
    pub(crate) window: Window,
    /// In lower case: upper and lower case of ASCII are the same.
    contains: Option<String>,
}

impl TopicSearch {
    pub(crate) fn new(window: Window, target: &Target) -> TopicSearch {
        TopicSearch {
            window,
            contains: target.get("contains").filter(|text| !text.is_empty()).map(str::to_ascii_lowercase),
        }
    }

    pub(crate) fn is_for_all(&self) -> bool {
        self.contains.is_none()
    }

    pub(crate) fn finds(&self, name: &str) -> bool {
        // The search of the standard library takes time in proportion to the lengths, whatever the texts.
        self.contains.as_ref().is_none_or(|text| name.to_ascii_lowercase().contains(text))
    }
}

/// The part of a listing that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    after: usize,
    limit: usize,
}

/// A part of a listing.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) bytes: usize,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<usize>,
}

impl Window {
    /// The window of a request, and which of the `loops` it names, if it names a place.
    pub(crate) fn read(target: &Target, loops: usize) -> Result<(Window, Option<usize>), Response> {
        let bad = |detail: String| response::problem(400, "Bad parameter", &detail);
        let after = match target.get("after") {
            None => None,
            Some(text) => Some(
                text.parse::<usize>()
                    .map_err(|_| bad(format!("after={text:?}: allowed is the number that \"next\" of a page said")))?,
            ),
        };
        let limit = match target.get("limit").map(|text| (text, text.parse())) {
            None => TOPICS_MAX,
            Some((_, Ok(limit))) if (1..=TOPICS_MAX).contains(&limit) => limit,
            Some((text, _)) => return Err(bad(format!("limit={text:?}: allowed are 1 to {TOPICS_MAX}"))),
        };
        Ok(match after.map(|after| (after >> PLACE_BITS, after & ((1 << PLACE_BITS) - 1))) {
            None => (Window { after: 0, limit }, None),
            Some((index, after)) if index < loops => (Window { after, limit }, Some(index)),
            // Beyond the last loop there is as little as beyond its end.
            Some(_) => (Window { after: usize::MAX, limit }, Some(loops - 1)),
        })
    }

    /// True when this number of items fits on one page.
    pub(crate) fn holds(&self, items: usize) -> bool {
        items <= self.limit
    }

    /// Fills a page from the places below `end`; `take` returns the item at a place, and its bytes.
    pub(crate) fn page<T>(&self, end: usize, mut take: impl FnMut(usize) -> Option<(T, usize)>) -> Page<T> {
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

/// A place of a loop, as "next" of a page names it.
pub(crate) fn place_in(index: usize, place: usize) -> usize {
    index << PLACE_BITS | place
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
    fn a_search_finds_names_with_the_text_in_upper_or_lower_case() {
        let search = |contains: Option<&str>| TopicSearch {
            window: Window { after: 0, limit: 1 },
            contains: contains.map(str::to_ascii_lowercase),
        };
        let check =
            |contains, name, expected| assert_eq!(search(contains).finds(name), expected, "{contains:?} {name}");
        check(None, "a", true);
        check(Some("b"), "abc", true);
        check(Some("BC"), "abc", true);
        check(Some("abcd"), "abc", false);
        check(Some("ac"), "abc", false);
        check(Some("é"), "café", true);
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
        let read = |query: &str| Window::read(&Target::parse(&format!("/topics?{query}")).unwrap(), 4);
        let check = |query: &str, after, limit, index| {
            assert_eq!(read(query).unwrap(), (Window { after, limit }, index), "{query}");
        };
        check("", 0, TOPICS_MAX, None);
        check("after=17&limit=500", 17, 500, Some(0));
        check(&format!("after={}", place_in(3, 17)), 17, TOPICS_MAX, Some(3));
        check(&format!("after={}", place_in(4, 17)), usize::MAX, TOPICS_MAX, Some(3));
        for bad in ["after=-1", "after=x", "after=", "limit=0", "limit=501", "limit=many"] {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
