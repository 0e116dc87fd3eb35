//! One client: a connection from dialling to its end, and the checks of what it receives.
//!
//! A client is 144 bytes, its ledger and decoder included, and holds no buffer while it waits: all clients of a loop
//! read into one. A client that uses TLS also has a session. The [`fleet`](super::fleet) decides when a client dials,
//! leaves or comes back.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;

use super::clock::Clock;
use super::histogram::Latencies;
use super::ledger::Ledger;
use super::plan::{FleetPlan, Role};
use super::response::{Body, ResponseHead, parse_head};
use super::stamp::{Reading, StampReader};
use super::tally::{Tally, Timetable};
use super::target::Target;
use super::tls::{self, Session, session_config};
use crate::io::dialer::{Line, Readiness};
use crate::protocol::decoder::{Decoder, Item};

/// One of very many clients.
pub(super) struct Client {
    /// The connection, while there is one.
    pub(super) line: Option<Line>,
    /// The TLS session, if any: boxed, so that clients without TLS stay small.
    session: Option<Box<Session>>,
    /// The state of its connection.
    pub(super) phase: Phase,
    /// The messages that it is owed, and those that it received.
    pub(super) ledger: Ledger,
    /// When this attempt began.
    pub(super) started_us: u64,
    /// Counts dials, so that late readiness for an earlier line is recognised.
    pub(super) attempt: u32,
    /// Index of its current target.
    pub(super) target: u16,
    /// Redirects followed in this attempt.
    pub(super) redirects: u8,
    /// The kind of client.
    pub(super) role: Role,
    /// True once the first attempt has succeeded or failed.
    pub(super) is_tried: bool,
    /// True until this connection dispatches an event.
    awaits_first_event: bool,
    /// True until this connection receives an event or a comment.
    is_silent: bool,
    decoder: Decoder,
    opened_us: u64,
    heard_us: u64,
}

const _: () = assert!(size_of::<Client>() <= 144);

/// The state of a client's connection.
pub(super) enum Phase {
    /// Not connected; the client dials when it is due.
    Away,
    /// Waiting for the connection.
    Connecting,
    /// Waiting for the TLS handshake; the session then sends the request itself.
    Securing,
    /// Writing the request; holds the unsent rest.
    Sending(Box<[u8]>),
    /// Reading the response head; holds the bytes so far.
    ReadingHead(Vec<u8>),
    /// Receiving events.
    Streaming(Body),
    /// The client will not come back.
    Gone,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// No stream was reached: the kind of error.
    Unreachable(&'static str),
    /// A status other than 200.
    Refused(u16),
    /// An answer after which a client must not retry: the kind of error.
    Unusable(&'static str),
    /// A redirect, and its location.
    Redirected(String),
    /// The stream broke: the kind of error.
    Broken(&'static str),
    /// The stream ended without an error.
    Ended,
}

/// State that the clients of one loop share.
pub(super) struct Shared {
    /// The plan.
    pub(super) plan: FleetPlan,
    /// The clock.
    pub(super) clock: Clock,
    /// The measurements.
    pub(super) tally: Tally,
    /// Recognizes this test's messages.
    pub(super) stamps: StampReader,
    /// The times at which this test publishes; `None` if it does not publish, or publishes in lockstep.
    pub(super) timetable: Option<Timetable>,
    /// When publishing began, if it has.
    pub(super) publishing_since_us: Option<u64>,
    /// Delivery latencies since the last snapshot.
    pub(super) interval_latency: Latencies,
    /// When the test began.
    pub(super) started_us: u64,
    /// Lines for the user.
    pub(super) lines: Vec<String>,
    /// What TLS sessions share, once there is a session.
    pub(super) session_config: Option<Arc<ClientConfig>>,
}

/// The buffers into which all clients of a loop read.
pub(super) struct Scratch {
    received: Vec<u8>,
    /// The content after TLS decryption.
    decrypted: Vec<u8>,
}

impl Scratch {
    /// Room for this many bytes at a time.
    pub(super) fn new(bytes: usize) -> Scratch {
        Scratch { received: vec![0; bytes], decrypted: Vec::new() }
    }
}

impl Shared {
    /// The first message that is owed to a stream that opens now; 0 if that can't be known.
    fn owed_from(&self, now_us: u64) -> u32 {
        match (self.plan.run, self.publishing_since_us, &self.timetable) {
            (Some(_), None, _) => 1,
            (Some(_), Some(_), Some(timetable)) => timetable.first_after(now_us),
            _ => 0,
        }
    }

    fn show_event(&mut self, index: u32, event_type: &str, data: &str, id: &str, now_us: u64) {
        let seconds = now_us.saturating_sub(self.started_us) as f64 / 1e6;
        let shown: String = data.chars().take(100).map(|c| if c.is_control() { '␤' } else { c }).collect();
        let more = if shown.len() < data.len() { "…" } else { "" };
        self.lines.push(format!("{seconds:9.3}s client {index} {event_type} id={id} {shown}{more}"));
    }
}

/// The name under which an error of the socket is counted.
pub(super) fn kind_of(error: &io::Error) -> &'static str {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::ConnectionRefused, _) => "connect_refused",
        (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _) => "connect_reset",
        (io::ErrorKind::TimedOut, _) => "connect_timeout",
        (io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse, _) => "no_local_port",
        (io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => "unreachable",
        // EMFILE and ENFILE have no kind of their own.
        (_, Some(23 | 24)) => "too_many_descriptors",
        _ => "socket_error",
    }
}

impl Client {
    /// A client that has not dialled yet.
    pub(super) fn new(role: Role) -> Client {
        Client {
            line: None,
            session: None,
            phase: Phase::Away,
            ledger: Ledger::default(),
            started_us: 0,
            attempt: 0,
            target: 0,
            redirects: 0,
            role,
            is_tried: false,
            awaits_first_event: true,
            is_silent: true,
            decoder: Decoder::new(),
            opened_us: 0,
            heard_us: 0,
        }
    }

    /// True while events may arrive.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Streaming(_))
    }

    /// True from dialling to the response head.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Securing | Phase::Sending(_) | Phase::ReadingHead(_))
    }

    /// How long to stay away after an end, as set by the server or, by default, the standard.
    pub(super) fn retry_us(&self) -> u64 {
        self.decoder.retry().map_or(3_000_000, super::clock::micros)
    }

    /// True if a `200` stream ended before it sent anything: this is how a server defers a client.
    pub(super) fn was_deferred(&self) -> bool {
        self.is_streaming() && self.is_silent
    }

    /// Drops the connection.
    pub(super) fn hang_up(&mut self, phase: Phase) {
        self.line = None;
        self.session = None;
        self.phase = phase;
    }

    /// Proceeds as far as the line allows.
    pub(super) fn advance(
        &mut self,
        index: u32,
        ready: Readiness,
        target: &Target,
        shared: &mut Shared,
        scratch: &mut Scratch,
    ) -> Result<(), Ending> {
        if matches!(self.phase, Phase::Connecting) && ready.writable {
            self.connected(target, shared)?;
        }
        if matches!(self.phase, Phase::Sending(_)) && ready.writable {
            self.send()?;
        }
        if ready.writable {
            self.flush()?;
        }
        if ready.readable && self.reads_at_once() {
            return self.read(index, usize::MAX, ready.closed, shared, scratch);
        }
        // A client that reads nothing still notices that the server closed its connection.
        if ready.closed && self.is_streaming() && shared.plan.slow_bytes_per_second == 0 {
            return Err(Ending::Broken("stream_reset"));
        }
        Ok(())
    }

    /// Reads up to `bytes_max`, or all available bytes.
    pub(super) fn read(
        &mut self,
        index: u32,
        bytes_max: usize,
        until_end: bool,
        shared: &mut Shared,
        scratch: &mut Scratch,
    ) -> Result<(), Ending> {
        let mut left = bytes_max;
        while left > 0 {
            let room = left.min(scratch.received.len());
            let Some(line) = &self.line else { return Ok(()) };
            let count = match line.read(&mut scratch.received[..room]) {
                Ok(0) => return Err(self.end_of_stream()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if self.is_streaming() => return Err(Ending::Broken("stream_reset")),
                Err(error) => return Err(Ending::Unreachable(kind_of(&error))),
            };
            left -= count;
            shared.tally.counters.received_bytes += count as u64;
            shared.tally.counters.reads += 1;
            if self.session.is_some() {
                self.take_secured(index, count, shared, scratch)?;
            } else {
                self.take(index, &scratch.received[..count], shared.clock.now_us(), shared)?;
            }
            // A short read emptied the socket: the next bytes, or an end not seen yet, raise another edge.
            if count < room && !until_end || !self.reads_at_once() && bytes_max == usize::MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Counts the heartbeats missing from a silence until now, for a client that reads all the time.
    pub(super) fn count_missed_heartbeats(&self, now_us: u64, shared: &mut Shared) {
        let interval_us = shared.plan.heartbeat_us;
        if interval_us > 0 && self.is_streaming() && self.role == Role::Plain {
            let silence_us = now_us.saturating_sub(self.heard_us);
            shared.tally.counters.missed_heartbeats += silence_us.saturating_sub(interval_us / 2) / interval_us;
        }
    }

    /// False for a client that reads slowly, or not at all, once its stream is open.
    fn reads_at_once(&self) -> bool {
        !(self.is_streaming() && self.role == Role::Slow)
    }

    fn connected(&mut self, target: &Target, shared: &mut Shared) -> Result<(), Ending> {
        let Some(line) = &self.line else { return Ok(()) };
        line.take_error().map_err(|error| Ending::Unreachable(kind_of(&error)))?;
        let head = &target.request_head;
        let request = match self.resume_id(&shared.plan) {
            Some(id) => format!("{head}Last-Event-ID: {id}\r\n\r\n"),
            None => format!("{head}\r\n"),
        };
        let request = request.into_bytes().into_boxed_slice();
        let Some(name) = &target.tls_name else {
            shared.tally.connect.record(shared.clock.now_us() - self.started_us);
            self.phase = Phase::Sending(request);
            return Ok(());
        };
        let trust = &shared.plan.trust;
        let config = shared.session_config.get_or_insert_with(|| session_config(trust));
        let session = Session::new(Arc::clone(config), name, request).map_err(|error| self.session_failed(&error))?;
        self.session = Some(Box::new(session));
        self.phase = Phase::Securing;
        Ok(())
    }

    /// Writes pending TLS data, if there is any.
    fn flush(&mut self) -> Result<(), Ending> {
        let (Some(session), Some(line)) = (&mut self.session, &self.line) else { return Ok(()) };
        session.flush(line).map_err(|error| match self.phase {
            Phase::Streaming(_) => Ending::Broken("stream_reset"),
            _ => Ending::Unreachable(kind_of(&error)),
        })
    }

    fn session_failed(&self, error: &rustls::Error) -> Ending {
        let kind = tls::kind_of(error);
        match self.phase {
            Phase::Streaming(_) => Ending::Broken(kind),
            _ if tls::is_lasting(error) => Ending::Unusable(kind),
            _ => Ending::Unreachable(kind),
        }
    }

    fn resume_id<'a>(&'a self, plan: &'a FleetPlan) -> Option<&'a str> {
        let id = Some(self.decoder.last_event_id()).filter(|id| !id.is_empty()).or(plan.last_event_id.as_deref());
        id.filter(|_| plan.resumes)
    }

    fn send(&mut self) -> Result<(), Ending> {
        let (Phase::Sending(request), Some(line)) = (&self.phase, &self.line) else { return Ok(()) };
        match line.write(request) {
            Ok(sent) if sent == request.len() => self.phase = Phase::ReadingHead(Vec::new()),
            Ok(sent) => self.phase = Phase::Sending(request[sent..].into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Ending::Unreachable(kind_of(&error))),
        }
        Ok(())
    }

    fn end_of_stream(&self) -> Ending {
        match &self.phase {
            // Over TLS, an end without a close_notify may come from an attacker (RFC 9112 section 9.8).
            Phase::Streaming(Body::UntilClose) if self.session.as_ref().is_some_and(|tls| !tls.has_ended()) => {
                Ending::Broken("stream_cut")
            }
            Phase::Streaming(body) if body.may_end_here() => Ending::Ended,
            Phase::Streaming(_) => Ending::Broken("stream_cut"),
            _ => Ending::Unreachable("closed_without_answer"),
        }
    }

    /// Takes the first `count` bytes received, decrypted; content before an error counts.
    fn take_secured(
        &mut self,
        index: u32,
        count: usize,
        shared: &mut Shared,
        scratch: &mut Scratch,
    ) -> Result<(), Ending> {
        let Some(session) = &mut self.session else { return Ok(()) };
        scratch.decrypted.clear();
        let received = session.receive(&mut scratch.received[..count], &mut scratch.decrypted);
        let now_us = shared.clock.now_us();
        if matches!(self.phase, Phase::Securing) && received.is_ok() && !session.is_handshaking() {
            shared.tally.connect.record(now_us - self.started_us);
            self.phase = Phase::ReadingHead(Vec::new());
        }
        if !scratch.decrypted.is_empty() {
            self.take(index, &scratch.decrypted, now_us, shared)?;
        }
        received.map_err(|error| self.session_failed(&error))?;
        self.flush()
    }

    fn take(&mut self, index: u32, bytes: &[u8], now_us: u64, shared: &mut Shared) -> Result<(), Ending> {
        let Phase::ReadingHead(so_far) = &mut self.phase else {
            return self.take_body(index, bytes, now_us, shared);
        };
        // Nearly every head arrives whole and is then not copied.
        let joined;
        let bytes = if so_far.is_empty() {
            bytes
        } else {
            so_far.extend_from_slice(bytes);
            joined = std::mem::take(so_far);
            &joined
        };
        match parse_head(bytes) {
            Ok(None) => {
                *so_far = bytes.to_vec();
                Ok(())
            }
            Err(_) => Err(Ending::Unusable("bad_response")),
            Ok(Some((head, consumed))) => {
                shared.tally.response.record(now_us - self.started_us);
                self.open(head, now_us, shared)?;
                self.take_body(index, &bytes[consumed..], now_us, shared)
            }
        }
    }

    fn open(&mut self, head: ResponseHead, now_us: u64, shared: &mut Shared) -> Result<(), Ending> {
        *shared.tally.statuses.entry(head.status).or_default() += 1;
        match (head.status, head.location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => return Err(Ending::Redirected(location)),
            (200, _) if head.is_event_stream => {}
            (200, _) => return Err(Ending::Unusable("not_an_event_stream")),
            (status, _) => return Err(Ending::Refused(status)),
        }
        shared.tally.counters.connect_successes += 1;
        let resumed = self.resume_id(&shared.plan).is_some();
        self.ledger.open(shared.owed_from(now_us), resumed);
        self.decoder = std::mem::take(&mut self.decoder).reconnected();
        self.phase = Phase::Streaming(head.body);
        self.awaits_first_event = true;
        self.is_silent = true;
        self.opened_us = now_us;
        self.heard_us = now_us;
        Ok(())
    }

    fn take_body(&mut self, index: u32, bytes: &[u8], now_us: u64, shared: &mut Shared) -> Result<(), Ending> {
        self.count_missed_heartbeats(now_us, shared);
        self.heard_us = now_us;
        let mut phase = std::mem::replace(&mut self.phase, Phase::Away);
        let Phase::Streaming(body) = &mut phase else { return Ok(()) };
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut too_large = false;
        let ended = body.read(bytes, |content| {
            let fed = decoder.feed(content, |item| self.take_item(index, item, now_us, shared));
            too_large |= fed.is_err();
        });
        self.decoder = decoder;
        self.phase = phase;
        match ended {
            Ok(false) if !too_large => Ok(()),
            Ok(true) => Err(Ending::Ended),
            Ok(false) => Err(Ending::Broken("event_too_large")),
            Err(_) => Err(Ending::Broken("bad_chunk")),
        }
    }

    fn take_item(&mut self, index: u32, item: Item<'_>, now_us: u64, shared: &mut Shared) {
        match item {
            Item::Event { event_type, data, id } => {
                self.is_silent = false;
                if self.awaits_first_event {
                    self.awaits_first_event = false;
                    // Publishing is announced before it begins: for an event in between, the wait did not start at
                    // publishing.
                    let publishing_us = shared.publishing_since_us.filter(|since_us| *since_us <= now_us);
                    let since_us = self.started_us.max(publishing_us.unwrap_or(0));
                    shared.tally.first_event.record(now_us.saturating_sub(since_us));
                }
                if shared.plan.is_verbose {
                    shared.show_event(index, event_type, data, id, now_us);
                }
                self.take_event(index, event_type, data, now_us, shared);
            }
            Item::Comment(_) => {
                self.is_silent = false;
                shared.tally.counters.heartbeats += 1;
            }
            Item::Retry(_) => shared.tally.counters.retry_fields += 1,
        }
    }

    fn take_event(&mut self, index: u32, event_type: &str, data: &str, now_us: u64, shared: &mut Shared) {
        let tally = &mut shared.tally;
        tally.counters.received_events += 1;
        if event_type == shared.plan.gap_event {
            return self.ledger.record_gap(&mut tally.counters);
        }
        let stamp = match shared.stamps.read(data.as_bytes()) {
            Reading::Genuine(stamp) => stamp,
            Reading::Corrupted(number) => {
                let number = number.unwrap_or(0);
                tally.find(index, "corrupted", number, number);
                return self.ledger.record_corrupted(&mut tally.counters);
            }
            Reading::Foreign => {
                tally.counters.foreign_events += 1;
                return;
            }
        };
        let before = (tally.counters.duplicated_events, tally.counters.disordered_events);
        let is_delivered = self.ledger.record(stamp.number, &mut tally.counters);
        if tally.counters.duplicated_events > before.0 {
            tally.find(index, "duplicated", stamp.number, stamp.number);
        } else if tally.counters.disordered_events > before.1 {
            tally.note_disordered(index, stamp.number);
        }
        if !is_delivered {
            return;
        }
        tally.counters.delivered_events += 1;
        tally.last_delivery_us = now_us;
        let latency_us = now_us.saturating_sub(stamp.intended_us);
        if stamp.intended_us < self.opened_us {
            tally.counters.caught_up_events += 1;
            tally.catch_up.record(latency_us);
        } else if self.role == Role::Plain {
            tally.record_delivery(stamp.number, latency_us);
            shared.interval_latency.record(latency_us);
        }
    }
}
