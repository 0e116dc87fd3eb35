//! Late streams, of a loop among two: the client may have received through the other loop what this one has not read.

use std::sync::Arc;
use std::time::Duration;

use fanfare::event::{Event, RunName, Sequence, Topic};
use fanfare::hub::Hub;
use fanfare::io::simulated::{Faults, Pace, PeerId, Random, SimulatedIo};
use fanfare::io::{Io, ListenerIndex, Peer};
use fanfare::server::{Member, Server};
use fanfare::sources::channel::{ChannelLimits, Inbox, Outlet, channel};
use fanfare::sources::sequencer::Sequencer;

use crate::node::Plan;

const PUBLIC: ListenerIndex = ListenerIndex(0);
const ADMIN: ListenerIndex = ListenerIndex(1);

/// The first of two loops. The other one does not turn.
struct FirstOfTwo {
    server: Server<SimulatedIo>,
    outlet: Outlet,
    sequencer: Arc<Sequencer>,
    _other: (Member, Inbox),
}

impl FirstOfTwo {
    fn start() -> FirstOfTwo {
        let run = RunName::from_bits(1);
        let io = SimulatedIo::new(1, Faults::none(), 2);
        let (outlet, inbox) = channel(ChannelLimits::default(), io.wake());
        let (other_outlet, other_inbox) = channel(ChannelLimits::default(), || ());
        let [member, other]: [Member; 2] =
            Member::of(&[outlet.clone(), other_outlet.clone()]).try_into().ok().expect("one for each outlet");
        let sequencer = Sequencer::new(run, vec![outlet.clone(), other_outlet]);
        let plan = Plan {
            streams_max: 1000,
            accepts_per_second_max: None,
            connections_per_address_max: None,
            ..Plan::drawn(&mut Random::new(0))
        };
        let mut parts = plan.parts(
            Hub::new(run, plan.hub.clone()),
            inbox,
            Arc::clone(&sequencer) as _,
            Arc::clone(&sequencer) as _,
            None,
            1,
        );
        parts.member = member;
        FirstOfTwo { server: Server::new(io, parts), outlet, sequencer, _other: (other, other_inbox) }
    }

    fn ask(&mut self, listener: ListenerIndex, says: &str) -> PeerId {
        let peer = self.send(listener, says);
        self.turn();
        peer
    }

    fn send(&mut self, listener: ListenerIndex, says: &str) -> PeerId {
        let peer = self.server.io_mut().connect(listener, Peer::Unix, Pace::Eager);
        self.server.io_mut().peer_send(peer, says.as_bytes());
        peer
    }

    fn turn(&mut self) {
        let until = self.server.io_mut().now() + Duration::from_millis(1);
        self.server.io_mut().set_horizon(until);
        while self.server.io_mut().now() < until || !self.server.io_mut().has_slept() {
            self.server.turn().unwrap();
        }
    }

    /// What this client has received.
    fn received(&mut self, peer: PeerId) -> String {
        String::from_utf8(self.server.io_mut().sent_to(peer).to_vec()).unwrap()
    }
}

const RETURN: &str =
    "GET /events?topic=t0 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nLast-Event-ID: x\r\n\r\n";
const DISCONNECT: &str = "POST /disconnect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n{\"topic\":\"t0\"}";

#[test]
fn a_late_stream_starts_once_its_loop_has_read_what_was_issued() {
    let mut this = FirstOfTwo::start();
    this.outlet.note_issued(Sequence(1));
    let late = this.ask(PUBLIC, RETURN);
    assert_eq!(this.received(late), "");
    this.sequencer.publish(&Event::message(Topic::new("t0").unwrap(), "one"));
    this.turn();
    assert!(this.received(late).contains("\r\n\r\nretry: "), "{}", this.received(late));
    assert_eq!(this.server.open(), (1, 1));
}

#[test]
fn a_sweep_refuses_late_streams_which_it_would_not_visit() {
    let mut this = FirstOfTwo::start();
    this.outlet.note_issued(Sequence(1));
    let late = this.ask(PUBLIC, RETURN);
    this.ask(ADMIN, DISCONNECT);
    assert!(this.received(late).contains("retry: "), "{}", this.received(late));
    assert_eq!((this.server.open().1, this.server.counters().refused.get("position_unknown")), (0, 1));
}

#[test]
fn late_streams_are_refused_also_when_they_are_more_than_a_turn_refuses() {
    let mut this = FirstOfTwo::start();
    this.outlet.note_issued(Sequence(1));
    // About every second one goes to the other loop.
    (0..600).for_each(|_| _ = this.send(PUBLIC, RETURN));
    this.turn();
    let here = this.server.open().0 as u64;
    assert!(here > 256, "{here} of them are in this loop");
    this.ask(ADMIN, DISCONNECT);
    assert_eq!(this.server.counters().refused.get("position_unknown"), here);
}
