//! Decides the fate of a subscriber that is behind, in one place for all callers.

use crate::config::SlowPolicy;
use crate::server::transport::connection::CloseReason;

/// How a subscriber is behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lag {
    /// It has accepted no byte for the stall timeout.
    pub(super) is_stalled: bool,
    /// An event that it should get next is evicted, beyond the gaps that it is owed.
    pub(super) is_evicted: bool,
    /// It is owed a gap that it has not received yet.
    pub(super) is_owed: bool,
    /// It asked for less than everything at once: it has a pace, or wants only the newest.
    pub(super) is_by_consent: bool,
}

/// The fate of such a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It gets its next events.
    Keep,
    /// It gets a gap in place of evicted events, and all others.
    Gap,
    /// It gets a gap and continues with the newest event.
    Skip,
    /// Its stream ends, and it comes back with its last id.
    Close(CloseReason),
}

pub(super) fn fate(policy: SlowPolicy, lag: Lag) -> Fate {
    match lag {
        Lag { is_stalled: true, .. } => Fate::Close(CloseReason::Stalled),
        Lag { is_evicted: false, .. } => Fate::Keep,
        Lag { is_by_consent: true, .. } | Lag { is_owed: true, .. } => Fate::Gap,
        _ if policy == SlowPolicy::Skip => Fate::Skip,
        _ => Fate::Close(CloseReason::Evicted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lag_has_its_fate() {
        let check = |lag: [bool; 4], close: Fate, skip: Fate| {
            let [is_stalled, is_evicted, is_owed, is_by_consent] = lag;
            let lag = Lag { is_stalled, is_evicted, is_owed, is_by_consent };
            assert_eq!([fate(SlowPolicy::Close, lag), fate(SlowPolicy::Skip, lag)], [close, skip], "{lag:?}");
        };
        let stalled = Fate::Close(CloseReason::Stalled);
        for rest in 0..8 {
            let [evicted, owed, consent] = [1, 2, 4].map(|bit| rest & bit != 0);
            check([true, evicted, owed, consent], stalled, stalled);
            if !evicted {
                check([false, false, owed, consent], Fate::Keep, Fate::Keep);
            }
        }
        check([false, true, false, false], Fate::Close(CloseReason::Evicted), Fate::Skip);
        check([false, true, true, false], Fate::Gap, Fate::Gap);
        check([false, true, false, true], Fate::Gap, Fate::Gap);
        check([false, true, true, true], Fate::Gap, Fate::Gap);
    }
}
