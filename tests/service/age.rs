//! The maximum age of a stream.

use crate::support::server::Server;
use crate::support::stream::{Block, Subscriber};

#[test]
fn a_stream_at_its_maximum_age_ends_cleanly_and_resumes_without_a_gap() {
    let server = Server::start(&["--max-connection-age", "1s", "--heartbeat", "1h", "--retry", "10s"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let last: Block = subscriber.block();
    let retry_ms = last.retry_ms().expect("it has a reconnection time");
    assert!((500..=1000).contains(&retry_ms), "soon: {last:?}");
    assert_eq!(subscriber.try_block(), None, "the connection ends without an error");
    server.wait_for_metric("fanfare_closed_total{reason=\"aged\"}", |closed| closed == 1.0);

    server.publish("a", "meanwhile");
    let mut resumed = Subscriber::resume(&server, "/events?topic=a", subscriber.preamble.id().unwrap());
    resumed.expect(&["meanwhile"]);
}

#[test]
fn without_a_maximum_streams_stay_longer_than_with_one() {
    let [without, with] = [&[][..], &["--max-connection-age", "1s"]].map(Server::start);
    let [mut stays, _ends] = [&without, &with].map(|server| Subscriber::open(server, "/events?topic=a"));
    let aged = "fanfare_closed_total{reason=\"aged\"}";
    with.wait_for_metric(aged, |closed| closed == 1.0);
    without.publish("a", "x");
    stays.expect(&["x"]);
    assert_eq!(without.metric(aged), 0.0);
}
