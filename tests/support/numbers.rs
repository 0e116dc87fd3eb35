//! Numbers that are published on a channel of Redis pub/sub, and what subscribers receive of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::redis::RedisServer;
use super::stream::{Subscriber, text_of};

/// Reads through an event with this data.
pub fn read_through(subscriber: &mut Subscriber, last: &str) -> Vec<(String, String)> {
    let mut events = Vec::new();
    while events.last().is_none_or(|(_, text)| text != last) {
        let event = subscriber.event();
        events.push((event.id().unwrap().to_owned(), text_of(&event)));
    }
    events
}

/// Publishes 0, 1, 2, … on the channel `news`, with a pause after each, until it is stopped.
pub struct Publisher {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Publisher {
    pub fn start(redis: &RedisServer, pause_ms: u64) -> Publisher {
        let (is_stopped, mut connection) = (Arc::new(AtomicBool::new(false)), redis.connect());
        let asked = Arc::clone(&is_stopped);
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !asked.load(Ordering::Relaxed) {
                redis::cmd("PUBLISH").arg("news").arg(count).query::<u64>(&mut connection).unwrap();
                count += 1;
                std::thread::sleep(std::time::Duration::from_millis(pause_ms));
            }
            count
        });
        Publisher { is_stopped, thread }
    }

    /// How many were published.
    pub fn stop(self) -> u64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Checks what was received of the numbers below `count`: in order, none twice, and all but where a gap is. Returns the
/// number of gaps.
pub fn check_numbers(received: &[(String, String)], count: u64) -> usize {
    let (mut next, mut gaps, mut is_after_gap) = (0, 0, false);
    for (_, text) in received {
        let Ok(number) = text.parse::<u64>() else {
            assert!(text == "gap source_lost" || text == "last", "{text}");
            (gaps, is_after_gap) = (gaps + usize::from(text != "last"), true);
            continue;
        };
        assert!(number == next || is_after_gap && number > next, "{number} instead of {next}");
        (next, is_after_gap) = (number + 1, false);
    }
    assert!(next == count || is_after_gap, "{next} of {count}");
    gaps
}
