//! A proxy's own errors: an EventSource gets an answer that it retries, every other client gets the error itself.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::support::proxy::{Kind, Proxy};
use crate::support::server::Server;
use crate::support::stream::Subscriber;

for_each_proxy!(
    without_a_server_an_event_source_gets_a_reconnection_time,
    a_server_that_hangs_is_an_error_like_its_absence,
    answers_of_the_server_pass_as_they_are,
    what_is_for_operators_is_not_passed_on,
);

const EVENTS: &str = "Accept: text/event-stream";

/// Asks with curl: status, head and body.
fn ask(proxy: &Proxy, arguments: &[&str], target: &str) -> (u16, String, String) {
    let output = proxy.curl(&[&["--http2", "--include"], arguments].concat(), target).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?} {:?}", output.stderr));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

/// Checks that this is an answer which an EventSource retries; the milliseconds that it waits.
#[track_caller]
fn check_come_back((status, head, body): (u16, String, String)) -> u32 {
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("\ncontent-type: text/event-stream"), "{head}");
    assert!(head.contains("\ncache-control: no-cache, no-store"), "{head}");
    assert!(head.contains("\naccess-control-allow-origin: *"), "{head}");
    let retry_ms = body.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n\n")).map(str::parse);
    retry_ms.unwrap_or_else(|| panic!("{body:?}")).unwrap()
}

fn without_a_server_an_event_source_gets_a_reconnection_time(kind: Kind) {
    // HAProxy would first try again for three seconds each time.
    let at_once: &[_] = if kind == Kind::HaProxy { &[("timeout connect 5s", "timeout connect 10ms")] } else { &[] };
    let proxy = Proxy::start_with(kind, at_once);
    let targets = ["/events", "/events?topic=a&topic=b", "/dashboard/stream"];
    let mut waits = HashSet::new();
    for n in 0..24 {
        waits.insert(check_come_back(ask(&proxy, &["--header", EVENTS], targets[n % targets.len()])));
    }
    assert!(waits.len() >= 4, "they would come all at once: {waits:?}");
    assert!(waits.iter().all(|wait| (2000..=10_000).contains(wait)), "{waits:?}");
    // Browsers name more than they want.
    check_come_back(ask(&proxy, &["--header", "Accept: text/event-stream, */*"], "/events"));

    let plain = |status: u16| [502, 503].contains(&status);
    assert!(plain(ask(&proxy, &[], "/events").0), "curl can read a status");
    assert!(plain(ask(&proxy, &["--header", EVENTS], "/publish").0), "this is no stream");
    assert_eq!(ask(&proxy, &["--header", EVENTS], "/events/x").0, 404, "nor is this");
}

fn a_server_that_hangs_is_an_error_like_its_absence(kind: Kind) {
    let impatient = match kind {
        Kind::Nginx => ("proxy_read_timeout 90s", "proxy_read_timeout 1s"),
        Kind::HaProxy => ("timeout server 90s", "timeout server 1s"),
        Kind::Caddy => ("response_header_timeout 90s", "response_header_timeout 1s"),
    };
    let proxy = Proxy::start_with(kind, &[impatient]);
    // The kernel accepts the connection; no process reads from it.
    let _mute = UnixListener::bind(proxy.socket()).unwrap();
    std::fs::set_permissions(proxy.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    check_come_back(ask(&proxy, &["--header", EVENTS], "/events"));
    assert!([502, 504].contains(&ask(&proxy, &[], "/events").0));
}

fn answers_of_the_server_pass_as_they_are(kind: Kind) {
    let proxy = Proxy::start(kind);
    let listen = ["--listen", "127.0.0.1:0", "--listen", &proxy.listen(), "--max-connections", "1"];
    let server = Server::start(&listen);
    let _occupant = Subscriber::open(&server, "/events");
    let (status, head, body) = ask(&proxy, &["--header", EVENTS], "/events?replay=bad");
    assert_eq!(status, 400, "{head}");
    assert!(body.contains("\"title\":\"Bad parameter\""), "{body}");
    // The server is full: Fanfare itself answers both in the way they understand.
    let (status, head, body) = ask(&proxy, &[], "/events");
    assert_eq!(status, 503);
    assert!(head.contains("\nretry-after:") && body.contains("\"status\":503"), "{head} {body}");
    let (status, head, body) = ask(&proxy, &["--header", EVENTS], "/events");
    assert_eq!(status, 200);
    assert!(head.contains("charset=utf-8") && body.starts_with("retry: "), "{head} {body}");
}

fn what_is_for_operators_is_not_passed_on(kind: Kind) {
    let proxy = Proxy::start(kind);
    // Fanfare itself would answer every client: here the proxy does not ask it.
    let listen = ["--listen", "127.0.0.1:0", "--listen", &proxy.listen(), "--open-reports"];
    let server = Server::start(&listen);
    let versioned = concat!("/fanfare-", env!("CARGO_PKG_VERSION"), ".js");
    for target in ["/dashboard/data?topic=a", "/fanfare.js", versioned, "/fanfare.d.ts"] {
        assert_eq!(ask(&proxy, &[], target).0, 200, "{target}");
    }
    assert_eq!(ask(&proxy, &["--data", "{}"], "/publish").0, 401);
    for target in [
        "/metrics",
        "/topics",
        "/topics/a",
        "/dashboard/debug",
        "/dashboard",
        "/health",
        "/",
        "/%6detrics",
        "/dashboard%2fdebug",
        "/dashboard/%64ebug",
        "/%74opics/a",
        "//metrics",
        "/events/../metrics",
        "/events/%2e%2e/metrics",
        "/metrics/",
    ] {
        let (status, head, body) = ask(&proxy, &["--path-as-is"], target);
        assert!([400, 404].contains(&status), "{target}: {head}");
        assert!(!body.contains("fanfare_"), "{target}: {body}");
    }
    let metrics = server.get_admin("/metrics");
    assert!(!metrics.text().contains("fanfare_responses_total{status=\"404\"}"), "none of it came here");
    assert_eq!(server.get("/topics").status, 200);
}
