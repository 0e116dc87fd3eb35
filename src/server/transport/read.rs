//! Reading: requests as they arrive, and what subscribers send, which is discarded.
//!
//! A socket is read until it would block, because its readiness is not reported again. One visit takes only a share of
//! the turn; the rest waits in the [`ReadingQueue`](super::reading_queue). A socket whose request is being answered is
//! not read.

use std::time::Duration;

use super::Transport;
use super::connection::{CloseReason, Flags, Phase};
use super::reading_queue::Class;
use super::request::{Progress, Request};
use super::respond::Answer;
use crate::io::{Io, Read, Token};
use crate::protocol::head::{Method, RequestHead};
use crate::protocol::response;
use crate::server::grant::PublishGrant;
use crate::server::node::Node;
use crate::server::node::refusal::Refusal;
use crate::server::share::share;
use crate::server::wheel::Tick;

/// The time for reading and answering in one turn: a signature takes 0.2 ms, and thousands of connections may return at
/// once.
const READING_PER_TURN_MAX: Duration = Duration::from_millis(5);
/// The time in one turn for connections that took more than their share before: the others are read again soon.
const HEAVY_PER_TURN_MAX: Duration = Duration::from_micros(100);
/// While events go out, those connections have one part in this many of the time.
const HEAVY_SHARE_BESIDE_WALKS: u32 = 8;
/// The share of one visit to a connection; one request is always started. After a longer visit to one of those
/// connections, they have half of the time: a request that arrives meanwhile seldom waits for one of theirs. Publishers
/// are exempt: publishing is what the server is for.
const VISIT_MAX: Duration = Duration::from_micros(200);
/// Reads in one visit.
const READS_PER_VISIT_MAX: usize = 4;
/// The bytes that a subscriber may send on its stream; they are discarded.
const UPLOAD_BYTES_MAX: usize = 64 << 10;
/// Requests answered in one visit.
const REQUESTS_PER_VISIT_MAX: usize = 32;

/// Answers requests.
pub(crate) trait Service<I: Io> {
    /// Decides, from the head of a request, whether its body is read, and what it is admitted for.
    fn admit_body(
        &mut self,
        transport: &Transport<I>,
        slot: u32,
        head: &RequestHead,
        node: &mut Node,
    ) -> Result<Option<PublishGrant>, Answer>;

    /// Answers a request, or makes a stream of its connection. With a body, it has been admitted.
    fn answer(&mut self, transport: &mut Transport<I>, slot: u32, request: Arrived<'_>, node: &mut Node);

    /// True while walks have subscribers to visit, which come first.
    fn is_delivering(&self) -> bool;
}

/// A request that is complete.
pub(crate) struct Arrived<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) body: &'a [u8],
    /// What its body was admitted for.
    pub(crate) grant: Option<PublishGrant>,
}

impl<I: Io> Transport<I> {
    pub(super) fn queue_reading(&mut self, token: Token) {
        if let Some(connection) = self.connection_mut(token)
            && !connection.flags.has(Flags::READABLE)
            && !matches!(connection.phase, Phase::Securing)
        {
            self.push_readable(token.slot);
        }
    }

    /// Puts a connection into the queue, in which it must not be yet.
    pub(super) fn push_readable(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.set(Flags::READABLE);
        let class = Class::of(connection.flags);
        self.readable.push(class, self.token(slot));
    }

    /// Visits connections that may have more, each at most once: class by class, at least one of each but the last.
    pub(crate) fn read(&mut self, service: &mut impl Service<I>, node: &mut Node) {
        if !self.readable.has_light() && !self.readable.has_heavy() {
            return;
        }
        self.visited_at = self.io.now();
        let reading_until = self.visited_at + READING_PER_TURN_MAX / share(service.is_delivering());
        let counts = Class::ALL.map(|class| (class, self.readable.count(class)));
        for (class, count) in counts {
            match class {
                Class::Heavy => self.read_heavy(count, service, node),
                Class::Operator | Class::First | Class::Light => {
                    self.read_class(class, count, reading_until, service, node);
                }
            }
        }
    }

    /// Visits up to `count` connections of a class, but only one once the time is over.
    fn read_class(
        &mut self,
        class: Class,
        count: usize,
        until: Duration,
        service: &mut impl Service<I>,
        node: &mut Node,
    ) {
        for visit in 0..count {
            if visit > 0 && self.visited_at >= until {
                return;
            }
            let Some(token) = self.readable.pop(class) else { return };
            self.visit_to_read(token, service, node);
        }
    }

    /// Visits connections that took more than their share before. One of their requests alone may take longer than a
    /// turn has for all of them: the next ones wait until the time is made up. While events go out, that takes longer.
    fn read_heavy(&mut self, count: usize, service: &mut impl Service<I>, node: &mut Node) {
        if count == 0 {
            return;
        }
        let (is_delivering, started_at) = (service.is_delivering(), self.visited_at);
        if started_at < self.heavy_again_at || (is_delivering && started_at < self.heavy_beside_walks_at) {
            return;
        }
        let published = node.counters.published_http;
        self.read_class(Class::Heavy, count, started_at + HEAVY_PER_TURN_MAX, service, node);
        let took = self.visited_at - started_at;
        let has_published = node.counters.published_http > published;
        if took >= VISIT_MAX && !has_published {
            self.heavy_again_at = self.visited_at + took;
        }
        if is_delivering {
            self.heavy_beside_walks_at = self.visited_at + took * (HEAVY_SHARE_BESIDE_WALKS - 1);
        }
    }

    /// Reads one connection for its share of a turn, and records whether it took more.
    fn visit_to_read(&mut self, token: Token, service: &mut impl Service<I>, node: &mut Node) {
        if self.connection_mut(token).is_none() {
            return;
        }
        let started_at = self.visited_at;
        self.visit_until = started_at + VISIT_MAX;
        let is_done = self.read_connection(token, service, node);
        self.visited_at = self.io.now();
        let took = self.visited_at - started_at;
        let Some(connection) = self.connection_mut(token) else { return };
        if !is_done || took >= VISIT_MAX {
            connection.flags.set(Flags::HEAVY);
            self.readable.charge(token.slot, took);
        } else if connection.flags.has(Flags::HEAVY) {
            connection.flags.clear(Flags::HEAVY);
            self.readable.forget_charge(token.slot);
        }
        if !is_done {
            self.push_readable(token.slot);
        }
    }

    fn is_visit_over(&self) -> bool {
        self.io.now() >= self.visit_until
    }

    /// Reads one connection; false when it may have more for the next turn.
    fn read_connection(&mut self, token: Token, service: &mut impl Service<I>, node: &mut Node) -> bool {
        for read in 0..READS_PER_VISIT_MAX {
            if read > 0 && self.is_visit_over() && !matches!(self.at(token.slot).phase, Phase::Securing) {
                return false;
            }
            if !self.advance_and_arm(token.slot, service, node) {
                return false;
            }
            let Some(connection) = self.connection_mut(token) else { return true };
            if matches!(connection.phase, Phase::Responding(_) | Phase::Publishing(_)) {
                // One request at a time: the rest waits in the kernel until this one is answered.
                return true;
            }
            if matches!(connection.phase, Phase::Securing) {
                return true;
            }
            if connection.flags.has(Flags::AWAITS_HANDSHAKE) && !connection.flags.has(Flags::AWAITS_PROXY_HEADER) {
                self.secure(token.slot, Vec::new(), node);
                self.arm_deadline(token.slot, node);
                return true;
            }
            let socket = connection.socket;
            let mut buffer = std::mem::take(&mut self.read_buffer);
            let read = self.io.read(socket, &mut buffer);
            if let Read::Bytes(count) = read {
                self.receive(token.slot, &buffer[..count], node);
            }
            self.read_buffer = buffer;
            match read {
                Read::Bytes(_) => {
                    if !self.advance_and_arm(token.slot, service, node) {
                        return false;
                    }
                }
                Read::WouldBlock => {
                    self.connections[token.slot as usize].flags.clear(Flags::READABLE);
                    return true;
                }
                Read::Ended => {
                    self.end_of_input(token.slot, node);
                    return true;
                }
                Read::Gone(gone) => {
                    self.close(token.slot, gone.into(), node);
                    return true;
                }
            }
        }
        false
    }

    /// Takes requests. Requests that the budget leaves for the next turn have a deadline, too.
    fn advance_and_arm(&mut self, slot: u32, service: &mut impl Service<I>, node: &mut Node) -> bool {
        let done = self.advance_requests(slot, service, node);
        self.arm_deadline(slot, node);
        done
    }

    fn receive(&mut self, slot: u32, bytes: &[u8], node: &mut Node) {
        let connection = &mut self.connections[slot as usize];
        match &mut connection.phase {
            Phase::Idle => {
                let mut request = Box::<Request>::default();
                request.receive(bytes);
                connection.phase = Phase::Requesting(request);
                connection.since = Tick::of(node.now);
            }
            Phase::Requesting(request) => request.receive(bytes),
            Phase::Responding(_) | Phase::Publishing(_) => debug_assert!(false, "not read while it is answered"),
            Phase::Streaming(_) => self.note_upload(slot, bytes.len(), node),
            Phase::Lingering(_) | Phase::Dead => {}
            Phase::Securing => debug_assert!(false, "not read before it is secured"),
        }
    }

    /// Discards what a subscriber sends, up to a bound: reading it without end would take time from the others.
    fn note_upload(&mut self, slot: u32, bytes: usize, node: &mut Node) {
        let received = self.uploads.entry(slot).or_insert(0);
        *received += bytes;
        if *received > UPLOAD_BYTES_MAX {
            self.close(slot, CloseReason::Upload, node);
        }
    }

    /// The peer will send no more: a subscriber has left, but a request in progress still gets its answer.
    fn end_of_input(&mut self, slot: u32, node: &mut Node) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.clear(Flags::READABLE);
        connection.flags.set(Flags::ENDED);
        match connection.phase {
            Phase::Responding(_) | Phase::Publishing(_) | Phase::Dead | Phase::Securing => {}
            Phase::Idle | Phase::Requesting(_) | Phase::Streaming(_) => self.close(slot, CloseReason::PeerClosed, node),
            Phase::Lingering(reason) => self.close(slot, reason, node),
        }
    }

    /// Takes requests from what has arrived, and sends the small answers to them together. False: there are more, but
    /// other connections are served first.
    fn advance_requests(&mut self, slot: u32, service: &mut impl Service<I>, node: &mut Node) -> bool {
        let done = self.take_requests(slot, service, node);
        self.send_gathered(slot, node);
        done || matches!(self.connections[slot as usize].phase, Phase::Responding(_) | Phase::Publishing(_))
    }

    /// Takes requests until one needs more bytes or has to wait.
    fn take_requests(&mut self, slot: u32, service: &mut impl Service<I>, node: &mut Node) -> bool {
        let (mut steps, mut answered) = (0, 0);
        while answered < REQUESTS_PER_VISIT_MAX {
            if self.connections[slot as usize].flags.has(Flags::AWAITS_PROXY_HEADER)
                && !self.take_proxy_header(slot, node)
            {
                return true;
            }
            let connection = &mut self.connections[slot as usize];
            let Phase::Requesting(request) = &mut connection.phase else { return true };
            if request.is_empty() {
                connection.phase = Phase::Idle;
                connection.since = Tick::of(node.now);
                return true;
            }
            if steps > 0 && self.io.now() >= self.visit_until {
                return false;
            }
            steps += 1;
            match request.advance(&node.settings.limits) {
                Ok(Progress::NeedMore) => return true,
                Ok(Progress::Head(head)) => self.admit_body(slot, &head, service, node),
                Ok(Progress::Complete { head, .. })
                    if request.pipelined() > node.settings.limits.pipelined_max as usize =>
                {
                    self.refuse_pipeline(slot, &head, node);
                }
                Ok(Progress::Complete { head, body, grant }) => {
                    self.connections[slot as usize].flags.clear(Flags::FRESH);
                    answered += 1;
                    service.answer(self, slot, Arrived { head: &head, body: &body, grant }, node);
                }
                Err(error) => {
                    tracing::debug!(peer = %connection.peer, %error, "refused a request");
                    let head_only = request.is_head();
                    node.counters.refused.count(error.reason());
                    self.refuse_request(slot, Answer::from(response::Response::from(error)), head_only, node);
                }
            }
        }
        false
    }

    /// Admits a body if its route takes one and its sender may send it. Otherwise answers at once and keeps no body.
    fn admit_body(&mut self, slot: u32, head: &RequestHead, service: &mut impl Service<I>, node: &mut Node) {
        let grant = match service.admit_body(self, slot, head, node) {
            Ok(grant) => grant,
            Err(answer) => return self.refuse_request(slot, answer, head.method == Method::Head, node),
        };
        let Phase::Requesting(request) = &mut self.connections[slot as usize].phase else { return };
        if request.admit_body(grant) {
            self.send_frame(slot, self.continue_frame.clone(), node);
        }
    }

    /// Ends a connection on which more requests came ahead of their answers than allowed.
    fn refuse_pipeline(&mut self, slot: u32, head: &RequestHead, node: &mut Node) {
        node.count_refusal(Refusal::Pipelined);
        let detail = Refusal::Pipelined.detail();
        let problem = response::problem(Refusal::Pipelined.status(), "Too many requests", detail);
        let answer = Answer::from(problem.with_header("Retry-After", "1"));
        self.refuse_request(slot, answer, head.method == Method::Head, node);
    }

    /// Answers and ends. What follows is discarded, since it is unclear where the next request would start.
    fn refuse_request(&mut self, slot: u32, answer: Answer, head_only: bool, node: &mut Node) {
        self.connections[slot as usize].phase = Phase::Requesting(Box::default());
        self.respond_last(slot, answer, head_only, CloseReason::BadRequest, node);
    }

    /// After an answer: queues the requests that arrived meanwhile, and then what the kernel still holds, like those of
    /// all other connections.
    pub(super) fn resume_reading(&mut self, slot: u32, node: &mut Node) {
        let connection = &mut self.connections[slot as usize];
        match &connection.phase {
            Phase::Requesting(request) if request.is_empty() => {
                connection.phase = Phase::Idle;
                connection.since = Tick::of(node.now);
            }
            Phase::Idle | Phase::Requesting(_) | Phase::Streaming(_) => {}
            Phase::Responding(_) | Phase::Publishing(_) | Phase::Lingering(_) | Phase::Dead | Phase::Securing => return,
        }
        if connection.flags.has(Flags::READABLE) || matches!(connection.phase, Phase::Requesting(_)) {
            self.push_readable(slot);
        } else if connection.flags.has(Flags::ENDED) {
            self.close(slot, CloseReason::PeerClosed, node);
        }
    }
}
