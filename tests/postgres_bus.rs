//! A durable bus in a real PostgreSQL: nodes that restart, transactions of applications, and a database that crashes, or
//! comes back from a dump.

use std::collections::HashSet;

use serde_json::{Value, json};

use support::certificates;
use support::postgres::{PostgresServer, checked};
use support::process;
use support::server::Server;
use support::stream::Subscriber;
use support::wait::wait_until;

mod support;

/// A node on the bus, once it may be used.
fn node(postgres: &PostgresServer, options: &[&str]) -> Server {
    let server = starting_node(&postgres.url(), options);
    wait_until("the node is ready", || is_ready(&server));
    server
}

fn starting_node(url: &str, options: &[&str]) -> Server {
    Server::start(&[&["--postgres-url", url, "--bus", "postgres", "--dev"], options].concat())
}

fn is_ready(server: &Server) -> bool {
    server.get("/health/ready").status == 200
}

/// Publishes, and returns the answer.
fn publish(server: &Server, body: &Value) -> Value {
    let answer = server.post(&body.to_string());
    assert_eq!(answer.status, 202, "{answer}");
    serde_json::from_slice(&answer.body).unwrap()
}

/// The position in an id: epoch and offset.
fn position(id: &str) -> (u64, u64) {
    let (epoch, offset) = id.split('~').next().unwrap().split_once('-').unwrap();
    (epoch.parse().unwrap(), offset.parse().unwrap())
}

/// The SQL that publishes this as an event of the topic `a`.
fn publishing(data: &str) -> String {
    format!("SELECT fanfare.fanfare_publish('a', '{data}')")
}

/// Publishes 0 to 199; returns the ids.
fn publish_many(postgres: &PostgresServer) -> Vec<String> {
    let mut session = postgres.session();
    (0..200).map(|n| session.run(&publishing(&n.to_string()))).collect()
}

#[test]
fn all_nodes_deliver_what_is_posted_and_what_transactions_publish_under_the_same_ids() {
    let postgres = PostgresServer::with_bus(&[]);
    let nodes = [node(&postgres, &[]), node(&postgres, &[])];
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a&topic=b"));
    let first =
        publish(&nodes[0], &json!({"topic": "a", "data": "1\u{0}", "id": "own~1", "event": "kind", "retry": 7}));
    let second = publish(&nodes[1], &json!([{"topic": "b", "data": "2\n3"}, {"topic": "c", "data": "4"}]));
    let third = postgres.sql("SELECT fanfare.fanfare_publish('b', '5', event => 'kind', id => 'own', retry => 9)");
    let both = postgres
        .sql(r#"SELECT fanfare.fanfare_publish('[{"topic": "a", "data": "6"}, {"topic": "b", "data": {"x": 7}}]')"#);
    let ids = [first["id"].as_str().unwrap(), second["ids"][0].as_str().unwrap(), &third];
    assert!(ids[0].ends_with("-1~own~1") && ids[2].ends_with("-4~own"), "{ids:?}");
    assert_eq!(both.lines().map(|id| position(id).1).collect::<Vec<_>>(), [5, 6]);
    for subscriber in &mut subscribers {
        for (id, data, retry_ms) in [(ids[0], "1\u{0}", Some(7)), (ids[1], "2\n3", None), (ids[2], "5", Some(9))] {
            let event = subscriber.event();
            assert_eq!((event.id(), event.data().as_deref(), event.retry_ms()), (Some(id), Some(data), retry_ms));
        }
        subscriber.expect(&["6", r#"{"x": 7}"#]);
    }
}

#[test]
fn a_transaction_delivers_with_its_commit_and_leaves_nothing_when_it_is_rolled_back() {
    let postgres = PostgresServer::with_bus(&[]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let mut session = postgres.session();
    session.run("BEGIN");
    session.run(&publishing("never"));
    session.run("ROLLBACK");
    session.run("SET synchronous_commit = off; BEGIN");
    let id = session.run(&publishing("1"));
    assert_eq!(session.run("SHOW synchronous_commit"), "on", "subscribers must not see what a crash takes back");
    assert_eq!(position(&id).1, 1, "the rollback left no hole");
    session.run("SAVEPOINT s");
    session.run(&publishing("not this one"));
    session.run("ROLLBACK TO s");
    session.run(&publishing("2"));
    session.run("COMMIT");
    publish(&server, &json!({"topic": "a", "data": "3"}));
    subscriber.expect(&["1", "2", "3"]);
    assert_eq!(session.run("SHOW synchronous_commit"), "off");
    // A snapshot from before another publisher's commit.
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    postgres.sql(&publishing("4"));
    session.run("\\set ON_ERROR_STOP off");
    session.run(&publishing("never"));
    assert_eq!(session.run("\\echo :SQLSTATE"), "40001");
    session.run("ROLLBACK");
    subscriber.expect(&["4"]);
}

#[test]
fn the_order_is_that_of_the_commits_and_every_committed_event_is_delivered_once() {
    const WRITERS: usize = 60;
    const EACH: usize = 10;
    let postgres = PostgresServer::with_bus(&["max_connections=120", "track_commit_timestamp=on"]);
    let nodes = [node(&postgres, &[]), node(&postgres, &[])];
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let statements = (0..EACH).map(|n| {
                let end = if (writer + n) % 4 == 0 { "ROLLBACK" } else { "COMMIT" };
                format!(
                    "BEGIN; SELECT pg_sleep(random() * 0.02); {}; SELECT pg_sleep(random() * 0.004); {end};\n",
                    publishing(&format!("{writer}.{n} {end}"))
                )
            });
            let mut session = postgres.session();
            session.start(&statements.collect::<String>());
            session
        })
        .collect();
    let committed = WRITERS * EACH * 3 / 4;
    let received = subscribers.each_mut().map(|subscriber| {
        let events: Vec<_> = (0..committed).map(|_| subscriber.event()).collect();
        let offsets: Vec<_> = events.iter().map(|event| position(event.id().unwrap()).1).collect();
        assert_eq!(offsets, (1..=committed as u64).collect::<Vec<_>>());
        events.iter().map(|event| event.data().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(received[0], received[1]);
    assert!(received[0].iter().all(|data| data.ends_with("COMMIT")));
    assert_eq!(received[0].iter().collect::<HashSet<_>>().len(), committed);
    let later_first = "SELECT count(*) FROM (SELECT pg_xact_commit_timestamp(xmin) AS at,
        lag(pg_xact_commit_timestamp(xmin)) OVER (ORDER BY epoch, entry_offset) AS before FROM fanfare.entries) pairs
        WHERE at < before";
    assert_eq!(postgres.sql(later_first), "0");
    drop(writers);
}

#[test]
fn an_event_that_is_published_again_is_a_duplicate_until_its_id_is_forgotten() {
    let postgres = PostgresServer::with_bus(&[]);
    let nodes = [(); 2].map(|()| node(&postgres, &["--bus-id-memory", "1m"]));
    let mut subscriber = Subscriber::open(&nodes[0], "/events?topic=a&topic=b");
    let first = publish(&nodes[0], &json!({"topic": "a", "data": "1", "id": "x"}));
    let again = publish(&nodes[1], &json!({"topic": "a", "data": "1", "id": "x"}));
    assert_eq!(again, json!({"id": first["id"], "duplicate": true}));
    assert_eq!(postgres.sql("SELECT fanfare.fanfare_publish('a', '1', id => 'x')"), first["id"].as_str().unwrap());
    publish(&nodes[1], &json!({"topic": "b", "data": "2", "id": "x"}));
    // Ten seconds before its memory ends, and then ten seconds after.
    for (age, data) in [("50 seconds", "3"), ("70 seconds", "4")] {
        postgres.sql(&format!("UPDATE fanfare.ids SET published_at = published_at - interval '{age}'"));
        postgres.sql(&format!("SELECT fanfare.fanfare_publish('a', '{data}', id => 'x')"));
    }
    subscriber.expect(&["1", "2", "4"]);
    postgres.sql("UPDATE fanfare.ids SET published_at = published_at - interval '1 hour'");
    wait_until("the ids are deleted", || postgres.sql("SELECT count(*) FROM fanfare.ids") == "0");
}

#[test]
fn a_restart_of_a_node_is_no_gap_and_older_events_are_fetched() {
    let postgres = PostgresServer::with_bus(&[]);
    let stays = node(&postgres, &["--history-events", "3"]);
    let restarts = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&restarts, "/events?topic=a");
    let ids = publish_many(&postgres);
    let numbers = |from: usize, to: usize| (from..to).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(subscriber.data(200), numbers(0, 200));
    restarts.kill();
    postgres.sql(&publishing("200"));
    let restarted = node(&postgres, &["--history-events", "3"]);
    for server in [&restarted, &stays] {
        for last in [0, 62, 63, 64, 150, 199] {
            let mut resumed = Subscriber::resume(server, "/events?topic=a", &ids[last]);
            assert_eq!(resumed.data(200 - last), numbers(last + 1, 201), "after {last}");
        }
    }
    assert!(stays.metric("fanfare_bus_pages_fetched_total") > 0.0);
    let page = |from: &str| {
        let columns = "SELECT count(*), min(entry_offset), max(entry_offset) FROM fanfare.read";
        postgres.sql(&format!("{columns}({from}, 64)"))
    };
    assert_eq!(page("true, 0, 0"), "64|0|63");
    assert_eq!(page(&format!("false, {}, 101", position(&ids[0]).0)), "64|37|100");
}

#[test]
fn a_crash_of_postgresql_loses_nothing_that_was_acknowledged_and_is_no_gap() {
    let mut postgres = PostgresServer::with_bus(&[]);
    let nodes = [node(&postgres, &[]), node(&postgres, &[])];
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            let data = format!("{round}.{n}");
            publish(&nodes[n % 2], &json!({"topic": "a", "data": data, "id": data}));
            acknowledged.push(data);
        }
        // This one is not committed.
        let mut session = postgres.session();
        session.run("BEGIN");
        session.run(&publishing("never"));
        postgres.restart();
        wait_until("both nodes are ready again", || nodes.iter().all(is_ready));
    }
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.data(acknowledged.len()), acknowledged);
    }
    assert_eq!(nodes[0].metric("fanfare_bus_forks_total"), 0.0);
}

/// All nodes put the gap at one place, also for clients that return.
fn check_fork(nodes: &[Server; 2], break_bus: impl FnOnce()) {
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    publish(&nodes[0], &json!({"topic": "a", "data": "before"}));
    let last = subscribers.each_mut().map(|subscriber| subscriber.event().id().unwrap().to_owned());
    break_bus();
    // No publisher comes: a reader finds it.
    let gaps = subscribers.each_mut().map(|subscriber| {
        let gap = subscriber.event();
        assert_eq!(gap.gap()["reason"], "bus_forked");
        gap.id().unwrap().to_owned()
    });
    assert_eq!(gaps[0], gaps[1]);
    assert!(position(&gaps[0]) > position(&last[0]) && gaps[0].ends_with("-0"));
    wait_until("publishing works again", || {
        nodes[1].post(&json!({"topic": "a", "data": "after", "id": "once"}).to_string()).status == 202
    });
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["after"]));
    for server in nodes {
        let mut resumed = Subscriber::resume(server, "/events?topic=a", &last[0]);
        assert_eq!(resumed.event().gap()["reason"], "bus_forked");
        resumed.expect(&["after"]);
        Subscriber::resume(server, "/events?topic=a", &gaps[0]).expect(&["after"]);
    }
}

#[test]
fn a_dump_that_is_restored_is_a_gap_on_all_nodes() {
    let postgres = PostgresServer::start(&[]);
    postgres.sql("CREATE DATABASE bus");
    let url = postgres.url_of("postgres", "bus");
    let schema = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["bus", "install", "--print"]).output();
    checked(postgres.psql(&url).args(["-c", &checked(schema.unwrap())]).output().unwrap());
    let nodes = [(); 2].map(|()| starting_node(&url, &[]));
    wait_until("both nodes are ready", || nodes.iter().all(is_ready));
    check_fork(&nodes, || {
        let dump = checked(postgres.tool("pg_dump").arg("bus").output().unwrap());
        postgres.sql("ALTER DATABASE bus ALLOW_CONNECTIONS false");
        postgres.sql("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = 'bus'");
        postgres.sql("ALTER DATABASE bus RENAME TO old");
        postgres.sql("CREATE DATABASE bus");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), dump).unwrap();
        checked(postgres.psql(&url).arg("-f").arg(file.path()).output().unwrap());
    });
}

#[test]
fn a_standby_that_is_promoted_is_a_gap_on_all_nodes() {
    let mut primary = PostgresServer::with_bus(&[]);
    let standby = primary.start_standby();
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
    let url = format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write");
    let nodes = [(); 2].map(|()| starting_node(&url, &[]));
    wait_until("both nodes are ready", || nodes.iter().all(is_ready));
    let refused = standby.try_sql(&publishing("never")).unwrap_err();
    assert!(refused.contains("standby"), "{refused}");
    let (status, output) = standby.bus(&["check"]);
    assert!(status == Some(1) && output.contains("PROBLEM server"), "{output}");
    check_fork(&nodes, || {
        let newest = "SELECT epoch, last_offset FROM fanfare.state";
        wait_until("the standby has everything", || standby.sql(newest) == primary.sql(newest));
        primary.kill();
        standby.sql("SELECT pg_promote()");
    });
}

/// A backend that is stopped accepts bytes and answers nothing.
#[test]
fn a_postgresql_that_hangs_is_waited_for_only_so_long() {
    let postgres = PostgresServer::with_bus(&[]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    publish(&server, &json!({"topic": "a", "data": "1"}));
    let backends = postgres.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'fanfare'");
    let all = |signal| backends.lines().for_each(|pid| process::signal(pid.parse().unwrap(), signal));
    all("STOP");
    let refused = server.post(&json!({"topic": "a", "data": "2", "id": "2"}).to_string());
    assert_eq!(refused.status, 503, "{refused}");
    server.wait_for_log(&["publishing to the bus failed", "no answer in 5 s"]);
    all("CONT");
    wait_until("it is published", || {
        server.post(&json!({"topic": "a", "data": "2", "id": "2"}).to_string()).status == 202
    });
    subscriber.expect(&["1", "2"]);
}

#[test]
fn an_operator_may_fork_the_bus_and_no_publisher_may() {
    let postgres = PostgresServer::with_bus(&[]);
    let nodes = [node(&postgres, &[]), node(&postgres, &[])];
    check_fork(&nodes, || drop(postgres.sql("SELECT fanfare.fork()")));
}

#[test]
fn a_transaction_that_has_published_holds_the_bus_and_the_tools_name_it() {
    let postgres = PostgresServer::with_bus(&["max_prepared_transactions=2"]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let (_, output) = postgres.bus(&["status"]);
    assert!(!output.contains("held"), "{output}");
    let mut session = postgres.session();
    session.run("BEGIN");
    let process = session.run("SELECT pg_backend_pid()");
    // As an exception handler of PL/pgSQL does.
    session.run("SAVEPOINT s");
    session.run(&publishing("1"));
    let (_, output) = postgres.bus(&["status"]);
    assert!(output.contains(&format!("held by the transaction of process {process}, for ")), "{output}");
    assert!(output.contains("idle in transaction") && output.contains("psql"), "{output}");
    let refused = server.post(&json!({"topic": "a", "data": "2", "id": "2"}).to_string());
    assert_eq!(refused.status, 503, "{refused}");
    server.wait_for_log(&["publishing to the bus failed", "it holds the bus"]);
    assert!(is_ready(&server), "what is there can be read");
    session.run("PREPARE TRANSACTION 'forgotten'");
    drop(session);
    let (status, output) = postgres.bus(&["check"]);
    assert!(status == Some(1) && output.contains("PROBLEM hold"), "{output}");
    assert!(output.contains("prepared transaction \"forgotten\"") && output.contains("COMMIT PREPARED"), "{output}");
    postgres.sql("COMMIT PREPARED 'forgotten'");
    publish(&server, &json!({"topic": "a", "data": "2", "id": "2"}));
    subscriber.expect(&["1", "2"]);
}

#[test]
fn what_is_beyond_the_entries_that_are_kept_is_a_gap() {
    let postgres = PostgresServer::with_bus(&[]);
    let server = node(&postgres, &["--history-events", "3", "--bus-entries", "80"]);
    let ids = publish_many(&postgres);
    let kept = || postgres.sql("SELECT count(*), min(entry_offset), max(entry_offset) FROM fanfare.entries");
    wait_until("old entries are deleted", || kept() == "80|121|200");
    let (_, output) = postgres.bus(&["status"]);
    assert!(output.contains("entries   80") && output.contains("-121\n"), "{output}");
    for last in [5, 118, 119] {
        let mut subscriber = Subscriber::resume(&server, "/events?topic=a", &ids[last]);
        if last < 119 {
            let gap = subscriber.event();
            assert_eq!((gap.id(), &gap.gap()["reason"]), (Some(&*ids[119]), &json!("evicted")), "after {last}");
        }
        assert_eq!(subscriber.data(80), (120..200).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_larger_than_the_bounds_is_taken() {
    let postgres = PostgresServer::with_bus(&[]);
    let of_topics = |event_bytes| ["--topic-bytes", "20", "--event-bytes", event_bytes];
    let first = node(&postgres, &of_topics("2KiB"));
    let mut subscriber = Subscriber::open(&first, "/events?topic=a");
    let small = starting_node(&postgres.url(), &of_topics("1KiB"));
    small.wait_for_log(&["events of up to 2048 bytes", "raise topic-bytes or event-bytes"]);
    assert!(!is_ready(&small));
    let large = node(&postgres, &["--event-bytes", "4KiB"]);
    let post = |bytes: usize| large.post(&json!({"topic": "a", "data": "x".repeat(bytes)}).to_string()).status;
    assert_eq!([post(2048), post(2049)], [202, 413]);
    let call =
        |topic: &str, data: &str| postgres.try_sql(&format!("SELECT fanfare.fanfare_publish('{topic}', {data})"));
    assert!(call("a", "repeat('x', 2048)").is_ok());
    assert!(call("a", "repeat('x', 2049)").unwrap_err().contains("an event on this bus may have 2048 bytes"));
    // Each line but the first takes six bytes more when it is sent, and a pair is one line end.
    assert!(call("a", r"repeat(E'\n', 200) || repeat(E'\r\n', 50) || repeat('x', 248)").is_ok());
    assert!(call("a", r"repeat(E'\n', 200) || repeat(E'\r\n', 50) || repeat('x', 249)").is_err());
    assert!(call("a topic of 20 bytes.", "''").is_ok());
    assert!(call("a topic of 21 bytes..", "''").unwrap_err().contains("a topic on this bus may have 20 bytes"));
    for _ in 0..3 {
        assert!(subscriber.event().data().is_some());
    }
    let (status, output) = postgres.bus(&["install", "--event-bytes", "4KiB"]);
    assert_eq!(status, Some(0), "{output}");
    wait_until("the first node is not ready", || !is_ready(&first));
    wait_until("the large node publishes it", || post(4096) == 202);
    let (status, output) = postgres.bus(&["install", "--event-bytes", "1KiB"]);
    assert!(status == Some(1) && output.contains("can only be raised"), "{output}");
}

#[test]
fn what_no_node_could_deliver_is_refused_where_it_is_published() {
    let postgres = PostgresServer::with_bus(&[]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let call = |arguments: &str| postgres.try_sql(&format!("SELECT fanfare.fanfare_publish({arguments})"));
    let check = |arguments: &str, words: &str| {
        let refused = call(arguments).unwrap_err();
        assert!(refused.contains(words), "{arguments}: {refused}");
    };
    check("'', ''", "the topic must not be empty");
    check("NULL, ''", "the topic must not be empty");
    check(r"E'a\nb', ''", "the topic holds a control character");
    check(r"E'a\u0085b', ''", "the topic holds a control character");
    check("'fanfare:statistics', ''", "reserved");
    check("repeat('t', 257), ''", "a topic on this bus may have 256 bytes");
    check("'a', NULL", "the data must not be NULL");
    check("'a', '', 'gap'", "reserved");
    check("'a', '', ''", "the event type must not be empty");
    check("'a', '', repeat('e', 129)", "longer than 128 bytes");
    check(r"'a', '', E'e\tf'", "the event type holds a control character");
    check("'a', '', id => ''", "1 to 87 bytes");
    check("'a', '', id => repeat('i', 88)", "1 to 87 bytes");
    check("'a', '', id => 'two words'", "visible ASCII");
    check("'a', '', id => 'ä'", "visible ASCII");
    check("'a', '', retry => -1", "retry");
    check("'1'", "an event is an object");
    check(r#"'{"topic": "a", "data": "", "typo": 1}'"#, "unknown field typo");
    check(r#"'[{"topic": "a", "data": "not alone"}, {"topic": "a"}]'"#, "the data must not be NULL");
    assert!(call("repeat('t', 256), '', repeat('e', 128), repeat('i', 87), 2147483647").is_ok());
    call("'a', 'ä', 'é', '!~', 0").unwrap();
    let event = subscriber.event();
    assert_eq!((event.data().as_deref(), event.event_type()), (Some("ä"), Some("é")));
    // The owner of the tables may write anything.
    let columns = "epoch, entry_offset, kind, topic, data, retry";
    let insert = |values: &str| {
        postgres.sql(&format!(
            "WITH s AS (UPDATE fanfare.state SET last_offset = last_offset + 1 RETURNING *)
             INSERT INTO fanfare.entries ({columns}) SELECT epoch, last_offset, {values} FROM s"
        ));
    };
    for values in [
        "'event', 'a', '\\xff', NULL",
        "'event', 'a', '', -1",
        "'event', 'fanfare:x', '', NULL",
        "'other', 'a', '', NULL",
    ] {
        insert(values);
        assert_eq!(subscriber.event().gap()["reason"], "event_refused", "{values}");
    }
}

#[test]
fn roles_need_no_more_than_the_functions() {
    let postgres = PostgresServer::with_bus(&[]);
    postgres.sql("CREATE ROLE node LOGIN; CREATE ROLE app LOGIN");
    let url = postgres.url_of("node", "postgres");
    let server = starting_node(&url, &[]);
    server.wait_for_log(&["permission denied for schema fanfare", "docs/scaling.md"]);
    let as_app = |sql: &str| postgres.psql(&postgres.url_of("app", "postgres")).args(["-c", sql]).output().unwrap();
    assert!(!as_app(&publishing("refused")).status.success());
    postgres.sql("GRANT USAGE ON SCHEMA fanfare TO node, app");
    let check = |is_good: bool, words: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(["bus", "check", "--postgres-url", &url])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() == is_good && text.contains(words), "{text}");
    };
    check(false, "PROBLEM rights");
    postgres.sql("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fanfare TO node");
    postgres.sql("GRANT EXECUTE ON FUNCTION fanfare.fanfare_publish(text, text, text, text, integer) TO app");
    check(true, "this user may call all functions of a node");
    wait_until("the node is ready", || is_ready(&server));
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    checked(as_app(&publishing("1")));
    for denied in ["SELECT fanfare.fork()", "TABLE fanfare.entries", "UPDATE fanfare.state SET last_offset = 7"] {
        assert!(!as_app(denied).status.success(), "{denied}");
    }
    publish(&server, &json!({"topic": "a", "data": "2"}));
    subscriber.expect(&["1", "2"]);
}

#[test]
fn a_check_names_what_is_wrong_and_later_functions_are_not_replaced_by_mistake() {
    let postgres = PostgresServer::start(&["full_page_writes=off"]);
    let check = |expected: i32, words: &[&str]| {
        let (status, output) = postgres.bus(&["check"]);
        assert_eq!(status, Some(expected), "{output}");
        assert!(words.iter().all(|words| output.contains(words)), "{words:?}: {output}");
    };
    check(1, &["PROBLEM durability", "PROBLEM functions", "do: fanfare bus install"]);
    let server = starting_node(&postgres.url(), &[]);
    server.wait_for_log(&["the bus is not installed there; run fanfare bus install"]);
    assert_eq!(postgres.bus(&["install"]).0, Some(0));
    wait_until("the node is ready", || is_ready(&server));
    postgres.sql("ALTER SYSTEM SET full_page_writes = on");
    postgres.sql("UPDATE fanfare.state SET library = 2, format = 2");
    server.wait_for_log(&["the bus has format 2, this version of Fanfare reads 1"]);
    let (status, output) = postgres.bus(&["install"]);
    assert!(status == Some(1) && output.contains("version 2") && output.contains("--force"), "{output}");
    postgres.sql("UPDATE fanfare.state SET format = 1");
    let (status, output) = postgres.bus(&["install", "--force"]);
    assert_eq!(status, Some(0), "{output}");
    let (_, output) = postgres.bus(&["check", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(&output).expect("it is JSON");
    assert!(findings.iter().any(|finding| finding["subject"] == "functions" && finding["verdict"] == "ok"), "{output}");
    wait_until("the node is ready", || is_ready(&server));
}

#[test]
fn a_url_that_is_refused_is_shown_without_its_password() {
    let check = |url: &str, status: i32, words: &str| {
        for command in [&["bus", "status"][..], &["serve", "--bus", "postgres", "--listen", "127.0.0.1:0"]] {
            let mut fanfare = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare"));
            let output = fanfare.args(command).args(["--postgres-url", url]).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(text.contains(words) && !text.contains("hunter2"), "{command:?}: {text}");
            assert_eq!(output.status.code(), Some(status), "{text}");
        }
    };
    check("postgres://u:hunter2@h/d?sslmode=prefer", 2, "u:***@h/d?sslmode=prefer: sslmode is disable, or require");
    check("mysql://u:hunter2@h/d", 2, "mysql://u:***@h/d: allowed is postgres://");
    check("postgres://u:hunter2@h/d?nonsense=1", 2, "nonsense");
    check("postgres:///d?user=u&password=hunter2", 2, "password=***: it names no host");
}

#[test]
fn a_password_is_read_from_a_file_and_tls_verifies_the_server() {
    let mut postgres = PostgresServer::with_bus(&[]);
    postgres.sql("CREATE ROLE node LOGIN PASSWORD 'hunter2'; GRANT USAGE ON SCHEMA fanfare TO node");
    postgres.sql("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fanfare TO node");
    let folder = tempfile::tempdir().unwrap();
    certificates::write_into(folder.path());
    postgres.demand_tls("node", folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("password"), "hunter2\n").unwrap();
    let start = |query: &str, more: &[&str]| {
        let password = path("password");
        let options = [&["--postgres-password-file", &password], more].concat();
        starting_node(&(postgres.url_of("node:wrong", "postgres") + query), &options)
    };
    let tls = "?sslmode=require";
    let good = start(tls, &["--postgres-tls-ca", &path("ca.pem")]);
    wait_until("the node is ready", || is_ready(&good));
    let other = start(tls, &["--postgres-tls-ca", &path("other.pem")]);
    other.wait_for_log(&["the bus can't be read", "certificate"]);
    start("", &[]).wait_for_log(&["the bus can't be read", "no encryption"]);
    std::fs::write(path("password"), "hunter3\n").unwrap();
    let refused = start(tls, &["--postgres-tls-ca", &path("ca.pem")]);
    refused.wait_for_log(&["password authentication failed", "check --postgres-password-file"]);
    for server in [&good, &other, &refused] {
        let log = server.log().text();
        assert!(!log.contains("hunter") && !log.contains("wrong"), "{log}");
    }
}
