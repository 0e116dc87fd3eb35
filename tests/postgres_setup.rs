//! What is stored beside a bus in PostgreSQL, and what its tools say of it: bounds, rights, passwords, what holds the bus,
//! and `fanfare bus check`.

use serde_json::{Value, json};

use support::bus::{is_ready, publish};
use support::certificates;
use support::postgres::{GRANT_TO_NODE, PostgresServer, checked, node, publishing, starting_node};
use support::server::Server;
use support::stream::Subscriber;
use support::wait::wait_until;

mod support;

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
    assert!(postgres.try_sql("SELECT fanfare.raise_bounds(1024, 1073741824)").is_ok());
    for beyond in ["1025, 1073741824", "1024, 1073741825", "0, NULL", "NULL, -5"] {
        assert!(postgres.try_sql(&format!("SELECT fanfare.raise_bounds({beyond})")).is_err(), "{beyond}");
    }
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
    check("'[[]]'", "an event is an object");
    check(r#"'{"topic": 5, "data": ""}'"#, "the topic must be a string");
    check(r#"'{"topic": "a", "data": "", "event": true}'"#, "the event type must be a string");
    check(r#"'{"topic": "a", "data": "", "id": 7}'"#, "the id must be a string");
    check(r#"'{"topic": "a", "data": "", "retry": "9"}'"#, "retry must be whole milliseconds");
    check(r#"'{"topic": "a", "data": "", "retry": 1.5}'"#, "retry must be whole milliseconds");
    check(r#"'{"topic": "a", "data": "", "typo": 1}'"#, "unknown field typo");
    check(r#"'[{"topic": "a", "data": "not alone"}, {"topic": "a"}]'"#, "the data must not be NULL");
    assert!(call("repeat('t', 256), '', repeat('e', 128), repeat('i', 87), 2147483647").is_ok());
    call("'a', 'ä', 'é', '!~', 0").unwrap();
    let event = subscriber.event();
    assert_eq!((event.data().as_deref(), event.event_type()), (Some("ä"), Some("é")));
    assert_eq!(call("'[]'").unwrap(), "");
    call(r#"'[{"topic": "a", "data": null, "id": null, "retry": 3}, {"topic": "a", "data": [1]}]'"#).unwrap();
    subscriber.expect(&["null", "[1]"]);
    // The owner of the tables may write anything.
    let columns = "epoch, entry_offset, kind, topic, data, retry";
    let insert = |values: &str| {
        postgres.sql(&format!(
            "INSERT INTO fanfare.entries ({columns}) SELECT epoch, fanfare.last_offset(epoch) + 1, {values} FROM fanfare.state"
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
    postgres.sql(GRANT_TO_NODE);
    postgres.sql("GRANT EXECUTE ON FUNCTION fanfare.fanfare_publish(text, text, text, text, integer) TO app");
    check(true, "this user may call all functions of a node");
    wait_until("the node is ready", || is_ready(&server));
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    checked(as_app(&publishing("1")));
    for denied in [
        "SELECT fanfare.fork()",
        "SELECT fanfare.raise_bounds(9, 9)",
        "TABLE fanfare.entries",
        "UPDATE fanfare.state SET epoch = 7",
    ] {
        assert!(!as_app(denied).status.success(), "{denied}");
    }
    publish(&server, &json!({"topic": "a", "data": "2"}));
    subscriber.expect(&["1", "2"]);
}

#[test]
fn no_role_without_rights_stops_publishing_or_gets_more() {
    let postgres = PostgresServer::with_bus(&[]);
    postgres.sql("CREATE ROLE other LOGIN");
    postgres.sql("CREATE DATABASE b OWNER other");
    let as_other = |database: &str, sql: &str| {
        checked(postgres.psql(&postgres.url_of("other", database)).args(["-c", sql]).output().unwrap())
    };
    // The lock by which tools name who holds the bus.
    let mut session = postgres.session();
    session.run("SET ROLE other; SELECT pg_advisory_lock(1178685254, 1)");
    postgres.sql(&publishing("1"));
    assert_eq!(postgres.sql("SELECT count(*) FROM fanfare.holder()"), "0");
    drop(session);
    // A trigger there would run with the rights of the role that installs.
    as_other("b", "CREATE SCHEMA fanfare; CREATE TABLE fanfare.horizon (is_only boolean)");
    let install = |login: &str| {
        let url = postgres.url_of(login, "b");
        let mut fanfare = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let output = fanfare.args(["bus", "install", "--postgres-url", &url]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, text) = install("postgres");
    assert!(status == Some(1) && text.contains("belongs to the role other: install as that role"), "{text}");
    as_other("b", "DROP SCHEMA fanfare CASCADE");
    assert_eq!(install("other").0, Some(0));
}

#[test]
fn an_installation_waits_for_transactions_and_they_go_on() {
    let postgres = PostgresServer::with_bus(&[]);
    let mut session = postgres.session();
    session.run("BEGIN");
    session.run(&publishing("1"));
    let schema = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["bus", "install", "--print"]).output();
    let mut installing = postgres.session();
    installing.start(&checked(schema.unwrap()));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    wait_until("it waits", || postgres.sql(waits) == "1");
    session.run("SELECT fanfare.fanfare_publish('a', '2', id => 'x')");
    session.run("COMMIT");
    let _of_the_installation = installing.run("SELECT 'installed'");
    assert_eq!(installing.run("SELECT 1"), "installed");
    assert_eq!(postgres.sql("SELECT entries FROM fanfare.status()"), "3");
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
    postgres.sql("UPDATE fanfare.state SET library = 3, format = 2");
    server.wait_for_log(&["the bus has format 2, this version of Fanfare reads 1"]);
    let (status, output) = postgres.bus(&["install"]);
    assert!(status == Some(1) && output.contains("version 3") && output.contains("--force"), "{output}");
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
    postgres.sql(GRANT_TO_NODE);
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
    // As systemd passes it on to a service.
    std::fs::write(path("postgres-password"), "hunter2\n").unwrap();
    let options = ["--bus", "postgres", "--postgres-tls-ca", &path("ca.pem"), "--postgres-url"];
    let url = postgres.url_of("node", "postgres") + tls;
    let env = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
    let with_credential = Server::start_with_env(&[&options[..], &[&url]].concat(), &env);
    wait_until("the node with a credential is ready", || is_ready(&with_credential));
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
