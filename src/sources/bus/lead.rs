//! The lead of the ingest: one node at a time appends what a source that keeps nothing carries, such as channels of
//! Redis pub/sub. The others stand by.

use std::time::Duration;

use crate::event::Topic;
use crate::sources::bus::{Content, EngineError, Receipt};

/// What a node claims the lead with.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Names this claim: `<node>/<session>`, used once.
    pub token: &'a str,
    /// How long the lead lasts without a renewal.
    pub lease: Duration,
    /// What the node is subscribed to, as text.
    pub feeds: &'a str,
    /// The topics that this can give; none: any.
    pub topics: &'a [Topic],
    /// The leader whose end the node has received, and after it everything else.
    pub ended: Option<&'a str>,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// The node leads, after a gap. What it receives after its marker is its own to append.
    Begins,
    /// The node leads. What it received after the end of the leader before it is its own to append.
    Continues,
    /// The leader with this token leads.
    OfAnother(String),
}

/// An engine on which nodes take the lead. Every call is bounded in time.
pub trait LeadEngine: Send {
    /// Forgets the connection: the next call connects to where the address points then.
    fn disconnect(&mut self);

    /// Takes the lead unless another node has it. Appends a gap and publishes the marker of the claim, both in one
    /// step.
    fn lead(&mut self, claim: &Claim<'_>) -> Result<Lead, EngineError>;

    /// Appends and renews the lease. Refused once another node has taken the lead. After any other error, the contents
    /// may be there all the same.
    fn ingest(&mut self, token: &str, lease: Duration, contents: &[Content]) -> Result<Vec<Receipt>, EngineError>;

    /// Publishes the marker of the leader's end. Returns how many subscribers receive it, the leader among them.
    fn announce_end(&mut self, token: &str) -> Result<u64, EngineError>;

    /// Gives up the lead. `hands_over`: everything that the leader received before its end is appended, and another node
    /// has received that end. For a moment, only such a node may take the lead.
    fn resign(&mut self, token: &str, hands_over: bool) -> Result<(), EngineError>;
}

/// A message on the channel of markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker<'a> {
    /// The claim with this token begins to lead here.
    Leads(&'a str),
    /// The leader with this token appends nothing that comes after this.
    Ends(&'a str),
}

impl<'a> Marker<'a> {
    /// Reads a message; none: something else.
    pub fn parse(message: &'a [u8]) -> Option<Marker<'a>> {
        match std::str::from_utf8(message).ok()?.split_once(' ')? {
            ("leads", token) => Some(Marker::Leads(token)),
            ("ends", token) => Some(Marker::Ends(token)),
            _ => None,
        }
    }
}
