//! The service: the units in `systemd/` as systemd's own tools judge them, and what passes between systemd and the server.
//!
//! None of it needs systemd to run this machine: `systemd-socket-activate` passes sockets, and the tests listen where
//! systemd would.

#[path = "../support/mod.rs"]
mod support;

mod activation;
mod age;
mod notify;
mod reload;
mod units;
