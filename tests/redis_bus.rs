//! The bus between nodes against a real redis-server: which publishes are answered Ok, and what happens to them when
//! Redis fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fanfare::event::{Event, EventId};
use fanfare::sources::QueueLimits;
use fanfare::sources::channel::PublishRefusal;
use fanfare::sources::redis::{RedisSettings, RedisTiming};

use support::node::{Heard, Node, event, published, settings, source_lost};
use support::redis::RedisServer;
use support::wait::{DEADLINE, wait_until};

mod support;

#[test]
fn the_bus_brings_what_one_node_publishes_to_all() {
    let redis = RedisServer::start();
    let [a, b] = [0, 1].map(|_| Node::start_up(settings(&redis.url("redis", ""))));
    let named = Event { id: EventId::new("mine").ok(), ..event("t", "1") };
    let ids = a.publish(vec![named, event("t", "{\"n\": 2}"), event("u", "a\nb")], 7).unwrap();
    assert!(ids[0].ends_with("~mine"), "{ids:?}");
    assert_ne!(ids[1], ids[2]);
    let data = [("t", "1"), ("t", "{\"n\": 2}"), ("u", "a\nb")];
    let expected = std::iter::zip(&ids, data).map(|(id, (topic, data))| Heard::Event {
        topic: topic.into(),
        id: id.clone(),
        data: data.into(),
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!((0..3).map(|_| a.next()).collect::<Vec<_>>(), expected);
    assert_eq!(a.next(), Heard::Published { ticket: 7, outcome: Ok(()) });
    assert_eq!((0..3).map(|_| b.next()).collect::<Vec<_>>(), expected);
}

/// The invariant of the source's documentation, under failures: what is answered Ok was received before by the node
/// that answers it; and every other node receives it too, or a gap in its place.
#[test]
fn killed_subscriptions_lose_no_ok_without_a_gap() {
    let redis = RedisServer::start();
    let [own, other] = [0, 1].map(|_| Node::start_up(settings(&redis.url("redis", ""))));
    let mut heard = [Vec::new(), Vec::new()];
    let mut taken = Vec::new();
    let (done, mut number, mut enough) = (AtomicBool::new(false), 0, 15);
    std::thread::scope(|scope| {
        scope.spawn(|| kill_subscriptions(&redis, || done.load(Ordering::Relaxed)));
        wait_until("subscriptions were killed under what they should bring", || {
            for _ in 0..200 {
                number += 1;
                if own.publish(vec![event("t", &number.to_string())], number).is_ok() {
                    taken.push(number);
                }
            }
            heard[0].extend(own.heard_so_far());
            heard[1].extend(other.heard_so_far());
            if own.status.reconnects().min(other.status.reconnects()) < enough {
                return false;
            }
            // It takes luck to kill the other one in the middle: go on until that has happened.
            enough += 5;
            let ok = answered_ok(&heard[0]);
            ok.len() > 100 && !missed(&heard[1], &ok).0.is_empty()
        });
        done.store(true, Ordering::Relaxed);
    });
    // Behind it everything is decided. One that is refused is repeated, as a client would.
    let last = u64::MAX;
    let is_last = |heard: &Heard| matches!(heard, Heard::Event { data, .. } if *data == last.to_string());
    let answer = |outcome| Heard::Published { ticket: last, outcome };
    wait_until("the last event is everywhere", || {
        let refused = heard[0].iter().filter(|heard| **heard == answer(Err(PublishRefusal::BrokerDown))).count();
        if heard.iter().all(|heard| heard.iter().any(is_last)) && heard[0].contains(&answer(Ok(()))) {
            return true;
        }
        if taken.iter().filter(|ticket| **ticket == last).count() == refused && other.status.is_up() {
            taken.extend(own.publish(vec![event("t", &last.to_string())], last).map(|_| last));
        }
        heard[0].extend(own.heard_so_far());
        heard[1].extend(other.heard_so_far());
        false
    });

    let tickets = heard[0].iter().filter_map(|heard| match heard {
        Heard::Published { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let mut tickets: Vec<_> = tickets.collect();
    tickets.sort_unstable();
    assert_eq!(tickets, taken, "what was taken is answered once");
    let ok = answered_ok(&heard[0]);
    assert_eq!(missed(&heard[0], &ok), (vec![], vec![]), "what this node answered Ok");
    let (covered, silent) = missed(&heard[1], &ok);
    assert_eq!(silent, [0; 0], "missed by the other node without a gap, besides {} with one", covered.len());
}

fn answered_ok(heard: &[Heard]) -> Vec<u64> {
    let ok = |heard: &Heard| match heard {
        Heard::Published { ticket, outcome: Ok(()) } => Some(*ticket),
        _ => None,
    };
    heard.iter().filter_map(ok).collect()
}

/// Kills all subscriptions, or one of them, whenever there are some.
fn kill_subscriptions(redis: &RedisServer, is_done: impl Fn() -> bool) {
    let mut client = redis.connect();
    // A test that fails never says that it is done.
    let deadline = Instant::now() + DEADLINE;
    for shot in 0.. {
        if is_done() || Instant::now() > deadline {
            return;
        }
        let list: String = redis::cmd("CLIENT").arg(&["LIST", "TYPE", "pubsub"]).query(&mut client).unwrap();
        let ids: Vec<_> = list.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next()).collect();
        let kill = match ids.get(shot % 3) {
            Some(id) => ["KILL", "ID", id],
            None => ["KILL", "TYPE", "pubsub"],
        };
        // It may be gone by now.
        let _ = redis::cmd("CLIENT").arg(&kill).query::<redis::Value>(&mut client);
        redis::cmd("DEBUG").arg(&["SLEEP", "0.005"]).query::<()>(&mut client).unwrap();
    }
}

/// Which of `numbers`, published in this order, were not received: with a gap in their place, and without.
fn missed(heard: &[Heard], numbers: &[u64]) -> (Vec<u64>, Vec<u64>) {
    // Every gap as the last number before it.
    let (mut arrived, mut gaps) = (vec![0], Vec::new());
    for heard in heard {
        match heard {
            Heard::Event { data, .. } => arrived.push(data.parse().unwrap()),
            Heard::Gap { .. } => gaps.push(arrived[arrived.len() - 1]),
            Heard::Published { .. } => {}
        }
    }
    assert!(arrived.is_sorted());
    let missing = numbers.iter().copied().filter(|number| arrived.binary_search(number).is_err());
    missing.partition(|number| gaps.contains(&arrived[arrived.partition_point(|other| other < number) - 1]))
}

#[test]
fn a_hung_redis_is_detected_and_publishes_do_not_wait_for_it() {
    let redis = RedisServer::start();
    let timing = RedisTiming {
        ping_interval: Duration::from_millis(100),
        reply_timeout: Duration::from_secs(2),
        ..settings("redis://x").timing
    };
    let queue = QueueLimits { publishes_max: 2, bytes_max: 1 << 20 };
    let node = Node::start_up(RedisSettings { timing, queue, ..settings(&redis.url("redis", "")) });
    node.publish(vec![event("t", "x")], 0).unwrap();
    (0..2).for_each(|_| drop(node.next()));
    redis.hang();
    // Until the silence is noticed some are taken; each of them must be answered all the same.
    let mut taken = Vec::new();
    let mut busy = 0;
    for ticket in 1.. {
        match node.publish(vec![event("t", "x")], ticket) {
            Ok(_) => taken.push(ticket),
            Err(PublishRefusal::Busy) => busy += 1,
            Err(_) => break,
        }
    }
    assert!(busy > 0, "the queue has a bound");
    node.wait_down();
    assert_eq!(node.status.last_error().as_deref(), Some("ping: no answer in time"));
    for _ in 0..taken.len() {
        let Heard::Published { ticket, outcome } = node.next() else { panic!("nothing else can arrive") };
        assert_eq!(outcome, Err(PublishRefusal::BrokerDown));
        taken.retain(|other| *other != ticket);
    }
    assert!(taken.is_empty(), "without an answer: {taken:?}");
    redis.resume();
    node.wait_up();
    published(&mut redis.connect(), "news", "after");
    // A publish that was refused may have reached Redis before it hung; the bus brings it late, never in disorder.
    let heard: Vec<_> = std::iter::from_fn(|| Some(node.next()))
        .take_while(|heard| !matches!(heard, Heard::Event { topic, .. } if topic == "news"))
        .filter(|heard| matches!(heard, Heard::Gap { .. }))
        .collect();
    assert_eq!(heard, [source_lost()]);
    redis.hang();
    node.wait_down();
    // Would wait for a connection that answers nothing, if it waited for more than it has to.
    let Node { handle, status, .. } = node;
    drop(handle);
    drop(status);
    redis.resume();
}
