//! Pages and hosts: what a browser is told, and whom `--dev` takes for its own.

use crate::support::http::Answer;
use crate::support::server::Server;

fn ask(server: &Server, request: &str) -> Answer {
    let mut client = server.connect();
    client.send(request);
    client.head()
}

#[test]
fn under_dev_a_name_that_was_made_to_point_here_gets_nothing() {
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

#[test]
fn without_dev_any_host_is_served() {
    let server = Server::start(&[]);
    for host in ["events.example.com", "10.0.0.1:3001", ""] {
        assert_eq!(ask(&server, &format!("GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n")).status, 200, "{host}");
    }
}

#[test]
fn pages_of_listed_origins_may_send_credentials_and_nobody_does_where_all_may_read() {
    let check = |options: &[&str], origin: &str, expected: [Option<&str>; 3]| {
        let server = Server::start(options);
        let preflight = "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: last-event-id\r\n";
        for request in [
            format!("GET /events HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n"),
            format!("GET /nowhere HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n"),
            format!("POST /publish HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\nContent-Length: 2\r\n\r\n{{}}"),
            format!("OPTIONS /events HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n{preflight}\r\n"),
            format!("OPTIONS /publish HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n{preflight}\r\n"),
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
