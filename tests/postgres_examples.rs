//! The examples for applications on PostgreSQL, run as their README says: subscribers get what commits, and nothing else.

use std::process::Command;

use support::bus::is_ready;
use support::postgres::{GRANT_TO_NODE, PostgresServer, checked, node, starting_node};
use support::stream::Subscriber;
use support::wait::wait_until;

mod support;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a file as `psql -f` does, as an application would.
fn run_file(postgres: &PostgresServer, name: &str) -> String {
    let file = format!("{ROOT}/examples/postgres/{name}");
    checked(postgres.psql(&postgres.url()).arg("-f").arg(file).output().unwrap())
}

/// Reads one event: its type and its data.
fn next(subscriber: &mut Subscriber) -> (String, String) {
    let event = subscriber.event();
    (event.event_type().unwrap_or("message").to_owned(), event.data().unwrap())
}

fn check_next(subscriber: &mut Subscriber, event_type: &str, data: &str) {
    assert_eq!(next(subscriber), (event_type.to_owned(), data.to_owned()));
}

#[test]
fn plain_sql_publishes_with_its_commit_and_once() {
    let postgres = PostgresServer::with_bus(&[]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=payments");
    let ids = run_file(&postgres, "publish.sql");
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!((ids.len(), ids[0]), (6, ids[2]), "{ids:?}");
    for (id, cents) in [(17, 2500), (20, 2000), (21, 2100), (22, 2200)] {
        let (event_type, data) = next(&mut subscriber);
        let data: serde_json::Value = serde_json::from_str(&data).unwrap();
        assert_eq!((&*event_type, data), ("received", serde_json::json!({"id": id, "cents": cents})));
    }
    postgres.sql("SELECT fanfare.fanfare_publish('payments', 'the end')");
    check_next(&mut subscriber, "message", "the end");
}

#[test]
fn a_trigger_publishes_each_change_when_it_commits() {
    let postgres = PostgresServer::with_bus(&[]);
    let server = node(&postgres, &[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=orders");
    run_file(&postgres, "trigger.sql");
    run_file(&postgres, "trigger.sql");
    let mut session = postgres.session();
    session.run("BEGIN; INSERT INTO orders VALUES (1, 'never'); SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK");
    session.run("BEGIN; INSERT INTO orders VALUES (2, 'new'), (3, 'new')");
    session.run("UPDATE orders SET state = 'paid' WHERE id = 2");
    assert_eq!(postgres.sql("SELECT count(*) FROM fanfare.holder()"), "0", "it holds the bus only while it commits");
    session.run("COMMIT");
    postgres.sql("DELETE FROM orders WHERE id = 3");
    check_next(&mut subscriber, "insert", r#"{"id": 2, "state": "new"}"#);
    check_next(&mut subscriber, "insert", r#"{"id": 3, "state": "new"}"#);
    check_next(&mut subscriber, "update", r#"{"id": 2, "state": "paid"}"#);
    check_next(&mut subscriber, "delete", r#"{"id": 3, "state": "new"}"#);
}

#[test]
fn a_rails_model_publishes_in_its_own_transaction() {
    let postgres = PostgresServer::start(&[]);
    postgres.sql("CREATE ROLE app LOGIN; CREATE ROLE node LOGIN");
    postgres.sql("CREATE DATABASE shop OWNER app");
    let folder = tempfile::tempdir().unwrap();
    let example = folder.path().join("rails");
    checked(Command::new("cp").arg("-r").arg(format!("{ROOT}/examples/rails")).arg(&example).output().unwrap());
    let schema = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["bus", "install", "--print"]).output().unwrap();
    std::fs::write(example.join("db/fanfare.sql"), checked(schema)).unwrap();
    let rails = |step: &str| {
        let mut ruby = Command::new("ruby");
        ruby.arg(format!("{ROOT}/tests/examples/rails.rb")).arg(&example).arg(step);
        ruby.env("DATABASE_URL", postgres.url_of("app", "shop"));
        checked(ruby.output().expect("this test needs ruby-activerecord and ruby-pg, which tests/setup installs"))
    };
    rails("migrate");
    for grant in ["GRANT USAGE ON SCHEMA fanfare TO node", GRANT_TO_NODE] {
        checked(postgres.psql(&postgres.url_of("app", "shop")).args(["-c", grant]).output().unwrap());
    }
    let server = starting_node(&postgres.url_of("node", "shop"), &[]);
    wait_until("the node is ready", || is_ready(&server));
    let mut subscriber = Subscriber::open(&server, "/events?topic=orders/one&topic=mail");
    let ids = rails("publish");
    let ids: Vec<&str> = ids.lines().collect();
    // Rolled back transactions take numbers of orders, but leave no event.
    check_next(&mut subscriber, "created", r#"{"id":2,"state":"new"}"#);
    check_next(&mut subscriber, "updated", r#"{"id":2,"state":"paid"}"#);
    let receipt = subscriber.event();
    assert_eq!(receipt.data().as_deref(), Some(r#"{"order":2}"#));
    assert_eq!((receipt.id(), ids[0]), (Some(ids[0]), ids[1]), "{ids:?}");
    for id in &ids[2..] {
        let event = subscriber.event();
        assert_eq!((event.data().as_deref(), event.id()), (Some("the same 'text'"), Some(*id)));
    }
    check_next(&mut subscriber, "destroyed", r#"{"id":2,"state":"paid"}"#);
    rails("rollback");
    server.wait_for_log(&["the bus can't be read", "not installed"]);
}
