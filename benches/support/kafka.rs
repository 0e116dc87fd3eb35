//! A Kafka for a bench: librdkafka's mock cluster in a process of its own. It keeps everything in memory, so it shows what a
//! node does, not what Kafka's disks and replicas take.

use std::io::{Read, stdin};

use rdkafka::mocking::MockCluster;

use super::process::CLIENT_CORE;
use super::role::Role;

/// The topic of the bus.
pub const TOPIC: &str = "fanfare";

/// A cluster of one broker that has the topic of a bus; ended when this is dropped.
pub struct Kafka {
    pub brokers: String,
    _process: Role,
}

impl Kafka {
    /// Starts one on the clients' core.
    pub fn start() -> Kafka {
        let mut process = Role::start("kafka", &[], CLIENT_CORE);
        Kafka { brokers: process.hear_about("brokers"), _process: process }
    }
}

/// Serves until its standard input ends.
pub fn play() {
    let cluster = MockCluster::new(1).expect("a mock cluster starts");
    cluster.create_topic(TOPIC, 1, 1).expect("a mock cluster creates topics");
    println!("brokers {}", cluster.bootstrap_servers());
    let _ = stdin().read_to_end(&mut Vec::new());
}
