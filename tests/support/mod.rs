//! What several integration tests share.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod node;
pub mod redis;
pub mod sse_server;

/// What `attempt` finds, as soon as it finds it.
pub fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "it never came");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
