//! TLS 1.3 for the server's side: certificates, handshakes, and the records after them.
//!
//! rustls does every handshake. After it, a connection needs only two keys, two IVs and two counters ([`record`]): about 100
//! bytes, where a session of rustls keeps thousands. docs/decisions/0012-records-are-sealed-in-user-space.md says why.
//!
//! Pure: nothing here opens a file or a socket, or asks for the time.

pub mod certificates;
pub mod handshake;
pub mod record;
#[cfg(test)]
pub(crate) mod testing;
