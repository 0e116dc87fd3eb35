//! A host that fails: a log that can't be written or is not read, a small address space.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::http::Client;
use crate::support::process::{self, Lines};
use crate::support::server::{Server, TOKEN, publish_request};
use crate::support::stream::Subscriber;
use crate::support::wait::{eventually, wait_until};

/// Serves with a verbose log, and shuts down cleanly.
#[track_caller]
fn check_serves(prepare: &str) {
    let mut server = Server::start_after(prepare, &["--log-level", "debug", "--drain", "0s"]);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    for n in 0..20 {
        assert_eq!(server.request("GET / HTTP/9.9\r\n\r\n").status, 505);
        server.publish("a", &n.to_string());
        subscriber.expect(&[&n.to_string()]);
    }
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0), "{prepare}");
}

#[test]
fn the_server_keeps_serving_when_its_log_takes_nothing() {
    check_serves("exec 2>/dev/full");
    check_serves("exec 2>&-");
    // A file that must not grow: the signal for it is on its way, too.
    check_serves("ulimit -f 0; trap '' XFSZ; exec 2>\"$(mktemp)\"");
}

const QUEUE_FULL: &str = "fanfare_log_lines_dropped_total{reason=\"queue_full\"}";

/// A server that logs each request, to a standard error that is full and not read.
fn start_unread(stderr: impl Into<Stdio>) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.env_clear().env("FANFARE_PUBLISH_TOKEN", TOKEN);
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--log-level", "trace", "--drain", "0s"]);
    Server::launch_logging_to(stderr, command, 2, || {})
}

/// Asks until lines of the log are lost, and is answered every time.
fn ask_until_lines_are_lost(server: &Server) {
    let mut client = Client::connect(server.address());
    wait_until("lines are lost", || {
        client.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500));
        (0..500).for_each(|_| assert_eq!(client.answer().status, 200));
        server.metric(QUEUE_FULL) > 0.0
    });
}

/// Serves while the log is not read; once it is read, it reports the number of lost lines, and the server shuts down.
#[track_caller]
fn check_serves_unread(mut server: Server, log: impl Read + Send + 'static) {
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    ask_until_lines_are_lost(&server);
    server.publish("a", "x");
    subscriber.expect(&["x"]);
    let lost = server.metric(QUEUE_FULL);

    let log = Lines::collect(log);
    let line = log.wait_for(&["WARN", "log lines were lost"]);
    let reported: f64 = line.rsplit_once("lines=").unwrap().1.parse().unwrap();
    assert!(reported >= lost, "{line}: {lost}");
    server.signal("TERM");
    log.wait_for(&["INFO", ": left"]);
    assert_eq!(server.wait_for_exit(), Some(0));
}

fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![b'\n'; 64 << 10]).unwrap(); // its capacity (pipe(7))
    (reader, writer)
}

fn full_socket() -> (UnixStream, UnixStream) {
    let (reader, mut writer) = UnixStream::pair().unwrap();
    writer.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
    let full = std::iter::repeat_with(|| writer.write_all(&[b'\n'; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    writer.set_write_timeout(None).unwrap(); // it belongs to the socket, so it applies to every writer
    (reader, writer)
}

#[test]
fn an_unread_log_does_not_block_the_server_and_reports_its_losses_once_it_is_read() {
    let (reader, writer) = full_pipe();
    check_serves_unread(start_unread(writer), reader);
    let (reader, writer) = full_socket();
    check_serves_unread(start_unread(std::os::fd::OwnedFd::from(writer)), reader);
}

#[test]
fn an_unread_log_does_not_block_the_shutdown() {
    let (_reader, writer) = full_pipe();
    let mut server = start_unread(writer);
    ask_until_lines_are_lost(&server);
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0));
}

#[test]
fn a_line_that_the_disk_does_not_take_is_counted() {
    let server = Server::start_after("exec 2>/dev/full", &["--log-level", "debug"]);
    assert_eq!(server.request("GET / HTTP/9.9\r\n\r\n").status, 505);
    server.wait_for_metric("fanfare_log_lines_dropped_total{reason=\"write_failed\"}", |lines| lines >= 1.0);
    assert_eq!(server.metric(QUEUE_FULL), 0.0);
}

#[test]
fn a_standard_output_that_takes_nothing_does_not_block_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("fanfare.sock");
    let listen = format!("unix:{}", socket.display());
    let start = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.env_clear().args(["serve", "--listen", &listen]).stdout(stdout).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let check = |stdout: Stdio, words: &str| {
        let mut child = start(stdout);
        let log = Lines::collect(child.stderr.take().unwrap());
        wait_until("it listens", || UnixStream::connect(&socket).is_ok());
        let mut client = Client::connect_unix(&socket);
        client.get("/health");
        assert_eq!(client.answer().status, 200);
        if !words.is_empty() {
            log.wait_for(&["WARN", words, &listen]);
        }
        process::signal(child.id(), "TERM");
        assert_eq!(eventually("it leaves", || child.try_wait().unwrap()).code(), Some(0));
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    check(full.into(), "No space left on device");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    check(writer.into(), "Broken pipe");
    let (_reader, writer) = full_pipe();
    check(writer.into(), "");
}

#[test]
fn in_a_small_address_space_the_logs_stay_within_theirs() {
    let limits = ["--history-bytes", "4MiB", "--history-bytes-total", "4MiB", "--history-events", "100000"];
    let mut server = Server::start_after("ulimit -v 330000", &limits);
    let mut subscriber = Subscriber::open(&server, "/events?topic=a");
    let resident_before = server.resident_bytes();
    let event = serde_json::json!({ "topic": "a", "data": "x".repeat(200_000) });
    let batch = serde_json::json!([event, event, event, event]).to_string();
    let mut publisher = server.connect();
    // Eight times what the logs may hold.
    for _ in 0..40 {
        publisher.send(publish_request(&batch, &format!("Authorization: Bearer {TOKEN}\r\n")));
        assert_eq!(publisher.answer().status, 202);
        subscriber.data(4).iter().for_each(|data| assert_eq!(data.len(), 200_000));
    }
    assert!(server.is_running());
    assert!(server.metric("fanfare_retained_bytes") <= f64::from(4 << 20));
    let grown = server.resident_bytes() - resident_before;
    assert!(grown < 16 << 20, "{grown} bytes more, of the program's own pages, too");
}
