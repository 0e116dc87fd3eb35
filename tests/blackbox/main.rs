//! Black-box tests: the real binary, started on free ports, spoken to in bytes. Each module is named by what it guards.
//!
//! Nothing here sleeps for a time to pass: tests wait for what can be observed, under one deadline that only a hang
//! reaches. What needs Redis, node or Chromium is marked as ignored; `./test` runs that too.

#[path = "../support/mod.rs"]
mod support;

mod limits;
mod publishing;
mod requests;
mod routes;
