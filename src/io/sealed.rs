//! TLS over any IO: connections of some listeners are secured by a handshake, and then every byte is in a record.
//!
//! ```text
//!  accept ─▶ secure ─▶ (Handshakes: other threads) ─▶ Secured ─▶ read: open records   ◀─ read
//!                                                               └▶ send: seal a record ─▶ write
//! ```
//!
//! A connection keeps its keys, and nothing else while it is idle. An event is sealed for each socket in one buffer that all
//! share, and what arrives is opened in the buffer that the caller reads into. The beginning of a record is kept until the rest
//! arrives: in the kernel it could fill the receive buffer, and the rest would never come.
//!
//! Invariants:
//! - What was sealed is never sealed again. What the kernel does not take of a record is *held*, and goes out before anything
//!   else on its socket: so no nonce is used twice, and records arrive in order. At most one record, and a close_notify, is
//!   held for a socket.
//! - While a handshake has a socket, the socket stays open, even if it is closed here: it is closed once it comes back.
//! - A socket that speaks plain HTTP passes through unchanged, and at no cost while there is no connection with TLS.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::{Accept, Close, Gone, Io, ListenerIndex, Peer, Read, Readiness, Sent, Socket, Token, Wire};
use crate::event::Frame;
use crate::tls::handshake::Failure;
use crate::tls::record::{self, BadRecord, CLOSE_NOTIFY, CONTENT_BYTES_MAX, ContentType, Keys, Opening};

/// Records without content that a client may send between two with content: each costs as much as one that has some.
const EMPTY_RECORDS_MAX: usize = 32;

/// Secures connections, in threads of their own or not.
pub trait Handshakes {
    /// Begins a handshake on a socket, from which `received` was read already. The socket stays open until it is returned.
    fn begin(&mut self, socket: Socket, received: Vec<u8>);

    /// Gives up a handshake; its socket is returned soon.
    fn cancel(&mut self, socket: Socket);

    /// The next socket that is returned. A wake makes [`Io::wait`] return for it.
    fn next_finished(&mut self) -> Option<Finished>;

    /// True while another handshake may begin.
    fn has_room(&self) -> bool;
}

/// A handshake that has ended.
pub struct Finished {
    /// Its socket.
    pub socket: Socket,
    /// The keys, if it succeeded. In no block of their own: the allocator would keep them among what the handshake freed.
    pub outcome: Result<Keys, Failure>,
}

/// The IO contract with TLS.
pub struct Sealed<I, H> {
    wire: I,
    handshakes: H,
    /// Which listeners speak TLS, by their index.
    listeners: Vec<bool>,
    /// The connections that are secured, by the number of their socket.
    sessions: Vec<Option<Box<Session>>>,
    /// How many there are.
    session_count: usize,
    /// The sockets that handshakes have.
    securing: HashMap<i32, Securing>,
    /// What the kernel has not taken, by the slot of the connection.
    held: HashMap<u32, Held>,
    /// What was read and not returned yet, by the slot of the connection.
    unread: HashMap<u32, Unread>,
    /// Connections whose keys are worn.
    worn: Vec<Token>,
    /// Buffers that every send reuses.
    record: Vec<u8>,
    plain: Vec<Socket>,
}

struct Session {
    keys: Keys,
    token: Token,
}

struct Securing {
    token: Token,
    /// It was closed in the meantime.
    closed: Option<Close>,
}

/// What is held for a connection.
struct Held {
    socket: Socket,
    generation: u32,
    bytes: Vec<u8>,
    /// The connection ends after it.
    is_last: bool,
    /// The connection broke; the next read or send says how.
    broken: Option<Gone>,
}

/// What was read of a connection and not returned yet.
enum Unread {
    /// The beginning of a record.
    Partial(Vec<u8>),
    /// How it ended, behind the content that was returned.
    Last(Last),
}

impl<I: Wire, H: Handshakes> Sealed<I, H> {
    /// Speaks TLS on these of the listeners of `wire`.
    pub fn new(wire: I, handshakes: H, listeners: Vec<bool>) -> Sealed<I, H> {
        Sealed {
            wire,
            handshakes,
            listeners,
            sessions: Vec::new(),
            session_count: 0,
            securing: HashMap::new(),
            held: HashMap::new(),
            unread: HashMap::new(),
            worn: Vec::new(),
            record: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// What is below TLS.
    pub fn wire_mut(&mut self) -> &mut I {
        &mut self.wire
    }

    fn session(&mut self, socket: Socket) -> Option<&mut Session> {
        self.sessions.get_mut(socket.number() as usize)?.as_deref_mut()
    }

    /// The token of a connection that is secured; none without TLS, and before the handshake.
    fn secured_token(&self, socket: Socket) -> Option<Token> {
        let is_secured = socket.speaks_tls() && self.session_count > 0;
        is_secured.then(|| self.sessions.get(socket.number() as usize)?.as_ref().map(|it| it.token)).flatten()
    }

    // ---- handshakes ----

    fn take_finished(&mut self, ready: &mut Vec<Readiness>) {
        while let Some(Finished { socket, outcome }) = self.handshakes.next_finished() {
            let Some(Securing { token, closed }) = self.securing.remove(&socket.number()) else { continue };
            match (closed, outcome) {
                (Some(how), _) => self.wire.close(socket, how),
                (None, Err(failure)) => ready.push(Readiness::NotSecured(token, failure)),
                (None, Ok(keys)) => {
                    let number = socket.number() as usize;
                    if self.sessions.len() <= number {
                        self.sessions.resize_with(number + 1, || None);
                    }
                    self.sessions[number] = Some(Box::new(Session { keys, token }));
                    self.session_count += 1;
                    ready.push(Readiness::Secured(token));
                }
            }
        }
    }

    // ---- sending ----

    /// Seals the run, from byte `skip_bytes` on, and sends it record by record.
    fn seal_run(&mut self, run: &[Frame], skip_bytes: usize, socket: Socket) -> Sent {
        let mut taken = 0;
        let mut unsent = super::send::unsent(run, skip_bytes);
        let mut rest: &[u8] = &[];
        loop {
            let mut content = std::mem::take(&mut self.record);
            record::begin(&mut content);
            let mut room = CONTENT_BYTES_MAX;
            while room > 0 {
                if rest.is_empty() {
                    match unsent.next() {
                        Some(bytes) => rest = bytes,
                        None => break,
                    }
                }
                let (now, later) = rest.split_at(rest.len().min(room));
                content.extend_from_slice(now);
                room -= now.len();
                rest = later;
            }
            self.record = content;
            let content_bytes = CONTENT_BYTES_MAX - room;
            if content_bytes == 0 {
                return Sent::Bytes(taken);
            }
            taken += content_bytes;
            match self.send_record(ContentType::Data, socket) {
                Sent::Bytes(_) => {}
                Sent::Held(_) | Sent::WouldBlock => return Sent::Held(taken),
                Sent::Gone(gone) => return Sent::Gone(gone),
            }
        }
    }

    /// Seals and sends the content in `self.record`, behind what is held. What the kernel does not take of it is held.
    fn send_record(&mut self, content_type: ContentType, socket: Socket) -> Sent {
        let Some(session) = self.sessions.get_mut(socket.number() as usize).and_then(Option::as_deref_mut) else {
            return Sent::Gone(Gone::Record); // nothing is sent before the handshake
        };
        if session.keys.sealing.seal(content_type, &mut self.record).is_err() {
            return Sent::Gone(Gone::KeysUsedUp);
        }
        let token = session.token;
        if session.keys.sealing.has_just_worn() {
            self.worn.push(token);
        }
        let taken = match self.held.get(&token.slot) {
            Some(Held { broken: Some(broken), .. }) => return Sent::Gone(*broken),
            Some(_) => 0,
            None => match self.wire.write(socket.plain(), &self.record) {
                Sent::Bytes(taken) if taken == self.record.len() => return Sent::Bytes(taken),
                Sent::Bytes(taken) => taken,
                Sent::WouldBlock | Sent::Held(_) => 0,
                Sent::Gone(gone) => return Sent::Gone(gone),
            },
        };
        self.hold(socket, token, taken);
        Sent::Held(taken)
    }

    /// Holds the record from its byte `taken` on.
    #[cold]
    fn hold(&mut self, socket: Socket, token: Token, taken: usize) {
        let Token { slot, generation } = token;
        let held = self.held.entry(slot).or_insert(Held {
            socket,
            generation,
            bytes: Vec::new(),
            is_last: false,
            broken: None,
        });
        held.bytes.extend_from_slice(&self.record[taken..]);
    }

    /// Sends what is held for connections that became writable. Those whose socket is full again are not reported.
    fn flush_writable(&mut self, ready: &mut Vec<Readiness>, before: usize) {
        let reported: Vec<_> = ready.drain(before..).collect();
        for readiness in reported {
            match readiness {
                Readiness::Writable(token) => self.flush(token, ready),
                other => ready.push(other),
            }
        }
    }

    /// Sends what is held for a connection, and reports what becomes of it. If it is broken, the next read or send says how.
    fn flush(&mut self, token: Token, ready: &mut Vec<Readiness>) {
        let Some(held) = self.held.get_mut(&token.slot).filter(|held| held.generation == token.generation) else {
            return ready.push(Readiness::Writable(token));
        };
        match self.wire.write(held.socket.plain(), &held.bytes) {
            Sent::Bytes(taken) if taken == held.bytes.len() => {
                if held.is_last {
                    self.wire.end(held.socket.plain());
                }
                self.held.remove(&token.slot);
                ready.push(Readiness::Writable(token));
            }
            Sent::Bytes(taken) => {
                held.bytes.drain(..taken);
                ready.push(Readiness::Taken(token));
            }
            Sent::WouldBlock | Sent::Held(_) => {}
            Sent::Gone(gone) => {
                held.bytes = Vec::new();
                held.broken = Some(gone);
                ready.extend([Readiness::Writable(token), Readiness::Readable(token)]);
            }
        }
    }

    // ---- reading ----

    /// Reads records and opens them in `buffer`.
    fn read_records(&mut self, socket: Socket, token: Token, buffer: &mut [u8]) -> Read {
        let mut filled = match self.unread.remove(&token.slot) {
            Some(Unread::Last(last)) => return self.end_reading(last, socket),
            Some(Unread::Partial(start)) => {
                buffer[..start.len()].copy_from_slice(&start);
                start.len()
            }
            None => 0,
        };
        let mut empty_records = 0;
        loop {
            match self.wire.read(socket.plain(), &mut buffer[filled..]) {
                Read::Bytes(count) => filled += count,
                Read::WouldBlock => {
                    self.keep(token, &buffer[..filled]);
                    return Read::WouldBlock;
                }
                other => return other,
            }
            let Some(session) = self.session(socket) else { return Read::Gone(Gone::Record) };
            let opened = open_records(&mut session.keys.opening, &mut buffer[..filled], &mut empty_records);
            let Opened { content_bytes, used_bytes, last } = opened;
            match last {
                Some(last) if content_bytes == 0 => return self.end_reading(last, socket),
                Some(last) => drop(self.unread.insert(token.slot, Unread::Last(last))),
                None => {
                    if content_bytes == 0 {
                        buffer.copy_within(used_bytes..filled, 0);
                        filled -= used_bytes;
                        continue;
                    }
                    self.keep(token, &buffer[used_bytes..filled]);
                }
            }
            return Read::Bytes(content_bytes);
        }
    }

    /// What ends the connection, once everything in front of it was returned. A record that is wrong is answered with an alert.
    fn end_reading(&mut self, last: Last, socket: Socket) -> Read {
        match last {
            Last::End => Read::Ended,
            Last::Fatal => Read::Gone(Gone::Record),
            Last::Bad(bad) => {
                self.send_alert(bad.alert(), socket);
                Read::Gone(Gone::Record)
            }
        }
    }

    /// Keeps the beginning of a record.
    fn keep(&mut self, token: Token, start: &[u8]) {
        if !start.is_empty() {
            self.unread.insert(token.slot, Unread::Partial(start.to_vec()));
        }
    }

    fn send_alert(&mut self, alert: [u8; 2], socket: Socket) -> Sent {
        record::begin(&mut self.record);
        self.record.extend_from_slice(&alert);
        self.send_record(ContentType::Alert, socket)
    }
}

/// What was opened of the bytes that have arrived.
struct Opened {
    /// The content that is now at their start.
    content_bytes: usize,
    /// How many of them were opened: the others are the beginning of a record.
    used_bytes: usize,
    /// What ends the connection, behind the content.
    last: Option<Last>,
}

#[derive(Clone, Copy)]
enum Last {
    /// close_notify.
    End,
    /// An alert that is an error.
    Fatal,
    /// A record that can't be opened, or has no place here.
    Bad(BadRecord),
}

/// Opens the whole records in `bytes`, and joins their content at the start.
fn open_records(opening: &mut Opening, bytes: &mut [u8], empty_records: &mut usize) -> Opened {
    const USER_CANCELED: u8 = 90; // close_notify follows
    let (mut content_bytes, mut used_bytes) = (0, 0);
    let last = loop {
        let length = match record::record_len(&bytes[used_bytes..]) {
            Ok(Some(length)) if used_bytes + length <= bytes.len() => length,
            Ok(_) => break None,
            Err(bad) => break Some(Last::Bad(bad)),
        };
        let record = &mut bytes[used_bytes..used_bytes + length];
        let (content_type, count) = match opening.open(record) {
            Ok(opened) => opened,
            Err(bad) => break Some(Last::Bad(bad)),
        };
        match (content_type, &record[..count]) {
            (ContentType::Data, []) | (ContentType::Alert, [_, USER_CANCELED]) => {
                *empty_records += 1;
                if *empty_records > EMPTY_RECORDS_MAX {
                    break Some(Last::Bad(BadRecord::Unexpected));
                }
            }
            (ContentType::Data, _) => {
                *empty_records = 0;
                bytes.copy_within(used_bytes..used_bytes + count, content_bytes);
                content_bytes += count;
            }
            (ContentType::Alert, [_, 0]) => break Some(Last::End),
            (ContentType::Alert, [_, _]) => break Some(Last::Fatal),
            (ContentType::Alert | ContentType::Handshake, _) => break Some(Last::Bad(BadRecord::Unexpected)),
        }
        used_bytes += length;
    };
    Opened { content_bytes, used_bytes, last }
}

impl<I: Wire, H: Handshakes> Io for Sealed<I, H> {
    fn backend(&self) -> &'static str {
        self.wire.backend()
    }

    fn now(&self) -> Duration {
        self.wire.now()
    }

    fn unix_time(&self) -> SystemTime {
        self.wire.unix_time()
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> std::io::Result<()> {
        let before = ready.len();
        self.wire.wait(timeout, ready)?;
        if !self.held.is_empty() {
            self.flush_writable(ready, before);
        }
        ready.extend(self.worn.drain(..).map(Readiness::Worn));
        self.take_finished(ready);
        Ok(())
    }

    fn accept(&mut self, listener: ListenerIndex) -> Accept {
        match self.wire.accept(listener) {
            Accept::Connection(socket, peer @ Peer::Inet(_)) if self.listeners[listener.0] => {
                Accept::Connection(socket.speaking_tls(), peer)
            }
            accepted => accepted,
        }
    }

    fn has_room_for(&self, listener: ListenerIndex) -> bool {
        !self.listeners[listener.0] || self.handshakes.has_room()
    }

    fn release_reserved_fd(&mut self) -> bool {
        self.wire.release_reserved_fd()
    }

    fn reserve_fd(&mut self) -> bool {
        self.wire.reserve_fd()
    }

    fn watch(&mut self, socket: Socket, token: Token) -> std::io::Result<()> {
        self.wire.watch(socket.plain(), token)
    }

    fn secure(&mut self, socket: Socket, token: Token, received: Vec<u8>) {
        self.securing.insert(socket.number(), Securing { token, closed: None });
        self.handshakes.begin(socket.plain(), received);
    }

    fn read(&mut self, socket: Socket, buffer: &mut [u8]) -> Read {
        let Some(token) = self.secured_token(socket) else { return self.wire.read(socket.plain(), buffer) };
        if let Some(broken) = self.held.get(&token.slot).and_then(|held| held.broken) {
            return Read::Gone(broken);
        }
        self.read_records(socket, token, buffer)
    }

    fn send(
        &mut self,
        run: &[Frame],
        skip_bytes: usize,
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        if self.session_count == 0 {
            return self.wire.send(run, skip_bytes, targets, outcomes);
        }
        let mut plain = std::mem::take(&mut self.plain);
        for socket in targets {
            if !socket.speaks_tls() {
                plain.push(socket);
                continue;
            }
            if !plain.is_empty() {
                self.wire.send(run, skip_bytes, plain.drain(..), outcomes);
            }
            let sent = self.seal_run(run, skip_bytes, socket);
            outcomes.push(sent);
        }
        if !plain.is_empty() {
            self.wire.send(run, skip_bytes, plain.drain(..), outcomes);
        }
        self.plain = plain;
    }

    fn end(&mut self, socket: Socket) {
        if socket.speaks_tls() && self.securing.contains_key(&socket.number()) {
            return; // a handshake that is cancelled has nothing to end
        }
        let Some(token) = self.secured_token(socket) else { return self.wire.end(socket.plain()) };
        match self.send_alert(CLOSE_NOTIFY, socket) {
            Sent::Held(_) | Sent::WouldBlock => {
                if let Some(held) = self.held.get_mut(&token.slot) {
                    held.is_last = true;
                }
            }
            Sent::Bytes(_) | Sent::Gone(_) => self.wire.end(socket.plain()),
        }
    }

    fn close(&mut self, socket: Socket, how: Close) {
        if !socket.speaks_tls() {
            return self.wire.close(socket, how);
        }
        if let Some(securing) = self.securing.get_mut(&socket.number()) {
            securing.closed = Some(how);
            return self.handshakes.cancel(socket.plain());
        }
        if let Some(session) = self.sessions.get_mut(socket.number() as usize).and_then(Option::take) {
            self.session_count -= 1;
            self.held.remove(&session.token.slot);
            self.unread.remove(&session.token.slot);
        }
        self.wire.close(socket.plain(), how);
    }

    fn stop_listening(&mut self, listener: ListenerIndex) {
        self.wire.stop_listening(listener);
    }
}

#[cfg(test)]
#[path = "sealed_tests.rs"]
mod tests;
