//! Flags as typed: what the user wrote, before files, environment and defaults are weighed.
