//! The service: the units in `systemd/`, as systemd's own tools judge them.
//!
//! None of it needs systemd to run this machine.

mod units;
