//! Bugs that a seed or a review has found, as short examples: one node, no faults, and the checkers of the worlds.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fanfare::config::SlowPolicy;
use fanfare::event::{Event, EventId, Topic};
use fanfare::hub::HubLimits;
use fanfare::io::simulated::{Faults, Pace, PeerId, Random};
use fanfare::io::{ListenerIndex, Peer};
use tracing::Dispatch;

use crate::census::Census;
use crate::client::{Hearing, Link, Subscriber};
use crate::node::{Node, Plan};
use crate::order::History;
use crate::wire::{Request, find};

struct Stage {
    node: Node,
    history: Arc<History>,
    now: Duration,
}

impl Stage {
    fn new(change: impl FnOnce(&mut Plan)) -> Stage {
        let mut plan = Plan {
            topics: vec!["a".into(), "b".into()],
            nodes: 1,
            faults: Faults::none(),
            hub: HubLimits::default(),
            slow_policy: SlowPolicy::Close,
            streams_max: 100,
            accepts_per_second_max: None,
            connection_age_max: None,
            connections_per_address_max: None,
            is_secured: false,
            failed_handshakes: 0,
            ..Plan::drawn(&mut Random::new(0))
        };
        change(&mut plan);
        let history = Arc::<History>::default();
        Stage { node: Node::start(&plan, 1, Duration::ZERO, None, &history), history, now: Duration::ZERO }
    }

    fn connect(&mut self, pace: Pace, says: &str) -> PeerId {
        let peer = self.node.io().connect(ListenerIndex(0), Peer::Unix, pace);
        self.node.io().peer_send(peer, says.as_bytes());
        self.pass(Duration::from_millis(1));
        peer
    }

    /// A subscriber of `topics` under the checker's eyes.
    fn subscribe(&mut self, topics: &[&str], pace: Pace) -> PeerId {
        let peer = self.ask_for(topics, "missed", pace);
        self.pass(Duration::from_millis(1));
        peer
    }

    fn ask_for(&mut self, topics: &[&str], replay: &'static str, pace: Pace) -> PeerId {
        let query: Vec<_> = topics.iter().map(|topic| format!("topic={topic}")).collect();
        let says = format!("GET /events?{}&replay={replay} HTTP/1.1\r\nHost: localhost\r\n\r\n", query.join("&"));
        let peer = self.node.io().connect(ListenerIndex(0), Peer::Unix, pace);
        self.node.io().peer_send(peer, says.as_bytes());
        let request = Request {
            topics: topics.iter().map(ToString::to_string).collect(),
            last_event_id: String::new(),
            replay,
            latest: false,
            interval: Duration::ZERO,
            bytes: says.len(),
        };
        self.node.watch(peer, request);
        peer
    }

    fn publish(&mut self, topic: &str, data: &str) {
        self.node.feed.publish(&Event::message(Topic::new(topic).unwrap(), data));
    }

    fn publish_as(&mut self, id: &str, topic: &str, data: &str) {
        let id = Some(EventId::new(id).unwrap());
        self.node.feed.publish(&Event { id, ..Event::message(Topic::new(topic).unwrap(), data) });
    }

    /// A client connects, with the id that it holds.
    fn join(&mut self, client: &mut Subscriber) {
        let (bytes, request) = client.request(&self.node.feed);
        let peer = self.node.io().connect(ListenerIndex(0), Peer::Unix, Pace::Eager);
        self.node.io().peer_send(peer, &bytes);
        self.node.watch(peer, request);
        client.link = Link::Joined(peer);
        self.pass(Duration::from_millis(1));
    }

    /// The client takes what has arrived, but of the stream's body only the first bytes; how many there were.
    fn hear(&mut self, client: &mut Subscriber, body_bytes_max: usize) -> usize {
        let Link::Joined(peer) = client.link else { panic!("it is not connected") };
        let bytes = self.node.io().take(peer);
        let head = find(&bytes, b"\r\n\r\n").map_or(0, |end| end + 4);
        let heard = &bytes[..bytes.len().min(head.saturating_add(body_bytes_max))];
        let answered = self.node.answered(peer);
        let (feed, history, census) = (&self.node.feed, &self.history, &mut Census::default());
        let received = client.receive(heard, &mut Hearing { feed, history, answered, now: self.now, census });
        received.unwrap_or_else(|what| panic!("{what}\n{}", client.diary()));
        bytes.len() - head
    }

    fn cut(&mut self, client: &mut Subscriber) {
        let Link::Joined(peer) = client.link else { panic!("it is not connected") };
        self.node.io().peer_reset(peer);
        client.leave(self.now);
        self.pass(Duration::from_millis(1));
    }

    /// The client reads on to the end, and has everything, or knows what it lacks.
    fn finish(&mut self, client: &mut Subscriber) {
        self.hear(client, usize::MAX);
        let checked = client.check_complete(&self.node.feed, self.now);
        checked.unwrap_or_else(|what| panic!("{what}\n{}", client.diary()));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.node.feed.set_now(self.now);
        self.node.run_until(self.now).unwrap_or_else(|what| panic!("{what}\n{}", self.node.io().trace().join("\n")));
    }

    fn closed(&self, reason: &str) -> u64 {
        self.node.server.counters().closed.get(reason)
    }

    /// This number of clients connect and send nothing.
    fn crowd(&mut self, count: usize) -> Vec<PeerId> {
        (0..count).map(|_| self.connect(Pace::Eager, "")).collect()
    }

    /// Each of these makes room for one that waits.
    fn leave_one_by_one(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        for peer in peers {
            self.node.io().peer_reset(peer);
            self.pass(Duration::from_millis(1));
        }
    }

    fn pauses(&self, reason: &str) -> u64 {
        self.node.server.counters().accept_pauses.get(reason)
    }
}

/// The entries that are logged meanwhile, as far as operators see them by default.
fn logged(what: impl FnOnce()) -> Vec<String> {
    // With only one dispatcher in the process, an entry that another test's thread comes to first is switched off for
    // all: tracing asks that thread's dispatcher, which is none. With a second one it asks both.
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(move || writer.clone());
    tracing::subscriber::with_default(subscriber.finish(), what);
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ten entries with this text, and one that tells how many more there would be.
#[track_caller]
fn check_limited(entries: &[String], text: &str, more: usize) {
    let about: Vec<_> = entries.iter().filter(|entry| entry.contains(text)).collect();
    let count_entry = format!("{more} more like this in the last 10 s: {text}");
    assert!(about.len() == 11 && about[10].ends_with(&count_entry), "{}", entries.join("\n"));
}

/// Takes a client of these topics through one event, cuts it off, lets things happen, and brings it back. It is cut off
/// again behind each of the bytes that it then gets, and must have everything in the end, or know what it lacks.
fn check_resume_cut_at_every_byte(
    topics: &[&str],
    change: impl Fn(&mut Plan),
    wish: impl Fn(&mut Subscriber),
    first: impl Fn(&mut Stage),
    then: impl Fn(&mut Stage),
) {
    let mut bytes_max = 0;
    loop {
        let mut stage = Stage::new(&change);
        let mut client = Subscriber::new(topics.iter().map(ToString::to_string).collect());
        wish(&mut client);
        stage.join(&mut client);
        first(&mut stage);
        stage.pass(Duration::from_millis(1));
        stage.hear(&mut client, usize::MAX);
        stage.cut(&mut client);
        then(&mut stage);
        stage.pass(Duration::from_millis(50));
        stage.join(&mut client);
        let bytes = stage.hear(&mut client, bytes_max);
        stage.cut(&mut client);
        stage.join(&mut client);
        stage.finish(&mut client);
        if bytes_max >= bytes {
            assert!(bytes > 100, "the client got only {bytes} bytes");
            return;
        }
        bytes_max += 1;
    }
}

/// Row 3 of the review: topic a has lost 2, topic c has lost 5, and 3 and 4 are remembered.
#[test]
fn a_client_gets_a_gap_for_each_loss_at_whatever_byte_it_is_cut_off() {
    check_resume_cut_at_every_byte(
        &["a", "b", "c", "d"],
        |plan| plan.hub.history_events_max = Some(1),
        |_| (),
        |stage| stage.publish("a", "1"),
        |stage| "2a 3b 4d 5c 6c 7a".split(' ').for_each(|event| stage.publish(&event[1..], event)),
    );
}

/// The same when nothing follows in the topic with the smaller loss: the gap is all that the client ever gets of it.
#[test]
fn a_client_gets_a_gap_for_a_loss_that_no_event_follows() {
    check_resume_cut_at_every_byte(
        &["a", "b"],
        |plan| {
            plan.hub.history_age_max = Duration::from_secs(3);
        },
        |_| (),
        |stage| stage.publish("a", "1"),
        |stage| {
            stage.publish("a", "2");
            stage.pass(Duration::from_secs(5));
            stage.publish("b", "3");
        },
    );
}

/// Row 4 of the review: the newest event is forgotten, and a client that wants only the newest comes back.
#[test]
fn a_newest_event_that_is_gone_is_a_gap() {
    let wishes: [fn(&mut Subscriber); 3] = [
        |client| client.latest = true,
        |client| client.replay = "latest",
        |client| {
            client.replay = "all";
            client.latest = true;
        },
    ];
    for wish in wishes {
        check_resume_cut_at_every_byte(
            &["a", "b"],
            |plan| plan.hub.history_age_max = Duration::from_secs(3),
            wish,
            |stage| stage.publish("a", "1"),
            |stage| {
                stage.publish("a", "2");
                stage.publish("b", "3");
                stage.pass(Duration::from_secs(5));
            },
        );
    }
}

/// The run of another node, which named what it passed on.
const ELSEWHERE: &str = "elsewherenod";

/// Row 15 of the review: a publisher uses an id again that a client holds, after the first event of that id is forgotten.
#[test]
fn an_id_that_is_used_again_loses_nothing() {
    for events_max in [1, 2, 3, 10] {
        check_resume_cut_at_every_byte(
            &["a", "b"],
            |plan| plan.hub.history_events_max = Some(events_max),
            |_| (),
            |stage| stage.publish_as(&format!("{ELSEWHERE}-1~X"), "a", "1"),
            |stage| {
                "2a 3a 4b".split(' ').for_each(|event| stage.publish(&event[1..], event));
                stage.publish_as(&format!("{ELSEWHERE}-2~X"), "a", "5");
                stage.publish("a", "6");
            },
        );
    }
}

#[test]
fn the_loop_does_not_sleep_while_a_message_waits_for_a_walk() {
    let mut stage = Stage::new(|plan| plan.hub.history_events_max = Some(1));
    stage.subscribe(&["a"], Pace::Eager);
    (0..5).for_each(|n| stage.publish("a", &format!("event {n}")));
    stage.pass(Duration::from_millis(1));
    assert_eq!(stage.node.server.counters().delivered_events, 5);
}

#[test]
fn work_beyond_the_budget_of_a_turn_is_left_to_the_next_turn() {
    let mut stage = Stage::new(|plan| plan.channel.messages_max = 1000);
    stage.subscribe(&["a"], Pace::Eager);
    (0..600).for_each(|n| stage.publish("a", &format!("event {n}")));
    stage.pass(Duration::from_millis(1));
    assert_eq!(stage.node.server.counters().delivered_events, 600);
}

#[test]
fn a_replay_longer_than_one_run_comes_whole() {
    let mut stage = Stage::new(|plan| {
        plan.hub.history_events_max = Some(1000);
        plan.channel.messages_max = 2000;
        plan.faults.send_buffer_bytes = (1 << 20, 1 << 20); // it is not the socket that ends a run
    });
    (0..1500).for_each(|n| stage.publish("a", &format!("event {n}")));
    stage.pass(Duration::from_millis(1));
    stage.ask_for(&["a"], "all", Pace::Eager);
    stage.pass(Duration::from_millis(50));
    assert_eq!(stage.node.server.counters().delivered_events, 1000, "the newest thousand is remembered");
}

#[test]
fn exhausted_descriptors_do_not_make_the_loop_spin_when_no_connection_waits() {
    let mut stage = Stage::new(|_| ());
    stage.node.io().set_descriptors_max(1);
    stage.connect(Pace::Eager, "");
    stage.pass(Duration::from_secs(5)); // the checker counts turns in which no time passes
    stage.node.io().set_descriptors_max(3);
    stage.pass(Duration::from_secs(1));
    stage.subscribe(&["a"], Pace::Eager);
    assert_eq!(stage.node.server.open().1, 1);
}

#[test]
fn a_full_accept_rate_does_not_make_the_loop_spin() {
    let mut stage = Stage::new(|plan| plan.accepts_per_second_max = Some(3));
    let peers: Vec<_> = (0..10).map(|_| stage.node.io().connect(ListenerIndex(0), Peer::Unix, Pace::Eager)).collect();
    stage.pass(Duration::from_secs(4));
    assert!(peers.into_iter().all(|peer| stage.node.io().is_open(peer)));
}

#[test]
fn a_stream_behind_a_pipelined_request_notices_when_its_peer_leaves() {
    let mut stage = Stage::new(|plan| plan.faults.send_buffer_bytes = (100, 100));
    let slow = Pace::Slow { bytes: 50, every: Duration::from_millis(10) };
    let both = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /events?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let peer = stage.connect(slow, both);
    stage.node.io().peer_send(peer, b"and more");
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.node.server.open(), (1, 1));
    stage.node.io().peer_end(peer);
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.node.server.open(), stage.closed("peer_closed")), ((0, 0), 1));
}

#[test]
fn no_topic_evicts_an_event_that_a_walk_must_still_deliver() {
    // The second event takes the whole of what all logs may hold, before the first was sent to any client.
    let mut stage = Stage::new(|plan| plan.hub.history_bytes_total_max = 500);
    stage.subscribe(&["a"], Pace::Eager);
    stage.publish("a", "first");
    stage.publish("b", &"x".repeat(300));
    stage.pass(Duration::from_millis(1));
    assert_eq!((stage.closed("evicted"), stage.node.server.counters().delivered_events), (0, 1));
}

#[test]
fn a_large_event_evicts_no_event_that_a_walk_must_still_deliver() {
    // As above, but two events must be evicted, and only the second one has a subscriber.
    let mut stage = Stage::new(|plan| plan.hub.history_bytes_total_max = 500);
    stage.subscribe(&["a"], Pace::Eager);
    stage.publish("unsubscribed", "first");
    stage.publish("a", "second");
    stage.publish("b", &"x".repeat(300));
    stage.pass(Duration::from_millis(1));
    assert_eq!((stage.closed("evicted"), stage.node.server.counters().delivered_events), (0, 1));
}

/// The last subscribers get two seconds more, also those of a topic whose events waited behind the other topic's.
#[test]
fn the_last_subscribers_of_several_topics_keep_up_with_a_burst() {
    let mut stage = Stage::new(|plan| {
        plan.hub.history_events_max = Some(2);
        plan.channel.messages_max = 100;
        plan.faults.send_buffer_bytes = (4000, 4000);
    });
    let pace = |bytes| Pace::Slow { bytes, every: Duration::from_millis(100) };
    for topic in ["a", "b"] {
        (0..9).for_each(|_| _ = stage.subscribe(&[topic], pace(3000)));
        stage.subscribe(&[topic], pace(2000));
    }
    for _ in 0..25 {
        ["a", "b"].iter().for_each(|topic| stage.publish(topic, &"x".repeat(1000)));
    }
    stage.pass(Duration::from_secs(20));
    assert_eq!((stage.closed("evicted"), stage.node.server.counters().delivered_events), (0, 500));
}

/// The same for a gap: every client that reads gets it, and no client is closed for it.
#[test]
fn a_gap_does_not_evict_an_event_that_a_walk_must_still_deliver() {
    let mut stage = Stage::new(|plan| plan.hub.history_events_max = Some(1));
    stage.subscribe(&["a"], Pace::Eager);
    stage.publish("a", "first");
    stage.node.feed.lose();
    stage.pass(Duration::from_millis(1));
    assert_eq!((stage.closed("evicted"), stage.node.server.counters().delivered_events), (0, 2));
}

#[test]
fn a_connection_refused_on_accept_is_counted_as_closed() {
    let mut stage = Stage::new(|plan| plan.faults.failed_watch = 1000);
    stage.connect(Pace::Eager, ""); // the checker holds accepted against closed and open
    assert_eq!((stage.node.server.open().0, stage.closed("socket_error")), (0, 1));
}

/// The kernel's queue of those who wait is bounded, and what does not fit into it is away for seconds.
#[test]
fn a_client_that_returns_during_a_walk_is_accepted_as_fast_as_without_one() {
    let mut stage = Stage::new(|plan| plan.streams_max = 10_000);
    for _ in 0..1500 {
        stage.ask_for(&["a"], "missed", Pace::Eager);
    }
    stage.pass(Duration::from_millis(20));
    stage.publish("a", "an event");
    for _ in 0..600 {
        stage.ask_for(&["b"], "missed", Pace::Eager);
    }
    let accepted = |stage: &Stage| stage.node.server.counters().accepted;
    // Until the first of them are accepted: the walk over the 1500 takes several turns.
    while accepted(&stage) == 1500 {
        stage.node.turn_once().unwrap();
    }
    assert!(stage.node.server.hub().is_walking());
    let before = accepted(&stage);
    stage.node.turn_once().unwrap();
    assert_eq!(accepted(&stage) - before, 256);
}

/// An error that stays would be there again at once: the loop sleeps, and the one who waits is served when it is over.
#[test]
fn a_listener_that_can_not_accept_pauses_and_is_tried_again() {
    let mut stage = Stage::new(|plan| plan.faults.failed_accept = 1000);
    stage.ask_for(&["a"], "missed", Pace::Eager);
    stage.pass(Duration::from_secs(10));
    let counters = stage.node.server.counters();
    assert_eq!((counters.accepted, counters.accept_pauses.get("error")), (0, 1), "one pause, as long as it lasts");
    let turns = counters.turn_duration.count();
    assert!(turns < 200, "{turns} turns in ten seconds");
    stage.node.io().set_faults(Faults::none());
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.node.server.open(), (1, 1));
}

#[test]
fn a_listener_whose_connections_can_not_be_watched_pauses_and_is_tried_again() {
    let mut stage = Stage::new(|plan| plan.faults.failed_watch = 1000);
    (0..100).for_each(|_| _ = stage.ask_for(&["a"], "missed", Pace::Eager));
    stage.pass(Duration::from_millis(50));
    let counters = stage.node.server.counters();
    assert!(counters.accept_pauses.get("error") == 1 && counters.closed.get("socket_error") < 5);
    stage.node.io().set_faults(Faults::none());
    stage.pass(Duration::from_secs(10));
    assert!(stage.node.server.open().0 > 90);
}

/// A walk over more than one turn's worth, while its subscribers come and go: the checkers see to it that those who
/// stay miss nothing.
#[test]
fn a_crowd_that_comes_and_goes_during_a_walk_misses_nothing() {
    let mut stage = Stage::new(|plan| {
        plan.streams_max = 10_000;
        // The server notices a client that leaves in the next turn, or the one after: during the walk.
        plan.faults.tardy_wait = 600;
    });
    let mut random = Random::new(1);
    let mut peers: Vec<_> = (0..1500).map(|_| stage.ask_for(&["a"], "missed", Pace::Eager)).collect();
    stage.pass(Duration::from_millis(20));
    for round in 0..6 {
        (0..=round % 2).for_each(|n| stage.publish("a", &format!("round {round}, event {n}")));
        for _ in 0..250 {
            let peer = peers.swap_remove(random.below(peers.len()));
            stage.node.io().peer_reset(peer);
        }
        // An event during the walk: clients that were visited must be visited again.
        stage.node.turn_once().unwrap();
        stage.publish("a", &format!("round {round}, in mid-walk"));
        peers.extend((0..250).map(|_| stage.ask_for(&["a"], "missed", Pace::Eager)));
        stage.pass(Duration::from_millis(20));
    }
    assert_eq!(stage.node.server.open(), (1500, 1500));
}

#[test]
fn a_walk_outlives_most_of_its_crowd() {
    let mut stage = Stage::new(|plan| plan.streams_max = 10_000);
    let mut peers: Vec<_> = (0..4000).map(|_| stage.ask_for(&["a"], "missed", Pace::Eager)).collect();
    stage.pass(Duration::from_millis(20));
    stage.publish("a", "an event");
    stage.node.turn_once().unwrap();
    // More leave at once than the walk has come by, so that it has more ahead than there are subscribers.
    peers.drain(..3500).for_each(|peer| stage.node.io().peer_reset(peer));
    stage.pass(Duration::from_millis(20));
    assert_eq!(stage.node.server.open(), (500, 500));
}

#[test]
fn a_crowd_that_waits_for_slots_is_one_pause() {
    let mut stage = Stage::new(|plan| plan.streams_max = 1); // and twenty slots beside
    let mut peers = stage.crowd(60);
    stage.leave_one_by_one(peers.drain(..30));
    assert_eq!((stage.node.server.open().0, stage.pauses("slots")), (21, 1), "nine wait still");
    stage.leave_one_by_one(peers.drain(..20));
    assert_eq!((stage.node.server.open().0, stage.pauses("slots")), (10, 1), "no connection waits any more");
    stage.crowd(20);
    assert_eq!((stage.node.server.open().0, stage.pauses("slots")), (21, 2));
}

#[test]
fn a_crowd_that_waits_for_descriptors_is_one_pause() {
    let mut stage = Stage::new(|_| ());
    stage.node.io().set_descriptors_max(10);
    let mut peers = stage.crowd(60);
    for peer in peers.drain(..8) {
        stage.leave_one_by_one([peer]);
        stage.pass(Duration::from_secs(1));
    }
    assert_eq!(stage.pauses("descriptors"), 1);
    stage.node.io().set_descriptors_max(100);
    stage.pass(Duration::from_secs(1));
    stage.node.io().set_descriptors_max(10);
    stage.crowd(20);
    assert_eq!(stage.pauses("descriptors"), 2);
}

#[test]
fn entries_that_any_client_can_cause_are_logged_a_few_times_and_then_counted() {
    let later = Duration::from_secs(12);
    let entries = logged(|| {
        let mut stage = Stage::new(|plan| plan.streams_max = 1);
        for _ in 0..30 {
            let peers = stage.crowd(22);
            stage.leave_one_by_one(peers);
        }
        assert_eq!(stage.pauses("slots"), 30);
        stage.pass(later);
    });
    check_limited(&entries, "every slot is taken: accepting pauses", 20);

    let entries = logged(|| {
        let mut stage = Stage::new(|plan| {
            plan.hub.topics_max = 1;
            plan.channel.messages_max = 500;
        });
        stage.publish("a", "an event");
        stage.subscribe(&["a"], Pace::Eager);
        (0..500).for_each(|n| stage.publish(&format!("b{n}"), "an event"));
        stage.pass(later);
        assert_eq!(stage.node.server.counters().dropped.get("topics_exhausted"), 500);
    });
    check_limited(&entries, "dropped an event: as many topics as are allowed have subscribers", 490);

    let entries = logged(|| {
        let mut stage = Stage::new(|plan| {
            plan.faults.send_buffer_bytes = (100, 100);
            plan.stall_timeout = Duration::from_secs(5);
        });
        (0..40).for_each(|_| _ = stage.subscribe(&["a"], Pace::Never));
        stage.publish("a", &"x".repeat(1000));
        stage.pass(later + later);
        assert_eq!(stage.closed("stalled"), 40);
    });
    check_limited(&entries, "closed a connection that reads too slowly", 30);
}

#[test]
fn the_answers_to_the_requests_of_one_read_are_one_write() {
    let body = r#"{"topic":"a","data":"x"}"#;
    let publish = format!("POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let half = &publish[..publish.len() / 2];
    for (says, answers, rest) in [
        (publish.repeat(30), 30, ""),
        // The last request is not complete: the answers before it do not wait for the rest.
        (publish.repeat(30) + half, 30, &publish[half.len()..]),
        // The last answer comes later, or is a stream's.
        (publish.repeat(3) + "GET /events?topic=b HTTP/1.1\r\nHost: localhost\r\n\r\n", 4, ""),
        // The last request is refused, and ends the connection.
        (publish.repeat(3) + "nonsense\r\n\r\n", 4, ""),
    ] {
        let mut stage = Stage::new(|_| ());
        let peer = stage.connect(Pace::Eager, &says);
        let sends = |stage: &mut Stage| {
            let trace = stage.node.io().trace();
            let to_peer = |line: &&String| line.contains("send ") && line.contains(&format!("to peer {}", peer.0));
            trace.iter().filter(to_peer).count()
        };
        let answered =
            |stage: &mut Stage| String::from_utf8_lossy(stage.node.io().sent_to(peer)).matches("HTTP/1.1 ").count();
        assert_eq!((sends(&mut stage), answered(&mut stage)), (1, answers), "{says}");
        if !rest.is_empty() {
            stage.node.io().peer_send(peer, rest.as_bytes());
            stage.pass(Duration::from_millis(1));
            assert_eq!((sends(&mut stage), answered(&mut stage)), (2, answers + 1), "{says}");
        }
    }
}
