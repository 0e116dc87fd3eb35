//! Notifies systemd (sd_notify(3)); without systemd, nothing happens.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use sd_notify::NotifyState;

use crate::server::{Lifecycle, Supervisor};

/// How often the status is sent.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How much more time each request asks for during shutdown: longer than the interval between requests.
const STOP_EXTENSION_US: u32 = 30_000_000;

/// Passes the loop's news on to systemd.
pub(super) struct Systemd {
    interval: Duration,
    notified_at: Instant,
    is_leaving: bool,
    reloaded: Sender<()>,
}

impl Systemd {
    /// The receiver gets a message for each reload that is over.
    pub(super) fn new() -> (Systemd, Receiver<()>) {
        // A third: a late notification, or a clock that is a little off, must not look like a loop that hangs.
        let watchdog_interval = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
        let interval = watchdog_interval.map_or(STATUS_INTERVAL, |interval| interval.min(STATUS_INTERVAL));
        let (reloaded, reload_ended) = bounded(1);
        (Systemd { interval, notified_at: Instant::now(), is_leaving: false, reloaded }, reload_ended)
    }
}

impl Supervisor for Systemd {
    fn notify(&mut self, event: Lifecycle) {
        match event {
            Lifecycle::Serving => notify(&[NotifyState::Ready, NotifyState::Status("Serving")]),
            Lifecycle::Reloaded => {
                // A reload may end while the server leaves, and that is what systemd is to know.
                if !self.is_leaving {
                    notify(&[NotifyState::Ready]);
                }
                let _ = self.reloaded.try_send(()); // one reload is under way at a time: there is room
            }
            Lifecycle::Leaving => {
                self.is_leaving = true;
                notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(STOP_EXTENSION_US)]);
            }
            Lifecycle::Alive { .. } if self.notified_at.elapsed() < self.interval => {}
            Lifecycle::Alive { streams, is_leaving } => {
                self.notified_at = Instant::now();
                let status = format!("{}, {streams} streams", if is_leaving { "Leaving" } else { "Serving" });
                let alive = [NotifyState::Watchdog, NotifyState::Status(&status)];
                let more_time = is_leaving.then_some(NotifyState::ExtendTimeoutUsec(STOP_EXTENSION_US));
                notify(&alive.into_iter().chain(more_time).collect::<Vec<_>>());
            }
        }
    }
}

/// Notifies systemd of the start of a reload. From systemd 253 on, the time distinguishes it from earlier reloads.
pub(super) fn notify_reloading() {
    let time = NotifyState::monotonic_usec_now();
    notify(&[NotifyState::Reloading].into_iter().chain(time.ok()).collect::<Vec<_>>());
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "can't notify systemd");
    }
}
