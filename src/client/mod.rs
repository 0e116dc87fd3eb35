//! The HTTP client behind fanfare subscribe and fanfare publish.
