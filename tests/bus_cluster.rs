//! A durable bus in a Redis Cluster of two real servers: nodes follow its redirects to the one that has the keys.

use std::net::TcpListener;

use serde_json::json;

use support::redis::{RedisServer, install_bus};
use support::server::Server;
use support::stream::Subscriber;
use support::wait::wait_until;

mod support;

const SLOTS: u16 = 16384;

/// Two servers, each with half of the slots. The first has those of the bus.
fn cluster() -> [RedisServer; 2] {
    let servers = [(); 2].map(|()| {
        let cluster_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let arguments = ["--port", "{port}", "--cluster-enabled", "yes", "--cluster-port", &cluster_port];
        (RedisServer::start_in(tempfile::tempdir().unwrap(), &arguments), cluster_port)
    });
    let [(first, _), (second, second_bus)] = &servers;
    let slot: u16 = first.command(&["CLUSTER", "KEYSLOT", "{fanfare}:events"]);
    assert!(slot < SLOTS / 2);
    for (server, (from, through)) in [(first, (0, SLOTS / 2 - 1)), (second, (SLOTS / 2, SLOTS - 1))] {
        server.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &through.to_string()]);
    }
    let port = second.address().port().to_string();
    first.command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, second_bus]);
    wait_until("both servers see the whole cluster", || {
        [first, second].iter().all(|server| {
            let info: String = server.command(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        })
    });
    servers.map(|(server, _)| server)
}

/// Moves the bus from one server to another, as redis-cli --cluster reshard does.
fn move_bus(from: &RedisServer, to: &RedisServer) {
    let slot = from.command::<u16>(&["CLUSTER", "KEYSLOT", "{fanfare}:events"]).to_string();
    let [from_id, to_id] = [from, to].map(|server| server.command::<String>(&["CLUSTER", "MYID"]));
    let functions: Vec<u8> = from.command(&["FUNCTION", "DUMP"]);
    redis::cmd("FUNCTION").arg("RESTORE").arg(functions).exec(&mut to.connect()).unwrap();
    to.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let keys: Vec<String> = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
    let port = to.address().port().to_string();
    let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"].map(str::to_owned);
    let words: Vec<_> = migrate.iter().chain(&keys).map(String::as_str).collect();
    from.command::<String>(&words);
    for server in [to, from] {
        server.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
}

#[test]
fn nodes_find_the_bus_from_any_server_and_follow_it() {
    let [owner, other] = cluster();
    // It loads the functions where the keys are.
    install_bus(&other);
    let functions = |server: &RedisServer| server.command::<Vec<redis::Value>>(&["FUNCTION", "LIST"]).len();
    assert_eq!((functions(&owner), functions(&other)), (1, 0));
    let nodes = [&owner, &other].map(|redis| {
        let url = redis.url("redis", "");
        Server::start(&["--redis-url", &url, "--bus", "redis-stream", "--redis-channel", "news", "--dev"])
    });
    wait_until("both are ready", || nodes.iter().all(|node| node.get("/health/ready").status == 200));
    let mut subscribers = nodes.each_ref().map(|node| Subscriber::open(node, "/events?topic=a&topic=news"));
    let post = |data: &str| nodes[1].post(&json!({ "topic": "a", "data": data }).to_string());
    post("1");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["1"]));

    move_bus(&owner, &other);
    wait_until("a publish is accepted again", || post("2").status == 202);
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.event().gap()["reason"], "bus_forked", "another server may lack entries");
        subscriber.expect(&["2"]);
    }
    // The ingest follows, too, perhaps after a gap; all servers have what is published on one of them.
    wait_until("a message of a channel arrives", || {
        other.command::<i64>(&["PUBLISH", "news", "3"]);
        nodes[0].get("/topics/news").json()["retained_events"].as_u64().is_some_and(|events| events > 0)
    });
}
