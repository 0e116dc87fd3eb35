//! The maximum age of a stream.

use crate::support::server::Server;
use crate::support::stream::{Block, Subscriber};

#[test]
fn a_stream_that_is_old_ends_in_good_order_and_is_resumed_without_a_gap() {
    let server = Server::start(&["--max-connection-age", "1s", "--heartbeat", "1h", "--retry", "10s"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let last: Block = subscriber.block();
    let retry_ms = last.retry_ms().expect("it is told when to come back");
    assert!((500..=1000).contains(&retry_ms), "soon: {last:?}");
    assert_eq!(subscriber.try_block(), None, "the end is in good order");
    server.wait_for_metric("fanfare_closed_total{reason=\"aged\"}", |closed| closed == 1.0);

    server.publish("a", "meanwhile");
    let mut resumed = Subscriber::resume(&server, "/events?topic=a", subscriber.preamble.id().unwrap());
    resumed.expect(&["meanwhile"]);
}

#[test]
fn without_a_maximum_streams_stay() {
    let server = Server::start(&[]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    server.publish("a", "x");
    subscriber.expect(&["x"]);
    assert_eq!(server.metric("fanfare_closed_total{reason=\"aged\"}"), 0.0);
}
