//! Tokens on the real binary's wire: every way to be let in, every way not to be, on every route.
//!
//! Keys are made by openssl, as users make them; tokens by `jsonwebtoken` or by hand, so that they can say anything.

#[path = "../support/mod.rs"]
mod support;

mod disconnected;
mod forge;
mod hosts;
mod let_in;
mod refused;
mod revoked;
mod streams;
