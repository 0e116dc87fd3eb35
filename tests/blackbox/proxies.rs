//! Proxies: whose word counts about whom a connection is for, in headers and in the PROXY protocol.

use crate::support::http::Client;
use crate::support::server::Server;
use crate::support::stream::{Subscriber, stream_request};

const TRUSTED: [&str; 2] = ["--trusted-proxy", "127.0.0.1"];
const STRANGER: &str = "127.0.0.77";

fn start(options: &[&str]) -> Server {
    Server::start(&[&TRUSTED, options].concat())
}

/// A stream through a proxy that says this of its client.
#[track_caller]
fn open(client: Client, header_lines: &str) -> Subscriber {
    Subscriber::over(client, "/events?topic=a", header_lines)
}

fn plain(address: &str) -> String {
    format!("X-Forwarded-For: {address}\r\n")
}

/// Checks that a stream is refused over this connection for its client's address, and that the connection stays open.
#[track_caller]
fn check_over_limit(server: &Server, client: &mut Client, header_lines: &str) {
    let before = server.refused("address_limit");
    client.send(format!("GET /events?topic=a HTTP/1.1\r\nHost: localhost\r\n{header_lines}\r\n"));
    let answer = client.answer();
    assert_eq!(answer.status, 429, "{header_lines:?}: {answer}");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(server.refused("address_limit"), before + 1.0);
}

#[test]
fn streams_through_a_trusted_proxy_count_for_their_clients() {
    let server = start(&["--max-connections-per-ip", "2", "--log-level", "debug"]);
    // Connections that a proxy keeps ready, and its own requests, count for no client.
    let mut kept: Vec<_> = (0..30).map(|_| server.connect()).collect();
    for client in &mut kept {
        client.get("/health/live");
        assert_eq!(client.answer().status, 200);
    }
    // Two for an address, which are one whichever way it is written; of IPv6 for a network.
    for (first, second, other) in [
        ("192.0.2.7", "for=\"192.0.2.7:4711\"", "192.0.2.8"),
        ("2001:db8:1:2::7", "for=\"[2001:db8:1:2:ffff::8]:80\"", "2001:db8:1:3::7"),
    ] {
        let same = [plain(first), format!("Forwarded: {second};proto=https\r\n")];
        let streams = [open(server.connect(), &same[0]), open(server.connect(), &same[1])];
        let mut refused = server.connect();
        check_over_limit(&server, &mut refused, &same[0]);
        check_over_limit(&server, &mut refused, &same[1]);
        // The connection that was refused serves the proxy's next client.
        let others = [open(refused, &plain(other)), open(server.connect(), &plain(other))];
        check_over_limit(&server, &mut server.connect(), &plain(other));
        drop((streams, others));
        server.wait_for_log(&["closed", &format!("peer={first} "), "peer_closed"]);
        server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 0.0);
        open(server.connect(), &same[0]);
    }
    // What the proxy names last counts, whatever its client wrote before.
    let lies = |lie: &str| format!("X-Forwarded-For: {lie}\r\nX-Forwarded-For: {lie}, 198.51.100.1, 127.0.0.1\r\n");
    let _streams = [open(server.connect(), &lies("203.0.113.1")), open(server.connect(), &lies("unknown"))];
    check_over_limit(&server, &mut server.connect(), &lies("203.0.113.2"));
}

#[test]
fn a_client_that_a_proxy_does_not_name_counts_for_the_proxy() {
    let server = start(&["--max-connections-per-ip", "3"]);
    // A proxy that sets one of the headers passes on the other as its client wrote it.
    let conflict = "Forwarded: for=203.0.113.1\r\nX-Forwarded-For: 192.0.2.7\r\n";
    let _streams = ["", conflict, "Forwarded: for=_hidden\r\n"].map(|lines| open(server.connect(), lines));
    for lines in ["", conflict, "X-Forwarded-For: unknown\r\n", "Forwarded: for=203.0.113.1;x=\", for=192.0.2.7\r\n"] {
        check_over_limit(&server, &mut server.connect(), lines);
    }
    open(server.connect(), &plain("192.0.2.7"));
}

#[test]
fn forwarding_headers_of_an_untrusted_peer_are_ignored() {
    let server = start(&["--max-connections-per-ip", "2", "--log-level", "debug"]);
    let connect = || Client::connect_from(STRANGER, server.address());
    let streams = [1, 2].map(|n| open(connect(), &plain(&format!("192.0.2.{n}"))));
    check_over_limit(&server, &mut connect(), &plain("192.0.2.3"));
    drop(streams);
    server.wait_for_log(&["closed", &format!("peer={STRANGER}:")]);
    assert!(server.log().find(&["192.0.2."]).is_none(), "{}", server.log().text());
}

#[test]
fn a_unix_socket_is_trusted_if_it_is_configured_so() {
    let folder = tempfile::tempdir().unwrap();
    for trusted in [true, false] {
        let path = folder.path().join(format!("{trusted}.sock"));
        let listen = format!("unix:{}", path.display());
        let mut options = vec!["--listen", "127.0.0.1:0", "--listen", &listen, "--max-connections-per-ip", "1"];
        options.extend(["--log-level", "debug"]);
        options.extend(trusted.then_some(["--trusted-proxy", "unix"]).iter().flatten());
        let server = Server::start(&options);
        let connect = || Client::connect_unix(&path);
        let first = open(connect(), &plain("192.0.2.7"));
        if trusted {
            check_over_limit(&server, &mut connect(), &plain("192.0.2.7"));
            let _of_the_proxy = open(connect(), "");
            check_over_limit(&server, &mut connect(), "");
        } else {
            open(connect(), &plain("192.0.2.7"));
        }
        drop(first);
        let peer = if trusted { "peer=192.0.2.7 " } else { "peer=unix " };
        server.wait_for_log(&["closed", peer, "peer_closed"]);
        assert_eq!(server.log().find(&["192.0.2.7"]).is_some(), trusted);
    }
}

/// A header of version 2 of the PROXY protocol.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, block].concat()
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 47011 443\r\n";
const V2_BLOCK: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xb7, 0xa3, 1, 187];

/// Headers for the client 192.0.2.7:47011.
fn proxy_headers() -> [Vec<u8>; 3] {
    let extensions = [&V2_BLOCK[..], &[4, 0, 3, 0, 0, 0], &[0x20; 1000]].concat();
    [V1.to_vec(), binary(0x21, 0x11, &V2_BLOCK), binary(0x21, 0x11, &extensions)]
}

fn start_with_proxy_protocol(options: &[&str]) -> Server {
    start(&[&["--proxy-protocol", "--log-level", "debug"], options].concat())
}

#[test]
fn the_proxy_protocol_names_the_client_of_a_connection() {
    let server = start_with_proxy_protocol(&[]);
    let live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut log_lines = 0;
    for header in proxy_headers() {
        for step in [1, usize::MAX] {
            let mut client = server.connect();
            let bytes = [&header[..], live].concat();
            bytes.chunks(step.min(bytes.len())).for_each(|chunk| client.send(chunk));
            assert_eq!(client.answer().status, 200);
            client.send(live);
            assert_eq!(client.answer().status, 200, "it comes once");
            // Further headers of a client that the proxy named are not believed.
            drop(open(client, &plain("203.0.113.9")));
            log_lines += 1;
            let closed = || server.log().text().matches("peer=192.0.2.7:47011 reason=\"peer_closed\"").count();
            crate::support::wait::wait_until("the client's end is logged", || closed() == log_lines);
        }
    }
    // A balancer's own health checks are its own.
    for header in [binary(0x20, 0x11, &V2_BLOCK), binary(0x20, 0, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = server.connect();
        client.send([&header[..], live].concat());
        assert_eq!(client.answer().status, 200);
        let address = client.address();
        drop(client);
        server.wait_for_log(&["closed", &format!("peer={address} ")]);
    }
    assert!(server.log().find(&["203.0.113.9"]).is_none());
    assert_eq!(server.metric("fanfare_closed_total{reason=\"proxy_header\"}"), 0.0);
}

#[test]
fn connections_count_for_the_client_that_the_proxy_protocol_names() {
    let server = start_with_proxy_protocol(&["--max-connections-per-ip", "2"]);
    let connect = |header: &[u8]| {
        let mut client = server.connect();
        client.send(header);
        client
    };
    let _streams = [open(connect(V1), ""), open(connect(&binary(0x21, 0x11, &V2_BLOCK)), "")];
    check_over_limit(&server, &mut connect(V1), "");
    open(connect(b"PROXY TCP4 192.0.2.8 192.0.2.1 47011 443\r\n"), "");
    // A proxy behind the balancer is a proxy still.
    open(connect(b"PROXY TCP4 127.0.0.1 192.0.2.1 47011 443\r\n"), &plain("192.0.2.9"));
    check_over_limit(&server, &mut connect(b"PROXY UNKNOWN\r\n"), &plain("192.0.2.7"));
    // Sixteen more get a refusal; the next would only cost memory.
    let _named: Vec<_> = (0..15).map(|_| connect(V1)).collect();
    let mut last = connect(V1);
    last.get("/health/live");
    assert_eq!(last.answer().status, 200);
    let before = server.refused("address_limit");
    connect(V1).closes_unanswered();
    assert_eq!(server.refused("address_limit"), before + 1.0);
}

#[test]
fn a_connection_that_does_not_begin_as_the_proxy_protocol_asks_is_closed() {
    let server = start_with_proxy_protocol(&["--head-timeout", "300ms"]);
    let live = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let malformed: [Vec<u8>; 9] = [
        live.into(),
        format!("PROXY TCP4 192.0.2.7 192.0.2.1 47011\r\n{live}").into(),
        format!("PROXY TCP4 192.0.2.7 192.0.2.1 47011 443\n{live}").into(),
        format!("PROXY UNKNOWN {}\r\n{live}", "x".repeat(100)).into(),
        [binary(0x31, 0x11, &V2_BLOCK), live.into()].concat(),
        [binary(0x21, 0x11, &V2_BLOCK[1..]), live.into()].concat(),
        [&binary(0x21, 0x11, &[])[..14], &[0xff, 0xff], live.as_bytes()].concat(),
        // Not all of it ever comes.
        V1[..20].into(),
        Vec::new(),
    ];
    for (index, bytes) in malformed.iter().enumerate() {
        let mut client = server.connect();
        client.send(bytes);
        client.closes_unanswered();
        let closed = server.metric("fanfare_closed_total{reason=\"proxy_header\"}");
        assert_eq!(closed, (index + 1) as f64, "{:?}", String::from_utf8_lossy(bytes));
    }
    // Bytes of a peer that is no proxy are not read; the admin listener does not expect the PROXY protocol.
    let mut stranger = Client::connect_from(STRANGER, server.address());
    let _ = stranger.try_send(V1);
    stranger.closes_unanswered();
    assert_eq!(server.refused("untrusted_peer"), 1.0);
    assert_eq!(server.get_admin("/health/live").status, 200);
}

#[test]
fn a_refused_event_source_gets_a_reconnection_time_through_a_proxy() {
    let server = start(&["--max-connections-per-ip", "1"]);
    let _stream = open(server.connect(), &plain("192.0.2.7"));
    let mut client = server.connect();
    client.send(stream_request("/events?topic=a", &plain("192.0.2.7")));
    assert_eq!(client.head().status, 200);
    assert!(client.read_to_end().starts_with(b"retry: "));
}
