//! Reading: requests as they arrive, and whatever subscribers send, to be discarded.
//!
//! A socket is read until it would block, because edge-triggered readiness will not be told again; but only a share of
//! one turn, in the order of [`ReadingQueue`](super::reading_queue), and not while an earlier request of it is being
//! answered.

use std::time::Duration;

use super::connection::{Flags, Phase};
use super::reading_queue::Class;
use super::refusal::Refusal;
use super::request::{Progress, Request};
use super::wheel::Tick;
use super::{CloseReason, Server};
use crate::io::{Io, Read, Token};
use crate::protocol::head::{Method, RequestHead};
use crate::protocol::response::{self, Response};

/// What reading and answering may take of one turn: a signature takes 0.2 ms, and thousands of connections may come
/// back at once.
const READING_PER_TURN_MAX: Duration = Duration::from_millis(5);
/// What connections that took more than their share before may take of one turn: so soon it is the others' turn again.
const HEAVY_PER_TURN_MAX: Duration = Duration::from_micros(100);
/// While events go out, those connections have one part in this many of the time.
const HEAVY_SHARE_BESIDE_WALKS: u32 = 8;
/// And where a visit takes longer than this, half of the time: a request that arrives meanwhile seldom waits for one of
/// theirs. Publishers are exempt: what they send is what the server is for.
const EXPENSIVE_VISIT_MIN: Duration = Duration::from_micros(200);
/// The share of one visit to a connection; one request is always taken up.
const VISIT_MAX: Duration = Duration::from_micros(100);
/// Reads in one visit.
const READS_PER_VISIT_MAX: usize = 4;
/// What a subscriber may send on its stream, which is discarded.
const UPLOAD_BYTES_MAX: usize = 64 << 10;
/// Requests answered in one visit.
const REQUESTS_PER_VISIT_MAX: usize = 32;

impl<I: Io> Server<I> {
    pub(super) fn queue_reading(&mut self, token: Token) {
        if let Some(connection) = self.connection(token)
            && !connection.flags.has(Flags::READABLE)
        {
            self.push_readable(token.slot);
        }
    }

    /// Puts a connection into the queue, where it does not stand yet.
    pub(super) fn push_readable(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.set(Flags::READABLE);
        let class = Class::of(connection.flags);
        self.readable.push(class, self.token(slot));
    }

    /// Visits connections that may have something, each at most once: class by class, at least one of each.
    pub(super) fn read(&mut self) {
        if self.readable.is_empty() {
            return;
        }
        let started_at = self.io.now();
        let reading_until = started_at + READING_PER_TURN_MAX / self.share_beside_walks() as u32;
        let counts = Class::ALL.map(|class| (class, self.readable.count(class)));
        for (class, count) in counts {
            match class {
                Class::Heavy => self.read_heavy(count),
                Class::Operator | Class::First | Class::Light => self.read_class(class, count, reading_until),
            }
        }
    }

    /// Visits so many connections of a class, but only one once the time is over.
    fn read_class(&mut self, class: Class, count: usize, until: Duration) {
        for visit in 0..count {
            if visit > 0 && self.io.now() >= until {
                return;
            }
            let Some(token) = self.readable.pop(class) else { return };
            self.visit_to_read(token);
        }
    }

    /// Visits connections that took more than their share before. One of their requests alone may take longer than a turn
    /// has for all of them: the next ones wait until that is made up for.
    fn read_heavy(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let started_at = self.io.now();
        if started_at < self.heavy_again_at {
            return;
        }
        let published = self.counters.published_http;
        self.read_class(Class::Heavy, count, started_at + HEAVY_PER_TURN_MAX);
        let ended_at = self.io.now();
        let took = ended_at - started_at;
        let has_published = self.counters.published_http > published;
        self.heavy_again_at = ended_at
            + match self.hub.is_walking() {
                true => took * (HEAVY_SHARE_BESIDE_WALKS - 1),
                false if took >= EXPENSIVE_VISIT_MIN && !has_published => took,
                false => Duration::ZERO,
            };
    }

    /// Reads one connection for its share of a turn, and notes whether it wanted more.
    fn visit_to_read(&mut self, token: Token) {
        if self.connection(token).is_none() {
            return;
        }
        self.visit_until = self.io.now() + VISIT_MAX;
        let is_done = self.read_connection(token);
        let is_over_share = self.is_visit_over();
        let Some(connection) = self.connection(token) else { return };
        match is_done && !is_over_share {
            true => connection.flags.clear(Flags::HEAVY),
            false => connection.flags.set(Flags::HEAVY),
        }
        if !is_done {
            self.push_readable(token.slot);
        }
    }

    fn is_visit_over(&self) -> bool {
        self.io.now() >= self.visit_until
    }

    /// Reads one connection; false when it may have more for the next turn.
    fn read_connection(&mut self, token: Token) -> bool {
        for read in 0..READS_PER_VISIT_MAX {
            if read > 0 && self.is_visit_over() {
                return false;
            }
            if !self.advance_and_arm(token.slot) {
                return false;
            }
            let Some(connection) = self.connection(token) else { return true };
            if matches!(connection.phase, Phase::Responding(_) | Phase::Publishing(_)) {
                // One request at a time: the rest waits in the kernel until this one is answered.
                return true;
            }
            let socket = connection.socket;
            let mut buffer = std::mem::take(&mut self.scratch.read);
            let read = self.io.read(socket, &mut buffer);
            if let Read::Bytes(count) = read {
                self.receive(token.slot, &buffer[..count]);
            }
            self.scratch.read = buffer;
            match read {
                Read::Bytes(_) => {
                    if !self.advance_and_arm(token.slot) {
                        return false;
                    }
                }
                Read::WouldBlock => {
                    self.connections[token.slot as usize].flags.clear(Flags::READABLE);
                    return true;
                }
                Read::Ended => {
                    self.end_of_input(token.slot);
                    return true;
                }
                Read::Gone(gone) => {
                    self.close(token.slot, gone.into());
                    return true;
                }
            }
        }
        false
    }

    /// Takes requests; also what the budget leaves for the next turn has its deadline.
    fn advance_and_arm(&mut self, slot: u32) -> bool {
        let done = self.advance_requests(slot);
        self.arm_if_open(slot);
        done
    }

    fn receive(&mut self, slot: u32, bytes: &[u8]) {
        let connection = &mut self.connections[slot as usize];
        match &mut connection.phase {
            Phase::Idle => {
                let mut request = Box::<Request>::default();
                request.receive(bytes);
                connection.phase = Phase::Requesting(request);
                connection.since = Tick::of(self.now);
            }
            Phase::Requesting(request) => request.receive(bytes),
            Phase::Responding(_) | Phase::Publishing(_) => debug_assert!(false, "not read while it is answered"),
            Phase::Streaming => self.note_upload(slot, bytes.len()),
            Phase::Lingering(_) | Phase::Dead => {}
        }
    }

    /// Discards what a subscriber sends, up to a bound: reading it for ever would cost the others their turns.
    fn note_upload(&mut self, slot: u32, bytes: usize) {
        let received = self.uploads.entry(slot).or_insert(0);
        *received += bytes;
        if *received > UPLOAD_BYTES_MAX {
            self.close(slot, CloseReason::Upload);
        }
    }

    /// The peer will send no more: a subscriber has left, a request that is being answered is answered still.
    fn end_of_input(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.clear(Flags::READABLE);
        connection.flags.set(Flags::ENDED);
        match connection.phase {
            Phase::Responding(_) | Phase::Publishing(_) | Phase::Dead => {}
            Phase::Idle | Phase::Requesting(_) | Phase::Streaming => self.close(slot, CloseReason::PeerClosed),
            Phase::Lingering(reason) => self.close(slot, reason),
        }
    }

    /// Takes requests from what has arrived, until one needs more or must be waited for. False: there are more, but
    /// others are to have their turn first.
    fn advance_requests(&mut self, slot: u32) -> bool {
        for taken in 0..REQUESTS_PER_VISIT_MAX {
            if self.connections[slot as usize].flags.has(Flags::AWAITS_PROXY_HEADER) && !self.take_proxy_header(slot) {
                return true;
            }
            let connection = &mut self.connections[slot as usize];
            let Phase::Requesting(request) = &mut connection.phase else { return true };
            if request.is_empty() {
                connection.phase = Phase::Idle;
                connection.since = Tick::of(self.now);
                return true;
            }
            if taken > 0 && self.io.now() >= self.visit_until {
                return false;
            }
            match request.advance(&self.settings.limits) {
                Ok(Progress::NeedMore) => return true,
                Ok(Progress::Head(head)) => self.admit_body(slot, &head),
                Ok(Progress::Complete { head, .. }) if request.pipelined() > self.settings.limits.pipelined_max => {
                    self.refuse_pipeline(slot, &head);
                }
                Ok(Progress::Complete { head, body, grant }) => self.answer(slot, &head, &body, grant),
                Err(error) => {
                    tracing::debug!(peer = %connection.peer, %error, "refused a request");
                    let head_only = request.is_head();
                    self.counters.refused.count(error.reason());
                    self.refuse_request(slot, &error.into(), head_only);
                }
            }
        }
        false
    }

    /// Lets a body come if it has a purpose and its sender may; else answers at once, so that nobody's is kept.
    fn admit_body(&mut self, slot: u32, head: &RequestHead) {
        let grant = match self.check_body(slot, head) {
            Ok(grant) => grant,
            Err(mut response) => {
                response.headers.extend(self.cors_headers(head));
                return self.refuse_request(slot, &response, head.method == Method::Head);
            }
        };
        let Phase::Requesting(request) = &mut self.connections[slot as usize].phase else { return };
        if request.admit_body(grant) {
            self.say(slot, self.continue_frame.clone());
        }
    }

    /// Ends a connection on which so many requests came ahead of their answers that it may as well wait for some.
    fn refuse_pipeline(&mut self, slot: u32, head: &RequestHead) {
        self.count_refusal(Refusal::Pipelined);
        let detail = Refusal::Pipelined.detail();
        let problem = response::problem(Refusal::Pipelined.status(), "Too many requests", detail);
        self.refuse_request(slot, &problem.with_header("Retry-After", "1"), head.method == Method::Head);
    }

    /// Answers, discards what follows, since where the next request would start is not sure, and ends.
    fn refuse_request(&mut self, slot: u32, response: &Response, head_only: bool) {
        self.connections[slot as usize].phase = Phase::Requesting(Box::default());
        self.respond_last(slot, response, head_only, CloseReason::BadRequest);
    }

    /// After an answer: the requests that arrived meanwhile, and then whatever the kernel still holds, have their turn
    /// like those of all others.
    pub(super) fn resume_reading(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        match &connection.phase {
            Phase::Requesting(request) if request.is_empty() => {
                connection.phase = Phase::Idle;
                connection.since = Tick::of(self.now);
            }
            Phase::Idle | Phase::Requesting(_) | Phase::Streaming => {}
            Phase::Responding(_) | Phase::Publishing(_) | Phase::Lingering(_) | Phase::Dead => return,
        }
        if connection.flags.has(Flags::READABLE) || matches!(connection.phase, Phase::Requesting(_)) {
            self.push_readable(slot);
        } else if connection.flags.has(Flags::ENDED) {
            self.close(slot, CloseReason::PeerClosed);
        }
    }
}
