//! How much each token may publish in a second.
//!
//! Invariant: a full allowance has no information and is not kept; the number of kept ones is bounded.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::server::allowance::Allowance;

/// Tokens whose allowance is remembered at once: more than an operator issues, except as JWTs.
const TOKENS_MAX: usize = 10_000;

/// The allowances of tokens that published lately.
#[derive(Debug)]
pub(super) struct PublishRates {
    events_per_second_max: Option<u32>,
    /// By a hash: a token is a secret, and should not be stored in a further place.
    of_tokens: HashMap<u64, Allowance>,
}

/// Why a token may not publish now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverRate {
    /// Not all of it before this much time has passed.
    For(Duration),
    /// More at once than one second allows: it would never be accepted.
    Always {
        /// How many are allowed.
        events_max: u32,
    },
}

impl PublishRates {
    pub(super) fn new(events_per_second_max: Option<u32>) -> PublishRates {
        PublishRates { events_per_second_max, of_tokens: HashMap::new() }
    }

    /// Counts `events` against a token's allowance; counts none if not all may pass.
    pub(super) fn take(&mut self, token: &str, events: usize, now: Duration) -> Result<(), OverRate> {
        let Some(events_max) = self.events_per_second_max else { return Ok(()) };
        let events = match u32::try_from(events) {
            Ok(events) if events <= events_max => events,
            _ => return Err(OverRate::Always { events_max }),
        };
        let key = hash(token);
        if self.of_tokens.len() >= TOKENS_MAX && !self.of_tokens.contains_key(&key) {
            self.forget_full(now);
            if self.of_tokens.len() >= TOKENS_MAX {
                return Err(OverRate::For(Duration::from_secs(1)));
            }
        }
        let allowance = self.of_tokens.entry(key).or_insert_with(|| Allowance::new(events_max, now));
        allowance.refill(now);
        if !allowance.has(events) {
            return Err(OverRate::For(allowance.time_of(events).saturating_sub(now)));
        }
        allowance.take(events);
        Ok(())
    }

    fn forget_full(&mut self, now: Duration) {
        self.of_tokens.retain(|_, allowance| {
            allowance.refill(now);
            !allowance.is_full()
        });
    }
}

fn hash(token: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);

    #[test]
    fn each_token_has_its_own_rate() {
        let mut rates = PublishRates::new(Some(5));
        assert_eq!(rates.take("a", 5, START), Ok(()));
        assert!(matches!(rates.take("a", 1, START), Err(OverRate::For(wait)) if wait <= Duration::from_millis(201)));
        assert_eq!(rates.take("b", 4, START), Ok(()));
        assert!(matches!(rates.take("b", 2, START), Err(OverRate::For(_))), "all of them or none");
        assert_eq!(rates.take("b", 1, START), Ok(()));
        assert_eq!(rates.take("a", 6, START), Err(OverRate::Always { events_max: 5 }));
        assert_eq!(rates.take("a", 5, START + Duration::from_millis(1001)), Ok(()));
        assert_eq!(PublishRates::new(None).take("a", 1 << 40, START), Ok(()));
    }

    #[test]
    fn no_more_tokens_are_remembered_than_fit() {
        let mut rates = PublishRates::new(Some(1));
        for n in 0..TOKENS_MAX {
            assert_eq!(rates.take(&n.to_string(), 1, START), Ok(()));
        }
        assert!(matches!(rates.take("one more", 1, START), Err(OverRate::For(_))));
        assert_eq!(rates.take("one more", 1, START + Duration::from_secs(2)), Ok(()));
        assert_eq!(rates.of_tokens.len(), 1, "what is full again is forgotten");
    }
}
