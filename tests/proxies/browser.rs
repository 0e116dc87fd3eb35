//! One EventSource in Chromium behind each proxy, without help from the test.

use crate::support::proxy::{Kind, Proxy};
use crate::support::redis::RedisServer;
use crate::support::server::Server;
use crate::support::stream::Subscriber;
use crate::support::wait::{eventually, wait_until};
use crate::support::watcher::Watcher;

for_each_proxy!(an_event_source_survives_a_limit_a_crash_a_drain_the_loss_of_redis_and_of_the_proxy);

const STREAM: &str = "/events?topic=prices";
/// More than the connections that a browser opens to one host over HTTP/1.1.
const TABS: usize = 8;

fn an_event_source_survives_a_limit_a_crash_a_drain_the_loss_of_redis_and_of_the_proxy(kind: Kind) {
    let mut redis = RedisServer::start();
    let redis_url = redis.url("redis", "");
    let mut proxy = Proxy::start(kind);
    let mut page = Watcher::start("page.mjs");
    let origin = page.wait_for("ready", |_| true).data.expect("the page's origin");
    let socket = proxy.listen();
    let serve = |options: &[&str]| {
        let basics = ["--listen", "127.0.0.1:0", "--listen", &socket, "--cors-origin", &origin];
        let rest = ["--redis-url", &redis_url, "--redis-channel", "prices", "--retry", "200ms", "--drain", "1s"];
        Server::start(&[&basics, &rest[..], options].concat())
    };
    let publish = |redis: &RedisServer, data: &str| {
        // Only then the server has subscribed.
        wait_until("Redis has a subscriber", || redis.command::<u64>(&["PUBLISH", "prices", data]) == 1);
    };

    // It finds the server full.
    let server = serve(&["--max-connections", "1"]);
    let occupant = Subscriber::open(&server, STREAM);
    publish(&redis, "while full");
    page.watch(&proxy.url(&format!("{STREAM}&replay=all")));
    wait_until("it is refused, and tries again", || page.count("error") >= 2);
    drop(occupant);
    page.wait_for_message("while full");

    // The server crashes and stays away until the proxy has answered in its place: with a 200, which opens.
    let opens = page.count("open");
    server.kill();
    wait_until("the proxy answers itself", || page.count("open") > opens);
    let mut server = serve(&[]);
    eventually("a gap", || (page.count("gap") == 1).then_some(()));
    publish(&redis, "after the crash");
    page.wait_for_message("after the crash");

    // An orderly end, as at a deploy.
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0));
    let server = serve(&[]);
    eventually("a gap", || (page.count("gap") == 2).then_some(()));
    publish(&redis, "after the drain");
    page.wait_for_message("after the drain");

    // Redis goes: what it would have brought is lost, but the stream stays.
    let errors = page.count("error");
    redis.kill();
    redis.restart();
    page.wait_for("gap", |gap| gap.gap_reason() == "source_lost");
    publish(&redis, "after Redis");
    let last = page.wait_for_message("after Redis");
    assert_eq!(page.count("error"), errors, "{:#?}", page.happened());

    // The proxy goes: with its Last-Event-ID the page gets what was published meanwhile, and nothing else.
    proxy.kill();
    page.wait_for("error", |error| error.ready_state == Some(0));
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 0.0);
    let missed = ["missed 1", "missed 2", "missed 3"];
    missed.iter().for_each(|data| publish(&redis, data));
    proxy.restart();
    page.wait_for_message("missed 3");
    assert_ne!(last.id, None);

    let restart = "gap: unknown_id";
    let [crash, drain, lost] = ["after the crash", "after the drain", "after Redis"];
    let expected = ["while full", restart, crash, restart, drain, "gap: source_lost", lost];
    assert_eq!(page.received(), [&expected[..], &missed].concat());

    // More tabs than HTTP/1.1 would allow.
    (1..TABS).for_each(|_| page.watch(&proxy.url(STREAM)));
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == TABS as f64);
    publish(&redis, "to all tabs");
    wait_until("every tab has it", || {
        let happened = page.happened();
        happened.iter().filter(|happened| happened.data.as_deref() == Some("to all tabs")).count() == TABS
    });
    page.never_closed();
}
