//! The desk: takes requests from the transport, lets the API decide on each, and carries out the decision.

use std::sync::Arc;

use super::api::Api;
use super::api::context::{Outcome, RequestContext};
use super::grant::PublishGrant;
use super::late::LateStreams;
use super::node::Node;
use super::node::letter::{Asker, Inquiry, Question};
use super::node::refusal::Refusal;
use super::streams::Streams;
use super::streams::open::StreamParams;
use super::streams::sweep::Sweeps;
use super::transport::Transport;
use super::transport::clients::Client;
use super::transport::connection::{Awaited, CloseReason, DisconnectAnswer};
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
    pub(super) late: &'a mut LateStreams,
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
        let outcome = self.api.answer(&mut asked, body, grant, node);
        self.carry_out(outcome, &client, head, transport, node);
    }

    fn is_delivering(&self) -> bool {
        self.hub.is_walking()
    }
}

impl Desk<'_> {
    /// Carries out what the API has decided.
    pub(super) fn carry_out<I: Io>(
        &mut self,
        outcome: Outcome,
        client: &Client,
        head: &RequestHead,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        let slot = client.token.slot;
        match outcome {
            Outcome::Answer(response) => self.respond(client, head, response, transport, node),
            Outcome::OpenStream(params) => self.open_or_wait(client, head, *params, transport, node),
            Outcome::StreamHead => {
                let headers = self.stream_headers(head, node.settings.compresses_for(head), node);
                let bytes = transport.stream_head(head, &headers, true);
                transport.write_last(slot, bytes, CloseReason::Answered, node);
            }
            Outcome::Await(awaited) => transport.await_answer(slot, head, awaited, node),
            Outcome::Ask(question) => self.ask(question, client, head, transport, node),
            Outcome::Disconnect(disconnect, passed_on) => {
                let question = Arc::new(Question::Disconnect(Arc::clone(&disconnect)));
                let mut sweeping = node.member.ask(client.token, &question);
                sweeping.push(node.member.index());
                let answer = DisconnectAnswer { ended: 0, sweeping, passed_on };
                transport.await_answer(slot, head, Awaited::Disconnect(answer), node);
                let asker = Asker { index: node.member.index(), ticket: client.token };
                self.sweeps.disconnect(disconnect, Some(asker));
            }
        }
    }

    /// Asks the other loops; without any, the answer follows at once.
    fn ask<I: Io>(
        &mut self,
        question: Question,
        client: &Client,
        head: &RequestHead,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        let question = Arc::new(question);
        let missing = node.member.ask(client.token, &question);
        let inquiry = Inquiry { question, missing, replies: Vec::new() };
        if inquiry.missing.is_empty() {
            return self.conclude(inquiry, client, head, transport, node);
        }
        transport.await_answer(client.token.slot, head, Awaited::Inquiry(inquiry), node);
    }

    /// Answers a request with the replies that there are.
    pub(super) fn conclude<I: Io>(
        &mut self,
        inquiry: Inquiry,
        client: &Client,
        head: &RequestHead,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        let asked = RequestContext { client: *client, head, transport, hub: self.hub, inbox: self.inbox };
        let outcome = self.api.conclude(&inquiry.question, inquiry.replies, &asked, node);
        self.carry_out(outcome, client, head, transport, node);
    }

    /// Opens a stream. If its client may have received through another loop what this one has not appended, it waits for
    /// that.
    fn open_or_wait<I: Io>(
        &mut self,
        client: &Client,
        head: &RequestHead,
        params: StreamParams,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        let issued = self.inbox.issued();
        let may_be_ahead = node.member.has_peers() && !params.last_event_id.is_empty() && !self.hub.follows_bus();
        let is_refused = client.is_on_spare || node.is_closing_streams();
        if may_be_ahead && issued > self.hub.head() && !is_refused {
            transport.await_answer(client.token.slot, head, Awaited::Stream, node);
            return self.late.wait(client.token, params, issued);
        }
        self.open_stream(client, head, params, transport, node);
    }

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

    pub(super) fn open_stream<I: Io>(
        &mut self,
        client: &Client,
        head: &RequestHead,
        params: StreamParams,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        if let Err(refusal) = admit_stream(client, transport, node) {
            return self.refuse_stream(client, head, refusal, transport, node);
        }
        let headers = self.stream_headers(head, params.is_compressed, node);
        let mut bytes = transport.stream_head(head, &headers, false);
        if params.is_compressed {
            bytes.extend_from_slice(gzip::HEADER);
        }
        let response_head = Frame::from(bytes);
        match self.streams.open(client.token.slot, response_head, params, transport, self.hub, node) {
            Ok(()) => transport.give_to_client(client, node),
            Err(refusal) => {
                node.common.give_back_stream();
                self.refuse_stream(client, head, refusal, transport, node);
            }
        }
    }

    /// An EventSource gives up forever on any status but 200: it gets a 200 that only contains a reconnection time.
    pub(super) fn refuse_stream<I: Io>(
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

/// Takes a place for another stream of a client, or says why it may not open one now.
fn admit_stream<I: Io>(client: &Client, transport: &Transport<I>, node: &Node) -> Result<(), Refusal> {
    if node.is_closing_streams() {
        return Err(Refusal::Draining);
    }
    if client.is_on_spare {
        return Err(Refusal::Descriptors);
    }
    let streams_max = if client.is_admin { usize::MAX } else { node.settings.streams_max };
    if !node.common.take_stream(streams_max) {
        return Err(Refusal::StreamLimit);
    }
    if !client.is_admin && transport.is_over_address_limit(client, node) {
        node.common.give_back_stream();
        return Err(Refusal::AddressLimit);
    }
    Ok(())
}
