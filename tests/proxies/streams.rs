//! Streams through TLS and HTTP/2: at once, many on one connection, and gone when the client is.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::support::process::Lines;
use crate::support::proxy::{Kind, Proxy};
use crate::support::server::{Server, TOKEN};
use crate::support::wait::wait_until;
use crate::support::watcher::Watcher;

for_each_proxy!(
    an_event_arrives_at_once_and_a_client_that_leaves_is_gone,
    one_connection_carries_more_streams_than_a_browser_has_connections,
    what_clients_say_about_their_address_is_replaced,
    clients_count_for_their_own_addresses,
);

const STREAM: &str = "/events?topic=prices";
const FORGED: [&str; 4] = ["--header", "X-Forwarded-For: 192.0.2.1", "--header", "Forwarded: for=192.0.2.2"];
const STREAMS: &str = "fanfare_connections{kind=\"stream\"}";

/// A server behind the proxy, that can also be asked without it.
fn start_behind(proxy: &Proxy) -> Server {
    Server::start(&["--listen", "127.0.0.1:0", "--listen", &proxy.listen(), "--heartbeat", "1s"])
}

fn an_event_arrives_at_once_and_a_client_that_leaves_is_gone(kind: Kind) {
    let proxy = Proxy::start(kind);
    let server = start_behind(&proxy);
    for (version, status_line) in [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200 OK")] {
        let mut curl = proxy.curl(&["--no-buffer", "--include", version], STREAM);
        let mut curl = curl.stdout(Stdio::piped()).spawn().unwrap();
        let received = Lines::collect(curl.stdout.take().unwrap());
        received.wait_for(&["retry: "]);
        let head = received.text();
        assert!(head.starts_with(status_line), "{head}");
        assert!(head.to_lowercase().contains("\ncontent-type: text/event-stream; charset=utf-8"), "{head}");
        let id = server.publish("prices", "{\"a\": 1.50}");
        received.wait_for(&["data: {\"a\": 1.50}"]);
        received.wait_for(&["id: ", &id]);
        wait_until("a heartbeat comes through", || received.text().contains("\n:\n"));
        assert_eq!(curl.try_wait().unwrap(), None, "the stream is open: the proxy does not buffer it");
        assert_eq!(server.metric(STREAMS), 1.0);
        curl.kill().unwrap();
        curl.wait().unwrap();
        server.wait_for_metric(STREAMS, |streams| streams == 0.0);
    }
}

fn one_connection_carries_more_streams_than_a_browser_has_connections(kind: Kind) {
    const COUNT: usize = 50;
    let proxy = Proxy::start(kind);
    let server = start_behind(&proxy);
    let mut node = Watcher::start("http2.mjs");
    (0..COUNT).for_each(|_| node.watch(&proxy.url(STREAM)));
    server.wait_for_metric(STREAMS, |streams| streams == COUNT as f64);
    let token = format!("Authorization: Bearer {TOKEN}");
    let event = r#"{"topic":"prices","data":"to all"}"#;
    let published = proxy.curl(&["--header", &token, "--data", event], "/publish").output().unwrap();
    assert!(published.stdout.starts_with(b"{\"id\":"), "{published:?}");
    wait_until("all have it", || node.count("message") == COUNT);
    let opened = node.happened().into_iter().filter(|happened| happened.kind == "open");
    assert_eq!(opened.map(|open| open.data.unwrap()).collect::<Vec<_>>(), ["h2 200"; COUNT]);
    assert_eq!(node.count("close"), 0, "streams end only when they are ended");
    drop(node);
    server.wait_for_metric(STREAMS, |streams| streams == 0.0);
}

fn what_clients_say_about_their_address_is_replaced(kind: Kind) {
    let proxy = Proxy::start(kind);
    let upstream = UnixListener::bind(proxy.socket()).unwrap();
    std::fs::set_permissions(proxy.socket(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let mut curl = proxy.curl(&[&FORGED[..], &["--header", "Accept: text/event-stream"]].concat(), STREAM);
    let mut curl = curl.stdout(Stdio::piped()).spawn().unwrap();
    let (mut request, _) = upstream.accept().unwrap();
    let lines = BufReader::new(&request).lines().map(|line| line.unwrap().to_lowercase());
    let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    request.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    let mut said = String::new();
    curl.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    curl.wait().unwrap();
    let forwarded: Vec<_> = head.iter().filter(|line| line.starts_with("x-forwarded-for:")).collect();
    assert_eq!(forwarded, ["x-forwarded-for: 127.0.0.1"], "{head:#?}");
    assert!(head.contains(&"x-forwarded-proto: https".to_owned()), "{head:#?}");
    assert!(!head.iter().any(|line| line.starts_with("forwarded:")), "{head:#?}");
}

fn clients_count_for_their_own_addresses(kind: Kind) {
    let proxy = Proxy::start(kind);
    let listen = ["--listen", "127.0.0.1:0", "--listen", &proxy.listen(), "--trusted-proxy", "unix"];
    let server = Server::start(&[&listen[..], &["--max-connections-per-ip", "1"]].concat());
    let mut first = proxy.curl(&["--no-buffer"], STREAM).stdout(Stdio::null()).spawn().unwrap();
    server.wait_for_metric(STREAMS, |streams| streams == 1.0);
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let again = proxy.curl(&[&FORGED[..], &status].concat(), STREAM).output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), "429", "whatever client address it claims");
    let mut other = proxy.curl(&["--no-buffer", "--interface", "127.0.0.2"], STREAM);
    let mut other = other.stdout(Stdio::null()).spawn().unwrap();
    server.wait_for_metric(STREAMS, |streams| streams == 2.0);
    for curl in [&mut first, &mut other] {
        curl.kill().unwrap();
        curl.wait().unwrap();
    }
}
