//! What is for operators is closed to strangers wherever one could ask: on a network, behind a proxy, through a socket.

use crate::support::http::{Answer, Client};
use crate::support::server::Server;

const REPORTS: [&str; 6] =
    ["/metrics", "/dashboard/debug", "/dashboard/history", "/topics", "/topics/a", "/dashboard/data"];

fn ask(mut client: Client, method: &str, target: &str, header_lines: &str) -> Answer {
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{header_lines}\r\n"));
    if method == "HEAD" { client.head() } else { client.answer() }
}

#[track_caller]
fn check_open(server: &Server, header_lines: &str) {
    server.publish("a", "x");
    for target in REPORTS {
        let answer = ask(server.connect(), "GET", target, header_lines);
        assert_eq!(answer.status, 200, "{target} {header_lines}: {answer}");
    }
}

/// Checks that reports are closed, and that the answer names each way to them.
#[track_caller]
fn check_closed(server: &Server, connect: impl Fn() -> Client, header_lines: &str) {
    for target in REPORTS {
        assert_eq!(ask(connect(), "HEAD", target, header_lines).status, 403, "{target} {header_lines}");
        let answer = ask(connect(), "GET", target, header_lines);
        assert_eq!((answer.status, answer.problem().as_str()), (403, "Operators only"), "{target} {header_lines}");
        for way in ["--operator-token-file", "--admin-listen", "--open-reports"] {
            assert!(answer.text().contains(way), "{answer}");
        }
        let is_admins = target != "/dashboard/data";
        assert_eq!(server.get_admin(target).status, if is_admins { 200 } else { 404 }, "{target}");
    }
    // Who may subscribe to a topic may look at its latest event, and health is for balancers.
    for target in ["/dashboard/data?topic=a", "/health", "/"] {
        assert_eq!(ask(connect(), "GET", target, header_lines).status, 200, "{target} {header_lines}");
    }
}

#[test]
fn on_loopback_alone_reports_are_open_but_not_through_a_proxy() {
    for options in [&[][..], &["--dev"]] {
        let server = Server::start(options);
        check_open(&server, "");
        for mark in ["X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "Forwarded: for=x", "Via: 1.1 proxy"] {
            check_closed(&server, || server.connect(), &format!("{mark}\r\n"));
        }
        let denied = server.metric("fanfare_denied_total{reason=\"closed_report\"}");
        assert_eq!(denied, (4 * 2 * REPORTS.len()) as f64);
    }
}

#[test]
fn where_others_reach_the_server_reports_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public.sock");
    let socket = format!("unix:{}", path.display());
    let check = |options: &[&str]| {
        let server = Server::start(options);
        server.publish("a", "x");
        check_closed(&server, || server.connect(), "");
        server
    };
    check(&["--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"]);
    check(&["--trusted-proxy", "10.0.0.1"]);
    let server = check(&["--listen", "127.0.0.1:0", "--listen", &socket]);
    check_closed(&server, || Client::connect_unix(&path), "");
}

#[test]
fn behind_the_proxy_protocol_reports_are_closed() {
    let server = Server::start(&["--proxy-protocol", "--trusted-proxy", "127.0.0.1"]);
    let connect = || {
        let mut client = server.connect();
        client.send("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n");
        client
    };
    let publish = crate::support::server::publish_request(
        r#"{"topic":"a","data":"x"}"#,
        &format!("Authorization: Bearer {}\r\n", crate::support::server::TOKEN),
    );
    let mut client = connect();
    client.send(publish);
    assert_eq!(client.answer().status, 202);
    check_closed(&server, connect, "");
}

#[test]
fn the_flag_and_an_operators_token_open_reports() {
    let network = ["--listen", "0.0.0.0:0", "--trusted-proxy", "10.0.0.1"];
    check_open(&Server::start(&[&network[..], &["--open-reports"]].concat()), "X-Forwarded-For: 10.0.0.1\r\n");
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "operator\n").unwrap();
    let operators = ["--operator-token-file", tokens.path().to_str().unwrap()];
    let server = Server::start(&[&network[..], &operators].concat());
    check_open(&server, "Authorization: Bearer operator\r\n");
    for target in REPORTS {
        assert_eq!(server.get(target).status, 401, "{target}");
    }
    check_open(&Server::start(&[&network[..], &operators, &["--open-reports"]].concat()), "");
}
