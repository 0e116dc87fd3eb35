//! Fanfare: a Server-Sent Events fan-out server for Linux.
//!
//! One event loop holds every subscriber of a host, and one message from Redis or HTTP reaches all of them as
//! the same bytes. Follow a message through the modules in the order below:
//!
//! ```text
//!  sources ──▶ sequencer ──▶ channel ──▶ server ──▶ hub (append, walk) ──▶ io (send one run to many sockets)
//! ```
//!
//! `docs/architecture.md` lists the modules and invariants; `tests/architecture.rs` fails on a dependency it forbids.

pub mod cli;
pub mod config;
pub mod event;

pub mod redis_address;
pub mod sources;

pub mod protocol;

pub mod hub;

pub mod server;

pub mod io;
pub mod tls;

pub mod auth;
pub mod observe;

pub mod client;
pub mod commands;
pub mod doctor;
pub mod load;
