//! The wire, pure: bytes in, values out and back. No sockets, no clock, no threads.
