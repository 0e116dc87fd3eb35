//! The other ends: what peers do, when it arrives, and what becomes ready as a result.

use std::collections::VecDeque;
use std::time::Duration;

use super::SimulatedIo;
use super::link::{Edge, Fate, Link, Pace, PeerId, Stage};
use super::secured::PeerSession;
use crate::io::{Gone, ListenerIndex, Peer};

/// An event that is scheduled for a time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// A connection reaches its listener.
    Arrives(PeerId),
    /// Bytes reach the server.
    Brings(PeerId, Vec<u8>),
    /// The peer will send no more.
    Ends(PeerId),
    Breaks(PeerId, Gone),
    /// The peer reads.
    Reads(PeerId),
    /// A connection that was held up without a reason continues.
    Stirs(PeerId),
    /// The kernel checks whether a vanished peer has acknowledged anything.
    GivesUp(PeerId),
}

impl SimulatedIo {
    /// A peer connects.
    pub fn connect(&mut self, listener: ListenerIndex, address: Peer, pace: Pace) -> PeerId {
        let (least, most) = self.faults.send_buffer_bytes;
        let buffer_bytes = least + self.random.below(most - least + 1);
        let peer = PeerId(self.links.len());
        self.links.push(Link {
            address,
            listener,
            stage: Stage::Travelling,
            token: None,
            unread: VecDeque::new(),
            consumed: 0,
            peer_ended: false,
            broken: None,
            readable: Edge::Waiting,
            writable: Edge::Due,
            held_up: false,
            taken: Vec::new(),
            read: 0,
            buffer_bytes,
            pace,
            reading: false,
            handed: 0,
            ended: false,
            fate: Fate::Open,
            arrives_at: self.now,
            session: (self.secured == Some(listener) && address != Peer::Unix).then(|| Box::new(PeerSession::new())),
        });
        self.travel(peer, Happening::Arrives(peer));
        peer
    }

    /// The peer sends.
    pub fn peer_send(&mut self, peer: PeerId, bytes: &[u8]) {
        let record_bytes = 1 + self.random.below(2 * bytes.len().max(1));
        let bytes = match &mut self.links[peer.0].session {
            Some(session) => session.seal(bytes, record_bytes),
            None => bytes.to_vec(),
        };
        self.travel(peer, Happening::Brings(peer, bytes));
    }

    /// The peer will send no more; it still reads.
    pub fn peer_end(&mut self, peer: PeerId) {
        self.travel(peer, Happening::Ends(peer));
    }

    /// The peer resets the connection and discards its state.
    pub fn peer_reset(&mut self, peer: PeerId) {
        self.links[peer.0].fate = Fate::Reset;
        self.travel(peer, Happening::Breaks(peer, Gone::Reset));
    }

    /// The peer vanishes without closing: nothing it sends or should acknowledge arrives any more.
    pub fn peer_vanish(&mut self, peer: PeerId) {
        let link = &mut self.links[peer.0];
        link.fate = Fate::Reset;
        link.pace = Pace::Never;
        let at = self.now + self.faults.user_timeout;
        self.schedule(at, Happening::GivesUp(peer));
    }

    /// The peer reads at another pace from now on.
    pub fn set_pace(&mut self, peer: PeerId, pace: Pace) {
        self.links[peer.0].pace = pace;
        self.let_read(peer);
    }

    /// The data that arrived at the peer since the last call.
    pub fn take(&mut self, peer: PeerId) -> Vec<u8> {
        let link = &mut self.links[peer.0];
        let (from, to) = (link.handed, link.read);
        link.handed = link.read;
        match &link.session {
            Some(session) => session.opened[session.received(from)..session.received(to)].to_vec(),
            None => link.taken[from..to].to_vec(),
        }
    }

    /// The state of the connection as the peer sees it.
    pub fn fate(&self, peer: PeerId) -> Fate {
        let link = &self.links[peer.0];
        if link.fate == Fate::Ended && link.handed < link.taken.len() { Fate::Open } else { link.fate }
    }

    /// Everything that the server has sent to this peer, arrived or not.
    pub fn sent_to(&self, peer: PeerId) -> &[u8] {
        let link = &self.links[peer.0];
        link.session.as_ref().map_or(&link.taken, |session| &session.opened)
    }

    /// How many bytes for this peer the kernel has taken from the server, of TLS all bytes of records.
    pub fn taken_for(&self, peer: PeerId) -> usize {
        self.links[peer.0].taken.len()
    }

    /// True while the server must not send to this peer.
    pub fn is_held_up(&self, peer: PeerId) -> bool {
        self.links[peer.0].held_up
    }

    /// True while the server has this connection open.
    pub fn is_open(&self, peer: PeerId) -> bool {
        matches!(self.links[peer.0].stage, Stage::Open(_))
    }

    /// True once the server has closed this connection, or never accepted it.
    pub fn is_closed(&self, peer: PeerId) -> bool {
        self.links[peer.0].stage == Stage::Closed
    }

    /// True once the server has ended its side.
    pub fn is_ended(&self, peer: PeerId) -> bool {
        self.links[peer.0].ended
    }

    /// How many bytes from this peer the server has read.
    pub fn read_from(&self, peer: PeerId) -> usize {
        let link = &self.links[peer.0];
        link.session.as_ref().map_or(link.consumed, |session| session.sent(link.consumed))
    }

    /// Peers that were reported readable and that the server has not read to the end, though it could send to them.
    pub fn unattended(&self) -> impl Iterator<Item = PeerId> {
        let unattended = |peer: &&PeerId| {
            let link = &self.links[peer.0];
            let has_something = !link.unread.is_empty() || link.peer_ended || link.broken.is_some();
            link.readable == Edge::Reported && has_something && !link.held_up
        };
        self.sockets.values().filter(unattended).copied()
    }

    // ---- what happens ----

    pub(super) fn schedule(&mut self, at: Duration, happening: Happening) {
        self.happened += 1;
        self.happenings.insert((at, self.happened), happening);
    }

    /// Schedules an event at the server's side after a delay in transit, behind what was sent before.
    fn travel(&mut self, peer: PeerId, happening: Happening) {
        let delay = self.random.up_to(self.faults.delay_max);
        let link = &mut self.links[peer.0];
        let at = link.arrives_at.max(self.now + delay);
        link.arrives_at = at;
        self.schedule(at, happening);
    }

    pub(super) fn run_due_happenings(&mut self) {
        while let Some(entry) = self.happenings.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Happening::Arrives(peer) => self.arrive(peer),
                Happening::Brings(peer, bytes) => self.bring(peer, &bytes),
                Happening::Ends(peer) => {
                    self.links[peer.0].peer_ended = true;
                    self.make_readable(peer);
                }
                Happening::Breaks(peer, gone) => self.break_link(peer, gone),
                Happening::Reads(peer) => self.read_at_peer(peer),
                Happening::Stirs(peer) => {
                    self.make_readable(peer);
                    self.make_writable(peer);
                }
                Happening::GivesUp(peer) => {
                    let unacknowledged = self.links[peer.0].taken.len() > self.links[peer.0].read;
                    match self.links[peer.0].stage {
                        Stage::Open(_) if unacknowledged => self.break_link(peer, Gone::TimedOut),
                        Stage::Closed => {}
                        _ => {
                            let at = self.now + self.faults.user_timeout;
                            self.schedule(at, Happening::GivesUp(peer));
                        }
                    }
                }
            }
        }
    }

    fn arrive(&mut self, peer: PeerId) {
        let backlog = &mut self.backlogs[self.links[peer.0].listener.0];
        if backlog.stopped {
            self.links[peer.0].stage = Stage::Closed;
            self.links[peer.0].fate = Fate::Reset;
            return;
        }
        self.links[peer.0].stage = Stage::Waiting;
        backlog.waiting.push_back(peer);
    }

    fn bring(&mut self, peer: PeerId, bytes: &[u8]) {
        let link = &mut self.links[peer.0];
        if link.stage == Stage::Closed {
            // The kernel answers data that no process will read with a reset, and data in the other direction is lost.
            link.fate = Fate::Reset;
            return;
        }
        link.unread.extend(bytes);
        self.make_readable(peer);
    }

    pub(super) fn break_link(&mut self, peer: PeerId, gone: Gone) {
        let link = &mut self.links[peer.0];
        if link.stage != Stage::Closed && link.broken.is_none() {
            link.fate = Fate::Reset;
            link.broken = Some(gone);
            link.unread.clear();
            self.note(format_args!("peer {} {gone:?}", peer.0));
            self.make_readable(peer);
            self.make_writable(peer);
        }
    }

    /// The peer reads what its pace allows, and schedules a read for the rest.
    fn read_at_peer(&mut self, peer: PeerId) {
        let link = &mut self.links[peer.0];
        link.reading = false;
        let arrived = link.taken.len() - link.read;
        link.read += match link.pace {
            Pace::Eager => arrived,
            Pace::Slow { bytes, .. } => arrived.min(bytes),
            Pace::Never => 0,
        };
        self.make_writable(peer);
        self.let_read(peer);
    }

    pub(super) fn let_read(&mut self, peer: PeerId) {
        let link = &mut self.links[peer.0];
        if link.fate == Fate::Reset {
            return;
        }
        if link.read == link.taken.len() {
            if link.ended {
                link.fate = Fate::Ended;
            }
            return;
        }
        let delay = match link.pace {
            Pace::Eager => self.random.up_to(self.faults.delay_max),
            Pace::Slow { every, .. } => every,
            Pace::Never => return,
        };
        if !link.reading {
            link.reading = true;
            let at = self.now + delay;
            self.schedule(at, Happening::Reads(peer));
        }
    }

    fn make_readable(&mut self, peer: PeerId) {
        let repeated = self.random.chance(self.faults.repeated_edge);
        let link = &mut self.links[peer.0];
        if link.readable == Edge::Waiting || repeated {
            link.readable = Edge::Due;
        }
    }

    fn make_writable(&mut self, peer: PeerId) {
        // A kernel wakes writers when a large part is free again, not at every byte.
        let part = 1 + self.random.below(3);
        let link = &mut self.links[peer.0];
        let has_room =
            link.broken.is_some() || link.room() * part >= link.buffer_bytes || link.taken.len() == link.read;
        if link.writable == Edge::Waiting && has_room {
            link.writable = Edge::Due;
        }
    }
}
