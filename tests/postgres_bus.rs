//! A durable bus in a real PostgreSQL: nodes that restart, transactions of applications, and a database that crashes, or
//! comes back from a dump.

use std::collections::HashSet;

use serde_json::json;

use support::bus::{check_returns, fork_id, is_ready, position, publish};
use support::postgres::{PostgresServer, checked, node, publishing, starting_node};
use support::process;
use support::server::Server;
use support::stream::Subscriber;
use support::wait::wait_until;

mod support;

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
    session.run("BEGIN");
    let id = session.run(&publishing("1"));
    assert_eq!(position(&id).1, 1, "the rollback left no hole");
    session.run("SAVEPOINT s");
    session.run(&publishing("not this one"));
    session.run("ROLLBACK TO s");
    session.run(&publishing("2"));
    session.run("COMMIT");
    publish(&server, &json!({"topic": "a", "data": "3"}));
    subscriber.expect(&["1", "2", "3"]);
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

/// The settings of an application: the function restores its own at its end, before the commit.
#[test]
fn what_subscribers_have_seen_survives_a_crash_whatever_a_transaction_sets() {
    let mut postgres = PostgresServer::with_bus(&["synchronous_commit=off", "wal_writer_delay=10s"]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let body = publishing("2");
    postgres.sql(&format!("CREATE FUNCTION f() RETURNS text LANGUAGE sql SET synchronous_commit = on AS $${body}$$"));
    let mut session = postgres.session();
    session.run(&publishing("1"));
    session.run("SELECT f()");
    session.run("BEGIN");
    let last = session.run(&publishing("3"));
    session.run("SET LOCAL synchronous_commit = off; COMMIT");
    subscriber.expect(&["1", "2", "3"]);
    postgres.restart();
    let next = postgres.sql(&publishing("4"));
    assert_eq!(position(&next).1, position(&last).1 + 1);
    subscriber.expect(&["4"]);
}

/// All nodes put the gap at one place, also for clients that return.
fn check_fork(nodes: &[Server; 2], break_bus: impl FnOnce()) {
    let mut subscribers = [0, 1].map(|n: usize| Subscriber::open(&nodes[n], "/events?topic=a"));
    publish(&nodes[0], &json!({"topic": "a", "data": "before"}));
    let last = subscribers.each_mut().map(|subscriber| subscriber.event().id().unwrap().to_owned());
    break_bus();
    // No publisher comes: a reader finds it.
    let gaps = subscribers.each_mut().map(fork_id);
    assert!(gaps[0].ends_with("-0"), "{gaps:?}");
    wait_until("publishing works again", || {
        nodes[1].post(&json!({"topic": "a", "data": "after", "id": "once"}).to_string()).status == 202
    });
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["after"]));
    check_returns(nodes, &last[0], &gaps);
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

/// As after a restore of the rows alone, from another cluster: all connections stay.
#[test]
fn rows_of_another_database_are_a_gap_on_all_nodes() {
    let postgres = PostgresServer::with_bus(&[]);
    let nodes = [node(&postgres, &[]), node(&postgres, &[])];
    check_fork(&nodes, || drop(postgres.sql("UPDATE fanfare.state SET identity = 'of another cluster'")));
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
        let newest = "SELECT max(epoch), count(*) FROM fanfare.entries";
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
fn entries_that_are_gone_are_a_gap_on_all_nodes() {
    let postgres = PostgresServer::with_bus(&[]);
    let nodes = [node(&postgres, &[]), node(&postgres, &[])];
    check_fork(&nodes, || drop(postgres.sql("TRUNCATE fanfare.entries")));
}

/// As in two copies of a bus whose clock was ahead.
#[test]
fn an_epoch_ahead_of_the_clock_is_followed_by_one_that_no_copy_has() {
    let epochs = [(); 2].map(|()| {
        let postgres = PostgresServer::with_bus(&[]);
        postgres.sql("UPDATE fanfare.state SET epoch = 4102444800000");
        position(&postgres.sql("SELECT fanfare.fork()")).0
    });
    assert!(epochs[0] != epochs[1] && epochs.iter().all(|epoch| *epoch > 4_102_444_800_000), "{epochs:?}");
}

#[test]
fn what_is_beyond_the_entries_that_are_kept_is_a_gap() {
    let postgres = PostgresServer::with_bus(&[]);
    let [server, _other] = [(); 2].map(|()| node(&postgres, &["--history-events", "3", "--bus-entries", "80"]));
    let ids = publish_many(&postgres);
    let kept = "SELECT count(*), min(entry_offset), max(entry_offset) FROM fanfare.entries";
    wait_until("old entries are deleted", || {
        let kept: Vec<u64> = postgres.sql(kept).split('|').map(|number| number.parse().unwrap()).collect();
        assert_eq!(kept[0], kept[2] - kept[1] + 1, "no hole is between the first and the last");
        kept == [80, 121, 200]
    });
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
