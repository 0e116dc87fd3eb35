//! What must hold for any bytes, a module for each target. Every `check` panics where it does not.
//!
//! libFuzzer looks for such bytes (`fuzz/run`); `tests/fuzz_corpus.rs` replays the corpus, and
//! `tests/protocol_properties.rs` draws bytes that are nearly right. So nothing here knows of any of the three.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

pub mod chunks;
pub mod config;
pub mod forwarded;
pub mod glob;
pub mod proxy_header;
pub mod publish;
pub mod redis_address;
pub mod redis_payload;
pub mod redis_replies;
pub mod request;
pub mod sse_decoder;
pub mod sse_encoder;
pub mod token;
