//! Which listeners speak TLS, what is refused at the start, and where the others send clients.

use std::io::Write as _;
use std::process::{Command, Output};

use crate::streams::{start, subscribe};
use crate::support::http::Client;
use crate::support::secured;
use crate::support::server::Server;

/// What `fanfare serve` says to options that it refuses.
fn refusal(options: &[&str]) -> String {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_fanfare")).arg("serve").args(options).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_server_speaks_both_on_listeners_of_their_own() {
    let server = start(&["--listen", "127.0.0.1:0"]);
    let mut secured = subscribe(&server, "a");
    let plain_url = server.url_of(1, "");
    let plain_address = plain_url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut plain = Client::connect(plain_address);
    plain.get("/events?topic=a");
    assert_eq!(plain.head().status, 200);
    plain.read_through(b"\n\n").unwrap();
    server.publish("a", "to both");
    for client in [&mut secured, &mut plain] {
        let frame = String::from_utf8(client.read_through(b"\n\n").unwrap()).unwrap();
        assert!(frame.contains("data: to both"), "{frame}");
    }
}

#[test]
fn a_listener_that_redirects_names_the_same_with_tls() {
    let server = start(&["--listen", "redirect:127.0.0.1:0"]);
    let https = server.url_of(0, "");
    let port = https.rsplit(':').next().unwrap();
    let plain_url = server.url_of(1, "");
    let mut client = Client::connect(plain_url.strip_prefix("http://").unwrap().parse().unwrap());
    for request in [
        "GET /events?topic=a%26b HTTP/1.1\r\nHost: events.example:80\r\n\r\n",
        "POST /events?topic=a%26b HTTP/1.1\r\nHost: events.example\r\nContent-Length: 0\r\n\r\n",
    ] {
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status, 308);
        let expected = format!("https://events.example:{port}/events?topic=a%26b");
        assert_eq!(answer.header("location"), Some(&*expected));
    }
    client
        .send("POST /publish HTTP/1.1\r\nHost: events.example\r\nAuthorization: Bearer x\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.answer().status, 308, "no token is taken without TLS");
    client.ends();
}

#[test]
fn plain_http_is_told_to_use_https_and_counted() {
    let server = start(&[]);
    let mut plain = std::net::TcpStream::connect(server.address()).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut plain, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("write https:// in front of it"), "{answer}");
    server.wait_for_metric("fanfare_tls_handshakes_total{outcome=\"plain_http\"}", |count| count == 1.0);
    server.wait_for_metric("fanfare_closed_total{reason=\"handshake\"}", |count| count == 1.0);
}

#[test]
fn what_is_missing_or_wrong_is_named_before_the_start() {
    let file = |name| secured::certificate().file(name).to_str().unwrap().to_owned();
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let check = |options: &[&str], words: &[&str]| {
        let said = refusal(options);
        for word in words {
            assert!(said.contains(word), "no {word} in: {said}");
        }
    };
    let tls = "tls:127.0.0.1:0";
    check(&["--listen", tls], &["--listen tls:127.0.0.1:0", "--tls-certificate and --tls-key"]);
    check(&["--listen", tls, "--tls-certificate", &certificate], &["tls-key", "each certificate needs its key"]);
    check(&["--listen", "redirect:127.0.0.1:0"], &["redirect:127.0.0.1:0", "--listen tls:ADDR:PORT"]);
    check(&["--listen", "tls:unix:/tmp/f.sock"], &["on a unix socket, the proxy speaks TLS"]);
    check(
        &["--listen", tls, "--tls-certificate", &key, "--tls-key", &key],
        &["--tls-certificate", "holds no certificate"],
    );
    check(
        &["--listen", tls, "--tls-certificate", &certificate, "--tls-key", &certificate],
        &["--tls-key", "holds no private key"],
    );
    check(
        &["--listen", tls, "--tls-certificate", "/no/such/file", "--tls-key", &key],
        &["--tls-certificate /no/such/file", "No such file"],
    );
    check(
        &[
            "--listen",
            tls,
            "--listen",
            "127.0.0.1:3001",
            "--listen",
            "tls:127.0.0.1:3001",
            "--tls-certificate",
            &certificate,
            "--tls-key",
            &key,
        ],
        &["127.0.0.1:3001", "the address is given twice"],
    );
}

#[test]
fn a_certificate_without_a_listener_is_a_warning() {
    let file = |name| secured::certificate().file(name).to_str().unwrap().to_owned();
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let server = Server::start(&["--listen", "127.0.0.1:0", "--tls-certificate", &certificate, "--tls-key", &key]);
    server.wait_for_log(&["tls-certificate has no effect"]);
}

#[test]
fn the_proxy_protocol_precedes_the_handshake() {
    let server = start(&["--trusted-proxy", "127.0.0.1", "--proxy-protocol", "--log-level", "debug"]);
    let header = "PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\n";
    // In one piece with what follows, and apart from it.
    for is_apart in [false, true] {
        let mut stream = secured::over(std::net::TcpStream::connect(server.address()).unwrap());
        let mut first = header.as_bytes().to_vec();
        if is_apart {
            stream.sock.write_all(&first).unwrap();
            first.clear();
        }
        stream.conn.write_tls(&mut first).unwrap();
        stream.sock.write_all(&first).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        drop(stream);
        server.wait_for_log(&["closed", "203.0.113.7:5000"]);
    }
    let mut without = std::net::TcpStream::connect(server.address()).unwrap();
    without.write_all(b"\x16\x03\x01\x00\x04nope").unwrap();
    server.wait_for_metric("fanfare_closed_total{reason=\"proxy_header\"}", |count| count == 1.0);
}

#[test]
fn silent_connections_take_no_place_from_handshakes() {
    let server = start(&[]);
    let silent: Vec<_> = (0..1100).map(|_| std::net::TcpStream::connect(server.address()).unwrap()).collect();
    server.wait_for_metric("fanfare_accepted_total", |count| count >= 1100.0);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.metric("fanfare_accept_pauses_total{reason=\"handshakes\"}"), 0.0);
    drop(silent);
}
