//! What a network interface queues before it drops, as `tc -j qdisc show` reports it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The queue of one interface: all of its hardware queues together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The interface.
    pub device: String,
    /// The queueing discipline, such as `fq`.
    pub kind: String,
    /// Packets that it holds; more are dropped.
    pub packets_max: u64,
}

#[derive(Deserialize)]
struct Qdisc {
    kind: String,
    dev: String,
    #[serde(default)]
    options: Options,
}

#[derive(Default, Deserialize)]
struct Options {
    limit: Option<u64>,
}

/// Parses tc's output. Disciplines without a queue (`mq`, `noqueue`) are left out; `pfifo_fast` holds as many packets
/// as the interface's `tx_queue_len`.
pub fn parse(json: &str, tx_queue_len: impl Fn(&str) -> Option<u64>) -> Vec<Queue> {
    let qdiscs: Vec<Qdisc> = serde_json::from_str(json).unwrap_or_default();
    let mut queues: BTreeMap<String, Queue> = BTreeMap::new();
    for Qdisc { kind, dev, options } in qdiscs {
        let limit = if kind == "pfifo_fast" { tx_queue_len(&dev) } else { options.limit };
        let Some(limit) = limit else { continue };
        let queue = queues.entry(dev.clone()).or_insert(Queue { device: dev, kind, packets_max: 0 });
        queue.packets_max += limit;
    }
    queues.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_of_an_interface_add_up() {
        let json = r#"[{"kind":"noqueue","handle":"0:","dev":"lo","root":true,"refcnt":2,"options":{}},
            {"kind":"mq","handle":"0:","dev":"eth0","root":true,"options":{}},
            {"kind":"fq_codel","handle":"0:","dev":"eth0","parent":":2","options":{"limit":10240,"flows":1024}},
            {"kind":"fq_codel","handle":"0:","dev":"eth0","parent":":1","options":{"limit":10240,"flows":1024}},
            {"kind":"fq","handle":"8001:","dev":"eth1","root":true,"options":{"limit":10000,"flow_limit":100}},
            {"kind":"pfifo_fast","handle":"0:","dev":"eth2","root":true,"options":{"bands":3}}]"#;
        let queue =
            |device: &str, kind: &str, packets_max| Queue { device: device.into(), kind: kind.into(), packets_max };
        let queues =
            [queue("eth0", "fq_codel", 20_480), queue("eth1", "fq", 10_000), queue("eth2", "pfifo_fast", 1000)];
        assert_eq!(parse(json, |_| Some(1000)), queues);
        assert_eq!(parse(json, |_| None), queues[..2]);
        assert_eq!(parse("no JSON", |_| None), []);
    }
}
