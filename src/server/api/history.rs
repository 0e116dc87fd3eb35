//! `GET /dashboard/history`: the statistics of the last 15 minutes, so that charts are full when a page opens.

use serde_json::{Value, json as object};

use super::Api;
use super::context::RequestContext;
use super::reports::head_of_json;
use crate::io::Io;
use crate::protocol::head::Method;
use crate::protocol::response::Response;
use crate::server::node::Node;

/// What a row has, by its place in the statistics.
const COLUMNS: [&str; 24] = [
    "time_ms",
    "subscribers.count",
    "subscribers.joined_per_second",
    "subscribers.left_per_second",
    "subscribers.lagging",
    "events.published_per_second",
    "events.delivered_per_second",
    "events.sent_bytes_per_second",
    "delivery_us.p50",
    "delivery_us.p99",
    "broadcast_us.p50",
    "broadcast_us.p99",
    "loop.busy_percent",
    "loop.turn_us.p50",
    "loop.turn_us.p99",
    "channel_messages",
    "memory.resident_bytes",
    "memory.retained_bytes",
    "topics.count",
    "host.cpu_percent",
    "host.memory_used_bytes",
    "host.memory_total_bytes",
    "host.network_received_bytes_per_second",
    "host.network_sent_bytes_per_second",
];

/// The row of these statistics.
pub(super) fn row_of(statistics: &Value) -> String {
    let cell = |column: &str| column.split('.').fold(statistics, |value, name| &value[name]).clone();
    Value::Array(COLUMNS.iter().map(|column| cell(column)).collect()).to_string()
}

/// What is counted by reason, so that a reader can tell what is recent.
pub(super) fn totals_of(statistics: &Value) -> String {
    let (connections, events) = (&statistics["connections"], &statistics["events"]);
    let totals = object!({
        "time_ms": statistics["time_ms"],
        "run": statistics["run"],
        "connections": { "closed": connections["closed"], "refused": connections["refused"] },
        "events": { "dropped": events["dropped"], "gaps": events["gaps"] },
    });
    totals.to_string()
}

impl Api {
    pub(super) fn history<I: Io>(&self, asked: &RequestContext<'_, I>, node: &mut Node) -> Result<Response, Response> {
        if asked.head.method == Method::Head {
            return Ok(head_of_json().with_header("Cache-Control", "no-store"));
        }
        asked.admit_answer(node.common.history.bytes(), node)?;
        let (rows, totals) = node.common.history.items();
        let columns = object!(COLUMNS);
        let text = format!("{{\"columns\":{columns},\"rows\":[{rows}],\"totals\":[{totals}]}}");
        Ok(Response::new(200).with_body("application/json", text).with_header("Cache-Control", "no-store"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_columns_and_null_for_what_was_not_measured() {
        let statistics = object!({
            "time_ms": 7, "subscribers": { "count": 2 }, "delivery_us": { "p50": null }, "topics": { "count": 1.5 },
        });
        let row: Vec<Value> = serde_json::from_str(&row_of(&statistics)).unwrap();
        let of = |name| &row[COLUMNS.iter().position(|column| *column == name).unwrap()];
        assert_eq!((row.len(), of("time_ms"), of("subscribers.count")), (COLUMNS.len(), &object!(7), &object!(2)));
        assert_eq!(
            (of("delivery_us.p50"), of("host.cpu_percent"), of("topics.count")),
            (&Value::Null, &Value::Null, &object!(1.5))
        );
    }
}
