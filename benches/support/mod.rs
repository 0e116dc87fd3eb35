//! What the benches share: processes with one role each, and what the kernel says of them.
//!
//! ```text
//!  the bench ── lines on stdin and stdout ──▶ sink: holds N connections, counts what arrives
//!      │                                        ▲ TCP over loopback
//!      ├── POST /publish ──▶ fanfare serve ─────┤
//!      ├── PUBLISH ──▶ redis-server ──▶ fanfare serve, or a peer
//!      └── lines ──▶ floor: a bare send loop ───┘
//! ```
//!
//! Every process but the servers is the bench's own binary again, told its role by an environment variable: the
//! client ends of many connections need descriptors of their own. Invariants: each process ends with its parent or
//! after a bounded time; nothing leaves loopback; nothing here asserts how long something took.
#![allow(dead_code, reason = "each bench uses its part")]
#![allow(unreachable_pub, reason = "shared by several binaries")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench's output")]

pub mod arena;
pub mod baseline;
pub mod cases;
pub mod contest;
pub mod document;
pub mod floor;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod payload;
pub mod peers;
pub mod postgres;
pub mod process;
pub mod publisher;
pub mod readers;
pub mod redis;
pub mod role;
pub mod secured;
pub mod server;
pub mod sink;
pub mod stats;
pub mod tokio_uring;
#[cfg(feature = "io-uring")]
pub mod watching;

/// Plays the role that the parent gave this process; false in the bench itself. First thing in every `main`.
#[must_use]
pub fn play_role() -> bool {
    match role::given() {
        Some((name, arguments)) => {
            match name.as_str() {
                "sink" => sink::play(&arguments),
                "publisher" => publisher::play(&arguments),
                "readers" => readers::play(&arguments),
                "floor" => floor::play(&arguments),
                "tokio_uring" => tokio_uring::play(&arguments),
                "case" => cases::play(&arguments),
                #[cfg(feature = "kafka")]
                "kafka" => kafka::play(),
                other => panic!("no such role: {other}"),
            }
            true
        }
        None => false,
    }
}

/// What `cargo bench -- --test` and `cargo test --benches` ask for: that everything runs once, not that it measures.
pub fn is_smoke_test() -> bool {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    has("--test") || !has("--bench")
}

/// True when a report that is no criterion benchmark is wanted too: by the filter that criterion would apply.
pub fn wants(name: &str) -> bool {
    let mut filters = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    filters.next().is_none_or(|filter| name.contains(&filter))
}
