//! Peers that vanish: by reset in any phase, behind a network that stands still, behind a cable that is pulled.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::http::Client;
use crate::support::relay::Relay;
use crate::support::server::Server;
use crate::support::stream::{Subscriber, stream_request};
use crate::support::wait::wait_until;

/// How many peers fail in each way.
const PEERS: usize = 10;

/// A phase of a connection, and what brings peers into it.
type Phase = (&'static str, fn(&Server) -> Client);

const PHASES: [Phase; 6] = [
    ("connected", |server| server.connect()),
    ("in the head", |server| with(server.connect(), "GET /events?topic=a HTTP/1.1\r\nHost: loc")),
    ("in the body", |server| {
        with(server.connect(), "POST /publish HTTP/1.1\r\nHost: l\r\nContent-Length: 99\r\n\r\n{")
    }),
    ("answered", |server| with(server.connect(), &"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10))),
    ("in the stream", |server| Subscriber::open(server, "/events?topic=a").client),
    ("behind in the stream", |server| {
        with(Client::connect_with_small_buffer(server.address()), &stream_request("/events?topic=large", ""))
    }),
];

fn with(mut client: Client, says: &str) -> Client {
    client.send(says);
    client
}

#[test]
fn a_reset_in_any_phase_is_counted_and_affects_no_other_client() {
    let server = Server::start(&[]);
    let mut healthy = Subscriber::open(&server, "/events?topic=a");
    server.publish("a", "first");
    healthy.expect(&["first"]);
    let at_rest = server.descriptors_below(u32::MAX);
    for (phase, begin) in PHASES {
        let peers: Vec<_> = (0..PEERS).map(|_| begin(&server)).collect();
        if phase == "behind in the stream" {
            let behind = "fanfare_lagging_subscribers";
            server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 1.0 + PEERS as f64);
            while server.metric(behind) < PEERS as f64 {
                server.publish("large", &"x".repeat(60_000));
            }
        }
        let before = server.metric("fanfare_closed_total{reason=\"reset\"}");
        peers.into_iter().for_each(Client::reset);
        server.wait_for_metric("fanfare_closed_total{reason=\"reset\"}", |reset| reset >= before + PEERS as f64);
        server.publish("a", phase);
        healthy.expect(&[phase]);
        wait_until("their descriptors are back", || server.descriptors_below(u32::MAX) <= at_rest);
    }
    assert_eq!(server.metric("fanfare_lagging_subscribers"), 0.0);
}

#[test]
fn a_reset_during_a_drain_disturbs_no_other_stream() {
    let mut server = Server::start(&["--drain", "2s"]);
    let mut streams: Vec<_> = (0..PEERS).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    let others: Vec<_> = (0..PEERS).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    server.signal("TERM");
    server.wait_for_metric("fanfare_draining", |draining| draining > 0.0);
    others.into_iter().for_each(|other| other.client.reset());
    for stream in &mut streams {
        assert!(stream.block().retry_ms().is_some());
        assert_eq!(stream.try_block(), None, "the connection ends without an error");
    }
    assert_eq!(server.wait_for_exit(), Some(0));
}

#[test]
fn a_peer_behind_a_network_that_stands_still_is_closed_and_others_miss_nothing() {
    // The log keeps everything, so that being forgotten is not what closes them.
    let remember = ["--history-events", "1000000", "--history-bytes", "1GiB", "--history-bytes-total", "2GiB"];
    let server = Server::start(&[&["--stall-timeout", "1s"], &remember[..]].concat());
    let relay = Relay::to(server.address());
    let stuck: Vec<_> =
        (0..PEERS).map(|_| Subscriber::over(Client::connect(relay.address()), "/events?topic=a", "")).collect();
    let mut healthy = Subscriber::open(&server, "/events?topic=a");
    relay.stall();
    let closed = |reason: &str| server.metric(&format!("fanfare_closed_total{{reason=\"{reason}\"}}"));
    let mut published = 0;
    while closed("stalled") < PEERS as f64 {
        let data = format!("{published} {}", "x".repeat(10_000));
        server.publish("a", &data);
        healthy.expect(&[&data]);
        published += 1;
        assert_eq!(closed("evicted"), 0.0, "after {published} events");
    }
    drop(stuck);
    relay.flow();
    let mut returned = Subscriber::over(Client::connect(relay.address()), "/events?topic=a", "");
    server.publish("a", "again");
    returned.expect(&["again"]);
    healthy.expect(&["again"]);
}

/// Nothing is sent to them but heartbeats, and the kernel probes nothing.
#[test]
#[ignore = "makes network namespaces, as root: tests/with-network-namespaces runs it"]
fn a_silent_peer_behind_a_pulled_cable_is_found_by_its_heartbeats() {
    let cable = Cable::lay();
    let far = format!("{}:0", cable.near_address());
    let server =
        Server::start(&["--listen", &far, "--tcp-user-timeout", "4s", "--heartbeat", "1s", "--stall-timeout", "3s"]);
    let _peers: Vec<_> = (0..PEERS).map(|_| cable.watch(&server.url_of(0, "/events?topic=quiet"))).collect();
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == PEERS as f64);
    cable.pull();
    server.wait_for_metric("fanfare_closed_total{reason=\"timed_out\"}", |closed| closed == PEERS as f64);
}

#[test]
#[ignore = "makes network namespaces, as root: tests/with-network-namespaces runs it"]
fn a_peer_behind_a_pulled_cable_is_closed_and_others_miss_nothing() {
    let cable = Cable::lay();
    let patience = ["--stall-timeout", "1s", "--tcp-user-timeout", "4s", "--heartbeat", "1s"];
    let far = format!("{}:0", cable.near_address());
    let server = Server::start(&[&["--listen", "127.0.0.1:0", "--listen", &far], &patience[..]].concat());
    let mut healthy = Subscriber::open(&server, "/events?topic=a");
    let _peers: Vec<_> = (0..PEERS).map(|_| cable.watch(&server.url_of(1, "/events?topic=a"))).collect();
    server.wait_for_metric("fanfare_connections{kind=\"stream\"}", |streams| streams == 1.0 + PEERS as f64);
    let at_rest = server.descriptors_below(u32::MAX) - PEERS;
    cable.pull();
    server.publish("a", "while it is pulled");
    healthy.expect(&["while it is pulled"]);
    // By the kernel, or before it by the server: nothing says which when both look once a second.
    let closed = |reason: &str| server.metric(&format!("fanfare_closed_total{{reason=\"{reason}\"}}"));
    wait_until("they are closed", || closed("timed_out") + closed("stalled") == PEERS as f64);
    server.publish("a", "after");
    healthy.expect(&["after"]);
    wait_until("their descriptors are back", || server.descriptors_below(u32::MAX) <= at_rest);
}

#[test]
fn a_server_that_was_stopped_goes_on_where_it_was() {
    let server = Server::start(&["--stall-timeout", "1s", "--head-timeout", "1s", "--heartbeat", "1s"]);
    let mut subscribers: Vec<_> = (0..PEERS).map(|_| Subscriber::open(&server, "/events?topic=a")).collect();
    server.publish("a", "before");
    server.signal("STOP");
    let process = format!("/proc/{}/stat", server.process_id());
    wait_until("it is stopped", || std::fs::read_to_string(&process).unwrap().contains(") T "));
    std::thread::scope(|scope| {
        let meanwhile = scope.spawn(|| server.publish("a", "meanwhile"));
        // The fault is that time passes: more of it than any patience of the server's.
        std::thread::sleep(Duration::from_secs(3));
        server.signal("CONT");
        meanwhile.join().unwrap();
    });
    server.publish("a", "after");
    for subscriber in &mut subscribers {
        subscriber.expect(&["before", "meanwhile", "after"]);
    }
    assert_eq!(server.metric("fanfare_closed_total{reason=\"stalled\"}"), 0.0);
}

/// A network namespace at the end of a cable of its own.
struct Cable {
    name: String,
    subnet: u32,
}

impl Cable {
    fn lay() -> Cable {
        // Tests of one process lay theirs beside each other.
        static LAID: AtomicU32 = AtomicU32::new(0);
        let number = (2 * std::process::id() + LAID.fetch_add(1, Ordering::Relaxed)) % 16_000;
        let cable = Cable { name: format!("ff{number}"), subnet: number * 4 };
        let (name, near, far) = (&cable.name, cable.near_address(), cable.address(2));
        let steps = [
            format!("ip netns add {name}"),
            format!("ip link add {name}a type veth peer name {name}b"),
            format!("ip link set {name}b netns {name}"),
            format!("ip addr add {near}/30 dev {name}a"),
            format!("ip link set {name}a up"),
            format!("ip netns exec {name} ip addr add {far}/30 dev {name}b"),
            format!("ip netns exec {name} ip link set {name}b up"),
        ];
        if let Some(why) = steps.iter().find_map(|step| failure(step)) {
            panic!("{why}");
        }
        cable
    }

    fn address(&self, host: u32) -> String {
        let subnet = self.subnet + host;
        format!("10.213.{}.{}", subnet >> 8, subnet & 255)
    }

    /// The address of this end.
    fn near_address(&self) -> String {
        self.address(1)
    }

    /// A client at the far end.
    fn watch(&self, url: &str) -> Peer {
        let command = format!("ip netns exec {} curl -sN {url}", self.name);
        Peer(shell(&format!("exec {command}")).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pull(&self) {
        assert!(run(&format!("ip link set {}a down", self.name)));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The interfaces go with it; what was not laid can't be taken away.
        run(&format!("ip link del {}a", self.name));
        run(&format!("ip netns del {}", self.name));
    }
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Why a command fails, if it does.
fn failure(command: &str) -> Option<String> {
    let output = shell(command).output().unwrap();
    (!output.status.success()).then(|| format!("{command}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn run(command: &str) -> bool {
    shell(command).stderr(Stdio::null()).status().unwrap().success()
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}
