//! Operators who disconnect: which streams end, on which nodes, and who can't come back with the token that it has.

use std::process::Command;

use serde_json::{Value, json};

use crate::forge::{
    AUDIENCE, ISSUER, SECRET, Shown, ask, everything, guarded_server_with_env, now, only, signed, with,
};
use crate::revoked::{ORDERS, closed, ends, open, status, stays};
use crate::support::http::Answer;
use crate::support::redis::RedisServer;
use crate::support::server::{Server, TOKEN, loops};
use crate::support::stream::Subscriber;
use crate::support::wait::{eventually, wait_until};

const DISCONNECTED: &str = ": disconnected by an operator\n";

fn server(options: &[&str]) -> Server {
    guarded_server_with_env(options, &[("FANFARE_PUBLISH_TOKEN", TOKEN), ("FANFARE_OPERATOR_TOKEN", "operator")])
}

fn post(server: &Server, body: &Value, header_lines: &str) -> Answer {
    let body = if body.is_string() { body.as_str().unwrap().to_owned() } else { body.to_string() };
    let length = body.len();
    server.request(&format!(
        "POST /disconnect HTTP/1.1\r\nHost: localhost\r\n{header_lines}Content-Length: {length}\r\n\r\n{body}"
    ))
}

/// Disconnects as an operator; how many there were.
#[track_caller]
fn disconnect(server: &Server, body: &Value) -> u64 {
    let answer = post(server, body, "Authorization: Bearer operator\r\n");
    assert_eq!(answer.status, 202, "{answer}");
    answer.json()["disconnected"].as_u64().unwrap()
}

/// A token of a subject, with an id, issued some seconds ago.
fn token(subject: &str, id: &str, issued_ago_s: u64) -> String {
    let claims = with(with(everything(), "sub", json!(subject)), "jti", json!(id));
    signed(&with(claims, "iat", json!(now() - issued_ago_s)))
}

#[test]
fn a_subject_is_disconnected_and_only_a_newer_token_brings_it_back() {
    let server = server(&[]);
    let [old, other] = ["me", "you"].map(|subject| token(subject, "-", 60));
    let gone = [open(&server, ORDERS, &old), open(&server, "/events?topic=a&topic=b", &token("me", "-", 5))];
    let mut kept = [open(&server, ORDERS, &other)];
    assert_eq!(disconnect(&server, &json!({ "subject": "me" })), 2);
    gone.into_iter().for_each(|gone| ends(gone, DISCONNECTED));
    stays(&server, &mut kept, "orders.1");
    closed(&server, "disconnected", 2);

    let refused = ask(&server, ("GET", ORDERS), Shown::Query, &old);
    assert_eq!(refused.status, 401, "{refused}");
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.contains("error_description=\"the token was taken back\""), "{challenge}");
    for route in [("GET", "/metrics"), ("POST", "/publish"), ("POST", "/disconnect"), ("GET", "/dashboard/data")] {
        assert_eq!(ask(&server, route, Shown::Header, &old).status, 401, "{route:?}");
    }
    let newer = signed(&with(with(everything(), "sub", json!("me")), "iat", json!(now() + 5)));
    assert_eq!((status(&server, ORDERS, &newer), status(&server, ORDERS, &other)), (200, 200));
    let undated = signed(&with(everything(), "sub", json!("me")));
    assert_eq!(status(&server, ORDERS, &undated), 401, "it may be as old as any");
}

#[test]
fn a_token_id_stays_denied_and_other_tokens_of_its_subject_do_not() {
    let server = server(&[]);
    let [gone, kept] = ["one", "two"].map(|id| token("me", id, 5));
    let mut streams = [open(&server, ORDERS, &gone), open(&server, ORDERS, &kept)];
    assert_eq!(disconnect(&server, &json!({ "token_id": "one" })), 1);
    stays(&server, &mut streams[1..], "orders.1");
    let [first, _second] = streams;
    ends(first, DISCONNECTED);
    assert_eq!((status(&server, ORDERS, &gone), status(&server, ORDERS, &kept)), (401, 200));
    assert_eq!(disconnect(&server, &json!({ "token_id": "never seen" })), 0);
    assert_eq!(status(&server, ORDERS, &token("me", "never seen", 5)), 401, "it need not be here to be taken back");
    server.wait_for_log(&["disconnected streams for an operator", "ended=1", "token_id"]);
    assert!(!server.log().text().contains("never seen"), "an id is not secret, but it is private");
}

#[test]
fn what_is_named_together_must_fit_together() {
    let server = server(&["--trusted-proxy", "127.0.0.1"]);
    let from = |address: &str, subject: &str, topic: &str| {
        let (target, lines) = Shown::Header.place(&format!("/events?topic={topic}"), &token(subject, "-", 5));
        Subscriber::over(server.connect(), &target, &format!("{lines}X-Forwarded-For: {address}\r\n"))
    };
    let mut streams = [
        Some(from("192.0.2.7", "me", "a")),
        Some(from("192.0.2.7", "me", "b")),
        Some(from("192.0.2.8", "me", "a")),
        Some(from("2001:db8::1", "you", "a&topic=b")),
    ];
    let mut check = |body: Value, ended: &[usize]| {
        assert_eq!(disconnect(&server, &body), ended.len() as u64, "{body}");
        ended.iter().for_each(|index| ends(streams[*index].take().unwrap(), DISCONNECTED));
        // The other streams were not affected.
        for topic in ["a", "b"] {
            server.publish(topic, topic);
        }
        let here = streams.iter_mut().zip([&["a"][..], &["b"], &["a"], &["a", "b"]]);
        here.for_each(|(stream, topics)| stream.iter_mut().for_each(|stream| stream.expect(topics)));
    };
    check(json!({ "subject": "me", "topic": "a", "address": "2001:db8::/32" }), &[]);
    check(json!({ "subject": "me", "topic": "a", "address": "192.0.2.7" }), &[0]);
    check(json!({ "address": "192.0.2.0/24", "topic": "b" }), &[1]);
    check(json!({ "topic": "b" }), &[3]);
    check(json!({ "address": "192.0.2.8" }), &[2]);
    // None of these denied anything.
    for subject in ["me", "you"] {
        assert_eq!(status(&server, ORDERS, &token(subject, "-", 5)), 200, "{subject}");
    }
}

#[test]
fn a_denial_lasts_as_long_as_it_is_asked_to() {
    let server = server(&[]);
    let check = |body: Value, is_denied: bool| {
        let shown = token("me", body["token_id"].as_str().unwrap(), 5);
        let stream = open(&server, ORDERS, &shown);
        assert_eq!(disconnect(&server, &body), 1);
        ends(stream, DISCONNECTED);
        assert_eq!(status(&server, ORDERS, &shown) == 401, is_denied, "{body}");
    };
    check(json!({ "token_id": "a", "for_seconds": 0 }), false);
    check(json!({ "token_id": "b", "for_seconds": 3600 }), true);
    // For a second, and then no more.
    let shown = token("me", "c", 5);
    assert_eq!(disconnect(&server, &json!({ "token_id": "c", "for_seconds": 2 })), 0);
    eventually("it is let in again", || (status(&server, ORDERS, &shown) == 200).then_some(()));
}

#[test]
fn at_the_bound_a_new_disconnect_is_refused_and_no_denial_is_dropped() {
    let server = server(&["--max-denied-tokens", "2"]);
    for id in ["one", "two"] {
        disconnect(&server, &json!({ "token_id": id }));
    }
    let mut stream = open(&server, ORDERS, &token("me", "three", 5));
    let answer = post(&server, &json!({ "token_id": "three" }), "Authorization: Bearer operator\r\n");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "Nothing disconnected"), "{answer}");
    assert!(answer.text().contains("--max-denied-tokens") && answer.header("retry-after").is_some(), "{answer}");
    assert_eq!(server.refused("denied_tokens"), 1.0);
    assert_eq!(disconnect(&server, &json!({ "token_id": "two" })), 0, "it has its place");
    assert_eq!(disconnect(&server, &json!({ "topic": "other" })), 0, "this denies no token");
    stays(&server, std::slice::from_mut(&mut stream), "orders.1");
    assert_eq!(disconnect(&server, &json!({ "token_id": "three", "for_seconds": 0 })), 1, "nor does this");
    ends(stream, DISCONNECTED);
    for id in ["one", "two"] {
        assert_eq!(status(&server, ORDERS, &token("me", id, 5)), 401, "{id}");
    }
}

#[test]
fn only_operators_disconnect() {
    let server = server(&[]);
    let body = json!({ "topic": "orders.1" });
    let mut stream = open(&server, ORDERS, &signed(&everything()));
    let subscriber = signed(&only(json!({ "subscribe": ["*"], "publish": ["*"] })));
    let operator = signed(&only(json!({ "operator": true })));
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let (cookie, query) = (format!("Cookie: fanfare_token={operator}\r\n"), format!("access_token={operator}"));
    for (lines, expected) in [
        (String::new(), 401),
        (bearer("garbage"), 401),
        (bearer(TOKEN), 401),
        (bearer(&subscriber), 403),
        (cookie, 401),
    ] {
        let answer = post(&server, &body, &lines);
        assert_eq!(answer.status, expected, "{lines}: {answer}");
    }
    let in_query = server
        .request(&format!("POST /disconnect?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{body}"));
    assert_eq!(in_query.status, 401, "{in_query}");
    // A body of no length is no way round.
    assert_eq!(server.request("POST /disconnect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").status, 401);
    assert_eq!(server.get("/disconnect").status, 405);
    stays(&server, std::slice::from_mut(&mut stream), "orders.1");
    assert_eq!(post(&server, &body, &bearer(&operator)).json(), json!({ "disconnected": 1 }));
    ends(stream, DISCONNECTED);
    for (wrong, words) in [
        (json!({}), "selects no streams"),
        (json!("no JSON"), "not a valid request for POST /disconnect"),
        (json!({ "subject": "a", "token_id": "b" }), "not both"),
        (json!({ "user": "a" }), "unknown field"),
    ] {
        let answer = post(&server, &wrong, &bearer(&operator));
        assert_eq!((answer.status, answer.problem().as_str()), (400, "Bad disconnect body"), "{answer}");
        assert!(answer.text().contains(words), "{answer}");
    }
}

#[test]
fn without_an_operator_token_only_the_admin_listener_disconnects_and_never_for_a_page() {
    let server = Server::start(&[]);
    let stream = Subscriber::open(&server, ORDERS);
    let body = r#"{"topic":"orders.1"}"#;
    let request = |lines: &str| {
        let length = body.len();
        format!("POST /disconnect HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {length}\r\n\r\n{body}")
    };
    let admin = |lines: &str| {
        let mut client = server.connect_admin();
        client.send(request(lines));
        client.answer()
    };
    assert_eq!(server.request(&request("")).status, 403);
    assert_eq!(admin("Origin: https://evil.test\r\n").status, 403);
    assert_eq!(post_admin_subject(&server).status, 400, "without tokens there are no subjects");
    assert_eq!(admin("").json(), json!({ "disconnected": 1 }));
    ends(stream, DISCONNECTED);
}

fn post_admin_subject(server: &Server) -> Answer {
    let mut client = server.connect_admin();
    let body = r#"{"subject":"me"}"#;
    client
        .send(format!("POST /disconnect HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    client.answer()
}

// ---- several nodes ----

fn node(redis: &RedisServer) -> Server {
    let server = server(&["--redis-url", &redis.url("redis", ""), "--redis-channel", "orders.1"]);
    server.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 1.0);
    server
}

#[test]
fn one_node_is_asked_and_all_disconnect() {
    let redis = RedisServer::start();
    let nodes = [node(&redis), node(&redis)];
    let shown = token("me", "one", 5);
    let [here, there] = nodes.each_ref().map(|node| open(node, ORDERS, &shown));
    let mut kept = nodes.each_ref().map(|node| open(node, ORDERS, &token("you", "two", 5)));
    assert_eq!(disconnect(&nodes[0], &json!({ "token_id": "one" })), 1, "of the node that was asked");
    ends(here, DISCONNECTED);
    ends(there, DISCONNECTED);
    for node in &nodes {
        assert_eq!(status(node, ORDERS, &shown), 401);
        closed(node, "disconnected", 1);
        let malformed = "fanfare_source_refused_total{source=\"redis\",reason=\"malformed\"}";
        assert_eq!(node.metric(malformed), 0.0);
    }
    redis.command::<i64>(&["PUBLISH", "orders.1", "still here"]);
    kept.iter_mut().for_each(|stream| stream.expect(&["still here"]));
    assert_eq!(disconnect(&nodes[1], &json!({ "topic": "orders.1" })), 1);
    kept.into_iter().for_each(|stream| ends(stream, DISCONNECTED));
}

#[test]
fn more_disconnects_than_may_wait_are_all_done() {
    const COUNT: usize = 3000;
    let redis = RedisServer::start();
    let node = node(&redis);
    let token = token("me", "one", 5);
    // Each of these takes the loop longer than it takes to send it.
    let streams: Vec<_> = (0..500).map(|_| open(&node, ORDERS, &token)).collect();
    let mut pipeline = redis::pipe();
    for n in 1..COUNT {
        let message = json!({ "disconnect": { "topic": format!("other.{n}") }, "asked_at_s": now() });
        pipeline.cmd("PUBLISH").arg("fanfare:bus").arg(message.to_string()).ignore();
    }
    let last = json!({ "disconnect": { "subject": "me" }, "asked_at_s": now() });
    pipeline.cmd("PUBLISH").arg("fanfare:bus").arg(last.to_string()).ignore();
    pipeline.query::<()>(&mut redis.connect()).unwrap();
    streams.into_iter().for_each(|stream| ends(stream, DISCONNECTED));
    let done = || node.log().text().matches("disconnected streams for an operator").count();
    wait_until("all of them are done in each loop", || done() == COUNT * loops());
}

#[test]
fn without_redis_this_node_disconnects_and_reports_that_others_may_not() {
    let mut redis = RedisServer::start();
    let node = node(&redis);
    let shown = token("me", "one", 5);
    let stream = open(&node, ORDERS, &shown);
    redis.kill();
    node.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 0.0);
    let answer = post(&node, &json!({ "token_id": "one" }), "Authorization: Bearer operator\r\n");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "Disconnected here alone"), "{answer}");
    assert!(answer.text().contains("this node disconnected 1, but other nodes may not know"), "{answer}");
    // Only a gap, or nothing, comes before its last block.
    let mut stream = stream;
    assert_eq!(stream.block().raw, DISCONNECTED);
    assert_eq!(status(&node, ORDERS, &shown), 401);
}

// ---- the command ----

/// Runs `fanfare disconnect`; its exit code and what it said.
fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    let output = command.arg("disconnect").args(args).env_clear().envs(env.iter().copied()).output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn the_command_disconnects_and_reports_the_result_in_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let socket = format!("unix:{}", socket.to_str().unwrap());
    let server = server(&["--admin-listen", &socket]);
    let operator = [("FANFARE_OPERATOR_TOKEN", "operator")];
    let url = server.url("");
    let minted = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.args(["token", "--audience", AUDIENCE, "--issuer", ISSUER, "--subscribe", "*"]).args(args);
        let output = command.env_clear().env("FANFARE_JWT_SECRET", SECRET).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let shown = minted(&["--subject", "me", "--token-id", "one"]);
    let streams = [ORDERS, "/events?topic=a", "/events?topic=b"].map(|target| open(&server, target, &shown));

    let check = |args: &[&str], env: &[(&str, &str)], expected: (i32, &str)| {
        let (code, said) = run(args, env);
        assert_eq!(code, Some(expected.0), "{args:?}: {said}");
        assert!(said.contains(expected.1), "{args:?}: {said}");
    };
    check(&["--url", &url, "--topic", "orders.1"], &[], (1, "FANFARE_OPERATOR_TOKEN"));
    check(&["--url", &url, "--topic", "orders.1"], &[("FANFARE_OPERATOR_TOKEN", "wrong")], (1, "401"));
    check(&["--url", &url, "--topic", "orders.1"], &operator, (0, "1 disconnected\n"));
    check(
        &["--url", &socket, "--topic", "a", "--subject", "me", "--address", "127.0.0.0/8"],
        &[],
        (0, "1 disconnected\n"),
    );
    check(&["--url", &url, "--topic", "nobody's"], &operator, (0, "0 disconnected\n"));
    assert_eq!(status(&server, ORDERS, &shown), 200);
    check(&["--url", &url, "--token-id", "one", "--for", "1h"], &operator, (0, "1 disconnected\n"));
    assert_eq!(status(&server, ORDERS, &shown), 401);
    streams.into_iter().for_each(|stream| ends(stream, DISCONNECTED));
    check(&["--url", "http://127.0.0.1:1", "--topic", "a"], &operator, (1, "127.0.0.1:1"));
    for wrong in [
        &[][..],
        &["--subject", "a", "--token-id", "b"],
        &["--topic", "a", "--for", "1s"],
        &["--address", "10.0.0.0/33"],
        &["--subject", ""],
        &["--url", "ftp://host", "--topic", "a"],
    ] {
        check(wrong, &operator, (2, ""));
    }
}
