//! What the server reports about itself: counters, the Prometheus page, logging.

mod log_line;
mod log_writer;

pub mod clip;
pub mod histogram;
pub mod live;
pub mod log_limit;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod prometheus;
pub mod quiet;
