//! Streams that a token opened: what ends them, and that nothing is lost when it does.

use fanfare::auth::LEEWAY;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::forge::{
    OTHER_SECRET, SECRET, Shown, ask, everything, guarded_server_with_env, now, only, signed, signed_with, with,
};
use crate::support::server::{Server, TOKEN};
use crate::support::stream::{Subscriber, stream_request};

fn server(options: &[&str]) -> Server {
    guarded_server_with_env(options, &[("FANFARE_PUBLISH_TOKEN", TOKEN)])
}

/// A token for one topic that is good for two more seconds.
fn short_lived(topic: &str) -> String {
    let claims = only(json!({ "subscribe": [topic] }));
    signed(&with(claims, "exp", json!(now() + 2 - LEEWAY.as_secs())))
}

fn open(server: &Server, token: &str, header_lines: &str) -> Subscriber {
    let (target, lines) = Shown::Header.place("/events?topic=orders.1", token);
    Subscriber::over(server.connect(), &target, &format!("{lines}{header_lines}"))
}

#[test]
fn a_stream_ends_with_its_token_and_goes_on_with_another() {
    let server = server(&[]);
    let mut other = open(&server, &signed(&everything()), "");
    let mut subscriber = open(&server, &short_lived("orders.1"), "");
    server.publish("orders.1", "before");
    let last = subscriber.event();
    assert_eq!(last.data().as_deref(), Some("before"));
    // Its heartbeat is half a minute away: nothing but its expiry says anything more.
    assert_eq!(subscriber.block().raw, ": the token has expired\n");
    assert_eq!(subscriber.try_block(), None, "it ends without an error");
    server.publish("orders.1", "between");
    server.wait_for_metric("fanfare_closed_total{reason=\"token_expired\"}", |count| count == 1.0);
    server.wait_for_log(&["closed", "token_expired", &subscriber.client.address()]);
    assert_eq!(server.metric("fanfare_connections{kind=\"stream\"}"), 1.0);

    let resume = format!("Last-Event-ID: {}\r\n", last.id().unwrap());
    let mut subscriber = open(&server, &signed(&everything()), &resume);
    subscriber.expect(&["between"]);
    other.expect(&["before", "between"]);
}

#[test]
fn many_streams_of_one_token_end_together_and_their_slots_are_reused() {
    let server = server(&["--max-connections", "40"]);
    let token = short_lived("orders.1");
    let subscribers: Vec<_> = (0..40).map(|_| open(&server, &token, "")).collect();
    for mut subscriber in subscribers {
        assert_eq!(subscriber.block().raw, ": the token has expired\n");
        assert_eq!(subscriber.try_block(), None);
    }
    assert_eq!(server.metric("fanfare_closed_total{reason=\"token_expired\"}"), 40.0);
    // A slot's next tenant has a life of its own.
    let mut next = open(&server, &signed(&everything()), "");
    server.publish("orders.1", "x");
    next.expect(&["x"]);
    let refused =
        ask(&server, ("GET", "/events?topic=orders.1"), Shown::Query, &signed(&with(everything(), "exp", json!(1))));
    assert_eq!(refused.status, 401);
}

#[test]
fn a_reload_that_fails_takes_nothing_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    std::fs::write(&path, SECRET).unwrap();
    let claims = with(with(everything(), "aud", Value::Null), "iss", Value::Null);
    let token = |secret: &str| {
        signed_with(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
    };
    let (old, new) = (token(SECRET), token(OTHER_SECRET));
    let env = [("FANFARE_PUBLISH_TOKEN", TOKEN)];
    let server = Server::start_with_env(&["--jwt-key-file", path.to_str().unwrap()], &env);
    let status = |token: &str| ask(&server, ("GET", "/events?topic=orders.1"), Shown::Header, token).status;
    assert_eq!((status(&old), status(&new)), (200, 401));

    std::fs::write(&path, OTHER_SECRET).unwrap();
    server.signal("HUP");
    server.wait_for_log(&["reloaded"]);
    assert_eq!((status(&old), status(&new)), (401, 200));
    let mut subscriber = open(&server, &new, "");
    std::fs::write(&path, "too short").unwrap();
    server.signal("HUP");
    server.wait_for_log(&["not reloaded", "--jwt-key-file"]);
    assert_eq!((status(&old), status(&new)), (401, 200), "a mistake changes nothing");
    server.publish("orders.1", "still here");
    subscriber.expect(&["still here"]);
}

#[test]
fn a_crowd_that_sends_its_tokens_at_once_is_accepted_completely() {
    const CROWD: usize = 400;
    let server = server(&[]);
    let token = signed(&everything());
    let mut clients: Vec<_> = (0..CROWD).map(|_| server.connect()).collect();
    server.wait_for_metric("fanfare_accepted_total", |accepted| accepted >= CROWD as f64);
    // More than are checked in one turn of the loop; the rest has to wait, but is served later.
    server.signal("STOP");
    let (target, lines) = Shown::Header.place("/events?topic=orders.1", &token);
    clients.iter_mut().for_each(|client| client.send(stream_request(&target, &lines)));
    server.signal("CONT");
    for client in &mut clients {
        assert_eq!(client.head().status, 200);
    }
    assert_eq!(server.metric("fanfare_connections{kind=\"stream\"}"), CROWD as f64);
}

#[test]
fn a_paced_stream_ends_with_its_token_too() {
    let server = server(&[]);
    let (_, lines) = Shown::Header.place("", &short_lived("orders.1"));
    let target = "/events?topic=orders.1&interval_ms=600000&latest=1";
    let mut subscriber = Subscriber::over(server.connect(), target, &lines);
    server.publish("orders.1", "first");
    subscriber.expect(&["first"]);
    server.publish("orders.1", "kept back");
    assert_eq!(subscriber.block().raw, ": the token has expired\n");
    assert_eq!(subscriber.try_block(), None);
}
