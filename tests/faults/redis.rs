//! A Redis that lies, dribbles and flaps. One that is killed, hangs or refuses is in `tests/blackbox` and `tests/redis_*`.

use std::sync::atomic::Ordering;

use crate::support::fake_redis::{Answer, FakeRedis};
use crate::support::redis::RedisServer;
use crate::support::server::Server;
use crate::support::stream::Subscriber;
use crate::support::wait::wait_until;

const UP: &str = "fanfare_source_up{source=\"redis\"}";
/// What a lie may make a server grow by.
const GROWTH_BYTES_MAX: f64 = 24e6;

/// What a Redis says to whatever it is asked.
const LIES: [(&str, &[u8]); 10] = [
    ("another type", b":1\r\n"),
    ("nothing at all", b"$-1\r\n"),
    ("an error", b"-ERR max number of clients reached\r\n"),
    ("another protocol", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    ("noise", b"\x00\xff\xfe\r\n\x16\x03\x01"),
    ("a number that is none", b"$99999999999999999999999\r\n"),
    ("a huge string, which does not come", b"$2000000000\r\nx"),
    ("a huge list, which does not come", b"*2000000000\r\n$1\r\nx\r\n"),
    ("lists in lists", &LISTS),
    ("a message before anything was subscribed", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n+OK\r\n"),
];

/// A thousand lists, each in the one before.
const LISTS: [u8; 4000] = {
    let mut bytes = [0; 4000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = b"*1\r\n"[at % 4];
        at += 1;
    }
    bytes
};

fn resident_bytes(server: &Server) -> f64 {
    server.metric("process_resident_memory_bytes")
}

#[test]
fn a_redis_that_lies_is_left_and_tried_again_and_costs_no_memory() {
    let redis = RedisServer::start();
    for (name, lie) in LIES {
        // A server of its own: the longer Redis is away, the longer it waits before it looks again.
        let fake = FakeRedis::before(redis.address());
        let mut server = Server::start(&["--redis-url", &fake.url()]);
        server.wait_for_metric(UP, |up| up == 1.0);
        let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
        let before = resident_bytes(&server);

        fake.tell(Answer::Lie(lie));
        wait_until(name, || fake.lies_sent() > 1);
        server.wait_for_metric(UP, |up| up == 0.0);
        let health = server.get("/health").json();
        assert_eq!((&health["status"], &health["ready"]), (&"degraded".into(), &true.into()), "{name}: {health}");
        assert!(resident_bytes(&server) < before + GROWTH_BYTES_MAX, "{name}");

        fake.tell(Answer::Truth);
        server.wait_for_metric(UP, |up| up == 1.0);
        assert_eq!(redis.command::<i64>(&["PUBLISH", "dashboard_updates", name]), 1, "{name}");
        subscriber.event().gap();
        subscriber.expect(&[name]);
        assert!(server.metric("fanfare_source_reconnects_total{source=\"redis\"}") >= 1.0, "{name}");
        assert!(server.is_running());
    }
}

#[test]
fn a_redis_that_dribbles_is_listened_to() {
    let redis = RedisServer::start();
    let fake = FakeRedis::before(redis.address());
    fake.tell(Answer::Dribble);
    let server = Server::start(&["--redis-url", &fake.url()]);
    server.wait_for_metric(UP, |up| up == 1.0);
    let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
    for n in 0..20 {
        redis.command::<i64>(&["PUBLISH", "dashboard_updates", &n.to_string()]);
        subscriber.expect(&[&n.to_string()]);
    }
    server.publish("dashboard_updates", "posted");
    subscriber.expect(&["posted"]);
}

#[test]
fn a_redis_that_flaps_loses_nothing_silently() {
    const CUTS: usize = 5;
    let redis = RedisServer::start();
    let fake = FakeRedis::before(redis.address());
    let server = Server::start(&["--redis-url", &fake.url()]);
    let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
    let mut numbers = 0..;
    let mut publish = || -> usize {
        let number = numbers.next().unwrap();
        redis.command::<i64>(&["PUBLISH", "dashboard_updates", &number.to_string()]);
        number
    };
    for cut in 1..=CUTS {
        server.wait_for_metric(UP, |up| up == 1.0);
        (0..5).for_each(|_| _ = publish());
        fake.tell(Answer::Truth); // every connection has to be made again
        (0..5).for_each(|_| _ = publish());
        server.wait_for_metric("fanfare_source_reconnects_total{source=\"redis\"}", |times| times >= cut as f64);
    }
    server.wait_for_metric(UP, |up| up == 1.0);
    let last = publish();
    let (mut next, mut has_gap) = (0, false);
    while next <= last {
        let block = subscriber.event();
        match block.data().unwrap().parse::<usize>() {
            Err(_) => {
                block.gap();
                has_gap = true;
            }
            Ok(number) => {
                assert!(number == next || has_gap && number > next, "{number} where {next} was next");
                (next, has_gap) = (number + 1, false);
            }
        }
    }
}

#[test]
fn a_message_that_does_not_end_is_skipped_with_a_gap_and_costs_no_memory() {
    const HEAD: &[u8] = b"*3\r\n$7\r\nmessage\r\n$17\r\ndashboard_updates\r\n$1073741824\r\n";
    let redis = RedisServer::start();
    let fake = FakeRedis::before(redis.address());
    let server = Server::start(&["--redis-url", &fake.url()]);
    server.wait_for_metric(UP, |up| up == 1.0);
    let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
    redis.command::<i64>(&["PUBLISH", "dashboard_updates", "before"]);
    subscriber.expect(&["before"]);
    let before = resident_bytes(&server);
    let flooded = fake.flood(HEAD);
    assert_eq!(subscriber.event().gap()["reason"], "event_refused", "the gap comes before the end of the message");
    wait_until("enough has come", || flooded.load(Ordering::Relaxed) > 300_000_000);
    assert!(resident_bytes(&server) < before + GROWTH_BYTES_MAX);
    assert_eq!(server.metric("fanfare_source_refused_total{source=\"redis\",reason=\"too_large\"}"), 1.0);

    fake.tell(Answer::Truth);
    assert_eq!(subscriber.event().gap()["reason"], "source_lost");
    redis.command::<i64>(&["PUBLISH", "dashboard_updates", "after"]);
    subscriber.expect(&["after"]);

    // One that is longer than any that Redis takes is no message.
    fake.flood(b"*3\r\n$7\r\nmessage\r\n$17\r\ndashboard_updates\r\n$1073741825\r\n");
    server.wait_for_log(&["not subscribed to Redis", "a message is longer than 1073741824 bytes"]);
    assert_eq!(subscriber.event().gap()["reason"], "source_lost");
}

#[test]
fn names_that_strangers_choose_are_truncated_in_the_log() {
    let redis = RedisServer::start();
    let server = Server::start(&["--redis-url", &redis.url("redis", ""), "--redis-pattern", "*"]);
    server.wait_for_metric(UP, |up| up == 1.0);
    for bytes in [5_000_000, 4_000] {
        redis.command::<i64>(&["PUBLISH", &"x".repeat(bytes), "no such topic"]);
    }
    server.wait_for_metric("fanfare_source_refused_total{source=\"redis\",reason=\"malformed\"}", |count| count == 2.0);
    server.wait_for_log(&["refused", "the channel's name has 5000000 bytes"]);
    let line = server.wait_for_log(&["refused", "the channel's name has 4000 bytes", "xxx…"]);
    assert!(line.len() < 1000, "{line}");
    assert!(server.log().text().len() < 10_000);
}

#[test]
fn a_process_that_was_stopped_continues_with_the_messages_of_the_meantime() {
    let redis = RedisServer::start();
    let server = Server::start(&["--redis-url", &redis.url("redis", "")]);
    server.wait_for_metric(UP, |up| up == 1.0);
    let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
    for round in 0..5 {
        server.signal("STOP");
        let numbers: Vec<_> = (0..20).map(|n| (round * 20 + n).to_string()).collect();
        for number in &numbers {
            assert_eq!(redis.command::<i64>(&["PUBLISH", "dashboard_updates", number]), 1);
        }
        server.signal("CONT");
        numbers.iter().for_each(|number| subscriber.expect(&[number]));
        server.publish("dashboard_updates", "posted");
        subscriber.expect(&["posted"]);
    }
    assert_eq!(server.metric("fanfare_source_reconnects_total{source=\"redis\"}"), 0.0);
}
