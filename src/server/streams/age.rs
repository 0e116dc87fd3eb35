//! The maximum age: old streams end although nothing is wrong, and their clients resume at once, so that clients spread
//! again over the servers behind a balancer.

use std::time::Duration;

use super::Streams;
use crate::hub::Hub;
use crate::io::Io;
use crate::protocol::encoder;
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::server::transport::connection::CloseReason;
use crate::server::wheel::Tick;

/// When a client may come back after its stream ended for its age: soon, but not all clients at the same moment.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// When a stream that starts now will end: after half to all of the maximum age, so that clients that came together
/// don't leave together.
pub(super) fn retirement(is_admin: bool, node: &mut Node) -> Tick {
    match node.settings.limits.connection_age_max.filter(|_| !is_admin) {
        Some(age_max) => Tick::of(node.now).after(node.jitter.upper_half(age_max)),
        None => Tick::NEVER,
    }
}

impl Streams {
    /// Ends a stream for its age; its subscriber resumes from its position.
    pub(super) fn retire<I: Io>(&mut self, slot: u32, transport: &mut Transport<I>, hub: &mut Hub, node: &mut Node) {
        let retry = node.jitter.upper_half(RETRY_MAX);
        self.flush_stream(slot, transport, hub, node);
        self.end_stream(slot, encoder::retry_only(retry), CloseReason::Aged, transport, hub, node);
    }
}
