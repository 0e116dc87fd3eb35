//! Large answers: built within a budget, bounded while they wait for their readers, and given in pages.

use serde_json::Value;

use crate::support::http::Client;
use crate::support::server::Server;
use crate::support::wait::eventually;

const LARGE: usize = 250 << 10;

/// A client at this loopback address that asks for a large answer and reads none of it.
fn ask_from(server: &Server, address: &str) -> Client {
    let mut client = Client::connect_with_small_buffer_from(address, server.address());
    client.get("/dashboard/data?topic=a");
    client
}

fn waiting_bytes(server: &Server) -> u64 {
    server.debug()["answer_bytes"].as_u64().unwrap()
}

/// What one large answer counts, its head included.
fn wait_for_one(server: &Server) -> u64 {
    eventually("it waits", || Some(waiting_bytes(server)).filter(|bytes| *bytes > 0))
}

#[test]
fn unread_answers_take_as_many_bytes_as_allowed_and_not_one_more() {
    let server = Server::start(&["--answer-bytes", "1MiB"]);
    server.publish("a", &"x".repeat(LARGE));
    // What a reader leaves unread waits whole, its head included; small answers never do.
    let first = ask_from(&server, "127.0.0.2");
    let one = wait_for_one(&server);
    let fitting = (1 << 20) / one;
    let mut others: Vec<_> = (1..fitting).map(|n| ask_from(&server, &format!("127.0.0.{}", 2 + n))).collect();
    eventually("they wait", || (waiting_bytes(&server) == fitting * one).then_some(()));
    let refused = server.get("/dashboard/data?topic=a");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
    assert_eq!(refused.problem(), "Too busy");
    assert_eq!(server.refused("answer_bytes"), 1.0);
    assert_eq!(server.get("/health").status, 200);
    // What was published is never answered as if it had not been.
    let many = vec![r#"{"topic":"b","data":"x"}"#; 100].join(",");
    assert_eq!(server.post(&format!("[{many}]")).status, 202);

    // Room comes back when one is read, and when one is left.
    assert_eq!(others.pop().unwrap().answer().status, 200);
    eventually("there is room", || (server.get("/dashboard/data?topic=a").status == 200).then_some(()));
    drop((first, others));
    eventually("nothing waits", || (waiting_bytes(&server) == 0).then_some(()));
}

#[test]
fn one_address_cannot_use_up_what_all_may_leave_unread() {
    let server = Server::start(&["--answer-bytes", "2MiB"]);
    server.publish("a", &"x".repeat(LARGE));
    let _first = ask_from(&server, "127.0.0.2");
    let one = wait_for_one(&server);
    // A quarter of 2 MiB holds two of them.
    let _second = ask_from(&server, "127.0.0.2");
    eventually("they wait", || (waiting_bytes(&server) == 2 * one).then_some(()));
    assert_eq!(ask_from(&server, "127.0.0.2").answer().status, 503);
    assert_eq!(waiting_bytes(&server), 2 * one);
    assert_eq!(server.get("/dashboard/data?topic=a").status, 200, "another address is served");
}

#[test]
fn unread_answers_of_strangers_leave_the_admin_listener_alone() {
    let server = Server::start(&["--answer-bytes", "256KiB"]);
    server.publish("a", &"x".repeat(LARGE));
    let _unread: Vec<_> = (0..10).map(|n| ask_from(&server, &format!("127.0.0.{}", 2 + n))).collect();
    wait_for_one(&server);
    assert_eq!(server.get("/metrics").status, 503);
    for target in ["/metrics", "/dashboard/debug", "/topics"] {
        assert_eq!(server.get_admin(target).status, 200, "{target}");
    }
}

#[test]
fn an_answer_that_is_not_read_in_time_ends_its_connection() {
    let server = Server::start(&["--stall-timeout", "1s", "--event-bytes", "1MiB"]);
    server.publish("a", &"x".repeat(900 << 10));
    let mut client = Client::connect_with_small_buffer(server.address());
    client.get("/dashboard/data?topic=a");
    server.wait_for_metric("fanfare_closed_total{reason=\"answer_timeout\"}", |closed| closed == 1.0);
    // Nothing of it is left with the kernel.
    assert_eq!(client.read_until_broken(), Some(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_steady_reader_of_a_large_answer_is_served_to_its_end_however_long_it_takes() {
    let options = ["--stall-timeout", "2s", "--event-bytes", "4MiB", "--history-bytes", "8MiB", "--body-bytes", "8MiB"];
    let server = Server::start(&options);
    let data = "x".repeat(4 << 20);
    server.publish("a", &data);
    let mut client = Client::connect_with_small_buffer(server.address());
    client.get("/dashboard/data?topic=a");
    // A part in every quarter of the stall timeout: the whole takes longer than one.
    let started = std::time::Instant::now();
    for part in 1..=5 {
        eventually("its time has come", || (started.elapsed().as_millis() >= part * 500).then_some(()));
        client.read_some(data.len() / 6);
    }
    let answer = client.answer();
    assert_eq!((answer.status, answer.json()["topics"]["a"]["data"].as_str().unwrap().len()), (200, data.len()));
    assert_eq!(server.metric("fanfare_closed_total{reason=\"answer_timeout\"}"), 0.0);
}

/// All pages of a listing.
#[track_caller]
fn all_pages(server: &Server, target: &str) -> Vec<Value> {
    let mut pages = vec![server.get(target).json()];
    while let Some(next) = pages.last().unwrap()["next"].as_u64() {
        let separator = if target.contains('?') { '&' } else { '?' };
        pages.push(server.get(&format!("{target}{separator}after={next}")).json());
    }
    pages
}

fn publish_topics(server: &Server, count: usize, data: &str) {
    let events: Vec<_> = (0..count).map(|n| serde_json::json!({ "topic": format!("t{n}"), "data": data })).collect();
    for part in events.chunks(1000) {
        assert_eq!(server.post(&serde_json::to_string(part).unwrap()).status, 202);
    }
}

#[test]
fn topics_are_listed_page_by_page_and_none_is_left_out() {
    let server = Server::start(&[]);
    publish_topics(&server, 2500, "x");
    for (target, pages_min) in [("/topics", 5), ("/topics?limit=100", 25), ("/topics?limit=500", 5)] {
        let pages = all_pages(&server, target);
        assert!(pages.len() >= pages_min, "{target}: {} pages", pages.len());
        let names = pages.iter().flat_map(|page| page["topics"].as_array().unwrap());
        let names: std::collections::HashSet<_> = names.map(|topic| topic["topic"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 2500, "{target}");
        assert!(pages.iter().all(|page| page["count"] == 2500));
    }
    let found: Vec<_> = all_pages(&server, "/topics?contains=T24")
        .into_iter()
        .flat_map(|page| {
            assert_eq!(page["count"], 2500, "of all topics");
            page["topics"].as_array().unwrap().clone()
        })
        .collect();
    assert_eq!(found.len(), 1 + 10 + 100, "t24, t240 to t249, t2400 to t2499");
    assert!(
        found.iter().all(|topic| topic["topic"].as_str().unwrap().starts_with("t24") && topic["published_events"] == 1)
    );
    for bad in ["limit=0", "limit=501", "after=t7", "after=-1"] {
        assert_eq!(server.get(&format!("/topics?{bad}")).problem(), "Bad parameter", "{bad}");
        assert_eq!(server.get(&format!("/dashboard/data?{bad}")).problem(), "Bad parameter", "{bad}");
    }
}

#[test]
fn a_snapshot_is_given_in_pages_of_bounded_size() {
    let server = Server::start(&[]);
    (0..10).for_each(|n| _ = server.publish(&format!("t{n}"), &"x".repeat(25 << 10)));
    let named = format!("/dashboard/data?{}", (0..10).map(|n| format!("topic=t{n}&")).collect::<String>());
    for target in ["/dashboard/data", named.trim_end_matches('&')] {
        let pages = all_pages(&server, target);
        let mut names = Vec::new();
        for page in &pages {
            let topics = page["topics"].as_object().unwrap();
            let bytes: usize = topics.values().map(|event| event["data"].as_str().unwrap().len()).sum();
            assert!(bytes <= 64 << 10, "{target}: {bytes} bytes on a page");
            names.extend(topics.keys().cloned());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), pages.len()), (10, 5), "{target}");
    }
    // An event that is larger than a page has one to itself.
    server.publish("large", &"x".repeat(256 << 10));
    assert_eq!(
        server.get("/dashboard/data?topic=large").json()["topics"]["large"]["data"].as_str().unwrap().len(),
        256 << 10
    );
}

#[test]
fn no_large_answer_is_built_for_head() {
    let server = Server::start(&["--answer-bytes", "64KiB"]);
    publish_topics(&server, 1000, &"x".repeat(1000));
    let mut client = server.connect();
    for target in ["/dashboard/data", "/topics", "/metrics", "/dashboard/debug"] {
        client.get(target);
        let whole = client.answer();
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.head();
        assert_eq!((head.status, head.header("content-length")), (200, None), "{target}: {head}");
        let length = format!("|Content-Length: {}", whole.header("content-length").unwrap());
        assert_eq!(head.shown_head(), whole.shown_head().replace(&length, ""), "{target}");
    }
    // The same connection goes on: nothing followed the heads.
    client.get("/health/live");
    assert_eq!(client.answer().status, 200);
}
