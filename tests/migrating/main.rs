//! Moving in: what docs/migrating.md says, shown beside servers and publishers that know nothing of Fanfare.

#[path = "../support/mod.rs"]
mod support;

mod copies;
mod cut_over;
mod publishers;
