//! Responses: encoded, written, and then the next request or the end. An error's end lingers, or the client would see
//! a reset instead of the answer.

use std::time::{SystemTime, UNIX_EPOCH};

use super::answers::Account;
use super::connection::{Flags, Phase, Responding};
use super::refusal::Refusal;
use super::wheel::Tick;
use super::{CloseReason, Server};
use crate::event::Frame;
use crate::io::Io;
use crate::protocol::head::{Method, RequestHead};
use crate::protocol::response::{self, Response};

/// The `Date` header, formatted once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    pub(super) fn at(&mut self, time: SystemTime) -> &str {
        let second = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text = httpdate::fmt_http_date(time);
        }
        &self.text
    }
}

impl<I: Io> Server<I> {
    /// Answers a request; the connection goes on if the client wants it to.
    pub(super) fn respond(&mut self, slot: u32, head: &RequestHead, response: Response) {
        let account = self.account(slot, Some(head));
        let mut response = if self.may_answer(account, &response) { response } else { self.refuse_answer() };
        // One answer to each on the spare descriptor: others wait for it.
        let on_spare = self.connections[slot as usize].flags.has(Flags::ON_SPARE);
        response.keep_alive &= head.keep_alive && !on_spare && !self.is_closing_streams();
        let last = (!response.keep_alive).then_some(CloseReason::Answered);
        response.headers.extend(self.cors_headers(head));
        self.count_response(response.status);
        let date = self.date.at(self.io.unix_time());
        let bytes = response.encode(head.method == Method::Head, head.minor_version, date);
        self.write_answer(slot, bytes, last, account);
    }

    /// Answers with an error.
    pub(super) fn respond_problem(&mut self, slot: u32, head: &RequestHead, status: u16, title: &str, detail: &str) {
        self.respond(slot, head, response::problem(status, title, detail));
    }

    /// Answers a request that could not be understood, or did not arrive in time; the connection ends. A HEAD, if it
    /// is known to be one, is answered without a body (RFC 9110, 9.3.2).
    pub(super) fn respond_last(&mut self, slot: u32, problem: &Response, head_only: bool, reason: CloseReason) {
        self.count_response(problem.status);
        let date = self.date.at(self.io.unix_time());
        let bytes = problem.clone().closing().encode(head_only, 1, date);
        self.write_response(slot, bytes, Some(reason));
    }

    /// Writes bytes that are a whole response; with a reason, the connection's last.
    pub(super) fn write_response(&mut self, slot: u32, bytes: Vec<u8>, last: Option<CloseReason>) {
        self.write_answer(slot, bytes, last, self.account(slot, None));
    }

    fn write_answer(&mut self, slot: u32, bytes: Vec<u8>, last: Option<CloseReason>, account: Account) {
        let now = Tick::of(self.now);
        let size = bytes.len();
        let connection = &mut self.connections[slot as usize];
        let responding = Responding { request: connection.take_request(), last, account, waiting_bytes: 0 };
        connection.phase = Phase::Responding(Box::new(responding));
        connection.since = now;
        self.say(slot, Frame::from(bytes));
        self.finish_response(slot);
        self.charge_if_waiting(slot, size);
        self.arm_if_open(slot);
    }

    /// What follows once everything is written. Called for whatever was transmitted; most of it is no response.
    pub(super) fn after_transmission(&mut self, slot: u32) {
        if matches!(self.connections[slot as usize].phase, Phase::Responding(_)) {
            self.finish_response(slot);
            self.resume_reading(slot);
            self.arm_if_open(slot);
        }
    }

    /// Ends the response if it is written whole: on to the next request, or to the end.
    fn finish_response(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if self.laggards.contains_key(&slot) {
            return;
        }
        match std::mem::replace(&mut connection.phase, Phase::Idle) {
            Phase::Responding(responding) => {
                self.answers.release(&responding);
                let Responding { request, last, .. } = *responding;
                connection.phase = Phase::Requesting(Box::new(request));
                connection.since = Tick::of(self.now);
                if let Some(reason) = last {
                    self.linger(slot, reason);
                }
            }
            other => connection.phase = other,
        }
    }

    /// Says that nothing more will come, and waits for the peer to close: closing first could reset the connection
    /// and take the answer with it.
    pub(super) fn linger(&mut self, slot: u32, reason: CloseReason) {
        let connection = &mut self.connections[slot as usize];
        if connection.flags.has(Flags::ENDED) {
            return self.close(slot, reason);
        }
        self.io.end(connection.socket);
        connection.phase = Phase::Lingering(reason);
        connection.since = Tick::of(self.now);
        if connection.flags.has(Flags::READABLE) {
            self.push_readable(slot);
        }
        self.arm_if_open(slot);
    }

    pub(super) fn arm_if_open(&mut self, slot: u32) {
        if !matches!(self.connections[slot as usize].phase, Phase::Dead) {
            self.arm_deadline(slot);
        }
    }

    pub(super) fn time_out_request(&mut self, slot: u32) {
        let is_in_body =
            matches!(&self.connections[slot as usize].phase, Phase::Requesting(request) if request.is_in_body());
        let refusal = if is_in_body { Refusal::BodyTimeout } else { Refusal::HeadTimeout };
        self.count_refusal(refusal);
        let problem = response::problem(refusal.status(), "Request timeout", refusal.detail());
        // No HEAD is known to be one: nothing but a POST is waited for beyond its head.
        self.respond_last(slot, &problem, false, CloseReason::RequestTimeout);
    }

    fn count_response(&mut self, status: u16) {
        self.counters.responses.count(response::status_label(status));
    }
}

/// A response with a body that is JSON.
pub(super) fn json(status: u16, value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_string(value).expect("maps with names as keys, and no value that can refuse");
    Response::new(status).with_body("application/json", text)
}
