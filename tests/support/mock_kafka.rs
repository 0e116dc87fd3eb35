//! librdkafka's mock cluster in a process of its own: brokers that speak Kafka's protocol over TCP, and that misbehave when
//! asked to. This test binary is that process, too, when it is started as [`KafkaCluster`](super::kafka::KafkaCluster) does.

use std::io::stdin;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// What the process says first, before its brokers.
pub const BROKERS: &str = "brokers=";
/// What it says before the outcome of a command.
pub const OUTCOME: &str = "outcome=";

/// Serves until its standard input ends.
#[test]
#[ignore = "a process that other tests start"]
#[expect(clippy::print_stdout, reason = "a process of its own, which other tests read")]
fn serve() {
    let count = std::env::var("MOCK_KAFKA_BROKERS").unwrap_or_default().parse().unwrap_or(1);
    let cluster = MockCluster::new(count).unwrap();
    println!("\n{BROKERS}{}", cluster.bootstrap_servers());
    for line in stdin().lines().map_while(Result::ok) {
        let words: Vec<_> = line.split(' ').collect();
        let outcome = command(&cluster, &words).map_err(|error| error.to_string());
        println!("\n{OUTCOME}{outcome:?}");
    }
}

fn command(cluster: &MockCluster<'static, DefaultProducerContext>, words: &[&str]) -> Result<(), KafkaError> {
    let number = |index: usize| words[index].parse::<i32>().expect("a number");
    match words[0] {
        "topic" => cluster.create_topic(words[1], number(2), number(3)),
        "down" => cluster.broker_down(number(1)),
        "up" => cluster.broker_up(number(1)),
        "leader" => cluster.partition_leader(words[1], 0, Some(number(2))),
        "delay" => cluster.broker_round_trip_time(number(1), Duration::from_millis(number(2) as u64)),
        "errors" => {
            let codes = (2..words.len()).map(|index| RDKafkaRespErr::try_from(number(index)).expect("a code"));
            cluster.request_errors(api(words[1]), &codes.collect::<Vec<_>>());
            Ok(())
        }
        "versions" => cluster.apiversion(api(words[1]), Some(number(2) as i16), Some(number(3) as i16)),
        other => panic!("no command of the mock cluster: {other}"),
    }
}

fn api(name: &str) -> RDKafkaApiKey {
    match name {
        "produce" => RDKafkaApiKey::Produce,
        "fetch" => RDKafkaApiKey::Fetch,
        "offsets" => RDKafkaApiKey::ListOffsets,
        "metadata" => RDKafkaApiKey::Metadata,
        "init" => RDKafkaApiKey::InitProducerId,
        other => panic!("no request of the mock cluster: {other}"),
    }
}
