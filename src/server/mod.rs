//! The event loop's story: tick phases in order, connection phases, routes, heartbeats, limits, drain.
