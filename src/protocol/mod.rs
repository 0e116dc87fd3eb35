//! The wire, pure: bytes in, values out, and values back into bytes. No sockets, no clock, no threads.
//!
//! ```text
//!  request   head ─▶ target          what was asked: method, path, query, the headers that matter
//!            body ─▶ publish         what was sent: framing undone, then events
//!            envelope                events as publishers send them: publish undone
//!            disconnect              which streams an operator ends
//!            proxy_header, forwarded whom it is from, where proxies say so
//!            error                   why a request is refused, as a status and two sentences
//!  answer    response                heads, problem bodies, the head of a stream
//!            encoder                 an event as a frame: formatted once, sent to everybody
//!  client    decoder                 the same stream read back, as WHATWG HTML 9.2.6 says
//! ```
//!
//! Every parser here takes what has arrived so far, in any chunking, and never panics on it. What is missing is
//! [`Parsed::NeedMore`], not an error; what is wrong is a [`RequestError`] that knows its status. Where RFC 9112
//! leaves a choice, the strict reading wins: two readers of one byte stream must not see different requests.

#![forbid(unsafe_code)]

mod error;
mod fields;

pub mod body;
pub mod decoder;
pub mod disconnect;
pub mod encoder;
pub mod envelope;
pub mod forwarded;
pub mod head;
pub mod proxy_header;
pub mod publish;
pub mod response;
pub mod target;

pub use error::RequestError;

/// What a parser made of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// Not all there yet: ask again with more.
    NeedMore,
    /// A value, and how many of the bytes it took; what follows them is the next one's.
    Complete {
        /// What was read.
        value: T,
        /// How many bytes of the input it took.
        consumed: usize,
    },
}
