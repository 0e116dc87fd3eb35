//! A rate that a client or a listener may not exceed: a token bucket that holds as much as one second earns. Loops share it:
//! it is one number, the time at which the bucket is full again. The rate is passed in, since a reload may change it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How much the bucket holds, as the time that earns it.
const FULL: Duration = Duration::from_secs(1);

/// How much of a rate may be taken now. A new allowance is full.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// In nanoseconds.
    full_at: AtomicU64,
}

impl Allowance {
    /// Lets `count` pass, or says when that many may.
    pub(super) fn take(&self, count: u32, per_second_max: u32, now: Duration) -> Result<(), Duration> {
        let (now_ns, cost_ns) = (nanoseconds(now), cost(count, per_second_max));
        let after = |full_at: u64| full_at.max(now_ns) + cost_ns;
        let limit = now_ns + nanoseconds(FULL);
        let fits = |full_at: u64| Some(after(full_at)).filter(|after| *after <= limit);
        match self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Duration::from_nanos(after(full_at)) - FULL),
        }
    }

    /// Takes back a [`Allowance::take`] of `count`, of which nothing came.
    pub(super) fn give_back(&self, count: u32, per_second_max: u32) {
        let earlier = |full_at: u64| Some(full_at.saturating_sub(cost(count, per_second_max)));
        let _always = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earlier);
    }

    /// True when it equals a new one.
    pub(super) fn is_full(&self, now: Duration) -> bool {
        self.full_at.load(Ordering::Relaxed) <= nanoseconds(now)
    }
}

/// The time that earns `count`.
fn cost(count: u32, per_second_max: u32) -> u64 {
    u64::from(count) * nanoseconds(FULL) / u64::from(per_second_max.max(1))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_a_second_allows_and_not_one_more() {
        let ms = Duration::from_millis;
        let allowance = Allowance::default();
        for _ in 0..3 {
            assert_eq!(allowance.take(1, 3, ms(5000)), Ok(()));
        }
        let next = allowance.take(1, 3, ms(5000)).unwrap_err();
        assert!(next >= ms(5333) && next < ms(5334), "{next:?}");
        assert!(!allowance.is_full(next) && allowance.take(2, 3, next).is_err());
        assert_eq!(allowance.take(1, 3, next), Ok(()));
        allowance.give_back(1, 3);
        assert_eq!(allowance.take(1, 3, next), Ok(()));
        assert!(
            allowance.is_full(ms(60_000)) && allowance.take(4, 3, ms(60_000)).is_err(),
            "a second's worth is saved"
        );
        assert_eq!(allowance.take(3, 3, ms(60_000)), Ok(()));
    }

    #[test]
    fn loops_share_a_rate() {
        let allowance = Allowance::default();
        let taken = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| allowance.take(1, 500, Duration::ZERO).is_ok()).count();
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(taken, 500);
    }
}
