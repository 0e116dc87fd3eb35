//! Bursts: more events at once than the log holds and the network takes. Subscribers that keep reading lose nothing;
//! subscribers that stop reading delay no other subscriber. Needs redis-server (Debian: redis-server).

use std::thread;

use crate::redis::start_on;
use crate::support::http::Client;
use crate::support::redis::RedisServer;
use crate::support::server::Server;
use crate::support::stream::Subscriber;

/// Far more than the log and the buffers of the kernel hold.
const EVENTS: usize = 20_000;
/// A log of 1,000 events of a kilobyte.
const OPTIONS: [&str; 4] = ["--history-events", "1000", "--send-buffer", "4KiB"];

fn start(redis: &RedisServer) -> Server {
    start_on(redis, &[&["--redis-channel", "a"], &OPTIONS[..]].concat())
}

fn publish_at_once(redis: &RedisServer) {
    let mut pipeline = redis::pipe();
    (0..EVENTS).for_each(|n| _ = pipeline.publish("a", format!("{n} {}", "x".repeat(1000))).ignore());
    pipeline.exec(&mut redis.connect()).unwrap();
}

/// Reads all events, each once and in order, and nothing else.
fn read_all(mut subscriber: Subscriber) {
    for n in 0..EVENTS {
        let event = subscriber.event();
        assert_eq!(event.event_type(), None, "{event:?} instead of {n}");
        assert!(event.data().unwrap().starts_with(&format!("{n} ")), "{event:?} instead of {n}");
    }
}

fn closed(server: &Server, reason: &str) -> f64 {
    server.metric(&format!("fanfare_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_burst_larger_than_the_log_reaches_all_that_keep_reading() {
    let redis = RedisServer::start();
    let server = start(&redis);
    let subscribers: Vec<_> = (0..8).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    thread::scope(|scope| {
        subscribers.into_iter().for_each(|subscriber| _ = scope.spawn(|| read_all(subscriber)));
        publish_at_once(&redis);
    });
    assert_eq!(["evicted", "stalled", "memory_bound"].map(|reason| closed(&server, reason)), [0.0; 3]);
    assert_eq!(server.metric("fanfare_gaps_total{reason=\"channel_full\"}"), 0.0);
    assert!(server.metric("fanfare_short_sends_total") > 0.0, "it was a burst");
}

#[test]
fn subscribers_that_do_not_read_delay_no_other_subscriber() {
    let redis = RedisServer::start();
    let server = start(&redis);
    let small = || Client::connect_with_small_buffer(server.address());
    let idle: Vec<_> = (0..12).map(|_| Subscriber::over(small(), "/events?topic=a", "")).collect();
    let mut reading = Subscriber::open(&server, "/events?topic=a");
    let mut redis = redis.connect();
    for n in 0..2000 {
        let data = format!("{n} {}", "x".repeat(1000));
        redis::cmd("PUBLISH").arg("a").arg(&data).exec(&mut redis).unwrap();
        reading.expect(&[&data]);
    }
    server.wait_for_metric("fanfare_closed_total{reason=\"evicted\"}", |closed| closed == idle.len() as f64);
    assert_eq!(server.metric("fanfare_gaps_total{reason=\"channel_full\"}"), 0.0, "no source waited in vain");
}
