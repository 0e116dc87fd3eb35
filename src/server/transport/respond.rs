//! Responses: encoded, written, and then the next request or the end. Small answers to requests that arrived together are
//! written together. After its last answer a connection lingers, or the client could see a reset instead of the answer.

use super::Transport;
use super::answers::{Account, SMALL_ANSWER_BYTES};
use super::clients::Client;
use super::connection::{Awaited, CloseReason, Flags, Phase, Publishing, Responding};
use super::outbox::Outbox;
use crate::event::Frame;
use crate::io::{Io, Token};
use crate::protocol::head::{Method, RequestHead};
use crate::protocol::response::{self, Response};
use crate::server::node::Node;
use crate::server::node::refusal::Refusal;
use crate::server::wheel::Tick;

/// A response, and the headers that tell a browser which pages may read it (CORS).
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) cors: Vec<(&'static str, String)>,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer { response, cors: Vec::new() }
    }
}

impl<I: Io> Transport<I> {
    /// Answers a request; the connection goes on if the client wants it to.
    pub(crate) fn respond(&mut self, client: &Client, head: &RequestHead, answer: Answer, node: &mut Node) {
        let account = Account::of(client.is_admin, client.address, &node.settings);
        let Answer { mut response, cors } = answer;
        // Accepted events are published: their publisher must not be asked to try again.
        if response.status != 202 && !self.has_room_for_answer(account, response.body.len(), node) {
            response = refuse_answer(node);
        }
        // One answer per connection on the spare descriptor: others wait for it.
        response.keep_alive &= head.keep_alive && !client.is_on_spare && !node.is_closing_streams();
        response.keep_alive &= !self.at(client.token.slot).flags.has(Flags::WORN);
        let last = (!response.keep_alive).then_some(CloseReason::Answered);
        response.headers.extend(cors);
        count_response(response.status, node);
        let date = self.date.at(self.io.unix_time());
        let bytes = response.encode(head.method == Method::Head, head.minor_version, date);
        self.write_answer(client.token.slot, bytes, last, account, node);
    }

    /// Answers a request that is malformed or late, and ends the connection. A HEAD, if it is recognized as one, is
    /// answered without a body (RFC 9110, 9.3.2).
    pub(super) fn respond_last(
        &mut self,
        slot: u32,
        answer: Answer,
        head_only: bool,
        reason: CloseReason,
        node: &mut Node,
    ) {
        let Answer { mut response, cors } = answer;
        response.headers.extend(cors);
        count_response(response.status, node);
        let date = self.date.at(self.io.unix_time());
        let bytes = response.closing().encode(head_only, 1, date);
        self.write_last(slot, bytes, reason, node);
    }

    /// The head of a stream's response.
    pub(crate) fn stream_head(
        &mut self,
        head: &RequestHead,
        cors: &[(&'static str, String)],
        closing: bool,
    ) -> Vec<u8> {
        let extra: Vec<_> = cors.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let date = self.date.at(self.io.unix_time());
        response::stream_head(&extra, head.minor_version, date, closing)
    }

    /// Writes bytes that are a whole response, the last of the connection. Its peer is charged: the request may have
    /// been unreadable, and then no client is known.
    pub(crate) fn write_last(&mut self, slot: u32, bytes: Vec<u8>, reason: CloseReason, node: &mut Node) {
        let account = self.account_of_peer(slot, node);
        self.write_answer(slot, bytes, Some(reason), account, node);
    }

    fn account_of_peer(&self, slot: u32, node: &Node) -> Account {
        let connection = self.at(slot);
        Account::of(connection.flags.has(Flags::ADMIN), connection.peer, &node.settings)
    }

    /// Checks, before a large answer is built, whether there is room for it.
    pub(crate) fn admit_answer(&self, client: &Client, bytes: usize, node: &mut Node) -> Result<(), Response> {
        let account = Account::of(client.is_admin, client.address, &node.settings);
        match self.has_room_for_answer(account, bytes, node) {
            true => Ok(()),
            false => Err(refuse_answer(node)),
        }
    }

    fn has_room_for_answer(&self, account: Account, bytes: usize, node: &Node) -> bool {
        bytes <= SMALL_ANSWER_BYTES
            || node.common.answers.has_room(account, bytes, node.settings.limits.answer_bytes_max)
    }

    fn write_answer(
        &mut self,
        slot: u32,
        bytes: Vec<u8>,
        last: Option<CloseReason>,
        account: Account,
        node: &mut Node,
    ) {
        let is_small = bytes.len() <= SMALL_ANSWER_BYTES;
        let mut outbox = self.take_outbox(slot, node.now);
        outbox.push(Frame::from(bytes));
        if is_small && last.is_none() && self.has_next_request(slot) {
            self.put_back(slot, outbox);
        } else {
            self.send_answers(slot, outbox, last, account, node);
        }
    }

    /// True when more arrived behind the request that is being answered. The visit in progress goes on with it, and ends with
    /// [`Transport::send_gathered`].
    fn has_next_request(&self, slot: u32) -> bool {
        matches!(&self.at(slot).phase, Phase::Requesting(request) if !request.is_empty())
    }

    /// Sends the answers that waited for those to the requests behind them.
    pub(super) fn send_gathered(&mut self, slot: u32, node: &mut Node) {
        if !self.outboxes.contains_key(&slot) {
            return;
        }
        let outbox = self.take_outbox(slot, node.now);
        match self.at(slot).phase {
            Phase::Requesting(_) => {
                let account = self.account_of_peer(slot, node);
                self.send_answers(slot, outbox, None, account, node);
            }
            // The answer to the newest request comes later.
            Phase::Publishing(_) => _ = self.send_outbox(slot, outbox, node),
            _ => self.put_back(slot, outbox),
        }
    }

    /// Sends the answers in an outbox. What the kernel does not take is charged to the account of the newest one.
    fn send_answers(
        &mut self,
        slot: u32,
        outbox: Outbox,
        last: Option<CloseReason>,
        account: Account,
        node: &mut Node,
    ) {
        let connection = &mut self.connections[slot as usize];
        let responding = Responding { request: connection.take_request(), last, account, waiting_bytes: 0 };
        connection.phase = Phase::Responding(Box::new(responding));
        connection.since = Tick::of(node.now);
        let bytes = outbox.unsent_bytes();
        self.send_outbox(slot, outbox, node);
        self.finish_response(slot, node);
        self.charge_if_waiting(slot, bytes, node);
        self.arm_deadline(slot, node);
    }

    /// Charges answers that the kernel did not take whole.
    fn charge_if_waiting(&mut self, slot: u32, bytes: usize, node: &Node) {
        if let Phase::Responding(responding) = &mut self.connections[slot as usize].phase {
            responding.waiting_bytes = bytes;
            node.common.answers.charge(responding.account, bytes);
        }
    }

    /// Keeps a request whose answer comes later.
    pub(crate) fn await_answer(&mut self, slot: u32, head: &RequestHead, answer: Awaited, node: &Node) {
        let connection = &mut self.connections[slot as usize];
        let publishing = Publishing { answer, head: head.clone(), request: connection.take_request() };
        connection.phase = Phase::Publishing(Box::new(publishing));
        connection.since = Tick::of(node.now);
        self.arm_deadline(slot, node);
    }

    /// Reads on after an answer that had to wait.
    pub(crate) fn resume_after_answer(&mut self, token: Token, node: &mut Node) {
        let goes_on = |phase: &Phase| matches!(phase, Phase::Requesting(_) | Phase::Streaming(_));
        if self.connection_mut(token).is_some_and(|connection| goes_on(&connection.phase)) {
            self.resume_reading(token.slot, node);
        }
    }

    /// Sends the rest of a response, and continues with the next request after it.
    pub(crate) fn continue_response(&mut self, slot: u32, node: &mut Node) {
        let outbox = self.take_outbox(slot, node.now);
        if !self.send_outbox(slot, outbox, node) {
            return;
        }
        if matches!(self.connections[slot as usize].phase, Phase::Responding(_)) {
            self.finish_response(slot, node);
            self.resume_reading(slot, node);
            self.arm_deadline(slot, node);
        }
    }

    /// Ends the response if it is written whole, and continues with the next request or ends the connection.
    fn finish_response(&mut self, slot: u32, node: &mut Node) {
        let connection = &mut self.connections[slot as usize];
        if self.outboxes.contains_key(&slot) {
            return;
        }
        match std::mem::replace(&mut connection.phase, Phase::Idle) {
            Phase::Responding(responding) => {
                let Responding { request, last, account, waiting_bytes } = *responding;
                node.common.answers.release(account, waiting_bytes);
                connection.phase = Phase::Requesting(Box::new(request));
                connection.since = Tick::of(node.now);
                if let Some(reason) = last {
                    self.linger(slot, reason, node);
                }
            }
            other => connection.phase = other,
        }
    }

    /// Ends the sending side and waits for the peer to close: closing first could reset the connection and lose the
    /// answer.
    pub(crate) fn linger(&mut self, slot: u32, reason: CloseReason, node: &mut Node) {
        let connection = &mut self.connections[slot as usize];
        if connection.flags.has(Flags::ENDED) {
            return self.close(slot, reason, node);
        }
        if connection.is_streaming() {
            self.streams -= 1;
            node.common.give_back_stream();
        }
        self.io.end(connection.socket);
        connection.phase = Phase::Lingering(reason);
        connection.since = Tick::of(node.now);
        if connection.flags.has(Flags::READABLE) {
            self.push_readable(slot);
        }
        self.arm_deadline(slot, node);
    }
}

fn refuse_answer(node: &mut Node) -> Response {
    let refusal = Refusal::AnswerBytes;
    node.count_refusal(refusal);
    response::problem(refusal.status(), "Too busy", refusal.detail()).with_header("Retry-After", "1")
}

fn count_response(status: u16, node: &mut Node) {
    node.counters.responses.count(response::status_label(status));
}
