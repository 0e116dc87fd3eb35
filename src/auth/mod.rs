//! Who may do what: bearer tokens, JSON Web Tokens, and what they grant. Independent of routes, sockets and the clock.
//!
//! ```text
//!  tokens    the configured bearer tokens: a request has one of them, or not
//!  keys      what a file of keys holds, each key bound to its algorithms
//!  jwt       checks a token's signature and claims: what it permits, and until when
//!  identity  the parts of a checked token that decide whether it stays accepted
//!  denials   tokens that were revoked before they expire
//!  grants    what a token permits: topics to subscribe to and to publish to
//!  mint      makes a token from a key
//!  crypto    the signatures themselves, by ring; pem: keys as OpenSSL writes them
//! ```
//!
//! Invariants: no log entry and no error contains a token or a secret; a key determines its algorithms, never a token.

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
    /// The request has no token.
    Missing,
    /// The request has a token that is not accepted; the text states why, and contains nothing of the token.
    Invalid(&'static str),
    /// The request has an accepted token that does not permit this; the text states what is missing.
    Insufficient(&'static str),
}
