//! A path moves to Fanfare in the proxy while everything runs, and back: the page that is open notices neither.

use std::process::{Child, Command, Stdio};

use crate::support::process::Lines;
use crate::support::proxy::{Kind, Proxy};
use crate::support::redis::RedisServer;
use crate::support::server::Server;
use crate::support::wait::wait_until;
use crate::support::watcher::Watcher;

const GUIDE: &str = include_str!("../../docs/migrating.md");
const STREAM: &str = "/dashboard/stream";

/// A server of the kind that is replaced (tests/clients/old-server.mjs).
struct OldServer {
    child: Child,
    port: String,
}

impl OldServer {
    fn start(redis: &RedisServer) -> OldServer {
        let mut node = Command::new("node");
        node.arg("old-server.mjs").current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
        node.env("REDIS_URL", redis.url("redis", "")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = node.spawn().expect("this test needs node on the PATH");
        let report = Lines::collect(child.stdout.take().expect("it is piped")).wait_for(&["ready"]);
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        OldServer { child, port: report["data"].as_str().unwrap().to_owned() }
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guide's code block that begins so.
fn block(beginning: &str) -> &'static str {
    let at = GUIDE.find(beginning).unwrap_or_else(|| panic!("the guide has no:\n{beginning}"));
    let (block, _) = GUIDE[at..].split_once("```").expect("the block ends");
    block
}

/// The changes to nginx.conf that the guide describes, with the old server's port of here.
fn rest_to_old(old: &OldServer) -> Vec<(&'static str, String)> {
    let upstreams = block("    upstream old {\n").replace("3000", &old.port) + "    upstream fanfare {\n";
    let rest = block("        location / {\n            proxy_pass http://old;\n").to_owned();
    vec![("    upstream fanfare {\n", upstreams), ("        location / {\n            return 404;\n        }\n", rest)]
}

/// The same, and the streams too.
fn all_to_old(old: &OldServer) -> Vec<(&'static str, String)> {
    const STREAMS: &str = "            proxy_pass http://fanfare;\n            proxy_buffering off;\n";
    let streams = (STREAMS, STREAMS.replace("http://fanfare", "http://old"));
    [rest_to_old(old), vec![streams]].concat()
}

fn borrowed<'a>(changes: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    changes.iter().map(|(from, to)| (*from, to.as_str())).collect()
}

fn body(proxy: &Proxy, target: &str) -> String {
    String::from_utf8(proxy.curl(&[], target).output().unwrap().stdout).unwrap()
}

#[test]
fn a_stream_moves_to_fanfare_and_back_under_an_open_page() {
    let redis = RedisServer::start();
    let old = OldServer::start(&redis);
    let mut proxy = Proxy::start_with(Kind::Nginx, &borrowed(&all_to_old(&old)));
    let mut page = Watcher::start("page.mjs");
    let origin = page.wait_for("ready", |_| true).data.expect("the page's origin");
    page.watch(&proxy.url(STREAM));
    page.wait_for("open", |_| true);
    let publish = |subscribers: u64, data: &str| {
        wait_until("all are subscribed", || {
            redis.command::<u64>(&["PUBLISH", "dashboard_updates", data]) == subscribers
        });
    };
    publish(1, "old alone");
    page.wait_for_message("old alone");

    // Both run, side by side, on the same Redis.
    let url = redis.url("redis", "");
    let listen = ["--listen", "127.0.0.1:0", "--listen", &proxy.listen(), "--cors-origin", &origin, "--retry", "200ms"];
    let server = Server::start(&[&listen[..], &["--redis-url", &url, "--redis-publish", "dashboard_updates"]].concat());
    server.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 1.0);
    let mut of_old = Watcher::start("eventsource.mjs");
    of_old.watch(&format!("http://127.0.0.1:{}{STREAM}", old.port));
    of_old.wait_for("open", |_| true);

    // The path moves; the rest stays.
    proxy.reconfigure(&borrowed(&rest_to_old(&old)));
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 1.0);
    assert_eq!(body(&proxy, "/anything"), "the old server\n");
    publish(2, "both");
    server.publish("dashboard_updates", "posted");
    for client in [&mut page, &mut of_old] {
        client.wait_for_message("both");
        client.wait_for_message("posted");
    }
    assert_eq!(of_old.received(), ["both", "posted"]);

    // And back.
    let opens = page.count("open");
    proxy.reconfigure(&borrowed(&all_to_old(&old)));
    wait_until("the page is back at the old server", || page.count("open") > opens);
    publish(2, "rolled back");
    page.wait_for_message("rolled back");
    assert_eq!(page.received(), ["old alone", "both", "posted", "rolled back"]);
    page.never_closed();
}

#[test]
fn what_has_not_moved_keeps_its_websockets_and_its_silent_streams() {
    const SERVER: &str = "        client_max_body_size 1m;\n";
    let redis = RedisServer::start();
    let old = OldServer::start(&redis);
    // In place of nginx's 60 s, and a path that has nothing else.
    let short = "proxy_read_timeout 1s;\n location = /cut/stream { proxy_pass http://old; }\n";
    let changes = [rest_to_old(&old), vec![(SERVER, format!("{SERVER}{short}"))]].concat();
    let proxy = Proxy::start_with(Kind::Nginx, &borrowed(&changes));

    let mut page = Watcher::start("page.mjs");
    page.wait_for("ready", |_| true);
    page.watch(&proxy.url("/other/stream"));
    page.wait_for("open", |_| true);
    // nginx ends this one for its silence, which began later.
    assert_eq!(body(&proxy, "/cut/stream"), "retry: 200\n\n");
    wait_until("the old server is told", || {
        redis.command::<u64>(&["PUBLISH", "dashboard_updates", "after the silence"]) == 1
    });
    page.wait_for_message("after the silence");
    assert_eq!(page.count("open"), 1);

    let upgrade = ["--http1.1", "--include", "--header", "Connection: Upgrade", "--header", "Upgrade: websocket"];
    let answer = String::from_utf8(proxy.curl(&upgrade, "/cable").output().unwrap().stdout).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("Upgrade: websocket\r\n"), "{answer}");
}
