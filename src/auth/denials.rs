//! Denials: tokens that an operator revoked before they expire. An EventSource returns with the same token, so it is
//! not enough to end its stream.
//!
//! Invariant: what is denied stays denied until its term is over. The table never drops an entry to make room for
//! another: at its bound it refuses the next one. Time is passed in, in seconds since 1970.

use std::collections::HashMap;

use super::jwt::LEEWAY;
use super::{Identity, TokenName};

/// The tokens that are denied.
#[derive(Debug)]
pub struct Denials {
    entries_max: usize,
    entries: HashMap<TokenName, Entry>,
}

/// How long a token is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Until this time.
    Until(u64),
    /// Until it expires. For a token id, that time is known once the token was seen; for a subject, it never is.
    Expiry,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When the denial is over; none if that is not known yet.
    until_s: Option<u64>,
    /// The entry denies tokens that were issued at or before this time.
    issued_through_s: u64,
    is_until_expiry: bool,
}

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many subjects and token ids as are allowed are denied")]
pub struct DenialsFull;

impl Denials {
    /// A table of at most `entries_max` entries.
    pub fn new(entries_max: usize) -> Denials {
        Denials { entries_max, entries: HashMap::new() }
    }

    /// Changes the bound. Entries beyond a lower one stay until their time is over.
    pub fn limit(&mut self, entries_max: usize) {
        self.entries_max = entries_max;
    }

    /// How many entries there are, including those whose term is over.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Denies the token of an id, or the tokens of a subject that were issued by `asked_at_s`. If it is denied already,
    /// the longer term counts.
    pub fn deny(&mut self, name: TokenName, term: Term, asked_at_s: u64, now_s: u64) -> Result<(), DenialsFull> {
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&name) {
            self.entries.retain(|_, entry| !entry.is_over(now_s));
            if self.entries.len() >= self.entries_max {
                return Err(DenialsFull);
            }
        }
        let new = Entry {
            until_s: match term {
                Term::Until(time_s) => Some(time_s),
                Term::Expiry => None,
            },
            issued_through_s: asked_at_s,
            is_until_expiry: term == Term::Expiry,
        };
        let entry = self.entries.entry(name).or_insert(new);
        *entry = if entry.is_over(now_s) { new } else { entry.and(new) };
        Ok(())
    }

    /// True if a token that is shown now is denied.
    pub fn deny_shown(&mut self, identity: &Identity, now_s: u64) -> bool {
        let is_denied = self.is_denied(identity, now_s);
        if is_denied {
            self.note_expiry(identity);
        }
        is_denied
    }

    /// The denial of `name`, requested at `asked_at_s`, ended a stream that this token had opened. So the token was
    /// issued before, whatever the clock of its issuer shows.
    pub fn note_ended(&mut self, name: TokenName, identity: &Identity, asked_at_s: u64) {
        match (name, self.entries.get_mut(&name), identity.issued_at_s) {
            (TokenName::Id(_), ..) => self.note_expiry(identity),
            (TokenName::Subject(_), Some(entry), Some(issued_at_s)) => {
                let at_most_s = asked_at_s.saturating_add(LEEWAY.as_secs());
                entry.issued_through_s = entry.issued_through_s.max(issued_at_s.min(at_most_s));
            }
            (TokenName::Subject(_), ..) => {}
        }
    }

    fn is_denied(&self, identity: &Identity, now_s: u64) -> bool {
        let find = |name| self.entries.get(&name).filter(|entry| !entry.is_over(now_s));
        let of_id = identity.token_id.and_then(|id| find(TokenName::Id(id)));
        let of_subject = identity.subject.and_then(|subject| find(TokenName::Subject(subject)));
        // A token without an issue time may be of any age.
        let is_before = |entry: &Entry| identity.issued_at_s.is_none_or(|issued| issued <= entry.issued_through_s);
        of_id.is_some() || of_subject.is_some_and(is_before)
    }

    fn note_expiry(&mut self, identity: &Identity) {
        let entry = identity.token_id.and_then(|id| self.entries.get_mut(&TokenName::Id(id)));
        if let Some(entry) = entry.filter(|entry| entry.is_until_expiry) {
            entry.until_s = entry.until_s.max(Some(identity.expires_at_s));
        }
    }
}

impl Entry {
    fn is_over(&self, now_s: u64) -> bool {
        self.until_s.is_some_and(|until_s| until_s <= now_s)
    }

    /// Combines both denials: an end that is not known yet is later than any other.
    fn and(self, other: Entry) -> Entry {
        Entry {
            until_s: self.until_s.zip(other.until_s).map(|(one, other)| one.max(other)),
            issued_through_s: self.issued_through_s.max(other.issued_through_s),
            is_until_expiry: self.is_until_expiry || other.is_until_expiry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Digest;

    const NOW: u64 = 1_000_000;

    fn token(id: Option<&str>, subject: Option<&str>, issued_at_s: Option<u64>, expires_at_s: u64) -> Identity {
        Identity {
            key: Digest::of("key"),
            issuer: None,
            audiences: Box::default(),
            subject: subject.map(Digest::of),
            token_id: id.map(Digest::of),
            issued_at_s,
            expires_at_s,
        }
    }

    fn id(text: &str) -> TokenName {
        TokenName::Id(Digest::of(text))
    }

    fn subject(text: &str) -> TokenName {
        TokenName::Subject(Digest::of(text))
    }

    #[test]
    fn a_token_id_is_denied_until_its_token_expires_even_if_the_expiry_is_learned_late() {
        let mut denials = Denials::new(10);
        let [one, other] = ["one", "other"].map(|id| token(Some(id), Some("me"), None, NOW + 100));
        denials.deny(id("one"), Term::Expiry, NOW, NOW).unwrap();
        assert!(!denials.deny_shown(&other, NOW));
        assert!(denials.deny_shown(&one, NOW) && denials.deny_shown(&one, NOW + 99));
        assert!(!denials.deny_shown(&one, NOW + 100), "it has expired, and is no matter of ours any more");
        denials.deny(id("other"), Term::Expiry, NOW, NOW).unwrap();
        assert!(denials.deny_shown(&other, NOW + 1_000_000), "never seen before: nothing is known of its expiry");
    }

    #[test]
    fn a_subject_is_denied_what_was_issued_before() {
        let mut denials = Denials::new(10);
        let mut check = |issued_at_s: Option<u64>, now_s: u64, expected: bool| {
            denials.deny(subject("me"), Term::Until(NOW + 50), NOW, NOW).unwrap();
            let shown = token(Some("id"), Some("me"), issued_at_s, NOW + 100);
            assert_eq!(denials.deny_shown(&shown, now_s), expected, "{issued_at_s:?} {now_s}");
        };
        check(Some(0), NOW, true);
        check(Some(NOW), NOW + 49, true);
        check(Some(NOW + 1), NOW, false);
        check(None, NOW, true);
        check(Some(NOW), NOW + 50, false);
        assert!(!denials.deny_shown(&token(None, Some("you"), None, NOW + 100), NOW));
        assert!(!denials.deny_shown(&token(None, None, None, NOW + 100), NOW));
    }

    #[test]
    fn an_issuer_clock_that_is_ahead_does_not_keep_a_disconnected_token_valid() {
        let mut denials = Denials::new(10);
        denials.deny(subject("me"), Term::Expiry, NOW, NOW).unwrap();
        let ahead = |seconds: u64| token(None, Some("me"), Some(NOW + seconds), NOW + 100);
        assert!(!denials.deny_shown(&ahead(3), NOW));
        denials.note_ended(subject("me"), &ahead(3), NOW);
        assert!(denials.deny_shown(&ahead(3), NOW) && !denials.deny_shown(&ahead(4), NOW));
        denials.note_ended(subject("me"), &ahead(1_000), NOW);
        assert!(!denials.deny_shown(&ahead(11), NOW), "a time that no clock can mean denies no later token");
        let newer = token(Some("id"), Some("me"), Some(NOW + 60), NOW + 100);
        denials.deny(id("id"), Term::Expiry, NOW + 65, NOW).unwrap();
        denials.note_ended(id("id"), &newer, NOW + 65);
        assert!(!denials.deny_shown(&ahead(60), NOW), "what ends one of its tokens is no word about the others");
    }

    #[test]
    fn the_longer_of_two_denials_applies() {
        let shown = token(Some("id"), None, None, NOW + 100);
        let check = |terms: [Term; 2], until_s: u64| {
            let mut denials = Denials::new(10);
            terms.iter().for_each(|term| denials.deny(id("id"), *term, NOW, NOW).unwrap());
            assert!(denials.deny_shown(&shown, until_s - 1), "{terms:?}");
            assert!(!denials.deny_shown(&shown, until_s), "{terms:?}");
        };
        check([Term::Until(NOW + 5), Term::Until(NOW + 9)], NOW + 9);
        check([Term::Until(NOW + 9), Term::Until(NOW + 5)], NOW + 9);
        check([Term::Expiry, Term::Until(NOW + 5)], NOW + 100);
        check([Term::Until(NOW + 5), Term::Expiry], NOW + 100);
        check([Term::Until(NOW), Term::Until(NOW + 5)], NOW + 5);
    }

    #[test]
    fn a_full_list_refuses_new_denials_and_drops_only_expired_ones() {
        let mut denials = Denials::new(2);
        denials.deny(id("a"), Term::Until(NOW + 10), NOW, NOW).unwrap();
        denials.deny(id("b"), Term::Expiry, NOW, NOW).unwrap();
        assert_eq!(denials.deny(id("c"), Term::Expiry, NOW, NOW), Err(DenialsFull));
        assert_eq!(denials.deny(id("a"), Term::Until(NOW + 20), NOW, NOW), Ok(()), "it has its place");
        for shown in ["a", "b"] {
            assert!(denials.deny_shown(&token(Some(shown), None, None, NOW + 50), NOW), "{shown}");
        }
        assert_eq!(denials.deny(id("c"), Term::Expiry, NOW, NOW + 19), Err(DenialsFull));
        assert_eq!(denials.deny(id("c"), Term::Expiry, NOW, NOW + 20), Ok(()));
        assert_eq!(denials.len(), 2);
    }
}
