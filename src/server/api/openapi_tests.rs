//! The description of all routes, `web/openapi.json`, against the source: its routes, methods, statuses and bounds.
//! `tests/openapi.rs` checks it against the answers of a real server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::routes::Route;
use super::{kafka, page, reports, subscribe};
use crate::event::{
    EVENT_ID_BYTES_MAX, EVENT_TYPE_BYTES_MAX, GAP_EVENT_TYPE, PUBLISHER_ID_BYTES_MAX, STATISTICS_TOPIC, TOPIC_BYTES_MAX,
};
use crate::protocol::RequestError;
use crate::protocol::disconnect::{NAME_BYTES_MAX, SECONDS_MAX};
use crate::protocol::response;
use crate::server::node::refusal::Refusal;
use crate::server::window;

fn description() -> Value {
    let file = page::find("/openapi.json").expect("it is served");
    serde_json::from_str(file.text()).expect("it is JSON")
}

/// The value at a path of names and numbers, such as `a/b/0`; a reference is followed.
#[track_caller]
fn at<'a>(description: &'a Value, path: &str) -> &'a Value {
    let mut value = description;
    for name in path.split(" > ") {
        let part = name.parse::<usize>().map_or_else(|_| value.get(name), |place| value.get(place));
        value = part.unwrap_or_else(|| panic!("{path}: no {name} in {value}"));
        if let Some(Value::String(reference)) = value.get("$ref") {
            value = description.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"));
        }
    }
    value
}

/// The paths of the description, with each value of a parameter that has a fixed set of them.
fn paths(description: &Value) -> BTreeMap<String, &Value> {
    let mut paths = BTreeMap::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let parameters = item["get"]["parameters"].as_array().into_iter().flatten();
        let in_path = parameters
            .filter(|parameter| parameter["in"] == "path")
            .find(|parameter| parameter["schema"]["enum"].is_array());
        match in_path {
            None => drop(paths.insert(path.clone(), item)),
            Some(parameter) => {
                let marker = format!("{{{}}}", parameter["name"].as_str().unwrap());
                let values = parameter["schema"]["enum"].as_array().unwrap().iter();
                paths.extend(values.map(|value| (path.replace(&marker, value.as_str().unwrap()), item)));
            }
        }
    }
    paths
}

#[test]
fn the_description_has_every_route_and_no_other_and_its_methods_and_listeners() {
    let description = description();
    let described = paths(&description);
    let routes: BTreeMap<_, _> = Route::paths().collect();
    assert_eq!(described.keys().collect::<Vec<_>>(), routes.keys().collect::<Vec<_>>());
    for (path, route) in routes {
        let item = described[&path].as_object().unwrap();
        // The description says once that every path takes these two.
        let methods = route.methods().split(", ").filter(|method| !["HEAD", "OPTIONS"].contains(method));
        assert_eq!(
            item.keys().map(|method| method.to_uppercase()).collect::<Vec<_>>(),
            methods.collect::<Vec<_>>(),
            "{path}"
        );
        for operation in item.values() {
            assert_eq!(operation["x-admin-listener"], route.is_admin(), "{path}");
        }
    }
}

#[test]
fn the_description_is_of_this_version() {
    assert_eq!(description()["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_operation_has_the_answers_that_any_request_may_get_and_all_statuses_are_in_the_description() {
    let refusals = [Refusal::HeadTimeout, Refusal::Pipelined, Refusal::AnswerBytes];
    let wrong_host = 421;
    let of_any: BTreeSet<u16> = (RequestError::ALL.into_iter().map(RequestError::status))
        .chain(refusals.into_iter().map(Refusal::status))
        .chain([wrong_host])
        .collect();
    let description = description();
    // Of OPTIONS, of listeners that redirect, and of methods that a path does not take.
    let mut all = BTreeSet::from([204, 308, 405]);
    for (path, item) in paths(&description) {
        for operation in item.as_object().unwrap().values() {
            let statuses = operation["responses"].as_object().unwrap().keys().map(|status| status.parse().unwrap());
            let statuses: BTreeSet<u16> = statuses.collect();
            let missing: Vec<_> = of_any.difference(&statuses).collect();
            assert!(missing.is_empty(), "{path} has no {missing:?}");
            all.extend(statuses);
        }
    }
    assert_eq!(all, response::statuses().collect());
}

#[test]
fn every_title_of_an_error_is_in_the_page_about_errors() {
    let page = include_str!("../../../docs/errors.md");
    let description = description();
    let mut titles = BTreeSet::new();
    for response in description["components"]["responses"].as_object().unwrap().values() {
        let Some(title) =
            response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"].get("title")
        else {
            continue;
        };
        let several = title["enum"].as_array().into_iter().flatten().chain(title.get("const"));
        titles.extend(several.map(|title| title.as_str().unwrap()));
    }
    let rows = page.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5"));
    let documented = rows.flat_map(|row| row.split(" | ").nth(1).unwrap().split(", "));
    let documented: BTreeSet<_> = documented.filter(|title| *title != "Method not allowed").collect();
    assert_eq!(titles, documented);
}

#[test]
fn bounds_in_the_description_are_those_of_the_source() {
    let description = description();
    let check = |path: &str, expected: Value| assert_eq!(at(&description, path), &expected, "{path}");
    let schema = |path: &str, expected: Value| check(&format!("components > schemas > {path}"), expected);
    let parameter = |path: &str, expected: Value| check(&format!("components > parameters > {path}"), expected);
    let bound = |max: usize| json!(max);

    schema("Topic > maxLength", bound(TOPIC_BYTES_MAX));
    schema("OwnTopic > const", json!(STATISTICS_TOPIC));
    schema("EventId > pattern", json!(format!("^[!-~]{{1,{EVENT_ID_BYTES_MAX}}}$")));
    schema("Event > properties > id > pattern", json!(format!("^[!-~]{{1,{PUBLISHER_ID_BYTES_MAX}}}$")));
    schema("Event > properties > event > maxLength", bound(EVENT_TYPE_BYTES_MAX));
    schema("Event > properties > event > not > const", json!(GAP_EVENT_TYPE));
    schema("Event > properties > retry > maximum", json!(u32::MAX));
    schema("GapEvent > properties > event > const", json!(GAP_EVENT_TYPE));
    schema("Disconnect > properties > subject > maxLength", bound(NAME_BYTES_MAX));
    schema("Disconnect > properties > token_id > maxLength", bound(NAME_BYTES_MAX));
    schema("Disconnect > properties > for_seconds > maximum", json!(SECONDS_MAX));
    schema("TopicList > properties > topics > maxItems", bound(window::TOPICS_MAX));
    schema("Snapshot > properties > topics > maxProperties", bound(window::TOPICS_MAX));
    schema("Debug > properties > topics > properties > busiest > maxItems", bound(reports::BUSIEST_MAX));
    schema("Kafka > properties > brokers > maxItems", bound(kafka::BROKERS_MAX));
    schema(
        "Kafka > properties > consumer > anyOf > 1 > properties > partitions > maxItems",
        bound(kafka::PARTITIONS_MAX),
    );
    parameter("Interval > schema > maximum", json!(subscribe::INTERVAL_MAX.as_millis() as u64));
    parameter("Limit > schema > maximum", bound(window::TOPICS_MAX));
    parameter("After > schema > maximum", json!(u64::MAX));
}
