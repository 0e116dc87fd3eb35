//! What the server tells about itself: metrics, debug view, logging.

pub mod logging;
