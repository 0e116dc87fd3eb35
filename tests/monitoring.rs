//! The alerts and the dashboard of docs/monitoring: what Prometheus' own tool thinks of them, and that every metric and
//! label value they name, as the table in docs/operating.md, is one that a real server shows.

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use support::server::Server;

const RULES: &str = include_str!("../docs/monitoring/fanfare.rules.yml");
const DASHBOARD: &str = include_str!("../docs/monitoring/grafana.json");
const OPERATING: &str = include_str!("../docs/operating.md");

/// The page of a server with a source.
fn metrics_page() -> String {
    Server::start(&["--dev"]).get_admin("/metrics").text().to_owned()
}

/// The families of a page.
fn families(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

/// The metrics of ours that a text names, and for each the selector behind it.
fn named(text: &str) -> Vec<(&str, &str)> {
    let is_of_a_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let starts = text.match_indices("fanfare_").chain(text.match_indices("process_")).map(|(start, _)| start);
    let whole = starts.filter(|start| !text[..*start].ends_with(is_of_a_name));
    let split = whole.map(|start| {
        let end = text[start..].find(|letter| !is_of_a_name(letter)).map_or(text.len(), |length| start + length);
        let selector = text[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        (&text[start..end], selector)
    });
    split.collect()
}

/// The family that a sample belongs to: a histogram has three kinds of them.
fn family<'a>(name: &'a str, families: &BTreeSet<&str>) -> Option<&'a str> {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix));
    std::iter::once(name).chain(of_histogram).find(|name| families.contains(name))
}

/// Checks that an expression names nothing that the page does not show; how many metrics it names.
fn check_expression(expression: &str, page: &str) -> usize {
    let families = families(page);
    let found = named(expression);
    for (name, selector) in &found {
        assert!(family(name, &families).is_some(), "no server shows {name}: {expression}");
        for matcher in selector.split(',').filter(|matcher| !matcher.contains('$') && !matcher.is_empty()) {
            let (label, values) = matcher.split_once('=').unwrap();
            for value in values.trim_start_matches('~').trim_matches('"').split('|') {
                let sample = format!("{label}=\"{value}\"");
                let is_shown = page.lines().any(|line| line.starts_with(name) && line.contains(&sample));
                assert!(is_shown, "no server shows {name} with {sample}: {expression}");
            }
        }
    }
    found.len()
}

#[test]
fn promtool_takes_the_rules_and_the_alerts_fire_as_they_should() {
    for args in [["check", "rules", "fanfare.rules.yml"], ["test", "rules", "fanfare.rules.test.yml"]] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring");
        let output = Command::new("promtool").args(args).current_dir(folder).output().expect("tests/setup installs it");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{args:?}: {said}");
    }
}

#[test]
fn alerts_name_only_what_a_server_shows() {
    let page = metrics_page();
    let expressions = RULES.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let counts: Vec<usize> = expressions.map(|expression| check_expression(expression, &page)).collect();
    assert!(counts.len() >= 12 && counts.iter().sum::<usize>() >= 12, "{counts:?}");
}

#[test]
fn the_dashboard_names_only_what_a_server_shows() {
    let page = metrics_page();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            assert!(check_expression(target["expr"].as_str().unwrap(), &page) > 0, "{panel}");
        }
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert!(panels.len() >= 12 && ids.len() == panels.len());
    for expression in
        [&dashboard["annotations"]["list"][0]["expr"], &dashboard["templating"]["list"][1]["query"]["query"]]
    {
        assert!(check_expression(expression.as_str().unwrap(), &page) > 0);
    }
}

#[test]
fn the_table_of_metrics_is_whole_and_true() {
    let page = metrics_page();
    let section = OPERATING.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<&str> =
        rows.flat_map(|row| named(row.split(" | ").next().unwrap_or_default())).map(|(name, _)| name).collect();
    assert_eq!(documented, families(&page), "docs/operating.md, against /metrics");
}
