//! Who may do what: bearer tokens, JSON Web Tokens, and what they grant. Knows no routes, no sockets and no clock.
//!
//! ```text
//!  tokens    bearer tokens as configured: a caller has one of them, or not
//!  keys      what a file of keys holds, each key bound to its algorithms
//!  jwt       a token's signature and claims, checked: what its holder may do, and until when
//!  identity  of a token that was checked, what decides whether it stays accepted
//!  denials   tokens that were taken back before they expire
//!  grants    what that is: topics to subscribe to and to publish to
//!  mint      the other way round: a token made from a key
//!  crypto    the signatures themselves, by ring; pem: keys as OpenSSL writes them
//! ```
//!
//! Invariants: no token and no secret is ever shown; a key decides which algorithms it is good for, never a token.

mod crypto;
pub mod denials;
mod digest;
mod grants;
mod identity;
mod jwt;
mod keys;
mod mint;
mod pem;
pub mod proxies;
mod tokens;

pub use digest::Digest;
pub use grants::{Grants, Patterns};
pub use identity::{Identity, TokenName};
pub use jwt::{LEEWAY, Verified, Verifier};
pub use keys::{KeyError, Keys};
pub use mint::{MintError, NewToken, SIGNING_ALGORITHMS, SigningKey};
pub use tokens::{Tokens, bearer};

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token came with it.
    Missing,
    /// One that is not accepted came with it; the text says why, without a word of the token.
    Invalid(&'static str),
    /// An accepted one that is not good for this; the text says what it lacks.
    Insufficient(&'static str),
}
