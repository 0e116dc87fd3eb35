//! The desk: takes requests from the transport, lets the API decide on each, and carries out the decision.

use super::api::Api;
use super::api::context::{Outcome, RequestContext};
use super::grant::PublishGrant;
use super::node::Node;
use super::node::refusal::Refusal;
use super::streams::Streams;
use super::streams::open::StreamParams;
use super::streams::sweep::Sweeps;
use super::transport::Transport;
use super::transport::clients::Client;
use super::transport::connection::CloseReason;
use super::transport::read::{Arrived, Service};
use super::transport::respond::Answer;
use crate::event::Frame;
use crate::hub::Hub;
use crate::io::Io;
use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};
use crate::protocol::{encoder, gzip};
use crate::sources::channel::Inbox;

/// What requests may change, apart from their own connection.
pub(super) struct Desk<'a> {
    pub(super) api: &'a mut Api,
    pub(super) streams: &'a mut Streams,
    pub(super) sweeps: &'a mut Sweeps,
    pub(super) hub: &'a mut Hub,
    pub(super) inbox: &'a Inbox,
}

impl<I: Io> Service<I> for Desk<'_> {
    fn admit_body(
        &mut self,
        transport: &Transport<I>,
        slot: u32,
        head: &RequestHead,
        node: &mut Node,
    ) -> Result<Option<PublishGrant>, Answer> {
        let client = transport.client(slot, head, &node.settings);
        let asked = RequestContext { client, head, transport, hub: self.hub, inbox: self.inbox };
        let admitted = self.api.admit_body(&asked, node);
        admitted.map_err(|response| self.answer_with(head, response, node))
    }

    fn answer(&mut self, transport: &mut Transport<I>, slot: u32, request: Arrived<'_>, node: &mut Node) {
        let Arrived { head, body, grant } = request;
        let client = transport.client(slot, head, &node.settings);
        let mut asked = RequestContext { client, head, transport, hub: self.hub, inbox: self.inbox };
        match self.api.answer(&mut asked, body, grant, node) {
            Outcome::Answer(response) => self.respond(&client, head, response, transport, node),
            Outcome::OpenStream(params) => self.open_stream(&client, head, *params, transport, node),
            Outcome::StreamHead => {
                let is_compressed = node.settings.compresses_for(head);
                let headers = self.stream_headers(head, is_compressed, node);
                let bytes = transport.stream_head(head, &headers, true);
                transport.write_last(slot, bytes, CloseReason::Answered, node);
            }
            Outcome::Await(awaited) => transport.await_answer(slot, head, awaited, node),
            Outcome::Disconnect(disconnect, awaited) => {
                transport.await_answer(slot, head, awaited, node);
                self.sweeps.disconnect(disconnect, Some(client.token));
            }
        }
    }

    fn is_delivering(&self) -> bool {
        self.hub.is_walking()
    }
}

impl Desk<'_> {
    pub(super) fn respond<I: Io>(
        &mut self,
        client: &Client,
        head: &RequestHead,
        response: Response,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        let answer = self.answer_with(head, response, node);
        transport.respond(client, head, answer, node);
    }

    fn answer_with(&mut self, head: &RequestHead, response: Response, node: &mut Node) -> Answer {
        let cors = self.api.refused_origins.cors_headers_of(&response, head, node);
        Answer { response, cors }
    }

    /// The headers of a stream that not every stream has.
    fn stream_headers(
        &mut self,
        head: &RequestHead,
        is_compressed: bool,
        node: &mut Node,
    ) -> Vec<(&'static str, String)> {
        let mut headers = self.api.refused_origins.cors_headers(head, node);
        if node.settings.delivery.compress {
            headers.push(("Vary", "Accept-Encoding".into()));
        }
        if is_compressed {
            headers.push(("Content-Encoding", "gzip".into()));
        }
        headers
    }

    fn open_stream<I: Io>(
        &mut self,
        client: &Client,
        head: &RequestHead,
        params: StreamParams,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        if let Some(refusal) = refusal(client, transport, node) {
            return self.refuse_stream(client, head, refusal, transport, node);
        }
        let headers = self.stream_headers(head, params.is_compressed, node);
        let mut bytes = transport.stream_head(head, &headers, false);
        if params.is_compressed {
            bytes.extend_from_slice(gzip::HEADER);
        }
        let response_head = Frame::from(bytes);
        match self.streams.open(client.token.slot, response_head, params, transport, self.hub, node) {
            Ok(()) => transport.give_to_client(client, &node.settings),
            Err(refusal) => self.refuse_stream(client, head, refusal, transport, node),
        }
    }

    /// An EventSource gives up forever on any status but 200: it gets a 200 that only contains a reconnection time.
    fn refuse_stream<I: Io>(
        &mut self,
        client: &Client,
        head: &RequestHead,
        refusal: Refusal,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        node.count_refusal(refusal);
        let retry = node.jitter.around(node.settings.delivery.retry);
        if head.accepts_event_stream {
            let headers = self.stream_headers(head, false, node);
            let mut bytes = transport.stream_head(head, &headers, true);
            bytes.extend_from_slice(encoder::retry_only(retry).bytes());
            return transport.write_last(client.token.slot, bytes, CloseReason::Refused, node);
        }
        let mut problem = response::problem(refusal.status(), "Come back later", refusal.detail());
        problem.headers.push(("Retry-After", retry.as_secs_f64().ceil().max(1.0).to_string()));
        self.respond(client, head, problem, transport, node);
    }
}

/// Why a client may not open another stream now.
fn refusal<I: Io>(client: &Client, transport: &Transport<I>, node: &Node) -> Option<Refusal> {
    if node.is_closing_streams() {
        Some(Refusal::Draining)
    } else if client.is_on_spare {
        Some(Refusal::Descriptors)
    } else if client.is_admin {
        None
    } else if transport.stream_count() >= node.settings.streams_max {
        Some(Refusal::StreamLimit)
    } else if transport.is_over_address_limit(client, &node.settings) {
        Some(Refusal::AddressLimit)
    } else {
        None
    }
}
