//! A Kafka for a test: librdkafka's mock cluster in a process of its own, killed when dropped. Where `KAFKA_BOOTSTRAP`
//! names a real one, tests that need no fault use that.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::bus::is_ready;
use super::mock_kafka::{BROKERS, OUTCOME};
use super::server::Server;
use super::wait::wait_until;

/// Names a real Kafka for the tests that need no fault.
const REAL_VARIABLE: &str = "KAFKA_BOOTSTRAP";

/// Codes of Kafka's protocol, and of librdkafka (negative), for [`KafkaCluster::fail`].
pub mod code {
    /// The mock broker ends the connection.
    pub const DISCONNECT: i32 = -195;
    pub const OFFSET_OUT_OF_RANGE: i32 = 1;
    pub const NOT_LEADER: i32 = 6;
    pub const REQUEST_TIMED_OUT: i32 = 7;
    pub const NOT_ENOUGH_REPLICAS: i32 = 19;
    pub const TOPIC_AUTHORIZATION_FAILED: i32 = 29;
}

/// A mock cluster, of brokers that are numbered from 1.
pub struct KafkaCluster {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    brokers: String,
}

impl KafkaCluster {
    pub fn start(broker_count: u32) -> KafkaCluster {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["support::mock_kafka::serve", "--exact", "--ignored", "--nocapture"]);
        command.env("MOCK_KAFKA_BROKERS", broker_count.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let brokers = read_after(&mut output, BROKERS);
        let pipes = Mutex::new((child.stdin.take().unwrap(), output));
        KafkaCluster { child, pipes, brokers }
    }

    /// One broker, and a topic with one partition.
    pub fn with_topic(topic: &str) -> KafkaCluster {
        let cluster = KafkaCluster::start(1);
        cluster.create_topic(topic, 1, 1);
        cluster
    }

    /// Addresses of the brokers, with commas between them.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    pub fn create_topic(&self, topic: &str, partitions: u32, replicas: u32) {
        self.run(&format!("topic {topic} {partitions} {replicas}"));
    }

    /// Ends the broker's connections, and refuses others.
    pub fn take_down(&self, broker: u32) {
        self.run(&format!("down {broker}"));
    }

    pub fn bring_up(&self, broker: u32) {
        self.run(&format!("up {broker}"));
    }

    /// Makes a broker the leader of the topic's partition.
    pub fn set_leader(&self, topic: &str, broker: u32) {
        self.run(&format!("leader {topic} {broker}"));
    }

    /// Delays every answer of a broker.
    pub fn delay(&self, broker: u32, ms: u32) {
        self.run(&format!("delay {broker} {ms}"));
    }

    /// The next requests of this kind are answered with these codes, one each: `produce`, `fetch`, `offsets`, `metadata` or
    /// `init`.
    pub fn fail(&self, request: &str, codes: &[i32]) {
        let codes: Vec<_> = codes.iter().map(ToString::to_string).collect();
        self.run(&format!("errors {request} {}", codes.join(" ")));
    }

    /// Kills it, with all that it holds.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    #[track_caller]
    fn run(&self, command: &str) {
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.0, "{command}").unwrap();
        let outcome = read_after(&mut pipes.1, OUTCOME);
        assert_eq!(outcome, "Ok(())", "{command}");
    }
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The rest of the next line that begins with this.
#[track_caller]
fn read_after(output: &mut impl BufRead, beginning: &str) -> String {
    let mut lines = output.lines().map_while(Result::ok);
    let found = lines.find_map(|line| line.strip_prefix(beginning).map(str::to_owned));
    found.unwrap_or_else(|| panic!("the mock cluster ended before it said {beginning}"))
}

// ---- the bus ----

/// A topic for a bus, in a mock cluster of its own or in the real Kafka that the environment names.
pub struct KafkaBus {
    pub brokers: String,
    pub topic: String,
    _cluster: Option<KafkaCluster>,
}

impl KafkaBus {
    pub fn start() -> KafkaBus {
        let Some(brokers) = std::env::var(REAL_VARIABLE).ok().filter(|brokers| !brokers.is_empty()) else {
            let cluster = KafkaCluster::with_topic("fanfare");
            return KafkaBus::of(cluster.brokers().to_owned(), Some(cluster));
        };
        static TOPICS: AtomicU32 = AtomicU32::new(0);
        let number = TOPICS.fetch_add(1, Ordering::Relaxed);
        let bus =
            KafkaBus { topic: format!("fanfare-test-{}-{number}", std::process::id()), ..KafkaBus::of(brokers, None) };
        let (status, output) = bus.run(&["install", "--kafka-replicas", "1", "--kafka-accept-loss"]);
        assert_eq!(status, Some(0), "{output}");
        bus
    }

    fn of(brokers: String, cluster: Option<KafkaCluster>) -> KafkaBus {
        KafkaBus { brokers, topic: "fanfare".to_owned(), _cluster: cluster }
    }

    /// Runs `fanfare bus`; returns its exit status and output.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let place = ["--kafka-brokers", &self.brokers, "--kafka-topic", &self.topic];
        let output = command.arg("bus").args(arguments).args(place).output().expect("cargo built it");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    }

    /// A node on the bus, once it may be used.
    pub fn node(&self, options: &[&str]) -> Server {
        node(&self.brokers, &[&["--kafka-topic", &self.topic], options].concat())
    }
}

/// A node on the bus in a cluster, once it may be used.
pub fn node(brokers: &str, options: &[&str]) -> Server {
    let server = starting_node(brokers, &[&["--kafka-accept-loss"], options].concat());
    wait_until("the node is ready", || is_ready(&server));
    server
}

pub fn starting_node(brokers: &str, options: &[&str]) -> Server {
    Server::start(&[&["--kafka-brokers", brokers, "--bus", "kafka", "--dev"], options].concat())
}
