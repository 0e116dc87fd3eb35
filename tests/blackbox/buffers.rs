//! What the kernel holds for a subscriber: room enough for a large event, and little for one that stopped reading.

use std::net::SocketAddr;

use crate::support::http::Client;
use crate::support::server::Server;
use crate::support::stream::{Subscriber, stream_request};

const UNSENT_BYTES_MAX: usize = 16 << 10;
/// The kernel looks at the bound before it begins a packet, and fills that one.
const PACKET_BYTES_MAX: usize = 64 << 10;

/// Bytes that the kernel holds for a client: sent and not acknowledged yet, or not sent. As `tx_queue` of /proc/net/tcp.
fn held_bytes(server: &Server, client: &Client) -> usize {
    let client: SocketAddr = client.address().parse().unwrap();
    let [here, there] = [server.address(), client].map(|address| format!(":{:04X}", address.port()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&here) && row[2].ends_with(&there)).expect("it is connected");
    usize::from_str_radix(row[4].split(':').next().unwrap(), 16).unwrap()
}

#[test]
fn a_large_event_takes_few_sends_to_an_eager_reader() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let mut sends_of_event = |n: usize| {
        let sends = || server.metric("fanfare_sends_total");
        let before = sends();
        let data = format!("{n} {}", "x".repeat(250_000));
        server.publish("a", &data);
        subscriber.expect(&[&data]);
        sends() - before
    };
    // A send that is cut short waits for the reader, and a busy machine may let the reader wait: the best event counts.
    // With a send buffer of 16 KiB each took five.
    let fewest = (0..10).map(&mut sends_of_event).fold(f64::INFINITY, f64::min);
    assert!((1.0..=3.0).contains(&fewest), "{fewest} sends for an event");
}

#[test]
fn a_reader_that_stops_reading_pins_a_bounded_number_of_bytes() {
    const STALLED: usize = 20;
    let remember = ["--history-events", "100000", "--history-bytes", "64MiB"];
    let server = Server::start(&[&remember[..], &["--stall-timeout", "1h"]].concat());
    let stalled: Vec<_> = (0..STALLED)
        .map(|_| {
            let mut client = Client::connect_with_small_buffer(server.address());
            client.send(stream_request("/events?topic=a", ""));
            client
        })
        .collect();
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == STALLED as f64);
    // Until no client reads any more: a send to each was blocked.
    while server.metric("fanfare_skipped_blocked_total") < 100.0 * STALLED as f64 {
        server.publish("a", &"x".repeat(40_000));
    }
    for client in &stalled {
        let held = held_bytes(&server, client);
        assert!((1..=UNSENT_BYTES_MAX + PACKET_BYTES_MAX).contains(&held), "{held} bytes");
    }
}
