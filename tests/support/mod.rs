//! What several integration tests share.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod node;
pub mod redis;
pub mod sse_server;
