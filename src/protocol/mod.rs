//! The wire, pure: bytes in, values out, and values back into bytes. No sockets, no clock, no threads.
//!
//! ```text
//!  request   head ─▶ target          what is requested: method, path, query, the headers that matter
//!            body ─▶ publish         what was sent: framing removed, then events
//!            envelope                events as publishers send them: the reverse of publish
//!            disconnect              which streams an operator ends
//!            number                  whole numbers in their JSON
//!            proxy_header, forwarded the client it is from, if proxies name it
//!            error                   why a request is refused, as a status and two sentences
//!  answer    response                heads, problem bodies, the head of a stream
//!            encoder                 an event as a frame: formatted once, sent to every subscriber
//!            gzip                    a frame as deflate blocks: compressed once, shared in the same way
//!  client    decoder                 decodes the same stream, by WHATWG HTML 9.2.6
//! ```
//!
//! Every parser here takes what has arrived so far, in any chunking, and never panics on it. Missing bytes are
//! [`Parsed::NeedMore`], not an error. Wrong bytes are a [`RequestError`], which has a status. Where RFC 9112 leaves a
//! choice, the strict reading wins: two readers of one byte stream must not see different requests.

#![forbid(unsafe_code)]

mod error;
mod fields;
mod number;

pub mod body;
pub mod decoder;
pub mod disconnect;
pub mod encoder;
pub mod envelope;
pub mod forwarded;
pub mod gzip;
pub mod head;
pub mod proxy_header;
pub mod publish;
pub mod response;
pub mod target;

pub use error::RequestError;

/// What a parser made of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// Not complete yet: call again with more bytes.
    NeedMore,
    /// A value, and how many bytes it took; the bytes after them belong to the next value.
    Complete {
        /// What was read.
        value: T,
        /// How many bytes of the input it took.
        consumed: usize,
    },
}
