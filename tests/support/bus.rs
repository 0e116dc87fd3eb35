//! What tests of every durable bus do: publish on a node, read positions, and check the gap of a fork.

use serde_json::Value;

use super::server::Server;
use super::stream::Subscriber;

pub fn is_ready(server: &Server) -> bool {
    server.get("/health/ready").status == 200
}

/// Publishes, and returns the answer.
pub fn publish(server: &Server, body: &Value) -> Value {
    let answer = server.post(&body.to_string());
    assert_eq!(answer.status, 202, "{answer}");
    serde_json::from_slice(&answer.body).unwrap()
}

/// The position in an id: epoch and offset.
pub fn position(id: &str) -> (u64, u64) {
    let (epoch, offset) = id.split('~').next().unwrap().split_once('-').unwrap();
    (epoch.parse().unwrap(), offset.parse().unwrap())
}

/// Reads the gap of a fork, and returns its id.
pub fn fork_id(subscriber: &mut Subscriber) -> String {
    let gap = subscriber.event();
    assert_eq!(gap.gap()["reason"], "bus_forked");
    gap.id().unwrap().to_owned()
}

/// All nodes put the gap of a fork at one place: after `last`, before the one event `after`, also for clients that return.
pub fn check_returns(nodes: &[Server; 2], last: &str, gaps: &[String; 2]) {
    assert_eq!(gaps[0], gaps[1]);
    assert!(position(&gaps[0]) > position(last), "{gaps:?} {last}");
    for server in nodes {
        let mut resumed = Subscriber::resume(server, "/events?topic=a", last);
        assert_eq!(fork_id(&mut resumed), gaps[0]);
        resumed.expect(&["after"]);
        Subscriber::resume(server, "/events?topic=a", &gaps[0]).expect(&["after"]);
    }
}
