//! The load-test client: epoll loops that hold very many SSE connections to any server and check every event.
//!
//! ```text
//!  args ─▶ plan ─▶ conductor ─▶ crew ─┬▶ fleet (one epoll loop per thread) ─▶ clients ─▶ ledgers
//!                      │              └▶ worker processes, the same again
//!                      ├▶ publisher (stamps, on a timetable)
//!                      └▶ report ─▶ JSON, summary, page, thresholds
//! ```
//!
//! [`ledger`] defines what a subscriber is owed, and what counts as lost, duplicated, disordered, corrupted or
//! announced. Latencies run from a message's *intended* send time, so that neither a slow server nor a slow publisher
//! can hide a delay. A connection costs the client less than a kilobyte, most of it outside its own structures.

pub mod args;
pub mod ask;
pub mod baseline;
pub mod circumstances;
mod client;
pub mod clock;
pub mod conductor;
pub mod counters;
mod crew;
mod fleet;
pub mod histogram;
pub mod ledger;
pub mod measures;
pub mod page;
pub mod plan;
pub mod plot;
pub mod publisher;
pub mod publishing;
pub mod report;
pub mod response;
pub mod stamp;
pub mod summary;
pub mod tally;
pub mod target;
pub mod terminal;
pub mod threshold;
pub mod timeline;
mod tls;
pub mod watch;

pub use crew::work;
