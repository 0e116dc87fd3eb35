//! Credentials: for each stream that needed a token, the facts that decide whether it may continue. Streams without a
//! token have no entry.
//!
//! Invariant: tokens themselves are not kept. Streams of one token share one identity, which is dropped with the last.

use std::collections::HashSet;
use std::sync::Arc;

use crate::auth::{Digest, Identity};
use crate::event::Topic;
use crate::server::shrink::{shrink_map, shrink_set};
use crate::server::slot_map::SlotMap;
use crate::server::wheel::Tick;

/// The credentials of all streams that have one, by slot.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    streams: SlotMap<Credential>,
    identities: HashSet<Arc<Identity>>,
}

/// The credential that opened one stream.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) shown: Shown,
    /// When its token expires.
    pub(crate) expires_at: Tick,
    /// Those of its topics that the token does not name, which it has because they need no token. Boxed twice for a
    /// thin pointer: few streams mix the two kinds.
    #[allow(clippy::box_collection, reason = "size")]
    unnamed: Option<Box<Vec<Topic>>>,
}

const _: () = assert!(size_of::<(u32, Credential)>() <= 40, "one for each stream with a token");

/// The token that was shown.
#[derive(Clone, Debug)]
pub(crate) enum Shown {
    /// One of the operators' tokens.
    Operator(Box<Digest>),
    /// A JSON Web Token.
    Jwt(Arc<Identity>),
}

impl Credential {
    pub(crate) fn new(shown: Shown, expires_at: Tick, unnamed: Vec<Topic>) -> Credential {
        Credential { shown, expires_at, unnamed: (!unnamed.is_empty()).then(|| Box::new(unnamed)) }
    }

    /// Its topics that its token does not name.
    pub(crate) fn unnamed(&self) -> &[Topic] {
        self.unnamed.as_deref().map_or(&[], Vec::as_slice)
    }

    /// The identity of its token, if it has one.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        match &self.shown {
            Shown::Operator(_) => None,
            Shown::Jwt(identity) => Some(identity),
        }
    }
}

impl Credentials {
    /// Stores the credential of a new stream.
    pub(crate) fn insert(&mut self, slot: u32, mut credential: Credential) {
        if let Shown::Jwt(identity) = &mut credential.shown {
            match self.identities.get(identity) {
                Some(shared) => *identity = Arc::clone(shared),
                None => _ = self.identities.insert(Arc::clone(identity)),
            }
        }
        self.streams.insert(slot, credential);
    }

    /// Removes the credential of a stream that has ended.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(Credential { shown: Shown::Jwt(identity), .. }) = self.streams.remove(&slot) else { return };
        // Held here and by the table of shared identities only.
        if Arc::strong_count(&identity) == 2 {
            self.identities.remove(&identity);
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Credential> {
        self.streams.get(&slot)
    }

    /// When the token that opened a stream expires.
    pub(crate) fn expiry(&self, slot: u32) -> Tick {
        self.streams.get(&slot).map_or(Tick::NEVER, |credential| credential.expires_at)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Frees the memory that departed streams took.
    pub(crate) fn shrink(&mut self) {
        shrink_map(&mut self.streams);
        shrink_set(&mut self.identities);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::{Grants, Keys, NewToken, SigningKey, Verifier};

    const SECRET: &str = "a-secret-of-thirty-two-bytes-or-so";

    fn credential(subject: &str) -> Credential {
        let now = Duration::from_secs(1_000_000);
        let token = NewToken { subject: Some(subject.to_owned()), grants: Grants::default(), ..NewToken::default() };
        let token = token.valid_for(now, Duration::from_secs(60));
        let token = SigningKey::from_secret(SECRET).unwrap().mint(&token, None, None).unwrap();
        let verifier = Verifier::new(Keys::from_secret(SECRET).unwrap(), &[], &[]);
        let identity = verifier.verify(&token, now).unwrap().identity;
        Credential::new(Shown::Jwt(Arc::new(identity)), Tick::NEVER, Vec::new())
    }

    #[test]
    fn streams_of_one_token_share_what_is_kept_of_it_until_the_last_is_gone() {
        let mut credentials = Credentials::default();
        for (slot, subject) in ["me", "me", "you", "me"].into_iter().enumerate() {
            credentials.insert(slot as u32, credential(subject));
        }
        assert_eq!((credentials.streams.len(), credentials.identities.len()), (4, 2));
        credentials.insert(4, Credential::new(Shown::Operator(Digest::of("x").into()), Tick::NEVER, Vec::new()));
        for (slot, left) in [(0, 2), (0, 2), (2, 1), (4, 1), (1, 1), (3, 0)] {
            credentials.remove(slot);
            assert_eq!(credentials.identities.len(), left, "without {slot}");
        }
        assert!(credentials.is_empty());
    }
}
