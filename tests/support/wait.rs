//! Waiting: always for something that can be observed, never for a time to pass.

use std::time::{Duration, Instant};

/// Far beyond what anything here takes, since the machine may be busy with everything else; only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Looks until there is something to see; `what` says what was waited for in vain.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Waits until `holds`.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}
