//! Publishing over HTTP: what is accepted, how it arrives on the wire, and which clients may publish.

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::server::{Server, TOKEN, publish_request};
use crate::support::stream::Subscriber;

const BODY: &str = r#"{"topic":"a","data":"x"}"#;

#[test]
fn one_event_is_answered_with_its_id_and_sent_under_it() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let answer = server.post(BODY);
    let head = format!(
        "HTTP/1.1 202 Accepted|Date: DATE|Content-Type: application/json|Content-Length: {}",
        answer.body.len()
    );
    assert_eq!(answer.shown_head(), head);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.text(), format!(r#"{{"id":"{id}"}}"#));
    assert_eq!(subscriber.block().raw, format!("id: {id}\ndata: x\n\n"));
    let full = r#" {"retry":1500,"event":"tick","id":"my/id","data":"x","topic":"a"} "#;
    let id = server.post(full).json()["id"].as_str().unwrap().to_owned();
    let (run, _) = id.split_once('-').unwrap();
    assert_eq!((run.len(), &*id), (12, &*format!("{run}-2~my/id")));
    assert_eq!(subscriber.block().raw, format!("id: {id}\nevent: tick\nretry: 1500\ndata: x\n\n"));
}

#[test]
fn data_reaches_the_wire_byte_for_byte() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let mut check = |data: &str, wire: &str| {
        let answer = server.post(&format!(r#"{{"topic":"a","data":{data}}}"#));
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(subscriber.block().raw, format!("id: {id}\n{wire}\n"), "{data}");
    };
    // JSON is not read and written again: numbers, order, repetitions and blanks are the publisher's.
    check(r#"{"b":1.50,"a":1e400, "b":[ ],"n":-0}"#, "data: {\"b\":1.50,\"a\":1e400, \"b\":[ ],\"n\":-0}\n");
    check("12345678901234567890.0", "data: 12345678901234567890.0\n");
    check(r#"{"text":"\u00e4\/"}"#, "data: {\"text\":\"\\u00e4\\/\"}\n");
    check("null", "data: null\n");
    check("{\n  \"a\": 1\r\n}", "data: {\ndata:   \"a\": 1\ndata: }\n");
    // A string is the text it stands for, and each line end makes a new line.
    check(r#""a\nb\rc\r\nd\n""#, "data: a\ndata: b\ndata: c\ndata: d\ndata: \n");
    check(r#""  \u00e4\ud83d\ude00""#, "data:   ä😀\n");
    check(r#""""#, "data: \n");
    check(r#""x\n\nid: 1\nevent: gap""#, "data: x\ndata: \ndata: id: 1\ndata: event: gap\n");
}

#[test]
fn an_array_is_published_in_its_order_or_not_at_all() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a&topic=b");
    let three = r#"[{"topic":"a","data":"0"},{"topic":"b","data":"1"},{"topic":"a","data":"2","id":"two"}]"#;
    let answer = server.post(three);
    assert_eq!(answer.status, 202, "{answer}");
    let sent: Vec<Value> = (0..3).map(|_| subscriber.block().id().unwrap().into()).collect();
    assert_eq!(answer.json(), json!({ "ids": sent }));
    let refused = |bad: &str| {
        let answer = server.post(&format!(r#"[{{"topic":"a","data":"not sent"}},{bad}]"#));
        assert_eq!(answer.status, 400, "{bad}: {answer}");
        answer.problem();
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("event 1: "), "{detail}");
    };
    refused("{}");
    refused("1");
    refused(r#"{"topic":"","data":"x"}"#);
    refused(r#"{"topic":"a","data":"x","event":"gap"}"#);
    refused(r#"{"topic":"a","data":"x","id":"a b"}"#);
    server.publish("a", "after");
    subscriber.expect(&["after"]);
}

#[test]
fn an_invalid_event_is_answered_with_400() {
    let server = Server::start(&[]);
    let long_id = "i".repeat(88);
    let check = |body: &str| {
        let answer = server.post(body);
        assert_eq!(answer.status, 400, "{body}: {answer}");
        assert_eq!(answer.problem(), "Bad publish body");
    };
    for body in ["", "{", "[]", "x", "{}", r#"{"topic":"a"}"#, r#"{"data":"a"}"#, r#"{"topic":1,"data":"a"}"#] {
        check(body);
    }
    check(r#"{"topic":"a","data":"x","extra":1}"#);
    check(r#"{"topic":"a","data":"x","topic":"b"}"#);
    check(r#"{"topic":"a\nb","data":"x"}"#);
    check(r#"{"topic":"a","data":"\ud800"}"#);
    check(r#"{"topic":"a","data":"x","retry":"1"}"#);
    check(r#"{"topic":"a","data":"x","id":"ä"}"#);
    check(&format!(r#"{{"topic":"a","data":"x","id":"{long_id}"}}"#));
}

#[test]
fn a_form_is_named() {
    let server = Server::start(&[]);
    let form = "topic=a&data=x";
    let answer = server.request(&format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\nContent-Length: {}\r\n\r\n{form}",
        form.len(),
    ));
    assert_eq!(answer.status, 400, "{answer}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("the body is not JSON, but must be a JSON object"), "{detail}");
    assert!(detail.ends_with("(the request's Content-Type is application/x-www-form-urlencoded)"), "{detail}");
}

#[test]
fn an_id_that_is_remembered_is_not_broadcast_again() {
    let server = Server::start(&["--history-events", "2"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a&topic=b");
    let with_id = |topic: &str, id: &str| {
        let answer = server.post(&format!(r#"{{"topic":"{topic}","data":"{id}","id":"{id}"}}"#));
        assert_eq!(answer.status, 202, "{answer}");
        answer.json()
    };
    let first = with_id("a", "1");
    let run = first["id"].as_str().unwrap().split_once('-').unwrap().0.to_owned();
    let whole = |n: u32, id: &str| format!("{run}-{n}~{id}");
    assert_eq!(first, json!({ "id": whole(1, "1") }));
    assert_eq!(with_id("a", "1"), json!({ "id": whole(1, "1"), "duplicate": true }));
    assert_eq!(with_id("b", "1"), json!({ "id": whole(2, "1") }), "another topic's is another event");
    with_id("a", "2");
    with_id("a", "3");
    assert_eq!(with_id("a", "1"), json!({ "id": whole(5, "1") }), "forgotten, so it is new");
    let batch = server.post(
        r#"[{"topic":"a","data":"4","id":"4"},{"topic":"a","data":"3","id":"3"},{"topic":"a","data":"4","id":"4"}]"#,
    );
    assert_eq!(batch.json(), json!({ "ids": [whole(6, "4")], "duplicates": [whole(4, "3"), whole(6, "4")] }));
    subscriber.expect(&["1", "1", "2", "3", "1", "4"]);
    let own = server.publish("a", "own");
    for given in [own, whole(6, "4")] {
        assert_eq!(with_id("a", &given), json!({ "id": given, "duplicate": true }), "whole ids count too");
    }
    let longest = "i".repeat(87);
    assert_eq!(with_id("a", &longest), json!({ "id": whole(8, &longest) }));
}

#[test]
fn without_the_token_nothing_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "old-token\nnew-token\n").unwrap();
    let server = Server::start_with_env(&["--publish-token-file", file.to_str().unwrap()], &[]);
    let check = |authorization: &str, status: u16, challenge: Option<&str>| {
        let answer = server.request(&publish_request(BODY, authorization));
        assert_eq!((answer.status, answer.header("www-authenticate")), (status, challenge), "{authorization:?}");
        if status != 202 {
            assert_eq!(answer.problem(), "Not authorized");
        }
    };
    let missing = "Bearer realm=\"publish\"";
    let wrong = format!("{missing}, error=\"invalid_token\", error_description=\"this token is not accepted here\"");
    check("", 401, Some(missing));
    check("Authorization: Basic bmV3LXRva2Vu\r\n", 401, Some(missing));
    check("Authorization: Bearer\r\n", 401, Some(missing));
    check("Authorization: Bearer wrong\r\n", 401, Some(&wrong));
    check("Authorization: Bearer new-token2\r\n", 401, Some(&wrong));
    check("Authorization: Bearer new-toke\r\n", 401, Some(&wrong));
    // While a token is rotated, both are good.
    check("Authorization: Bearer old-token\r\n", 202, None);
    check("authorization: bearer new-token\r\n", 202, None);
}

#[test]
fn publishing_is_off_until_a_token_is_configured() {
    let server = Server::start_with_env(&[], &[]);
    let answer = server.post(BODY);
    assert_eq!(answer.status, 403, "{answer}");
    assert_eq!(answer.problem(), "Publishing is off");
}

#[test]
fn a_server_without_any_way_to_publish_warns_at_its_start() {
    let warns = |options: &[&str], env: &[(&str, &str)]| {
        let mut server = Server::start_with_env(options, env);
        server.signal("TERM");
        server.wait_for_log(&["left"]);
        assert_eq!(server.wait_for_exit(), Some(0));
        let words = ["nothing can be published", "--redis-url", "--publish-token-file", "--dev"];
        server.log().find(&words).is_some()
    };
    let secret = "0123456789abcdef".repeat(2);
    assert!(warns(&[], &[]));
    assert!(warns(&[], &[("FANFARE_OPERATOR_TOKEN", TOKEN)]));
    assert!(!warns(&[], &[("FANFARE_PUBLISH_TOKEN", TOKEN)]));
    assert!(!warns(&[], &[("FANFARE_JWT_SECRET", &secret)]));
    assert!(!warns(&["--dev"], &[]));
    assert!(!warns(&["--redis-url", "redis://127.0.0.1:1"], &[]));
}

#[test]
fn dev_lets_this_host_publish_but_no_stranger_through_a_proxy_or_a_page() {
    let server = Server::start_with_env(&["--dev"], &[("FANFARE_PUBLISH_TOKEN", TOKEN)]);
    let check = |header_lines: &str, status: u16| {
        let answer = server.request(&publish_request(BODY, header_lines));
        assert_eq!(answer.status, status, "{header_lines:?}: {answer}");
    };
    check("", 202);
    check("Origin: http://localhost:5173\r\n", 202);
    check("Origin: http://127.0.0.1\r\n", 202);
    for mark in [
        "X-Forwarded-For: 192.0.2.7\r\n",
        "X-Forwarded-Proto: https\r\n",
        "Forwarded: for=192.0.2.7\r\n",
        "X-Real-IP: 192.0.2.7\r\n",
        "Via: 1.1 proxy\r\n",
        "Origin: https://evil.test\r\n",
        "Origin: http://localhost.evil.test\r\n",
        "Origin: null\r\n",
    ] {
        check(mark, 401);
        check(&format!("{mark}Authorization: Bearer {TOKEN}\r\n"), 202);
    }
}

fn cors(answer: &Answer) -> (Option<&str>, Option<&str>) {
    (answer.header("access-control-allow-origin"), answer.header("vary"))
}

#[test]
fn pages_of_configured_origins_may_read_and_others_are_logged_once() {
    let server = Server::start(&["--cors-origin", "https://app.example", "--cors-origin", "http://b.example:81"]);
    let ask = |target: &str, origin: &str| {
        let mut client = server.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"));
        client.head()
    };
    for target in ["/events", "/dashboard/stream", "/dashboard/data", "/nowhere"] {
        for origin in ["https://app.example", "http://b.example:81"] {
            assert_eq!(cors(&ask(target, origin)), (Some(origin), Some("Origin")), "{target}");
        }
        for origin in ["http://app.example", "https://app.example:8443", "http://localhost:3000", "null"] {
            assert_eq!(cors(&ask(target, origin)), (None, Some("Origin")), "{target} {origin}");
        }
    }
    assert_eq!(cors(&server.get("/topics")), (None, None));
    server.wait_for_log(&["http://localhost:3000", "--cors-origin \"http://localhost:3000\" would permit"]);
    let entries = server.log().text().matches("origin=http://localhost:3000 ").count();
    assert!(entries <= 1, "{}", server.log().text());
}

#[test]
fn a_preflight_is_answered_for_allowed_origins() {
    let server = Server::start(&["--cors-origin", "https://app.example"]);
    let ask = |origin: &str| {
        server.request(&format!(
            "OPTIONS /publish HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization\r\n\r\n"
        ))
    };
    let allowed = ask("https://app.example");
    assert_eq!(allowed.status, 204);
    assert_eq!(cors(&allowed), (Some("https://app.example"), Some("Origin")));
    assert_eq!(allowed.header("access-control-allow-methods"), Some("POST, OPTIONS"));
    let headers = allowed.header("access-control-allow-headers").unwrap();
    for name in ["Authorization", "Content-Type", "Last-Event-ID"] {
        assert!(headers.contains(name), "{headers}");
    }
    let refused = ask("https://evil.test");
    assert_eq!((refused.status, cors(&refused).0), (204, None));
    assert_eq!(refused.header("access-control-allow-methods"), None);
}
