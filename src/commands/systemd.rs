//! Telling systemd (sd_notify(3)); without one to tell, nothing happens.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::server::{News, Supervisor};

/// How often the status is told.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How much time to stop is asked for at once while leaving: more than passes until the next asking.
const STOP_EXTENSION_US: u32 = 30_000_000;

/// Passes on what the loop tells.
pub(super) struct Systemd {
    interval: Duration,
    told_at: Instant,
}

impl Systemd {
    pub(super) fn new() -> Systemd {
        // A third: one that comes late, or a clock that is a little off, must not look like a loop that hangs.
        let watchdog_interval = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
        let interval = watchdog_interval.map_or(STATUS_INTERVAL, |interval| interval.min(STATUS_INTERVAL));
        Systemd { interval, told_at: Instant::now() }
    }
}

impl Supervisor for Systemd {
    fn tell(&mut self, news: News) {
        match news {
            News::Serving => notify(&[NotifyState::Ready, NotifyState::Status("Serving")]),
            News::Reloaded => notify(&[NotifyState::Ready]),
            News::Leaving => notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(STOP_EXTENSION_US)]),
            News::Alive { .. } if self.told_at.elapsed() < self.interval => {}
            News::Alive { streams, is_leaving } => {
                self.told_at = Instant::now();
                let status = format!("{}, {streams} streams", if is_leaving { "Leaving" } else { "Serving" });
                let alive = [NotifyState::Watchdog, NotifyState::Status(&status)];
                let more_time = is_leaving.then_some(NotifyState::ExtendTimeoutUsec(STOP_EXTENSION_US));
                notify(&alive.into_iter().chain(more_time).collect::<Vec<_>>());
            }
        }
    }
}

/// SIGHUP was heard. From systemd 253 on, the time tells this reload from those before.
pub(super) fn tell_reloading() {
    let time = NotifyState::monotonic_usec_now();
    notify(&[NotifyState::Reloading].into_iter().chain(time.ok()).collect::<Vec<_>>());
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd can't be told");
    }
}
