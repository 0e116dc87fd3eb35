//! Notifications of a bus in PostgreSQL: they wake who waits for an entry, and nothing depends on them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fanfare::event::timeline::Position;
use fanfare::event::{Event, Topic};
use fanfare::protocol::publish::PublishLimits;
use fanfare::sources::bus::postgres::{PostgresAddress, PostgresBus, PostgresSettings};
use fanfare::sources::bus::{Content, Engine};

use support::postgres::{PostgresServer, node, publishing};
use support::redis::{RedisServer, install_bus};
use support::server::Server;
use support::stream::Subscriber;
use support::wait::{eventually, wait_until};

mod support;

fn with_notifications(settings: &[&str]) -> PostgresServer {
    let postgres = PostgresServer::with_bus(settings);
    set_notify(&postgres, "on");
    postgres
}

fn set_notify(postgres: &PostgresServer, value: &str) {
    let (status, output) = postgres.bus(&["install", "--notify", value]);
    assert_eq!(status, Some(0), "{output}");
}

/// Reads the next event, for which it waits far longer than a test may last.
struct Waiting(JoinHandle<Vec<String>>);

impl Waiting {
    fn start(postgres: &PostgresServer) -> Waiting {
        let mut engine = PostgresBus::new(PostgresSettings {
            address: PostgresAddress::new(&postgres.url(), None, None).unwrap(),
            bounds: Arc::default(),
            entries_max: 1000,
            id_memory: Duration::from_secs(60),
            limits: PublishLimits { topic_bytes_max: 100, data_bytes_max: 1000, batch_max: 1 },
        });
        let first = Content::Event(Event::message(Topic::new("a").unwrap(), "0"));
        let last = engine.append(&[first]).unwrap()[0].position;
        Waiting(std::thread::spawn(move || read(&mut engine, last)))
    }

    fn received(self) -> Vec<String> {
        wait_until("the read returns", || self.0.is_finished());
        self.0.join().unwrap()
    }
}

fn read(engine: &mut PostgresBus, after: Position) -> Vec<String> {
    let page = engine.read_after(after, 64, Duration::from_secs(24 * 3600)).unwrap();
    let data = |content: Content| if let Content::Event(event) = content { event.data } else { "no event".to_owned() };
    page.entries.into_iter().map(|entry| data(entry.content)).collect()
}

/// The process that has read and waits, other than this one.
fn waiting_process(postgres: &PostgresServer, other_than: &str) -> String {
    let sql = "SELECT pid FROM pg_stat_activity
        WHERE application_name = 'fanfare' AND state = 'idle' AND query LIKE 'SELECT * FROM fanfare.read%'";
    eventually("a connection waits", || Some(postgres.sql(sql)).filter(|pid| !pid.is_empty() && pid != other_than))
}

/// Checks that it asks for nothing while many other sessions do.
fn check_quiet(postgres: &PostgresServer, process: &str) {
    let asked_at = || postgres.sql(&format!("SELECT query_start FROM pg_stat_activity WHERE pid = {process}"));
    let first = asked_at();
    for _ in 0..50 {
        assert_eq!(asked_at(), first);
    }
}

#[test]
fn a_notification_wakes_a_reader_that_does_not_ask() {
    let postgres = with_notifications(&[]);
    let waiting = Waiting::start(&postgres);
    check_quiet(&postgres, &waiting_process(&postgres, ""));
    let mut session = postgres.session();
    session.run("BEGIN");
    session.run(&publishing("rolled back"));
    session.run("ROLLBACK");
    postgres.sql(&publishing("1"));
    assert_eq!(waiting.received(), ["1"]);
}

#[test]
fn a_connection_that_listens_is_replaced_when_it_ends() {
    let postgres = with_notifications(&[]);
    let waiting = Waiting::start(&postgres);
    let first = waiting_process(&postgres, "");
    postgres.sql(&format!("SELECT pg_terminate_backend({first}, 60000)"));
    check_quiet(&postgres, &waiting_process(&postgres, &first));
    postgres.sql(&publishing("1"));
    assert_eq!(waiting.received(), ["1"]);
}

/// As when a notification is lost.
#[test]
fn nodes_find_what_no_notification_announces_and_what_is_published_after_a_change() {
    let postgres = with_notifications(&[]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    postgres.sql(&publishing("1"));
    subscriber.expect(&["1"]);
    postgres.sql(
        "INSERT INTO fanfare.entries (epoch, entry_offset, kind, topic, data)
         SELECT epoch, fanfare.last_offset(epoch) + 1, 'event', 'a', '2' FROM fanfare.state",
    );
    subscriber.expect(&["2"]);
    set_notify(&postgres, "off");
    postgres.sql(&publishing("3"));
    subscriber.expect(&["3"]);
    set_notify(&postgres, "on");
    postgres.sql(&publishing("4"));
    subscriber.expect(&["4"]);
    assert!(postgres.bus(&["check"]).1.contains("ok      notify       on"));
    // An installation leaves it as it is, and a fork is announced, too.
    assert_eq!(postgres.bus(&["install"]).0, Some(0));
    assert_eq!(postgres.sql("SELECT fanfare.notifies()"), "t");
    postgres.sql("SELECT fanfare.fork()");
    assert_eq!(subscriber.event().gap()["reason"], "bus_forked");
}

#[test]
fn a_feed_listens_too() {
    let (redis, postgres) = (RedisServer::start(), with_notifications(&[]));
    install_bus(&redis);
    let options = ["--redis-url", &redis.url("redis", ""), "--bus", "redis-stream", "--postgres-url", &postgres.url()];
    let server = Server::start(&[&options[..], &["--dev"]].concat());
    server.wait_for_metric("fanfare_source_leads{source=\"postgres\"}", |leads| leads == 1.0);
    wait_until("the node is ready", || server.get("/health/ready").status == 200);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    postgres.sql(&publishing("1"));
    let event = eventually("the event", || Some(subscriber.event()).filter(|event| event.event_type() != Some("gap")));
    assert_eq!(event.data().as_deref(), Some("1"));
}

#[test]
fn notifications_exclude_prepared_transactions_which_the_tools_say() {
    let postgres = with_notifications(&["max_prepared_transactions=2"]);
    let prepare =
        |name: &str| postgres.try_sql(&format!("BEGIN; {}; PREPARE TRANSACTION '{name}'", publishing("1"))).map(drop);
    assert!(prepare("a").unwrap_err().contains("cannot PREPARE a transaction that has executed"));
    let (_, output) = postgres.bus(&["check"]);
    assert!(output.contains("note    notify") && output.contains("--notify off"), "{output}");
    set_notify(&postgres, "off");
    prepare("b").unwrap();
    postgres.sql("COMMIT PREPARED 'b'");
    let (status, output) = postgres.bus(&["install", "--notify", "maybe"]);
    assert!(status == Some(2) && output.contains("allowed is on or off"), "{output}");
    let mut fanfare = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare"));
    let output =
        fanfare.args(["bus", "install", "--redis-url", "redis://127.0.0.1:1", "--notify", "on"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
