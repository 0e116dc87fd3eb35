//! Routes: what each path answers, to the byte where that is promised.

use serde_json::{Value, json};

use crate::support::http::Client;
use crate::support::server::Server;
use crate::support::stream::Subscriber;

const JSON: &str = "HTTP/1.1 200 OK|Date: DATE|Content-Type: application/json|Content-Length: ";

#[test]
fn every_route_answers_with_exactly_these_headers() {
    let server = Server::start(&[]);
    server.publish("orders", "one");
    let mut client = server.connect();
    let mut check = |target: &str, head: &str| {
        client.get(target);
        let answer = client.answer();
        let head = head.replace("LEN", &answer.body.len().to_string());
        assert_eq!(answer.shown_head(), head, "{target}");
        answer
    };
    let plain = format!("{JSON}LEN");
    let uncached = format!("{JSON}LEN|Cache-Control: no-store");
    assert_eq!(check("/health/live", &plain).json(), json!({ "status": "live" }));
    check("/health", &uncached);
    check("/health/ready", &uncached);
    check("/dashboard/debug", &uncached);
    check("/dashboard/data", &uncached);
    check("/topics", &plain);
    check("/topics/orders", &plain);
    check("/", &format!("{plain}|Vary: Accept"));
    check(
        "/metrics",
        "HTTP/1.1 200 OK|Date: DATE|Content-Type: text/plain; version=0.0.4; charset=utf-8|Content-Length: LEN",
    );
    let problem = "|Date: DATE|Content-Type: application/problem+json|Content-Length: LEN";
    check("/nowhere", &format!("HTTP/1.1 404 Not Found{problem}")).problem();
    check("/topics/nobody", &format!("HTTP/1.1 404 Not Found{problem}")).problem();
    check("/publish", &format!("HTTP/1.1 405 Method Not Allowed{problem}|Allow: POST, OPTIONS")).problem();
}

#[test]
fn head_is_answered_as_get_without_its_body() {
    let server = Server::start(&[]);
    server.publish("orders", "one");
    let mut client = server.connect();
    for target in ["/", "/health/live", "/topics/orders", "/nowhere"] {
        client.get(target);
        let whole = client.answer();
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(client.head().shown_head(), whole.shown_head(), "{target}");
    }
}

#[test]
fn head_of_a_stream_is_its_head_and_the_end() {
    let server = Server::start(&[]);
    for target in ["/events?topic=a", "/dashboard/stream"] {
        let mut client = server.connect();
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.head();
        assert_eq!((head.status, head.header("connection")), (200, Some("close")), "{head}");
        assert_eq!(head.header("content-type"), Some("text/event-stream; charset=utf-8"));
        client.ends();
    }
    assert_eq!(server.metric("fanfare_streams_total"), 0.0);
}

#[test]
fn options_lists_the_methods_of_a_route() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut check = |target: &str, allow: &str| {
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.answer().shown_head();
        assert_eq!(head, format!("HTTP/1.1 204 No Content|Date: DATE|Allow: {allow}"), "{target}");
    };
    check("/publish", "POST, OPTIONS");
    check("/events", "GET, HEAD, OPTIONS");
    check("/health", "GET, HEAD, OPTIONS");
    check("*", "GET, HEAD, POST, OPTIONS");
}

#[test]
fn other_methods_are_405_and_say_which_are_allowed() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut check = |method: &str, target: &str, allow: &str| {
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"));
        let answer = if method == "HEAD" { client.head() } else { client.answer() };
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {target}");
    };
    check("POST", "/events?topic=a", "GET, HEAD, OPTIONS");
    check("DELETE", "/dashboard/stream", "GET, HEAD, OPTIONS");
    check("PUT", "/publish", "POST, OPTIONS");
    check("HEAD", "/publish", "POST, OPTIONS");
    check("POST", "/health", "GET, HEAD, OPTIONS");
    check("get", "/health", "GET, HEAD, OPTIONS");
    check("PATCH", "/metrics", "GET, HEAD, OPTIONS");
}

#[test]
fn a_stream_answers_with_exactly_this_head() {
    let server = Server::start(&["--stream-endpoint", "/sse"]);
    let expected = "HTTP/1.1 200 OK|Content-Type: text/event-stream; charset=utf-8|\
                    Cache-Control: no-cache, no-store, no-transform|X-Accel-Buffering: no|\
                    Connection: keep-alive|Date: DATE";
    for target in ["/events", "/events?topic=a&topic=b", "/dashboard/stream", "/sse"] {
        let subscriber = Subscriber::open(&server, target);
        assert_eq!(subscriber.head.shown_head(), expected, "{target}");
    }
}

#[test]
fn streams_are_of_the_topics_that_their_path_and_query_name() {
    let options = ["--default-topic", "news", "--dashboard-topic", "board", "--stream-endpoint", "/sse"];
    let server = Server::start(&options);
    let check = |target: &str, topics: &[&str]| {
        let mut subscriber = Subscriber::open(&server, target);
        for topic in ["news", "board", "a", "b c/ü", "end"] {
            server.publish(topic, topic);
        }
        subscriber.expect(topics);
    };
    check("/events", &["news"]);
    check("/events?_=17&TOPIC=a", &["news"]);
    check("/sse", &["news"]);
    check("/dashboard/stream", &["board"]);
    check("/dashboard/stream?topic=a", &["board"]);
    check("/events?topic=a&topic=b%20c%2F%C3%BC&topic=end&topic=a", &["a", "b c/ü", "end"]);
    check("/sse?topic=b+c/%C3%BC&topic=end", &["b c/ü", "end"]);
}

#[test]
fn the_list_of_topics_counts_subscribers_and_retained_events() {
    let server = Server::start(&[]);
    let _first = Subscriber::open(&server, "/events?topic=orders");
    let second = Subscriber::open(&server, "/events?topic=orders&topic=quiet");
    server.publish("orders", "one");
    let id = server.publish("orders", "two");
    let orders = server.get("/topics/orders").json();
    assert_eq!((&orders["topic"], &orders["subscribers"]), (&json!("orders"), &json!(2)));
    assert_eq!((&orders["last_id"], &orders["retained_events"]), (&json!(id), &json!(2)));
    assert!(orders["retained_bytes"].as_u64().unwrap() > 0);
    let list = server.get("/topics").json();
    assert_eq!(list["count"], 2);
    let quiet = json!({
        "topic": "quiet", "subscribers": 1, "last_id": null, "published_events": 0, "retained_events": 0,
        "retained_bytes": 0,
    });
    assert!(list["topics"].as_array().unwrap().contains(&quiet), "{list}");
    drop(second);
    crate::support::wait::eventually("the second leaves", || {
        (server.get("/topics/orders").json()["subscribers"] == 1).then_some(())
    });
}

#[test]
fn a_stream_from_the_snapshots_position_loses_nothing() {
    let server = Server::start(&[]);
    server.publish("a", r#"{"n": 1.50}"#);
    let latest = server.publish("a", r#"{"n": 2.50}"#);
    server.publish("b", "plain");
    let snapshot = server.get("/dashboard/data").json();
    let event = json!({ "id": latest, "event": "message", "data": { "n": 2.5 } });
    assert_eq!(snapshot["topics"]["a"], event);
    assert_eq!(snapshot["topics"]["b"]["data"], "plain");
    assert_eq!(server.get("/dashboard/data?topic=b").json()["topics"].as_object().unwrap().len(), 1);
    let (repeated, different) = ("topic=a&".repeat(500), (0..65).map(|n| format!("topic={n}&")).collect::<String>());
    assert_eq!(server.get(&format!("/dashboard/data?{repeated}")).json()["topics"].as_object().unwrap().len(), 1);
    assert_eq!(server.get(&format!("/dashboard/data?{different}")).status, 400, "as many as a stream may name");
    server.publish("b", "later");
    server.publish("a", "latest");
    let position = snapshot["id"].as_str().unwrap();
    Subscriber::resume(&server, "/events?topic=a&topic=b", position).expect(&["later", "latest"]);
}

#[test]
fn a_snapshot_refuses_the_names_that_a_stream_refuses() {
    let server = Server::start(&[]);
    let too_long = "t".repeat(257);
    for name in ["", "a*", "fanfare:x", "%07", &too_long] {
        for target in ["/dashboard/data", "/events"] {
            let refused = server.get(&format!("{target}?topic=a&topic={name}"));
            assert_eq!((refused.status, refused.problem().as_str()), (400, "Bad topic"), "{target} {name}");
        }
    }
}

#[test]
fn the_admin_listener_serves_only_the_routes_for_operators() {
    let server = Server::start(&[]);
    for target in ["/health", "/health/live", "/health/ready", "/metrics", "/dashboard/debug", "/topics"] {
        assert_eq!(server.get_admin(target).status, 200, "{target}");
    }
    for target in ["/dashboard/stream", "/dashboard/data", "/publish"] {
        assert_eq!(server.get_admin(target).status, 404, "{target}");
    }
    let refused = server.get_admin("/publish");
    assert!(refused.text().contains("publish to one of --listen"), "{refused}");
    assert_eq!(server.get_admin("/events").status, 403, "but for the statistics");
}

#[test]
fn each_listener_lists_its_own_routes() {
    let server = Server::start(&["--stream-endpoint", "/sse"]);
    server.publish("NAME", "so that /topics/NAME is there");
    let check = |connect: &dyn Fn() -> Client, expected: usize| {
        let mut client = connect();
        client.get("/");
        let list = client.answer().json();
        let listed = list.as_object().unwrap().values().flat_map(|value| match value {
            Value::Array(several) => several.clone(),
            one => vec![one.clone()],
        });
        let targets: Vec<String> = listed.filter_map(|value| value.as_str().map(str::to_owned)).collect();
        let targets: Vec<_> = targets.iter().filter(|target| target.starts_with('/')).collect();
        assert_eq!(targets.len(), expected, "{list}");
        for target in targets {
            let mut client = connect();
            client.send(format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            let status = client.head().status;
            let is_posted_to = ["/publish", "/disconnect"].contains(&target.as_str());
            assert_eq!(status, if is_posted_to { 405 } else { 200 }, "{target}");
        }
    };
    check(&|| server.connect(), 19);
    check(&|| server.connect_admin(), 15);
}

#[test]
fn the_operators_token_protects_the_reports_about_usage() {
    let server = Server::start_with_env(&[], &[("FANFARE_OPERATOR_TOKEN", "operator")]);
    let with_token = |target: &str, token: &str| {
        server
            .request(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"))
            .status
    };
    for target in ["/metrics", "/dashboard/debug", "/dashboard/history", "/topics", "/topics/a", "/kafka/status"] {
        let refused = server.get(target);
        assert_eq!(refused.status, 401, "{target}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"operator\""));
        assert_eq!(with_token(target, "wrong"), 401, "{target}");
        assert_ne!(with_token(target, "operator"), 401, "{target}");
        assert_ne!(server.get_admin(target).status, 401, "{target}");
    }
    assert_eq!(server.get("/health/ready").status, 200);
}

#[test]
fn unix_sockets_serve_as_tcp_does() {
    let folder = tempfile::tempdir().unwrap();
    let (public, admin) = (folder.path().join("public.sock"), folder.path().join("admin.sock"));
    let listeners = [format!("unix:{}", public.display()), format!("unix:{}", admin.display())];
    let options = ["--listen", "127.0.0.1:0", "--listen", &listeners[0], "--admin-listen", &listeners[1]];
    let mut server = Server::start(&options);
    let mut subscriber = Subscriber::over(Client::connect_unix(&public), "/events?topic=a", "");
    server.publish("a", "over tcp");
    subscriber.expect(&["over tcp"]);
    assert_eq!(server.metric("fanfare_connections{kind=\"stream\"}"), 1.0);
    server.signal("TERM");
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0));
    assert!(!public.exists() && !admin.exists(), "the sockets' files go with the server");
}

#[test]
fn the_metrics_page_is_prometheus_text() {
    let server = Server::start(&[]);
    let _subscriber = Subscriber::open(&server, "/events?topic=a");
    server.publish("a", "x");
    let page = server.get("/metrics");
    let mut families = std::collections::HashSet::new();
    let (mut family, mut kind) = ("", "");
    for line in page.text().lines() {
        if let Some(named) = line.strip_prefix("# HELP ") {
            family = named.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} is there twice");
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, named_kind) = typed.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&named_kind), "{line}");
            kind = named_kind;
        } else {
            check_sample(line, family, kind);
        }
    }
    assert!(page.text().ends_with('\n'));
    for family in ["fanfare_connections", "fanfare_refused_total", "fanfare_closed_total", "fanfare_source_up"] {
        assert!(families.contains(family), "{family}");
    }
}

/// One line of the text format, 0.0.4: `name{label="value",...} value`.
fn check_sample(line: &str, family: &str, kind: &str) {
    let (named, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
    value.parse::<f64>().unwrap_or_else(|_| panic!("{line:?}"));
    let (name, labels) = named.split_once('{').unwrap_or((named, "}"));
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?}"));
    let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
    assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line:?} is in {family}");
    assert!(kind != "counter" || name.ends_with("_total"), "{line:?}");
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (label, value) = label.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
        assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line:?}");
        assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{line:?}");
    }
}

#[test]
fn an_escaped_path_is_no_alias_of_a_route() {
    let server = Server::start(&[]);
    server.publish("a/b", "x");
    assert_eq!(server.get("/topics/a%2Fb").json()["topic"], "a/b", "a topic's name is decoded");
    for alias in ["/%6detrics", "/dashboard%2fdebug", "/dashboard/%64ata", "/%74opics", "/topics%2Fa%2Fb", "/%65vents"]
    {
        assert_eq!(server.get(alias).status, 404, "{alias}");
        assert_eq!(server.get_admin(alias).status, 404, "{alias}");
    }
}
