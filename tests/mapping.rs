//! The tables of the configuration file, with the real binary and a real redis-server: channels become topics, and topics
//! have limits and paces of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use support::redis::RedisServer;
use support::server::Server;
use support::stream::Subscriber;
use support::wait::{DEADLINE, wait_until};

mod support;

/// A server with a configuration file that the tests change.
struct Stage {
    folder: TempDir,
    server: Server,
}

impl Stage {
    #[track_caller]
    fn start(config: &str, options: &[&str]) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fanfare.toml");
        std::fs::write(&path, config).unwrap();
        let server = Server::start(&[&["--config", path.to_str().unwrap()], options].concat());
        Stage { folder, server }
    }

    /// A server that is subscribed to Redis.
    #[track_caller]
    fn start_on(redis: &RedisServer, config: &str, options: &[&str]) -> Stage {
        let url = redis.url("redis", "");
        let stage = Stage::start(config, &[&["--redis-url", &url], options].concat());
        stage.server.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 1.0);
        stage
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("fanfare.toml")
    }

    /// Reloads with another file, and waits until the log has these words.
    #[track_caller]
    fn reload(&self, config: &str, words: &[&str]) {
        std::fs::write(self.path(), config).unwrap();
        self.server.signal("HUP");
        self.server.wait_for_log(words);
    }

    #[track_caller]
    fn open(&self, query: &str) -> Subscriber {
        Subscriber::open(&self.server, &format!("/events?{query}"))
    }

    /// What a topic remembers, followed by one more event that is published now.
    #[track_caller]
    fn remembered(&self, topic: &str) -> Vec<String> {
        let mut replayed = self.open(&format!("topic={topic}&replay=all"));
        self.server.publish(topic, "end");
        let mut data = Vec::new();
        loop {
            match replayed.event().data().unwrap() {
                end if end == "end" => return data,
                other => data.push(other),
            }
        }
    }

    fn source_refused(&self, reason: &str) -> f64 {
        self.server.metric(&format!("fanfare_source_refused_total{{source=\"redis\",reason=\"{reason}\"}}"))
    }
}

fn publish(redis: &RedisServer, channel: &str, payload: impl redis::ToRedisArgs) {
    redis::cmd("PUBLISH").arg(channel).arg(payload).query::<i64>(&mut redis.connect()).unwrap();
}

const CHANNELS: &str = r#"
redis-pattern = ["*:*"]

[[channels]]
pattern = "rails:special"
topic = "special"

[[channels]]
pattern = "rails:*"
topic = "app.{1}"
payload = "envelope"

[[channels]]
pattern = "go/*/*"
topic = "{2}.of.{1}"

[[channels]]
pattern = "as-it-is"
payload = "envelope"

[[channels]]
pattern = "any|*"
topic = "{1}"
"#;

#[test]
fn channels_become_topics_and_typed_events_keep_their_fields() {
    let redis = RedisServer::start();
    let stage = Stage::start_on(&redis, CHANNELS, &[]);
    let topics = ["special", "app.orders", "b.of.a", "as-it-is", "node:x", "dashboard_updates"];
    let query: Vec<_> = topics.iter().map(|topic| format!("topic={topic}")).collect();
    let mut subscriber = stage.open(&query.join("&"));

    publish(&redis, "rails:orders", r#"{"id":"o-1","event":"created","retry":1500,"data":{"n":1.0}}"#);
    let created = subscriber.event();
    assert!(created.id().unwrap().ends_with("~o-1"), "{created:?}");
    assert_eq!((created.event_type(), created.retry_ms()), (Some("created"), Some(1500)));
    assert_eq!(created.data().as_deref(), Some(r#"{"n":1.0}"#));
    publish(&redis, "rails:orders", r#"[{"topic":"app.orders","data":"2"},{"topic":"app.orders","data":"3"}]"#);
    subscriber.expect(&["2", "3"]);
    // The first table that matches decides, whichever subscription brings the message.
    publish(&redis, "rails:special", r#"{"data":"raw"}"#);
    subscriber.expect(&[r#"{"data":"raw"}"#]);
    publish(&redis, "go/a/b", "two\nlines");
    subscriber.expect(&["two\nlines"]);
    publish(&redis, "as-it-is", r#"{"event":"tick","data":""}"#);
    assert_eq!(subscriber.event().event_type(), Some("tick"));
    publish(&redis, "node:x", "of the option");
    publish(&redis, "dashboard_updates", "of the default");
    subscriber.expect(&["of the option", "of the default"]);
    // Of rails:orders twice (also through *:*), and of rails:special two more.
    wait_until("other deliveries are counted", || stage.source_refused("overlapping") == 2.0 + 2.0);
}

#[test]
fn what_has_no_valid_topic_or_not_the_format_of_its_channel_is_refused_with_a_gap_where_there_is_a_topic() {
    let redis = RedisServer::start();
    let stage = Stage::start_on(&redis, CHANNELS, &[]);
    let mut subscriber = stage.open("topic=app.orders&topic=b.of.a");
    let mut check_gap = |topic: &str| {
        let gap = subscriber.event().gap();
        assert_eq!((&gap["reason"], &gap["topics"]), (&json!("event_refused"), &json!([topic])), "{gap}");
    };
    publish(&redis, "rails:orders", "no envelope");
    check_gap("app.orders");
    // An envelope names the topic, if any, and not the channel.
    publish(&redis, "rails:orders", r#"{"topic":"rails:orders","data":1}"#);
    check_gap("app.orders");
    publish(&redis, "go/a/b", b"\xff");
    check_gap("b.of.a");
    let gaps = stage.server.metric("fanfare_gaps_total{reason=\"event_refused\"}");
    publish(&redis, "any|fanfare:statistics", "forged");
    stage.server.wait_for_log(&[
        "a message from Redis was refused",
        "any|fanfare:statistics",
        "the topic's name is reserved",
    ]);
    publish(&redis, "any|", "nameless");
    publish(&redis, &format!("any|{}", "x".repeat(257)), "too long");
    wait_until("all are counted", || stage.source_refused("malformed") == 2.0 + 3.0);
    assert_eq!(stage.source_refused("not_utf8"), 1.0);
    assert_eq!(stage.server.metric("fanfare_gaps_total{reason=\"event_refused\"}"), gaps, "no topic misses anything");
    publish(&redis, "any|b.of.a", "valid");
    subscriber.expect(&["valid"]);
}

#[test]
fn a_copy_has_the_format_of_its_channel_and_is_delivered_once() {
    let redis = RedisServer::start();
    let config = "redis-publish = \"orders\"\n[[channels]]\npattern = \"orders\"\npayload = \"envelope\"";
    let stage = Stage::start_on(&redis, config, &[]);
    let mut old_server = redis.connect();
    let mut old_server = old_server.as_pubsub();
    old_server.set_read_timeout(Some(DEADLINE)).unwrap();
    old_server.subscribe("orders").unwrap();
    let mut subscriber = stage.open("topic=orders");
    let answer = stage.server.post(r#"{"topic":"orders","event":"created","data":"1"}"#);
    assert_eq!(answer.status, 202, "{answer}");
    let copy: serde_json::Value =
        serde_json::from_slice(old_server.get_message().unwrap().get_payload_bytes()).unwrap();
    assert_eq!((&copy["event"], &copy["data"]), (&json!("created"), &json!("1")), "{copy}");
    publish(&redis, "orders", r#"{"data":"2"}"#);
    subscriber.expect(&["1", "2"]);
    assert_eq!(stage.source_refused("own_copy"), 1.0);
}

const TOPICS: &str = r#"
history-events = 4

[[topics]]
pattern = "prices.long"
history-events = 6

[[topics]]
pattern = "prices.*"
history-events = 2
"#;

#[test]
fn a_topic_remembers_what_its_table_says_and_others_what_the_options_say() {
    let stage = Stage::start(TOPICS, &[]);
    for (topic, expected) in [("prices.a", 2), ("prices.long", 6), ("other", 4)] {
        let all: Vec<_> = (0..9).map(|n| n.to_string()).collect();
        all.iter().for_each(|data| _ = stage.server.publish(topic, data));
        // The event that ends the replay comes live.
        assert_eq!(stage.remembered(topic), all[9 - expected..], "{topic}");
    }
}

#[test]
fn a_client_that_missed_more_than_its_topic_remembers_gets_a_gap() {
    let stage = Stage::start(TOPICS, &[]);
    let id = stage.server.publish("prices.a", "0");
    ["1", "2", "3"].iter().for_each(|data| _ = stage.server.publish("prices.a", data));
    let mut resumed = Subscriber::resume(&stage.server, "/events?topic=prices.a", &id);
    assert_eq!(resumed.event().gap()["reason"], "evicted");
    resumed.expect(&["2", "3"]);
}

const PACES: &str = r#"
drain = "0s"

[[topics]]
pattern = "slow.newest"
interval-floor = "1h"
latest = true

[[topics]]
pattern = "slow.*"
interval-floor = "1h"

[[topics]]
pattern = "newest.*"
latest = true
"#;

#[test]
fn a_topic_is_paced_for_subscribers_that_did_not_ask_for_it() {
    let stage = Stage::start(PACES, &[]);
    let mut paced = stage.open("topic=slow.a");
    let mut asked_for_more = stage.open("topic=slow.a&interval_ms=1");
    let mut mixed = stage.open("topic=usual&topic=slow.a");
    let mut newest = stage.open("topic=slow.newest&latest=0");
    let mut usual = stage.open("topic=usual");
    let topics = ["slow.a", "slow.newest", "usual"];
    let publish_all =
        |text: &str| topics.iter().for_each(|topic| _ = stage.server.publish(topic, &format!("{text} {topic}")));
    publish_all("first");
    let mut all = [&mut paced, &mut asked_for_more, &mut mixed];
    all.iter_mut().for_each(|subscriber| subscriber.expect(&["first slow.a"]));
    newest.expect(&["first slow.newest"]);
    usual.expect(&["first usual"]);
    publish_all("second");
    publish_all("third");
    usual.expect(&["second usual", "third usual"]);
    // The walks of the others were before: their events wait for an hour.
    let delivered = 3.0 + 1.0 + 3.0;
    assert_eq!(stage.server.metric("fanfare_delivered_events_total"), delivered);
    // A stream that ends sends what still waits.
    stage.server.signal("TERM");
    paced.expect(&["second slow.a", "third slow.a"]);
    asked_for_more.expect(&["second slow.a", "third slow.a"]);
    mixed.expect(&["first usual", "second slow.a", "second usual", "third slow.a", "third usual"]);
    newest.expect(&["third slow.newest"]);
}

#[test]
fn a_stream_is_conflated_if_each_of_its_topics_is() {
    let stage = Stage::start(PACES, &[]);
    let mut newest = stage.open("topic=newest.a&topic=newest.b");
    let mut mixed = stage.open("topic=newest.a&topic=usual");
    let events =
        [("newest.a", "1"), ("newest.b", "2"), ("usual", "3"), ("newest.a", "4"), ("newest.b", "5"), ("usual", "6")];
    let batch = |from: &str| {
        let event = |(topic, data): &(&str, &str)| json!({ "topic": topic, "data": format!("{from}{data}") });
        let events: Vec<_> = events.iter().map(event).collect();
        let answer = stage.server.post(&json!(events).to_string());
        assert_eq!(answer.status, 202, "{answer}");
    };
    batch("");
    newest.expect(&["4", "5"]);
    mixed.expect(&["1", "3", "4", "6"]);
    batch("1");
    newest.expect(&["14", "15"]);
    // A client that returns gets the newest events too, without a gap.
    let id = stage.server.publish("newest.a", "20");
    newest.expect(&["20"]);
    drop(newest);
    batch("3");
    let mut resumed = Subscriber::resume(&stage.server, "/events?topic=newest.a&topic=newest.b", &id);
    resumed.expect(&["34", "35"]);
}

#[test]
fn a_reload_changes_topics_that_exist_and_streams_that_begin_later() {
    let redis = RedisServer::start();
    let before = "[[channels]]\npattern = \"c\"\ntopic = \"first\"\n[[topics]]\npattern = \"t\"\nlatest = true";
    let stage = Stage::start_on(&redis, before, &[]);
    let mut earlier = stage.open("topic=t");
    let batch = |data: &[u32]| {
        let events: Vec<_> = data.iter().map(|data| json!({ "topic": "t", "data": data })).collect();
        assert_eq!(stage.server.post(&json!(events).to_string()).status, 202);
    };
    batch(&[1, 2, 3, 4]);
    earlier.expect(&["4"]);
    assert_eq!(stage.server.metric("fanfare_retained_events"), 4.0);

    let wrong = "[[topics]]\npattern = \"t\"\nhistory-events = 0";
    stage.reload(wrong, &["not reloaded", "history-events = 0 in [[topics]] 1 of", "from 1 to"]);
    let after = "[[channels]]\npattern = \"c\"\ntopic = \"second\"\n[[topics]]\npattern = \"t\"\nhistory-events = 2";
    stage.reload(after, &["WARN", "the new content of [[channels]] takes effect with a restart"]);
    stage.server.wait_for_metric("fanfare_retained_events", |retained| retained == 2.0);
    let mut later = stage.open("topic=t");
    batch(&[5, 6]);
    later.expect(&["5", "6"]);
    earlier.expect(&["6"]);
    let mut first = stage.open("topic=first");
    publish(&redis, "c", "still");
    first.expect(&["still"]);
}

#[test]
fn tables_of_topics_apply_to_events_of_a_durable_bus_too() {
    let redis = RedisServer::start();
    let url = redis.url("redis", "");
    let install = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["bus", "install", "--redis-url", &url]).output();
    assert!(install.unwrap().status.success());
    let stage = Stage::start(TOPICS, &["--redis-url", &url, "--bus", "redis-stream"]);
    wait_until("the node is ready", || stage.server.get("/health/ready").status == 200);
    ["0", "1", "2", "3"].iter().for_each(|data| _ = stage.server.publish("prices.a", data));
    // An answer says that Redis has the event; this node reads it a moment later.
    let evicted = "fanfare_evicted_events_total{reason=\"history_events\"}";
    stage.server.wait_for_metric(evicted, |evicted| evicted == 2.0);
    assert_eq!(stage.remembered("prices.a"), ["2", "3"]);
}

#[test]
fn the_printed_configuration_shows_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanfare.toml");
    std::fs::write(&path, format!("{CHANNELS}{PACES}").replace("drain = \"0s\"", "")).unwrap();
    let arguments = ["serve", "--print-config", "--redis-url", "redis://h", "--config", path.to_str().unwrap()];
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(arguments).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "\n[[channels]] # [[channels]] 2 of {}\npattern = \"rails:*\"\ntopic = \"app.{{1}}\"\n",
        path.display()
    );
    assert!(printed.contains(&expected), "{printed}");
    assert!(printed.ends_with("\npattern = \"newest.*\"\nlatest = true\n"), "{printed}");
}

#[test]
fn the_examples_in_the_documentation_are_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanfare.toml");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut examples = 0;
    for page in ["operating.md", "migrating.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        for example in text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            examples += 1;
            std::fs::write(&path, example).unwrap();
            let arguments = ["serve", "--print-config", "--redis-url", "redis://h", "--config", path.to_str().unwrap()];
            let output = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(arguments).output().unwrap();
            assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(examples >= 4, "{examples}");
}
