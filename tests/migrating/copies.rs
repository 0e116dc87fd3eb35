//! `--redis-publish`: what is posted to Fanfare reaches the servers that it replaces, and no subscriber receives it
//! twice.

use std::collections::{HashMap, HashSet};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::process::Lines;
use crate::support::redis::RedisServer;
use crate::support::server::Server;
use crate::support::stream::Subscriber;
use crate::support::wait::{DEADLINE, eventually, wait_until};

const CHANNEL: &str = "dashboard_updates";
const UP: &str = "fanfare_source_up{source=\"redis\"}";
const COPIED: &str = "fanfare_source_copied_total{source=\"redis\"}";
const OWN_COPIES: &str = "fanfare_source_refused_total{source=\"redis\",reason=\"own_copy\"}";

/// A node that is subscribed to Redis and copies what is posted to the channel's topic.
fn start_on(redis: &RedisServer, options: &[&str]) -> Server {
    let url = redis.url("redis", "");
    let server = Server::start(&[&["--redis-url", &url, "--redis-publish", CHANNEL], options].concat());
    server.wait_for_metric(UP, |up| up == 1.0);
    server
}

/// `redis-cli SUBSCRIBE`, as the simplest of all subscribers that are not Fanfare.
struct RedisCli {
    child: Child,
    printed: Lines,
}

impl RedisCli {
    fn subscribe(redis: &RedisServer) -> RedisCli {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(redis.socket()).args(["--csv", "subscribe", CHANNEL]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("these tests need redis-cli on the PATH");
        let printed = Lines::collect(child.stdout.take().expect("it is piped"));
        printed.wait_for(&["\"subscribe\""]);
        RedisCli { child, printed }
    }

    /// What it printed through the message with this payload, which is the last.
    fn payloads_through(&self, last: &str) -> Vec<String> {
        let prefix = format!("\"message\",\"{CHANNEL}\",");
        self.printed.wait_for(&[&prefix, last]);
        let text = self.printed.text();
        let payloads = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.strip_prefix('"')?.strip_suffix('"'));
        payloads.map(|payload| payload.replace("\\\"", "\"")).collect()
    }
}

impl Drop for RedisCli {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_posted_reaches_old_servers_and_every_node_once() {
    let redis = RedisServer::start();
    // One subscribes to the channel, one twice over, one not at all.
    let by_name = start_on(&redis, &[]);
    let by_both = start_on(&redis, &["--redis-pattern", "dash*", "--redis-pattern", "*"]);
    let elsewhere = start_on(&redis, &["--redis-channel", "other"]);
    let nodes = [&by_name, &by_both, &elsewhere];
    let old = RedisCli::subscribe(&redis);
    let mut subscribers = nodes.map(|node| Subscriber::open(node, "/events?topic=dashboard_updates&topic=new"));

    let batch = r#"[{"topic":"dashboard_updates","data":{"a":1.50},"event":"tick","id":"mine"},
        {"topic":"new","data":"not for them"}, {"topic":"dashboard_updates","data":"two"}]"#;
    for (round, node) in nodes.iter().enumerate() {
        let ids = node.post(&batch.replace("mine", &format!("mine-{round}"))).json()["ids"].clone();
        let first = ids[0].as_str().unwrap();
        assert!(first.ends_with(&format!("~mine-{round}")), "{ids}");
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.block().raw, format!("id: {first}\nevent: tick\ndata: {{\"a\":1.50}}\n\n"));
            assert_eq!(subscriber.block().id(), ids[1].as_str());
            assert_eq!(subscriber.block().id(), ids[2].as_str());
        }
    }
    // What an application publishes itself is none of Fanfare's copies, the same data or not.
    for data in ["two", "the end"] {
        redis.command::<i64>(&["PUBLISH", CHANNEL, data]);
        subscribers[..2].iter_mut().for_each(|subscriber| subscriber.expect(&[data]));
    }
    let posted = [r#"{"a":1.50}"#, "two"];
    assert_eq!(old.payloads_through("the end"), [&posted[..], &posted, &posted, &["two", "the end"]].concat());
    for (node, own_copies) in nodes.into_iter().zip([6.0, 6.0, 0.0]) {
        assert_eq!(node.metric(COPIED), 2.0);
        assert_eq!(node.metric(OWN_COPIES), own_copies);
    }
}

#[test]
fn envelopes_carry_everything_to_those_who_read_them() {
    let redis = RedisServer::start();
    let node = start_on(&redis, &["--redis-payload", "envelope"]);
    let old = RedisCli::subscribe(&redis);
    let mut subscriber = Subscriber::open(&node, "/dashboard/stream");
    let body = r#"{"topic":"dashboard_updates","data":"x","event":"tick","id":"i","retry":2000}"#;
    let id = node.post(body).json()["id"].as_str().unwrap().to_owned();
    redis.command::<i64>(&["PUBLISH", CHANNEL, r#"{"data":"the end"}"#]);
    assert_eq!(subscriber.block().raw, format!("id: {id}\nevent: tick\nretry: 2000\ndata: x\n\n"));
    subscriber.expect(&["the end"]);
    let envelope = r#"{"topic":"dashboard_updates","id":"i","event":"tick","retry":2000,"data":"x"}"#;
    assert_eq!(old.payloads_through("the end"), [envelope, r#"{"data":"the end"}"#]);
}

/// All publishers publish the same few words at once: if a copy were ever taken for an application's own message, or
/// the reverse, the counts would differ.
#[test]
fn copies_are_not_mistaken_for_messages_with_the_same_data() {
    const EACH: usize = 300;
    let redis = RedisServer::start();
    let nodes = [start_on(&redis, &[]), start_on(&redis, &[])];
    let mut subscribers = nodes.each_ref().map(|node| Subscriber::open(node, "/dashboard/stream"));
    let (_, mut old) = subscribe(&redis);
    std::thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(|| (0..EACH).for_each(|n| _ = node.publish(CHANNEL, ["even", "odd"][n % 2])));
        }
        let mut application = redis.connect();
        scope.spawn(move || {
            for n in 0..EACH {
                redis::cmd("PUBLISH").arg(CHANNEL).arg(["even", "odd"][n % 2]).exec(&mut application).unwrap();
            }
        });
    });
    redis.command::<i64>(&["PUBLISH", CHANNEL, "the end"]);
    let expected = HashMap::from([("even", 3 * EACH / 2), ("odd", 3 * EACH / 2)]);
    check_counts(&mut old, &expected);
    for subscriber in &mut subscribers {
        check_counts(&mut std::iter::from_fn(|| subscriber.event().data()), &expected);
    }
    for node in &nodes {
        assert_eq!(node.metric(COPIED), EACH as f64);
        assert_eq!(node.metric(OWN_COPIES), 2.0 * EACH as f64);
    }
}

/// Checks how often each is received before the end.
#[track_caller]
fn check_counts(heard: &mut dyn Iterator<Item = String>, expected: &HashMap<&str, usize>) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    heard.take_while(|data| data != "the end").for_each(|data| *counts.entry(data).or_default() += 1);
    assert_eq!(counts.iter().map(|(data, count)| (data.as_str(), *count)).collect::<HashMap<_, _>>(), *expected);
}

/// A 202 means that the old servers received it too; no node receives it twice, however often its subscription breaks.
#[test]
fn while_subscriptions_are_killed_nothing_is_doubled_and_old_servers_get_every_202() {
    const ROUNDS: usize = 4;
    const EACH: usize = 60;
    let redis = RedisServer::start();
    let nodes = [start_on(&redis, &[]), start_on(&redis, &[])];
    let mut subscribers = nodes.each_ref().map(|node| Subscriber::open(node, "/dashboard/stream"));
    let (own_id, old) = subscribe(&redis);
    let mut old = old.into_iter();

    let mut accepted = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        nodes.iter().for_each(|node| _ = node.wait_for_metric(UP, |up| up == 1.0));
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (node, (server, accepted)) in nodes.iter().zip(&mut accepted).enumerate() {
                let taken = &taken;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let data = format!("{node}-{round}-{n}");
                        match server.post(&format!(r#"{{"topic":"{CHANNEL}","data":"{data}"}}"#)).status {
                            202 => accepted.push(data),
                            503 => {}
                            other => panic!("{other}"),
                        }
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // While they post.
            wait_until("half is posted", || taken.load(Ordering::Relaxed) >= EACH);
            kill_all_but(&redis, own_id);
        });
    }
    nodes.iter().for_each(|node| _ = node.wait_for_metric(UP, |up| up == 1.0));
    redis.command::<i64>(&["PUBLISH", CHANNEL, "the end"]);

    let old: HashSet<_> = old.by_ref().take_while(|data| data != "the end").collect();
    let refused = 2 * ROUNDS * EACH - accepted.iter().map(Vec::len).sum::<usize>();
    assert!(refused > 0 && accepted.iter().all(|accepted| accepted.len() > EACH), "{refused} refused");
    for (subscriber, accepted) in subscribers.iter_mut().zip(&accepted) {
        let missed: Vec<_> = accepted.iter().filter(|data| !old.contains(*data)).collect();
        assert!(missed.is_empty(), "accepted, but not received by the old servers: {missed:?}");
        let events = std::iter::from_fn(|| Some(subscriber.event()));
        let events = events.take_while(|block| block.data().as_deref() != Some("the end"));
        let heard = events.filter(|block| block.event_type() != Some("gap")).map(|block| block.data().unwrap());
        let heard: Vec<_> = heard.collect();
        let once: HashSet<_> = heard.iter().collect();
        assert_eq!(once.len(), heard.len(), "some came twice: {heard:?}");
        let missed: Vec<_> = accepted.iter().filter(|data| !once.contains(data)).collect();
        assert!(missed.is_empty(), "accepted here, but not received by this node's subscribers: {missed:?}");
    }
}

/// A subscriber that is not Fanfare: its client id, and what it receives.
fn subscribe(redis: &RedisServer) -> (i64, impl Iterator<Item = String>) {
    let mut connection = redis.connect();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    let id = redis::cmd("CLIENT").arg("ID").query(&mut connection).unwrap();
    // Not through the crate's PubSub, which ends the subscription when it is dropped.
    redis::cmd("SUBSCRIBE").arg(CHANNEL).exec(&mut connection).unwrap();
    let heard = std::iter::from_fn(move || {
        loop {
            let reply = connection.recv_response().unwrap();
            if let Some(message) = redis::Msg::from_owned_value(reply) {
                return Some(message.get_payload().unwrap());
            }
        }
    });
    (id, heard)
}

/// Kills every subscription but this client's.
fn kill_all_but(redis: &RedisServer, spared: i64) {
    let list: String = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    let ids = list.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next());
    for id in ids.filter(|id| *id != spared.to_string()) {
        redis.command::<i64>(&["CLIENT", "KILL", "ID", id]);
    }
}

#[test]
fn a_redis_that_restarts_costs_one_gap_and_no_doubles() {
    let mut redis = RedisServer::start();
    let node = start_on(&redis, &[]);
    let mut subscriber = Subscriber::open(&node, "/dashboard/stream");
    node.publish(CHANNEL, "before");
    redis.kill();
    node.wait_for_metric(UP, |up| up == 0.0);
    assert_eq!(node.post(r#"{"topic":"dashboard_updates","data":"refused"}"#).status, 503);
    redis.restart();
    node.wait_for_metric(UP, |up| up == 1.0);
    let old = RedisCli::subscribe(&redis);
    eventually("posting works again", || {
        (node.post(r#"{"topic":"dashboard_updates","data":"after"}"#).status == 202).then_some(())
    });
    redis.command::<i64>(&["PUBLISH", CHANNEL, "the end"]);
    assert_eq!(old.payloads_through("the end"), ["after", "the end"]);
    subscriber.expect(&["before"]);
    assert_eq!(subscriber.event().gap()["reason"], "source_lost");
    subscriber.expect(&["after", "the end"]);
}

/// Both or neither: a copy that Redis refuses keeps the event off the bus too.
#[test]
fn a_copy_that_redis_forbids_refuses_the_publish_with_the_reason() {
    let redis = RedisServer::start();
    let user = ["ACL", "SETUSER", "fanfare", "on", "nopass", "+@all", "~*"];
    redis.command::<()>(&[&user[..], &["resetchannels", "&fanfare:bus", "&dashboard_updates"]].concat());
    let url = redis.url("redis", "fanfare:x@");
    let options = ["--redis-url", &url, "--redis-publish", "forbidden"];
    let node = Server::start(&options);
    node.wait_for_metric(UP, |up| up == 1.0);
    let mut subscriber = Subscriber::open(&node, "/events?topic=forbidden&topic=free");
    let refused = node.post(r#"{"topic":"forbidden","data":"x"}"#);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
    node.wait_for_log(&["publishing failed on the connection to the Redis bus", "permission"]);
    node.publish("free", "y");
    subscriber.expect(&["y"]);
    assert_eq!(node.metric(COPIED), 0.0);
}
