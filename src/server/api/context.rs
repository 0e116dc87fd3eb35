//! A request with its view of the server, and its outcome.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::hub::Hub;
use crate::io::Io;
use crate::protocol::disconnect::Disconnect;
use crate::protocol::head::RequestHead;
use crate::protocol::response::Response;
use crate::server::node::Node;
use crate::server::node::letter::Question;
use crate::server::streams::open::StreamParams;
use crate::server::transport::Transport;
use crate::server::transport::clients::Client;
use crate::server::transport::connection::Awaited;
use crate::server::wheel::Tick;
use crate::sources::channel::{Inbox, PublishRefusal};

/// A request, and the server's state that its answer may need.
pub(crate) struct RequestContext<'a, I: Io> {
    pub(crate) client: Client,
    pub(crate) head: &'a RequestHead,
    pub(crate) transport: &'a Transport<I>,
    pub(crate) hub: &'a mut Hub,
    pub(crate) inbox: &'a Inbox,
}

/// The outcome of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Response),
    /// Its connection becomes a stream.
    OpenStream(Box<StreamParams>),
    /// The head that a stream would have (HEAD).
    StreamHead,
    /// It is answered when a broker has answered.
    Await(Awaited),
    /// It is answered when other loops have replied.
    Ask(Question),
    /// It is answered when the streams that it names have ended and a broker has answered for the other nodes.
    Disconnect(Arc<Disconnect>, Option<Result<(), PublishRefusal>>),
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Outcome {
        Outcome::Answer(response)
    }
}

impl<I: Io> RequestContext<'_, I> {
    /// The wall clock's time since 1970.
    pub(super) fn unix_time(&self) -> Duration {
        self.transport.unix_time().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The tick at which the wall clock will reach `time` at its present rate; setting the clock does not move it.
    pub(super) fn tick_of_unix(&self, time: Duration, node: &Node) -> Tick {
        Tick::of(node.now).after(time.saturating_sub(self.unix_time()))
    }

    /// Checks, before a large answer is built, whether there is room for it.
    pub(super) fn admit_answer(&self, bytes: usize, node: &mut Node) -> Result<(), Response> {
        self.transport.admit_answer(&self.client, bytes, node)
    }
}
