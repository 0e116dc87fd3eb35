//! Cursors of sources that keep their entries, on real engines: what is appended from a source comes once and in order,
//! whichever node appends it, and whatever is lost on the way.

use std::sync::Arc;
use std::time::Duration;

use fanfare::event::timeline::Position;
use fanfare::event::{Event, EventId, Topic};
use fanfare::protocol::publish::PublishLimits;
use fanfare::redis_address::RedisAddress;
use fanfare::sources::bus::cursor::CursorEngine;
use fanfare::sources::bus::redis_stream::{FUNCTIONS, RedisStream, StreamSettings};
use fanfare::sources::bus::{Content, Engine};
use fanfare::sources::channel::GapReason;

use support::redis::{RedisServer, install_bus};
use support::wait::wait_until;

mod support;

const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 100, data_bytes_max: 1000, batch_max: 1 };
const ID_MEMORY: Duration = Duration::from_secs(60);

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(data: &str) -> Content {
    Content::Event(Event::message(topic("a"), data))
}

fn event_with_id(data: &str) -> Content {
    Content::Event(Event { id: Some(EventId::of_publisher(data).unwrap()), ..Event::message(topic("a"), data) })
}

/// The entries but for the first fork: data of events, and the words of others.
fn entries(engine: &mut dyn Engine) -> Vec<String> {
    let page = engine.read_after(Position::default(), 1000, Duration::ZERO).unwrap();
    assert_eq!(page.entries.last().map(|entry| entry.position), Some(page.last));
    let words = |content: &Content| match content {
        Content::Event(event) => event.data.clone(),
        other => format!("{other:?}").split([' ', '(']).next().unwrap().to_owned(),
    };
    page.entries.iter().skip(1).map(|entry| words(&entry.content)).collect()
}

fn cursor_is_compared(mut one: impl Engine + CursorEngine, mut other: impl Engine + CursorEngine) {
    one.read_after(Position::default(), 1, Duration::ZERO).unwrap();
    assert_eq!(one.cursor("x").unwrap(), None);
    assert_eq!(one.append_from("x", Some("0"), "1", &[event("never")]).unwrap(), None, "there is no cursor");
    let receipts = one.append_from("x", None, "1", &[event("1"), event_with_id("2")]).unwrap().unwrap();
    assert!(receipts.len() == 2 && receipts[1].position == receipts[0].position.next(), "{receipts:?}");
    assert_eq!(other.cursor("x").unwrap().as_deref(), Some("1"));
    // As a node that was paused.
    assert_eq!(other.append_from("x", None, "1", &[event("never")]).unwrap(), None);
    assert_eq!(other.append_from("x", Some("1"), "2", &[]).unwrap(), Some(Vec::new()));
    assert_eq!(one.append_from("x", Some("1"), "2", &[event("never")]).unwrap(), None);
    // Each source has its own.
    assert_eq!(one.cursor("y").unwrap(), None);
    assert!(one.append_from("y", None, "ä 1", &[event("3")]).unwrap().is_some());
    assert_eq!(other.cursor("y").unwrap().as_deref(), Some("ä 1"));
    // What is there already under its publisher's id has its place, and the cursor passes it.
    let again = other.append_from("x", Some("2"), "3", &[event_with_id("2"), event("4")]).unwrap().unwrap();
    assert_eq!((again[0].position, again[0].is_duplicate, again[1].is_duplicate), (receipts[1].position, true, false));
    assert_eq!(one.cursor("x").unwrap().as_deref(), Some("3"));
    assert_eq!(entries(&mut one), ["1", "2", "3", "4"]);
}

fn gaps_have_their_places(mut engine: impl Engine + CursorEngine) {
    let gap = |reason, names: &[&str]| Content::Gap { reason, topics: names.iter().map(|name| topic(name)).collect() };
    let contents = [
        event("1"),
        gap(GapReason::Refused, &["a", "b \"c\"", "ä"]),
        gap(GapReason::SourceLost, &[]),
        event("2"),
        gap(GapReason::BusTrimmed, &["a"]),
    ];
    engine.append_from("x", None, "1", &contents).unwrap().unwrap();
    let page = engine.read_after(Position::default(), 1000, Duration::ZERO).unwrap();
    let read: Vec<_> = page.entries.into_iter().skip(1).map(|entry| entry.content).collect();
    assert_eq!(read, contents);
}

/// The entry of the fork comes with the append that finds it due.
fn a_fork_begins_with_the_append(mut engine: impl Engine + CursorEngine, replace_server: impl FnOnce()) {
    let before = engine.append_from("x", None, "1", &[event("1")]).unwrap().unwrap();
    replace_server();
    let after = engine.append_from("x", Some("1"), "2", &[event("2")]).unwrap().unwrap();
    assert!(after[0].position.epoch > before[0].position.epoch && after[0].position.offset == 1, "{after:?}");
    assert_eq!(engine.cursor("x").unwrap().as_deref(), Some("2"));
    assert_eq!(entries(&mut engine), ["1", "Fork", "2"]);
}

/// The server gets the call and does what it says, but its answer comes too late.
fn a_lost_answer_is_found_at_the_cursor(
    mut engine: impl Engine + CursorEngine,
    hang: impl FnOnce(),
    resume: impl FnOnce(),
) {
    engine.append_from("x", None, "1", &[event("1")]).unwrap().unwrap();
    hang();
    engine.append_from("x", Some("1"), "2", &[event("2")]).unwrap_err();
    resume();
    wait_until("the cursor is moved", || engine.cursor("x").is_ok_and(|cursor| cursor.as_deref() == Some("2")));
    assert_eq!(engine.append_from("x", Some("1"), "2", &[event("2")]).unwrap(), None);
    engine.append_from("x", Some("2"), "3", &[event("3")]).unwrap().unwrap();
    assert_eq!(entries(&mut engine), ["1", "2", "3"]);
}

/// Several nodes copy the same source, and all forget now and then what they knew.
fn a_race_appends_each_entry_once<E: Engine + CursorEngine + 'static>(engine: impl Fn() -> E) {
    const COUNT: usize = 200;
    let nodes: Vec<_> = (0..3)
        .map(|_| {
            let mut engine = engine();
            std::thread::spawn(move || {
                let mut known: Option<String> = engine.cursor("x").unwrap();
                loop {
                    let next = known.as_ref().map_or(0, |text| text.parse::<usize>().unwrap() + 1);
                    if next == COUNT {
                        return;
                    }
                    let to = next.to_string();
                    known = match engine.append_from("x", known.as_deref(), &to, &[event(&to)]).unwrap() {
                        Some(_) if !next.is_multiple_of(7) => Some(to),
                        _ => engine.cursor("x").unwrap(),
                    };
                }
            })
        })
        .collect();
    nodes.into_iter().for_each(|node| node.join().unwrap());
    assert_eq!(entries(&mut engine()), (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>());
}

fn older_functions_are_named(mut engine: impl Engine + CursorEngine, bring_older: impl FnOnce()) {
    bring_older();
    engine.append(&[event("1")]).unwrap();
    let refused = engine.append_from("x", None, "1", &[event("never")]).unwrap_err().0;
    assert!(refused.contains("older than this Fanfare") && refused.contains("run fanfare bus install"), "{refused}");
    engine.append(&[event("2")]).unwrap();
    assert_eq!(entries(&mut engine), ["1", "2"]);
}

// ---- Redis ----

fn redis() -> RedisServer {
    let redis = RedisServer::start();
    install_bus(&redis);
    redis
}

fn on_redis(redis: &RedisServer) -> RedisStream {
    RedisStream::new(StreamSettings {
        address: RedisAddress::new(&redis.url("redis", ""), None).unwrap(),
        name: "fanfare".to_owned(),
        bounds: Arc::default(),
        entries_max: 1000,
        id_memory: ID_MEMORY,
        limits: LIMITS,
    })
}

#[test]
fn redis_compares_the_cursor() {
    let redis = redis();
    cursor_is_compared(on_redis(&redis), on_redis(&redis));
}

#[test]
fn redis_takes_gaps_in_their_places() {
    gaps_have_their_places(on_redis(&redis()));
}

#[test]
fn redis_forks_in_the_step_of_the_append() {
    let redis = redis();
    a_fork_begins_with_the_append(on_redis(&redis), || {
        let _: u64 = redis.command(&["HSET", "{fanfare}:bus", "replid", "x"]);
    });
}

#[test]
fn an_answer_of_redis_that_is_lost_is_found_at_the_cursor() {
    let redis = redis();
    a_lost_answer_is_found_at_the_cursor(on_redis(&redis), || redis.hang(), || redis.resume());
}

#[test]
fn nodes_that_race_append_each_entry_once_to_redis() {
    let redis = redis();
    a_race_appends_each_entry_once(|| on_redis(&redis));
}

/// What is refused leaves the cursor where it is.
#[test]
fn what_redis_refuses_does_not_move_the_cursor() {
    let redis = redis();
    let mut engine = on_redis(&redis);
    engine.read_after(Position::default(), 1, Duration::ZERO).unwrap();
    engine.append_from("x", None, "1", &[event("1")]).unwrap().unwrap();
    let refused = engine.append_from("x", Some("1"), "2", &[event("2"), event(&"x".repeat(1001))]).unwrap_err().0;
    assert!(refused.contains("an event on this bus may have 1000 bytes"), "{refused}");
    assert_eq!(engine.cursor("x").unwrap().as_deref(), Some("1"));
    engine.hold("token").unwrap();
    assert!(engine.append_from("x", Some("1"), "2", &[]).unwrap_err().0.contains("held"));
    assert_eq!(entries(&mut engine), ["1"]);
}

#[test]
fn functions_of_redis_that_are_older_are_named() {
    let redis = redis();
    older_functions_are_named(on_redis(&redis), || {
        let older: Vec<_> = FUNCTIONS.lines().filter(|line| !line.contains("'fanfare_feed'")).collect();
        let _: String = redis.command(&["FUNCTION", "LOAD", "REPLACE", &older.join("\n")]);
    });
}

// ---- PostgreSQL ----

#[cfg(feature = "postgres")]
mod in_postgres {
    use fanfare::sources::bus::postgres::{PostgresAddress, PostgresBus, PostgresSettings};

    use super::*;
    use crate::support::postgres::PostgresServer;
    use crate::support::process;

    fn on_postgres(postgres: &PostgresServer) -> PostgresBus {
        PostgresBus::new(PostgresSettings {
            address: PostgresAddress::new(&postgres.url(), None, None).unwrap(),
            bounds: Arc::default(),
            entries_max: 1000,
            id_memory: ID_MEMORY,
            limits: LIMITS,
        })
    }

    #[test]
    fn postgresql_compares_the_cursor() {
        let postgres = PostgresServer::with_bus(&[]);
        cursor_is_compared(on_postgres(&postgres), on_postgres(&postgres));
    }

    #[test]
    fn postgresql_takes_gaps_in_their_places() {
        gaps_have_their_places(on_postgres(&PostgresServer::with_bus(&[])));
    }

    #[test]
    fn postgresql_forks_in_the_step_of_the_append() {
        let postgres = PostgresServer::with_bus(&[]);
        a_fork_begins_with_the_append(on_postgres(&postgres), || {
            drop(postgres.sql("UPDATE fanfare.state SET identity = 'of another cluster'"));
        });
    }

    #[test]
    fn an_answer_of_postgresql_that_is_lost_is_found_at_the_cursor() {
        let postgres = PostgresServer::with_bus(&[]);
        let signal = |signal| {
            let backends = postgres.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'fanfare'");
            backends.lines().for_each(|pid| process::signal(pid.parse().unwrap(), signal));
        };
        a_lost_answer_is_found_at_the_cursor(on_postgres(&postgres), || signal("STOP"), || signal("CONT"));
    }

    #[test]
    fn nodes_that_race_append_each_entry_once_to_postgresql() {
        let postgres = PostgresServer::with_bus(&[]);
        a_race_appends_each_entry_once(|| on_postgres(&postgres));
    }

    #[test]
    fn functions_of_postgresql_that_are_older_are_named() {
        let postgres = PostgresServer::with_bus(&[]);
        older_functions_are_named(on_postgres(&postgres), || {
            postgres.sql("DROP FUNCTION fanfare.append_from");
        });
    }
}
