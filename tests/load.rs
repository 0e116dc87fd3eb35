//! `fanfare load` as a user runs it, against a small server that can misbehave in chosen ways.

mod support;

use std::process::{Command, Output};

use serde_json::{Value, json};
use support::nginx::Nginx;
use support::server::{Server, TOKEN};
use support::sse_server::{Behaviour, Fault, SseServer};

/// What a run of `fanfare load` came to.
struct Run {
    code: Option<i32>,
    figures: Value,
    output: String,
}

impl Run {
    fn number(&self, name: &str) -> f64 {
        self.figures[name].as_f64().unwrap_or_else(|| panic!("no {name} in {:#}\n{}", self.figures, self.output))
    }

    /// The figures named, which must be those given.
    fn check(&self, expected: &[(&str, f64)]) {
        let found: Vec<_> = expected.iter().map(|(name, _)| (*name, self.number(name))).collect();
        assert_eq!(found, expected, "{}", self.output);
    }
}

fn server(behaviour: Behaviour) -> SseServer {
    SseServer::start("127.0.0.1:0".parse().unwrap(), behaviour).unwrap()
}

fn fanfare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanfare")).arg("load").args(args).output().unwrap()
}

/// Ten clients, twenty messages as fast as they go; later arguments add to that or replace it.
fn load(server: &SseServer, path: &str, args: &[&str]) -> Run {
    let publish_url = server.url("/publish");
    let mut all = vec!["--publish-url", publish_url.as_str()];
    for (name, value) in [("--publish-rate", "1000"), ("--publish-count", "20")] {
        if !args.contains(&name) {
            all.extend([name, value]);
        }
    }
    all.extend(args);
    run(&server.url(path), &all)
}

/// Ten clients; whatever is published is up to the arguments.
fn load_without_publishing(server: &SseServer, args: &[&str]) -> Run {
    run(&server.url("/events"), args)
}

fn run(url: &str, args: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let mut all = vec![url, "--json", json.to_str().unwrap()];
    if !args.contains(&"--clients") {
        all.extend(["--clients", "10"]);
    }
    all.extend(args);
    let output = fanfare(&all);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let figures = std::fs::read(&json).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    Run { code: output.status.code(), figures, output: text }
}

const FAULTS: [&str; 4] = ["lost_events", "duplicated_events", "disordered_events", "corrupted_events"];

#[test]
fn a_faultless_server_passes() {
    for is_chunked in [false, true] {
        let server = server(Behaviour { is_chunked, ..Behaviour::default() });
        let run = load(&server, "/events", &[]);
        assert_eq!(run.code, Some(0), "{}", run.output);
        run.check(&[
            ("published_events", 20.0),
            ("delivered_events", 200.0),
            ("errors", 0.0),
            ("latency_count", 200.0),
        ]);
        run.check(&FAULTS.map(|name| (name, 0.0)));
        run.check(&[("reached_subscribers_min", 10.0), ("last_subscriber_count", 20.0)]);
    }
}

#[test]
fn each_seeded_fault_is_caught_and_named() {
    let check = |fault: Fault, at: usize, name: &str, sentence: &str| {
        for is_chunked in [false, true] {
            let server = server(Behaviour { fault: Some((fault, at)), is_chunked, ..Behaviour::default() });
            // What is lost never comes: the whole settling time passes.
            let run = load(&server, "/events", &["--settle", "1s"]);
            assert_eq!(run.code, Some(1), "{fault:?}: {}", run.output);
            run.check(&FAULTS.map(|fault| (fault, f64::from(u8::from(fault == name)))));
            assert!(run.output.contains(sentence), "{sentence:?} is not in\n{}", run.output);
            assert!(run.output.contains(&format!("{name}>0")), "{}", run.output);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| check(Fault::Lose, 7, "lost_events", "message 7 lost"));
        scope.spawn(|| check(Fault::Lose, 1, "lost_events", "message 1 lost"));
        scope.spawn(|| check(Fault::Lose, 20, "lost_events", "message 20 lost"));
        scope.spawn(|| check(Fault::Duplicate, 7, "duplicated_events", "message 7 duplicated"));
        scope.spawn(|| check(Fault::Duplicate, 20, "duplicated_events", "message 20 duplicated"));
        scope.spawn(|| check(Fault::Corrupt, 7, "corrupted_events", "message 7 corrupted"));
        scope.spawn(|| check(Fault::Swap, 7, "disordered_events", "message 7 disordered"));
    });
}

#[test]
fn a_gap_announces_its_loss() {
    let server = server(Behaviour { fault: Some((Fault::Gap, 7)), everybody: true, ..Behaviour::default() });
    let run = load(&server, "/events", &[]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("gap_events", 10.0), ("announced_lost_events", 10.0), ("lost_events", 0.0)]);
}

#[test]
fn clients_resume_after_a_hang_up() {
    let server = server(Behaviour { hang_up_after: Some(7), ..Behaviour::default() });
    let run = load(&server, "/events", &["--publish-rate", "50"]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("disconnects", 10.0), ("reconnects", 10.0), ("delivered_events", 200.0), ("lost_events", 0.0)]);
}

#[test]
fn without_ids_messages_sent_meanwhile_are_missed() {
    let server = server(Behaviour { hang_up_after: Some(7), has_ids: false, retry_ms: 200, ..Behaviour::default() });
    let run = load(&server, "/events", &["--publish-rate", "50"]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("lost_events", 0.0), ("unresolved_events", 0.0)]);
    let missed = run.number("missed_while_away_events");
    assert!(missed > 0.0, "{}", run.output);
    run.check(&[("delivered_events", 200.0 - missed)]);
}

#[test]
fn redirects_are_followed() {
    let server = server(Behaviour::default());
    let run = load(&server, "/moved", &[]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("redirects", 10.0), ("delivered_events", 200.0), ("answers_302", 10.0), ("answers_200", 10.0)]);
}

#[test]
fn tls_is_spoken_and_bodies_come_in_chunks() {
    let server = server(Behaviour::default());
    let nginx = Nginx::start(server.address);
    let (ca, publish_url) = (nginx.file("ca.pem"), nginx.https("/publish"));
    let trusted = ["--ca", ca.to_str().unwrap(), "--publish-url", &publish_url, "--publish-count", "20"];
    let check = |url: &str, args: &[&str], expected: &[(&str, f64)]| {
        let run = run(url, &[&trusted[..], args].concat());
        assert_eq!(run.code, Some(0), "{}", run.output);
        run.check(&[("delivered_events", 200.0), ("lost_events", 0.0), ("errors", 0.0)]);
        run.check(expected);
    };
    let rate = |rate| ["--publish-rate", rate];
    check(&nginx.https("/events"), &rate("1000"), &[("redirects", 0.0), ("connect_count", 10.0)]);
    check(&nginx.http("/events"), &rate("1000"), &[("redirects", 10.0), ("answers_301", 10.0), ("answers_200", 10.0)]);
    let storm = ["--scenario", "storm", "--storm-after", "100ms", "--publish-rate", "50"];
    check(&nginx.https("/events"), &storm, &[("reconnects", 10.0), ("duplicated_events", 0.0)]);
    // A hundred bytes at a time: every record comes in pieces, and each piece is used as it comes.
    let slow = ["--slow-share", "50%", "--slow-bytes-per-second", "1000", "--publish-rate", "20"];
    let run = run(&nginx.https("/events"), &[&trusted[..], &slow].concat());
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("slow_clients", 5.0), ("latency_count", 100.0), ("corrupted_events", 0.0), ("errors", 0.0)]);
    assert!(run.number("delivered_events") > 100.0, "{}", run.output);
}

#[test]
fn a_certificate_that_is_not_good_is_an_error_of_its_own() {
    let server = server(Behaviour::default());
    let nginx = Nginx::start(server.address);
    let ca = nginx.file("ca.pem");
    let [ca, other] = [ca.to_str().unwrap(), &nginx.file("other.pem").display().to_string()];
    let check = |url: &str, args: &[&str], kind: &str| {
        let run = run(url, &[&["--duration", "0s"], args].concat());
        assert_eq!(run.code, Some(1), "{}", run.output);
        run.check(&[(kind, 10.0), ("errors", 10.0), ("connect_success_percent", 0.0)]);
    };
    check(&nginx.https("/events"), &[], "error_certificate_untrusted");
    check(&nginx.https("/events"), &["--ca", other], "error_certificate_untrusted");
    let elsewhere = nginx.https("/events").replace("127.0.0.1", "127.0.0.2");
    check(&elsewhere, &["--ca", ca], "error_certificate_of_another_name");
    check(&nginx.http("/events").replace("http:", "https:"), &["--ca", ca, "--no-reconnect"], "error_tls_failed");
}

#[test]
fn a_unix_socket_is_a_target_too() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("fanfare.sock").display());
    let _server = Server::start(&["--listen", "127.0.0.1:0", "--listen", &socket]);
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let publish = ["--publish-url", &socket, "--publish-header", &authorization, "--publish-count", "20"];
    let args = [&publish[..], &["--publish-topic", "t", "--publish-rate", "1000", "--clients", "300"]].concat();
    let url = format!("{socket}:/events?topic=t");
    let run = run(&url, &args);
    assert_eq!(run.code, Some(0), "{}", run.output);
    assert_eq!(run.figures["url"], url);
    run.check(&[
        ("delivered_events", 6000.0),
        ("lost_events", 0.0),
        ("errors", 0.0),
        ("connect_success_percent", 100.0),
    ]);
}

#[test]
fn the_topics_of_the_stream_are_published_to() {
    let server = Server::start(&["--listen", "127.0.0.1:0"]);
    let authorization = format!("Authorization: Bearer {TOKEN}");
    // As people write it: without schemes, and without the path that is meant.
    let place = server.address().to_string();
    let publish = ["--publish-url", &place, "--publish-header", &authorization, "--publish-count", "20"];
    let load = |args: &[&str]| run(&format!("{place}?topic=a&topic=b"), &[&publish[..], args].concat());
    let heard = load(&["--publish-rate", "1000"]);
    assert_eq!(heard.code, Some(0), "{}", heard.output);
    heard.check(&[("delivered_events", 200.0), ("lost_events", 0.0)]);

    let unheard = load(&["--publish-rate", "1000", "--publish-topic", "c", "--settle", "100ms"]);
    assert_eq!(unheard.code, Some(1), "{}", unheard.output);
    let line = "found        no client received any message: does --publish-topic match the stream?\n";
    assert!(unheard.output.contains(line), "{}", unheard.output);
    assert!(!unheard.output.contains("lost\n"), "{}", unheard.output);
}

#[test]
fn a_refused_publish_is_explained() {
    let server = Server::start(&["--listen", "127.0.0.1:0"]);
    let check = |publish_url: &str, sentence: &str| {
        let publish = ["--publish-url", publish_url, "--publish-rate", "1000", "--publish-count", "20"];
        let run = run(&server.url("/events"), &publish);
        assert_eq!(run.code, Some(1), "{}", run.output);
        run.check(&[("publish_failures", 20.0), ("lost_events", 0.0)]);
        assert!(run.output.contains(&format!("\npublishing   20 failed: {sentence}")), "{}", run.output);
        assert!(!run.output.contains("Redis"), "{}", run.output);
    };
    check(&server.url("/publish"), "401 Unauthorized: ");
    check("127.0.0.1:1", "nothing listens on 127.0.0.1:1: is the server running there?\n");
}

#[test]
fn a_test_that_reached_no_client_prints_no_empty_table() {
    let run = run("127.0.0.1:1", &["--duration", "0s", "--no-reconnect"]);
    assert_eq!(run.code, Some(1), "{}", run.output);
    assert!(run.output.contains("error        connect_refused 10\n"), "{}", run.output);
    assert!(!run.output.contains("p99.9"), "{}", run.output);
}

#[test]
fn refusals_are_counted_by_status_and_fail() {
    let server = server(Behaviour { status: Some(503), ..Behaviour::default() });
    let run = load(&server, "/events", &["--duration", "0s"]);
    assert_eq!(run.code, Some(1), "{}", run.output);
    run.check(&[("refused_clients", 10.0), ("error_status_503", 10.0), ("connect_success_percent", 0.0)]);
    assert!(run.output.contains("connect_success<=95%"), "{}", run.output);
}

#[test]
fn thresholds_replace_the_defaults_they_name() {
    let server = server(Behaviour { fault: Some((Fault::Lose, 7)), ..Behaviour::default() });
    let check = |args: &[&str], code: i32| {
        let run = load(&server, "/events", args);
        assert_eq!(run.code, Some(code), "{args:?}: {}", run.output);
    };
    check(&["--fail-if", "lost_events>5", "--settle", "1s"], 0);
    check(&["--fail-if", "published_events==20", "--settle", "1s"], 1);
    check(&["--no-default-thresholds", "--settle", "1s"], 0);
}

#[test]
fn a_threshold_that_was_not_measured_fails() {
    let server = server(Behaviour::default());
    let threshold = "server_cpu_us_per_event>1000000";
    let run = load(&server, "/events", &["--fail-if", threshold]);
    assert_eq!(run.code, Some(1), "{}", run.output);
    let line = format!("missed       {threshold} (not measured: no --server-pid was given)\n");
    assert!(run.output.contains(&line), "{}", run.output);
    assert_eq!(run.figures["thresholds_missed"], serde_json::json!([threshold]));
}

#[test]
fn publishing_is_timed_from_the_first_message() {
    let server = server(Behaviour::default());
    let run = load(&server, "/events", &["--publish-count", "1"]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    // One message: from its sending to its answer. The histogram and the seconds are rounded.
    let answered_ms = run.number("publish_max_us") / 1e3;
    assert!(run.number("publishing_seconds") * 1e3 <= answered_ms * 1.1 + 1.0, "{:#}", run.figures);
    assert!(run.number("delivered_per_second") > 0.0, "{:#}", run.figures);
}

#[test]
fn a_storm_loses_nothing_when_ids_are_resumed() {
    let server = server(Behaviour::default());
    let args = ["--scenario", "storm", "--storm-after", "100ms", "--publish-rate", "50"];
    let run = load(&server, "/events", &args);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("reconnects", 10.0), ("delivered_events", 200.0), ("lost_events", 0.0), ("duplicated_events", 0.0)]);
    assert!(run.number("caught_up_events") > 0.0, "{}", run.output);
    assert_eq!(server.subscribers_so_far(), 20);
}

#[test]
fn after_churn_every_client_is_connected_again() {
    let server = server(Behaviour::default());
    let args = ["--scenario", "churn", "--churn", "100%", "--publish-rate", "50", "--publish-count", "50"];
    let run = load(&server, "/events", &args);
    assert_eq!(run.code, Some(0), "{}", run.output);
    assert!(run.number("reconnects") > 0.0, "{}", run.output);
    run.check(&[("delivered_events", 500.0), ("lost_events", 0.0), ("unresolved_events", 0.0)]);
}

#[test]
fn clients_that_do_not_read_are_not_judged() {
    let server = server(Behaviour::default());
    let check = |args: &[&str], name: &str| {
        let run = load(&server, "/events", args);
        assert_eq!(run.code, Some(0), "{}", run.output);
        run.check(&[(name, 5.0), ("lost_events", 0.0), ("reached_subscribers_min", 5.0)]);
        assert!(run.output.contains("\nset apart    "), "{}", run.output);
    };
    check(&["--scenario", "slow", "--slow-share", "50%"], "slow_clients");
    check(&["--scenario", "blackhole", "--blackhole-share", "50%"], "blackholed_clients");
}

#[test]
fn only_clients_that_read_can_miss_heartbeats() {
    let server = server(Behaviour::default());
    let check = |args: &[&str], misses: bool| {
        let silence = ["--duration", "1s", "--heartbeat", "200ms"];
        let run = load_without_publishing(&server, &[&silence[..], args].concat());
        assert_eq!(run.code, Some(0), "{}", run.output);
        assert!(
            run.output.contains("messages     none published, ") && !run.output.contains("checked"),
            "{}",
            run.output
        );
        assert_eq!(run.number("missed_heartbeats") > 0.0, misses, "{args:?}: {}", run.output);
    };
    check(&[], true);
    check(&["--scenario", "slow", "--slow-share", "100%"], false);
    check(&["--scenario", "blackhole", "--blackhole-share", "100%"], false);
}

#[test]
fn a_slow_reader_reads_in_order() {
    let server = server(Behaviour::default());
    let args = ["--slow-share", "50%", "--slow-bytes-per-second", "1000000"];
    let run = load(&server, "/events", &args);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("slow_clients", 5.0), ("delivered_events", 200.0), ("latency_count", 100.0)]);
}

#[test]
fn a_ramp_opens_and_closes_at_its_rate() {
    let server = server(Behaviour::default());
    let args = ["--scenario", "ramp", "--connect-rate", "50", "--clients", "20"];
    let run = load(&server, "/events", &args);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("held_clients", 20.0), ("delivered_events", 400.0)]);
    // The last of twenty at fifty a second may not dial before 380 ms have passed.
    assert!(run.number("connecting_seconds") >= 0.38, "{}", run.output);
}

#[test]
fn several_processes_add_up() {
    let server = server(Behaviour { fault: Some((Fault::Lose, 7)), everybody: true, ..Behaviour::default() });
    let args = ["--processes", "3", "--threads", "2", "--settle", "1s"];
    let run = load(&server, "/events", &args);
    assert_eq!(run.code, Some(1), "{}", run.output);
    run.check(&[("processes", 3.0), ("held_clients", 10.0), ("delivered_events", 190.0), ("lost_events", 10.0)]);
    run.check(&[("latency_count", 190.0), ("last_subscriber_count", 19.0)]);
}

#[test]
fn old_ids_are_sent_and_history_is_read() {
    let server = server(Behaviour::default());
    assert_eq!(load(&server, "/events", &[]).code, Some(0));
    // The second test starts from message 5 of the first, whose messages are foreign to it.
    let run = load(&server, "/events", &["--last-event-id", "5"]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("foreign_events", 150.0), ("delivered_events", 200.0)]);
}

#[test]
fn lockstep_sends_the_next_message_when_all_clients_have_the_last() {
    let server = server(Behaviour::default());
    let run = load(&server, "/events", &["--publish-rate", "lockstep", "--publish-count", "50"]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("delivered_events", 500.0), ("last_subscriber_count", 50.0)]);
}

#[test]
fn batches_and_bare_payloads_arrive() {
    let server = server(Behaviour::default());
    for args in [["--publish-batch", "8"], ["--publish-body", "raw"]] {
        let run = load(&server, "/events", &args);
        assert_eq!(run.code, Some(0), "{}", run.output);
        run.check(&[("delivered_events", 200.0)]);
    }
}

#[test]
fn a_server_that_serves_only_its_root_is_reached_there() {
    let server = server(Behaviour::default());
    let run = run(&server.url("/"), &["--publish-url", &server.url("/"), "--publish-count", "1"]);
    assert_eq!((run.code, &run.figures["url"]), (Some(0), &Value::from(server.url("/"))), "{}", run.output);
}

#[test]
fn a_server_that_sends_on_whole_bodies_gets_a_hint() {
    const HINT: &str = "Then try --publish-body raw";
    let server = server(Behaviour { sends_bodies_whole: true, ..Behaviour::default() });
    let wrapped = load(&server, "/events", &[]);
    assert!(wrapped.code == Some(1) && wrapped.output.contains(HINT), "{}", wrapped.output);
    let raw = load(&server, "/events", &["--publish-body", "raw"]);
    assert!(raw.code == Some(0) && !raw.output.contains(HINT), "{}", raw.output);
}

#[test]
fn messages_go_through_redis() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let mut redis = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket", socket.to_str().unwrap(), "--requirepass", "hunter2"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("tests/setup installs redis-server");
    let url = format!("redis+unix://{}", socket.display());
    let own_url = format!("{url}?pass=hunter2");
    let connect = || redis::Client::open(own_url.as_str()).and_then(|client| client.get_connection());
    let mut connection = support::wait::eventually("the server listens", || connect().ok());
    let password = folder.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let channels = ["--redis-url", &url, "--redis-channel", "a", "--redis-channel", "b"];
    let publish = [&channels[..], &["--redis-password-file", password.to_str().unwrap()]].concat();

    // There is no subscriber yet: that must not pass.
    let server = server(Behaviour::default());
    let run = load_without_publishing(&server, &[&publish[..], &["--publish-count", "20"]].concat());
    assert_eq!(run.code, Some(1), "{}", run.output);
    run.check(&[("unheard_events", 20.0), ("delivered_events", 0.0), ("lost_events", 0.0)]);

    let run = std::thread::scope(|scope| {
        let mut subscription = connection.as_pubsub();
        subscription.subscribe(&["a", "b"]).unwrap();
        let server = &server;
        scope.spawn(move || {
            for _ in 0..20 {
                server.publish(subscription.get_message().unwrap().get_payload().unwrap());
            }
        });
        load_without_publishing(server, &[&publish[..], &["--publish-count", "20"]].concat())
    });
    let _ = redis.kill();
    let _ = redis.wait();
    assert_eq!(run.code, Some(0), "{}", run.output);
    run.check(&[("delivered_events", 200.0), ("unheard_events", 0.0)]);
}

#[test]
fn the_server_is_measured_by_its_pid() {
    let server = server(Behaviour::default());
    let pid = std::process::id().to_string();
    let run = load(&server, "/events", &["--server-pid", &pid]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    assert!(run.number("server_resident_connected_bytes") > 0.0);
    let of_both = load(
        &server,
        "/events",
        &["--server-pid", &pid, "--server-pid", &std::os::unix::process::parent_id().to_string()],
    );
    let servers = of_both.figures["servers"].as_array().unwrap();
    let sum: f64 = servers.iter().map(|server| server["resident_connected_bytes"].as_f64().unwrap()).sum();
    assert_eq!((servers.len(), sum), (2, of_both.number("server_resident_connected_bytes")), "{}", of_both.output);
    assert!(
        servers[0]["pid"] == std::process::id() && of_both.output.contains(&format!("\n  {pid}")),
        "{}",
        of_both.output
    );
    assert!(run.number("server_cpu_us_per_event") >= 0.0);
    let per_connection =
        ["client_bytes_per_connection", "kernel_bytes_per_connection", "server_user_bytes_per_connection"];
    assert_eq!(per_connection.map(|name| run.figures.get(name)), [Some(&Value::Null); 3], "{:#}", run.figures);
    let line = "memory       too few connections to measure this (at least 1,000)\nserver       ";
    assert!(run.output.contains(line), "{}", run.output);
}

#[test]
fn an_interrupted_test_reports_the_interruption_and_no_missing_server() {
    let server = server(Behaviour::default());
    let folder = tempfile::tempdir().unwrap();
    let (json, page) = (folder.path().join("figures.json"), folder.path().join("page.html"));
    let child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["load", &server.url("/events"), "--clients", "1000", "--connect-rate", "1"])
        .args(["--server-pid", &std::process::id().to_string(), "--json", json.to_str().unwrap()])
        .args(["--report", page.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let child = child.unwrap();
    support::wait::eventually("a client connects", || (server.subscribers_so_far() > 0).then_some(()));
    support::process::signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains(", while connecting\n") && text.contains("\npassed       every threshold"), "{text}");
    let figures: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(
        (&figures["interrupted"], &figures["held_clients"]),
        (&Value::Bool(true), &Value::from(0)),
        "{figures:#}"
    );
    assert_eq!(figures["server_vanished"], Value::Null, "{figures:#}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("<span class=\"interrupted\">interrupted</span>"));
}

#[test]
fn the_page_stands_alone() {
    let server = server(Behaviour::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    let run = load(&server, "/events", &["--report", file.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{}", run.output);
    let page = std::fs::read_to_string(&file).unwrap();
    assert_eq!(page.matches("<svg ").count(), 2 * 4, "each plot for wide and for narrow screens");
    assert!(page.find("<dt>Lost or wrong<dd>0").unwrap() < page.find("<svg ").unwrap(), "what matters comes first");
    assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
    assert!(page.contains("prefers-color-scheme: dark"));
    for fetched in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(fetched), "{fetched} in the page");
    }
}

#[test]
fn the_report_and_the_page_hold_no_secret() {
    let server = server(Behaviour::default());
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let url = format!("http://me:hunter2@{}/events?access_token=hunter2", server.address);
    let publish_url = server.url("/publish?access_token=hunter2");
    let publish = ["--publish-url", &publish_url, "--publish-count", "1"];
    let run = run(&url, &[&publish[..], &["--report", page.to_str().unwrap()]].concat());
    assert_eq!(run.code, Some(0), "{}", run.output);
    let shown = format!("http://me:***@{}/events?access_token=***", server.address);
    assert_eq!(run.figures["url"], shown);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&shown), "{page}");
    for text in [page, run.output, run.figures.to_string()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_report_says_when_how_and_where_it_was_made() {
    let run = load(&server(Behaviour::default()), "/events", &["-H", "Cookie: hunter2"]);
    let text = |name: &str| run.figures[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(text("version"), env!("CARGO_PKG_VERSION"));
    assert!(
        text("date").ends_with(" GMT") && text("kernel").starts_with("Linux ") && text("machine").contains(" core")
    );
    let command = text("command");
    assert!(command.contains(" load http://") && command.contains("-H 'Cookie: ***'"), "{command}");
}

#[test]
fn figures_go_to_standard_output_and_the_summary_to_standard_error() {
    let server = server(Behaviour::default());
    let output = fanfare(&[&server.url("/events"), "-n", "0.01k", "--duration", "100ms", "--json", "-"]);
    let figures: Value = serde_json::from_slice(&output.stdout).expect("nothing but JSON");
    assert_eq!(figures["held_clients"], 10);
    assert!(String::from_utf8_lossy(&output.stderr).contains("clients      10 held of 10"));
    assert!(!std::path::Path::new("-").exists());
}

#[test]
fn a_run_is_compared_with_an_earlier_one_of_its_kind() {
    let server = server(Behaviour::default());
    let folder = tempfile::tempdir().unwrap();
    let baseline = folder.path().join("before.json");
    let compare = |figures: Value, args: &[&str]| {
        std::fs::write(&baseline, figures.to_string()).unwrap();
        load(&server, "/events", &[&["--baseline", baseline.to_str().unwrap()], args].concat())
    };
    let before = |latency_us: u64| json!({ "scenario": "multi", "clients": 10, "latency_p50_us": latency_us });
    let better = compare(before(3_600_000_000), &[]);
    assert!(better.code == Some(0) && better.output.contains("latency_p50_us 3600000000 before"), "{}", better.output);
    let worse = compare(before(1), &[]);
    assert!(worse.code == Some(1) && worse.output.contains("a regression"), "{}", worse.output);
    assert_eq!((&worse.figures["regressions"], &worse.figures["passed"]), (&json!(["latency_p50_us"]), &json!(false)));
    let other = compare(before(1), &["--clients", "11"]);
    assert!(other.code == Some(2) && other.output.contains("the baseline's clients is 10"), "{}", other.output);
    let nonsense = compare(json!([]), &[]);
    assert!(nonsense.code == Some(2) && nonsense.output.contains("not what --json writes"), "{}", nonsense.output);
}

#[test]
fn wrong_usage_exits_2_and_says_why() {
    let check = |args: &[&str], reason: &str| {
        let output = fanfare(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(reason), "{reason:?} is not in {text}");
    };
    check(&["ftp://127.0.0.1/"], "ftp://127.0.0.1/: allowed is http://host[:port][/path]");
    check(&["ftp://127.0.0.1/"], ", or unix:PATH");
    check(&["unix:"], "or unix:PATH");
    check(&["unix:/run/fanfare.sock:/", "--scenario", "blackhole"], "Unix socket");
    check(&["https://127.0.0.1:1/", "--ca", "/dev/null"], "no PEM certificate");
    check(&["http://127.0.0.1:1/", "--fail-if", "errors"], "no comparison");
    check(&["http://127.0.0.1:1/", "--fail-if", "lost_event>0"], "\"lost_event\" is not a measure");
    check(&["http://127.0.0.1:1/", "--fail-if", "p99_latncy>1ms"], "before connect, response, first_event, latency,");
    check(&["http://127.0.0.1:1/", "--fail-if", "p99_latncy>1ms"], " lost_events, ");
    check(&["http://127.0.0.1:1/", "--clients", "100000000"], "--processes");
    check(
        &["http://127.0.0.1:1/", "--publish-url", "http://127.0.0.1:1/", "--payload-bytes", "5"],
        "from 81 to 16777216",
    );
    check(&["http://127.0.0.1:1/", "--duration", "5"], "not a time");
    check(&["http://127.0.0.1:1/", "--server-pid", "4194305"], "--server-pid 4194305: the process does not exist");
    for option in ["--json", "--report"] {
        check(&["http://127.0.0.1:1/", option, "/nonexistent/x"], &format!("{option} /nonexistent/x: No such file"));
    }
    check(&["http://127.0.0.1:1/", "--publish-url", "ftp://h"], "--publish-url ftp://h: allowed is http://host");
    check(&["http://127.0.0.1:1/", "--redis-url", "rediss://h/#insecure"], "--redis-url rediss://h/#insecure: ");
    for rate in ["0", "-1", "NaN", "inf"] {
        check(
            &["http://127.0.0.1:1/", &format!("--connect-rate={rate}")],
            "--connect-rate must be from 0.001 to 1000000",
        );
    }
    for rate in ["0", "-1", "NaN", "inf", "1e-300", "often"] {
        check(
            &["http://127.0.0.1:1/", "--publish-url", "http://127.0.0.1:1/", &format!("--publish-rate={rate}")],
            &format!("--publish-rate {rate}: write messages per second, from 0.001 to 1000000, or lockstep"),
        );
    }
}
