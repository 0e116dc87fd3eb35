//! Publishers as Rails, Python, Go and Node systems have them, unchanged: what they publish reaches Fanfare's subscribers.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::bus::is_ready;
use crate::support::process::Lines;
use crate::support::redis::{RedisServer, install_bus};
use crate::support::server::{Server, TOKEN};
use crate::support::stream::Subscriber;
use crate::support::wait::wait_until;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");

/// Lets a publisher publish each line as `{"from", "text", "value"}`, in its own JSON; Fanfare passes on exactly what
/// Redis brings to any other subscriber.
fn publishes_to_fanfare(mut publisher: Command) {
    const LINES: [&str; 3] = ["plain", "\"quoted\" ä 😀", "a\\nb"];
    let redis = RedisServer::start();
    let url = redis.url("redis", "");
    let server = Server::start(&["--redis-url", &url]);
    server.wait_for_metric("fanfare_source_up{source=\"redis\"}", |up| up == 1.0);
    let mut subscriber = Subscriber::open(&server, "/dashboard/stream");
    let mut other = redis.connect();
    let mut other = other.as_pubsub();
    other.subscribe("dashboard_updates").unwrap();

    let mut child = publisher.env("REDIS_URL", url).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all((LINES.join("\n") + "\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    for line in LINES {
        let data = subscriber.event().data().unwrap();
        assert_eq!(data, other.get_message().unwrap().get_payload::<String>().unwrap());
        let json: serde_json::Value = serde_json::from_str(&data).unwrap();
        assert_eq!((&json["text"], &json["value"]), (&line.into(), &1.5.into()), "{data}");
    }
}

#[test]
fn the_gem_redis_as_in_rails() {
    let mut ruby = Command::new("ruby");
    ruby.arg(format!("{FOLDER}/migrating/applications/rails.rb"));
    publishes_to_fanfare(ruby);
}

/// The guide's job: its first attempt meets a server that only hangs up, the next one Fanfare.
#[test]
fn a_job_of_rails_over_http() {
    const GUIDE: &str = include_str!("../../docs/migrating.md");
    let (_, block) = GUIDE.split_once("```ruby\nrequire \"net/http\"").expect("the guide has the job");
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.rb");
    std::fs::write(&job, format!("require \"net/http\"{}", block.split_once("```").unwrap().0)).unwrap();
    let away = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = away.local_addr().unwrap().to_string();

    let mut ruby = Command::new("ruby");
    ruby.arg(format!("{FOLDER}/migrating/applications/rails_http.rb")).arg(job);
    ruby.env("FANFARE_URL", format!("http://{address}")).env("FANFARE_PUBLISH_TOKEN", TOKEN);
    let mut ruby = ruby.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let printed = Lines::collect(ruby.stdout.take().expect("it is piped"));
    drop(away.accept().unwrap());
    drop(away);
    printed.wait_for(&["retries"]);
    let server = Server::start(&["--listen", "127.0.0.1:0", "--listen", &address]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=orders&replay=all");
    let event = subscriber.event();
    assert_eq!(
        (event.event_type(), event.data().unwrap()),
        (Some("changed"), r#"{"order":1,"state":"paid"}"#.to_owned())
    );
    drop(ruby.stdin.take());
    assert!(ruby.wait().unwrap().success());
}

#[test]
fn redis_py() {
    let mut python = Command::new("/usr/bin/python3"); // Debian's, for Debian's package of the library
    python.arg(format!("{FOLDER}/migrating/applications/python.py"));
    publishes_to_fanfare(python);
}

/// The code in docs/scaling.md, in which only the address is another one.
#[test]
fn redis_py_appends_to_a_durable_bus() {
    let redis = RedisServer::start();
    let url = redis.url("redis", "");
    install_bus(&redis);
    let page = std::fs::read_to_string(Path::new(FOLDER).join("../docs/scaling.md")).unwrap();
    let code = page.split("```python\n").skip(1).find(|block| block.contains("fanfare_append")).unwrap();
    let code = code.split("```").next().unwrap().replace("redis://redis.internal:6379", &url);
    let pay = |positions: &str| {
        let mut python = Command::new("/usr/bin/python3");
        let output = python.arg("-c").arg(format!("{code}\nprint(pay(17))")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.starts_with(positions), "{printed}");
    };
    pay("[b'1"); // while no Fanfare runs
    let server = Server::start(&["--redis-url", &url, "--bus", "redis-stream", "--dev"]);
    wait_until("the node is ready", || is_ready(&server));
    let mut subscriber = Subscriber::open(&server, "/events?topic=orders&replay=all");
    pay("[b'=1"); // the same event again
    let event = subscriber.event();
    assert_eq!((event.data().as_deref(), event.event_type()), (Some(r#"{"id": 17, "state": "paid"}"#), Some("paid")));
    assert!(event.id().unwrap().ends_with("~order-17-paid"), "{event:?}");
}

#[test]
fn go_redis() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("publisher");
    let source = format!("{FOLDER}/migrating/applications/go.go");
    // With Debian's package of the library, and without a network.
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(source);
    build.envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode"), ("GOTOOLCHAIN", "local")]);
    assert!(build.status().expect("this test needs go on the PATH (Debian: golang-go)").success());
    publishes_to_fanfare(Command::new(program));
}

#[test]
fn the_package_redis_in_node() {
    publishes_to_fanfare(node("publish-redis.mjs"));
}

#[test]
fn ioredis_in_node() {
    publishes_to_fanfare(node("publish-ioredis.mjs"));
}

fn node(script: &str) -> Command {
    let mut node = Command::new("node");
    node.arg(Path::new(FOLDER).join("clients").join(script));
    node
}
