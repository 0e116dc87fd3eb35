//! Messages that were sent onto the bus and have not come back yet: how a publish becomes an Ok.
//!
//! When Redis accepts a PUBLISH, that proves nothing about this node: its subscription may have ended unnoticed, with
//! thousands of messages still to be read before the end shows. So a publish is Ok when the subscriber has read it
//! back. Messages are identified by their bytes; two equal messages hold the same events under the same ids, so either
//! one may answer the other.
//!
//! Invariant: every expected message is answered once: when it arrives, when its session ends, or when it expires.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::sources::answer::Answer;

/// Shared by the subscriber, which reads the bus, and the publisher, which writes to it.
#[derive(Default)]
pub(super) struct Echoes {
    /// The live session; 0 when there is none. Written under the lock, so that no message is expected from a session
    /// that has ended.
    session: AtomicU64,
    expected: Mutex<HashMap<Arc<[u8]>, Vec<Expected>>>,
}

struct Expected {
    answer: Answer,
    expires: Instant,
}

impl Echoes {
    /// The session with all its subscriptions confirmed, as far as its thread has noticed.
    pub(super) fn session(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.session.load(Ordering::Acquire))
    }

    /// A session begins.
    pub(super) fn begin(&self, session: NonZeroU64) {
        let _expected = self.lock();
        self.session.store(session.get(), Ordering::Release);
    }

    /// True while `session` is the live one.
    pub(super) fn is_live(&self, session: NonZeroU64) -> bool {
        self.session() == Some(session)
    }

    /// Ends `session`, if it is still live, from another thread: its own thread notices with its next read.
    pub(super) fn end_session(&self, session: NonZeroU64) {
        self.end_if(|live| live == session.get());
    }

    /// The session ended: messages that it has not brought will not come.
    pub(super) fn end(&self) {
        self.end_if(|_| true);
    }

    fn end_if(&self, ends: impl Fn(u64) -> bool) {
        let ended = {
            let mut expected = self.lock();
            if !ends(self.session.load(Ordering::Acquire)) {
                return;
            }
            self.session.store(0, Ordering::Release);
            std::mem::take(&mut *expected)
        };
        drop(ended);
    }

    /// From now on `message` may come back. Call this before the message is sent. Without a session it is answered at
    /// once.
    pub(super) fn expect(&self, message: &Arc<[u8]>, answer: Answer, expires: Instant) {
        let mut expected = self.lock();
        if self.session().is_some() {
            expected.entry(Arc::clone(message)).or_default().push(Expected { answer, expires });
        }
    }

    /// True while `message` may come back, which means that this node sent it.
    pub(super) fn expects(&self, message: &[u8]) -> bool {
        self.lock().contains_key(message)
    }

    /// Takes the answer for a message that arrived, or that never will; the oldest of several.
    pub(super) fn take(&self, message: &[u8]) -> Option<Answer> {
        let mut all = self.lock();
        let same = all.get_mut(message)?;
        let first = same.remove(0);
        if same.is_empty() {
            all.remove(message);
        }
        Some(first.answer)
    }

    /// Drops what is overdue, which happens when the two connections end at different servers.
    pub(super) fn expire(&self, now: Instant) {
        let mut late = Vec::new();
        self.lock().retain(|_, same| {
            late.extend(same.extract_if(.., |expected| expected.expires <= now));
            !same.is_empty()
        });
    }

    /// True when no message is expected.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<[u8]>, Vec<Expected>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sources::channel::{ChannelLimits, Inbox, Message, PublishRefusal, Published, Ticket, channel};

    const OK: Result<(), PublishRefusal> = Ok(());
    const DOWN: Result<(), PublishRefusal> = Err(PublishRefusal::BrokerDown);

    fn check(inbox: &Inbox, expected: &[(u64, Result<(), PublishRefusal>)]) {
        let answers = std::iter::from_fn(|| inbox.next_urgent()).map(|message| match message {
            Message::Published { ticket, outcome } => (ticket.0, outcome.map(drop)),
            other => panic!("{other:?}"),
        });
        assert_eq!(answers.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_expected_is_answered_once() {
        let (outlet, inbox) = channel(ChannelLimits::default(), || ());
        let echoes = Echoes::default();
        let now = Instant::now();
        let expect = |message: &[u8], ticket: u64, lasts: u64| {
            let answer = Answer::new(outlet.clone(), Ticket(ticket), None);
            echoes.expect(&message.into(), answer, now + Duration::from_secs(lasts));
        };
        expect(b"before any session", 1, 10);
        check(&inbox, &[(1, DOWN)]);

        echoes.begin(NonZeroU64::MIN);
        expect(b"a", 2, 10);
        expect(b"a", 3, 10);
        expect(b"b", 4, 5);
        assert!(echoes.take(b"from another node").is_none());
        echoes.take(b"a").unwrap().give(Ok(Published::default()));
        check(&inbox, &[(2, OK)]);
        echoes.expire(now + Duration::from_secs(5));
        check(&inbox, &[(4, DOWN)]);

        let next = NonZeroU64::new(2).unwrap();
        echoes.end_session(next);
        assert!(echoes.is_live(NonZeroU64::MIN), "that is another session");
        echoes.end_session(NonZeroU64::MIN);
        check(&inbox, &[(3, DOWN)]);
        assert!(echoes.is_empty() && echoes.session().is_none());
        echoes.begin(next);
        expect(b"c", 5, 10);
        echoes.end();
        check(&inbox, &[(5, DOWN)]);
    }
}
