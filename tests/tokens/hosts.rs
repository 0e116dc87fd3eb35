//! Pages and hosts: what a browser is allowed, and which host names `--dev` accepts.

use crate::support::http::{Answer, Client};
use crate::support::server::Server;

fn ask(server: &Server, request: &str) -> Answer {
    let mut client = server.connect();
    client.send(request);
    client.head()
}

#[test]
fn under_dev_a_rebound_host_name_is_refused() {
    let server = Server::start(&["--dev"]);
    let post = "Content-Type: text/plain\r\nContent-Length: 28\r\n\r\n{\"topic\":\"t\",\"data\":\"hello\"}";
    let routes =
        ["GET /", "GET /dashboard", "GET /events?topic=t", "GET /dashboard/data", "GET /metrics", "GET /nowhere"];
    for host in ["localhost", "localhost:3001", "LOCALHOST", "app.localhost", "127.0.0.1", "127.8.9.1:80", "[::1]:3001"]
    {
        for route in routes {
            let answer = ask(&server, &format!("{route} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_ne!(answer.status, 421, "{host} {route}");
        }
        let answer = ask(&server, &format!("POST /publish HTTP/1.1\r\nHost: {host}\r\n{post}"));
        assert_eq!(answer.status, 202, "{host}");
        let own_page = format!("POST /publish HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n{post}");
        let answer = ask(&server, &own_page);
        assert_eq!(answer.status, if host == "LOCALHOST" { answer.status } else { 202 }, "{host}");
    }
    for host in [
        "evil.test",
        "evil.test:3001",
        "localhost.evil.test",
        "127.0.0.1.nip.io:3001",
        "10.0.0.1",
        "[::2]",
        "0.0.0.0",
        "",
    ] {
        for route in routes {
            let mut client = server.connect();
            client.send(format!("{route} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            let answer = client.answer();
            assert_eq!((answer.status, answer.problem().as_str()), (421, "Not this host"), "{host} {route}");
        }
        // To the browser it is of one origin with the page that posts.
        let rebound = format!("POST /publish HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n{post}");
        assert_eq!(ask(&server, &rebound).status, 421, "{host}");
        let absolute = format!("GET http://{host}/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!([400, 421].contains(&ask(&server, &absolute).status), "{host}: the target's host counts");
    }
    let old = ask(&server, "GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(old.status, 200, "no browser speaks HTTP/1.0");
}

fn status_of(server: &Server, host: &str, header_lines: &str) -> u16 {
    ask(server, &format!("GET /events?topic=t HTTP/1.1\r\nHost: {host}\r\n{header_lines}\r\n")).status
}

const FOREIGN: [&str; 5] = ["evil.test", "evil.test:3001", "127.0.0.1.nip.io", "localhost.evil.test", ""];

#[test]
fn on_loopback_a_rebound_host_name_is_refused() {
    let server = Server::start(&["--allowed-host", "Events.example.com"]);
    for host in ["localhost:3001", "127.0.0.1", "[::1]", "10.0.0.1:3001", "events.example.com", "EVENTS.example.com:80"]
    {
        assert_eq!(status_of(&server, host, ""), 200, "{host}");
    }
    for host in FOREIGN {
        assert_eq!(status_of(&server, host, ""), 421, "{host}");
        // A page may send these headers: they make no proxy of it.
        assert_eq!(status_of(&server, host, "X-Forwarded-For: 10.0.0.1\r\n"), 421, "{host}");
        for target in ["/metrics", "/health", "/nowhere"] {
            let mut client = server.connect_admin();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            let answer = client.answer();
            assert_eq!((answer.status, answer.problem().as_str()), (421, "Not this host"), "{host} {target}");
            assert!(answer.text().contains("--allowed-host") && answer.text().contains("--trusted-proxy"), "{answer}");
        }
    }
    assert_eq!(ask(&server, "GET /health HTTP/1.0\r\n\r\n").status, 200, "no browser speaks HTTP/1.0");
}

#[test]
fn any_host_name_is_served_where_dns_rebinding_gains_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public.sock");
    let socket = format!("unix:{}", path.display());
    let network = Server::start(&["--listen", "0.0.0.0:0", "--listen", &socket]);
    let proxied = Server::start(&["--trusted-proxy", "127.0.0.1"]);
    for host in FOREIGN.into_iter().chain(["events.example.com"]) {
        assert_eq!(status_of(&network, host, ""), 200, "{host} on a network");
        assert_eq!(status_of(&proxied, host, "X-Forwarded-For: 10.0.0.1\r\n"), 200, "{host} through a proxy");
        let mut client = Client::connect_unix(&path);
        client.send(format!("GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.head().status, 200, "{host} through a unix socket");
        // The admin listener is on loopback, and no proxy's.
        let mut client = proxied.connect_admin();
        client.send(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.head().status, 421, "{host}");
    }
}

#[test]
fn credentials_are_allowed_for_listed_origins_and_never_where_all_may_read() {
    let check = |options: &[&str], origin: &str, expected: [Option<&str>; 3]| {
        let server = Server::start(options);
        let preflight = "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: last-event-id\r\n";
        for request in [
            format!("GET /events HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"),
            format!("GET /nowhere HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"),
            format!("POST /publish HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nContent-Length: 2\r\n\r\n{{}}"),
            format!("OPTIONS /events HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{preflight}\r\n"),
            format!("OPTIONS /publish HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{preflight}\r\n"),
        ] {
            let answer = ask(&server, &request);
            let names = ["access-control-allow-origin", "access-control-allow-credentials", "vary"];
            assert_eq!(names.map(|name| answer.header(name)), expected, "{request}{answer}");
            let may_send = answer.header("access-control-allow-headers");
            assert_eq!(may_send.is_some(), request.starts_with("OPTIONS") && expected[0].is_some(), "{answer}");
        }
    };
    let app = "https://app.example";
    check(&["--cors-origin", app], app, [Some(app), Some("true"), Some("Origin")]);
    check(&["--cors-origin", app], "https://evil.test", [None, None, Some("Origin")]);
    check(&["--cors-origin", app], "null", [None, None, Some("Origin")]);
    check(&["--cors-origin", "*"], "https://evil.test", [Some("*"), None, None]);
    check(&["--cors-origin", "*"], "null", [Some("*"), None, None]);
    check(&[], app, [None, None, Some("Origin")]);
}
