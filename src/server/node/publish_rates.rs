//! How much each token may publish in a second, through all loops of the node together.
//!
//! Invariant: a full allowance has no information and is not kept; the number of kept ones is bounded.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Duration;

use crate::server::allowance::Allowance;

/// Tokens whose allowance is remembered at once: more than an operator issues, except as JWTs.
const TOKENS_MAX: usize = 10_000;
/// Between two searches of all of them, about 100 us each.
const SEARCH_INTERVAL: Duration = Duration::from_millis(100);

/// The allowances of tokens that published lately.
#[derive(Debug, Default)]
pub(crate) struct PublishRates {
    of_tokens: Mutex<Tokens>,
}

#[derive(Debug, Default)]
struct Tokens {
    /// By a hash: a token is a secret, and should not be stored in a further place.
    allowances: HashMap<u64, Allowance>,
    /// When it was last searched for those that are full again.
    searched_at: Duration,
}

/// Why a token may not publish now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OverRate {
    /// Not all of it before this much time has passed.
    For(Duration),
    /// More at once than one second allows: it would never be accepted.
    Always {
        /// How many are allowed.
        events_max: u32,
    },
}

impl PublishRates {
    /// Counts `events` against a token's allowance of `events_max` a second; counts none if not all may pass.
    pub(crate) fn take(
        &self,
        token: &str,
        events: usize,
        events_max: Option<u32>,
        now: Duration,
    ) -> Result<(), OverRate> {
        let Some(events_max) = events_max else { return Ok(()) };
        let events = match u32::try_from(events) {
            Ok(events) if events <= events_max => events,
            _ => return Err(OverRate::Always { events_max }),
        };
        let key = hash(token);
        let mut of_tokens = self.of_tokens.lock().expect("nothing panics while it counts");
        let Tokens { allowances, searched_at } = &mut *of_tokens;
        if allowances.len() >= TOKENS_MAX && !allowances.contains_key(&key) {
            if now.saturating_sub(*searched_at) >= SEARCH_INTERVAL {
                allowances.retain(|_, allowance| !allowance.is_full(now));
                *searched_at = now;
            }
            if allowances.len() >= TOKENS_MAX {
                return Err(OverRate::For(Duration::from_secs(1)));
            }
        }
        let allowance = allowances.entry(key).or_default();
        allowance.take(events, events_max, now).map_err(|at| OverRate::For(at.saturating_sub(now)))
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
        let rates = PublishRates::default();
        let take = |token, events, now| rates.take(token, events, Some(5), now);
        assert_eq!(take("a", 5, START), Ok(()));
        assert!(matches!(take("a", 1, START), Err(OverRate::For(wait)) if wait <= Duration::from_millis(201)));
        assert_eq!(take("b", 4, START), Ok(()));
        assert!(matches!(take("b", 2, START), Err(OverRate::For(_))), "all of them or none");
        assert_eq!(take("b", 1, START), Ok(()));
        assert_eq!(take("a", 6, START), Err(OverRate::Always { events_max: 5 }));
        assert_eq!(take("a", 5, START + Duration::from_millis(1001)), Ok(()));
        assert_eq!(rates.take("a", 1 << 40, None, START), Ok(()));
    }

    #[test]
    fn no_more_tokens_are_remembered_than_fit() {
        let rates = PublishRates::default();
        let take = |token: &str, now| rates.take(token, 1, Some(1), now);
        for n in 0..TOKENS_MAX {
            assert_eq!(take(&n.to_string(), START), Ok(()));
        }
        assert!(matches!(take("one more", START), Err(OverRate::For(_))));
        assert_eq!(take("one more", START + Duration::from_secs(2)), Ok(()));
        assert_eq!(rates.of_tokens.lock().unwrap().allowances.len(), 1, "what is full again is forgotten");
    }
}
