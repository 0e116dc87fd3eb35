//! Black-box tests: the real binary, started on free ports, spoken to in bytes. Each module is named by what it guards.
//!
//! Nothing here sleeps for a time to pass: tests wait for what can be observed, under one deadline that only a hang
//! reaches. What needs another program says which, and in which Debian package it is.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod backend;
mod buffers;
mod bursts;
mod drain;
mod injection;
mod limits;
mod loops;
mod malformed;
mod operators;
mod proxies;
mod publishing;
mod redis;
mod replay;
mod requests;
mod routes;
mod slow;
mod streams;
