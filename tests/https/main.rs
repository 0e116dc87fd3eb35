//! HTTPS: the real binary with a certificate, and clients that are not ours: rustls, curl, openssl and Python.

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod clients;
mod listeners;
mod streams;
