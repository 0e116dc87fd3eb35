//! What the server tells about itself: counters, the Prometheus page, logging.

mod escape;

pub mod histogram;
pub mod live;
pub mod log_limit;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod prometheus;
