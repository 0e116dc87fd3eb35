//! What docs/monitoring has for Prometheus and Grafana: a real Prometheus scrapes a real server as the configurations say,
//! and every metric and label value that alerts and the dashboard name, as the table in docs/operating.md, is one that a
//! server shows.

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

use serde_json::Value;
use support::prometheus::Prometheus;
use support::server::Server;
use support::wait::eventually;

const WITH_TOKEN: &str = include_str!("../docs/monitoring/prometheus.yml");
const OF_ADMIN_LISTENERS: &str = include_str!("../docs/monitoring/prometheus-admin.yml");
const HOW_TO: &str = include_str!("../docs/how-to/scrape-metrics.md");
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

/// A configuration whose targets are this address, and whose other files are here. It scrapes every second, for the test.
fn aimed_at(configuration: &str, target: &str, token_file: &str) -> String {
    let replaced = [
        ("[\"10.0.0.1:3001\", \"10.0.0.2:3001\"]", format!("[\"{target}\"]")),
        ("[\"10.0.0.1:3002\", \"10.0.0.2:3002\"]", format!("[\"{target}\"]")),
        ("/etc/prometheus/fanfare-operator-token", token_file.to_owned()),
        (
            "/etc/prometheus/fanfare.rules.yml",
            format!("{}/docs/monitoring/fanfare.rules.yml", env!("CARGO_MANIFEST_DIR")),
        ),
        ("15s", "1s".to_owned()),
    ];
    replaced.iter().fold(configuration.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The only target of the job that the alerts expect, when it has been scraped; checks that its health is `expected`.
fn check_target(prometheus: &Prometheus, expected: &str) -> Value {
    let target = eventually("a scrape", || {
        let targets = prometheus.get("targets")["activeTargets"].as_array_mut()?.split_off(0);
        let [target] = targets.try_into().ok()?;
        (target["health"] != "unknown").then_some(target)
    });
    assert_eq!((&target["health"], &target["labels"]["job"]), (&expected.into(), &"fanfare".into()), "{target}");
    target
}

/// Checks that samples of the server arrive, and that all alerts work with them.
fn check_scraped(prometheus: &Prometheus) {
    check_target(prometheus, "up");
    let samples = prometheus.get("query?query=fanfare_streams_max{job=\"fanfare\"}");
    assert_eq!(samples["result"].as_array().unwrap().len(), 1, "{samples}");
    eventually("every alert is evaluated", || {
        let groups = prometheus.get("rules")["groups"].as_array_mut()?.split_off(0);
        let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        assert!(rules.len() >= 12 && rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    });
}

#[test]
fn prometheus_scrapes_with_the_operators_token_and_with_no_other() {
    let mut token_file = tempfile::NamedTempFile::new().unwrap();
    writeln!(token_file, "an-operators-own-token").unwrap();
    let token_file = token_file.path().to_str().unwrap();
    let server = Server::start(&["--operator-token-file", token_file]);
    let target = server.address().to_string();
    check_scraped(&Prometheus::start(&aimed_at(WITH_TOKEN, &target, token_file)));

    let mut other = tempfile::NamedTempFile::new().unwrap();
    writeln!(other, "another-token").unwrap();
    let stranger = Prometheus::start(&aimed_at(WITH_TOKEN, &target, other.path().to_str().unwrap()));
    let refused = check_target(&stranger, "down");
    assert!(refused["lastError"].as_str().unwrap().contains("401"), "{refused}");
}

#[test]
fn prometheus_scrapes_the_admin_listener_without_a_token() {
    let server = Server::start(&[]);
    check_scraped(&Prometheus::start(&aimed_at(OF_ADMIN_LISTENERS, server.admin_address(), "")));
}

#[test]
fn the_how_to_shows_the_configurations_as_they_are() {
    let blocks: Vec<_> = HOW_TO.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [with_token, of_admin_listeners] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    assert!(WITH_TOKEN.ends_with(with_token), "{with_token}");
    assert!(OF_ADMIN_LISTENERS.ends_with(of_admin_listeners), "{of_admin_listeners}");
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
