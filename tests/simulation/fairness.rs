//! Whose request is answered first, by the number of answers given before it: that depends on no clock.

use std::sync::Arc;
use std::time::Duration;

use fanfare::io::simulated::{Faults, Pace, PeerId, Random};
use fanfare::io::{Io, ListenerIndex, Peer};

use crate::node::{Node, Plan};
use crate::order::History;

const PUBLIC: ListenerIndex = ListenerIndex(0);
const ADMIN: ListenerIndex = ListenerIndex(1);
const CROWD: usize = 100;
/// Fewer than the plan's limit on requests that come ahead of their answers.
const PIPELINED: usize = 96;

fn start() -> Node {
    let plan = Plan {
        topics: vec!["a".into()],
        nodes: 1,
        faults: Faults::none(),
        streams_max: 1000,
        accepts_per_second_max: None,
        connections_per_address_max: None,
        ..Plan::drawn(&mut Random::new(0))
    };
    Node::start(&plan, 1, Duration::ZERO, None, &Arc::<History>::default())
}

fn ask(node: &mut Node, listener: ListenerIndex, request: &str, times: usize) -> PeerId {
    let peer = node.io().connect(listener, Peer::Unix, Pace::Eager);
    send(node, peer, request, times);
    peer
}

fn send(node: &mut Node, peer: PeerId, request: &str, times: usize) {
    node.io().peer_send(peer, format!("GET {request} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(times).as_bytes());
}

/// Turns until the server begins to answer; gives how many answers it gave before the turn in which it does.
fn turn_until_answered(node: &mut Node, peer: PeerId) -> u64 {
    let sent_before = node.io().sent_to(peer).len();
    for _ in 0..100 {
        let answers = node.server.counters().responses.total();
        let until = node.io().now() + Duration::from_millis(1);
        node.io().set_horizon(until);
        node.turn_once().unwrap();
        if node.io().sent_to(peer).len() > sent_before {
            return answers;
        }
    }
    panic!("it is not answered");
}

/// How many answers the server had given when it wrote this page of metrics, the peer's last answer.
fn answers_on_page(node: &mut Node, peer: PeerId) -> u64 {
    let until = node.io().now() + Duration::from_secs(1);
    node.run_until(until).unwrap();
    let sent = String::from_utf8(node.io().sent_to(peer).to_vec()).unwrap();
    let page = sent.rsplit("HTTP/1.1 200 OK").next().unwrap();
    let samples = page.lines().filter(|line| line.starts_with("fanfare_responses_total{"));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A crowd of which each sends many requests at once, after its first ones are answered: now it is known for it.
fn pipelining_crowd(node: &mut Node) -> Vec<PeerId> {
    let crowd: Vec<_> = (0..CROWD).map(|_| ask(node, PUBLIC, "/health/live", PIPELINED)).collect();
    turn_until_answered(node, crowd[CROWD - 1]);
    assert!(node.server.counters().responses.total() < (CROWD * PIPELINED) as u64, "some are waiting");
    crowd
}

#[test]
fn a_first_request_is_answered_before_those_of_connections_that_pipeline() {
    for listener in [PUBLIC, ADMIN] {
        let mut node = start();
        pipelining_crowd(&mut node);
        let fresh = ask(&mut node, listener, "/metrics", 1);
        let before = turn_until_answered(&mut node, fresh);
        assert!(node.server.counters().responses.total() > before + 1, "the crowd still waits in this turn");
        assert_eq!(answers_on_page(&mut node, fresh), before, "no other client was answered before {listener:?}");
    }
}

#[test]
fn a_connection_that_asks_now_and_then_is_answered_before_those_that_pipeline() {
    let mut node = start();
    let quiet = ask(&mut node, PUBLIC, "/health/live", 1);
    turn_until_answered(&mut node, quiet);
    pipelining_crowd(&mut node);
    send(&mut node, quiet, "/metrics", 1);
    let before = turn_until_answered(&mut node, quiet);
    assert!(node.server.counters().responses.total() > before + 1, "the crowd still waits in this turn");
    assert_eq!(answers_on_page(&mut node, quiet), before);
}

#[test]
fn each_of_a_pipelining_crowd_has_its_turn() {
    let mut node = start();
    let crowd = pipelining_crowd(&mut node);
    let answers = |node: &mut Node, peer: PeerId| {
        let sent = String::from_utf8_lossy(node.io().sent_to(peer)).into_owned();
        sent.matches("HTTP/1.1 200 OK").count()
    };
    let counts: Vec<_> = crowd.iter().map(|peer| answers(&mut node, *peer)).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 32, "{least} to {most} answers");
    let until = node.io().now() + Duration::from_secs(1);
    node.run_until(until).unwrap();
    crowd.iter().for_each(|peer| assert_eq!(answers(&mut node, *peer), PIPELINED));
}
