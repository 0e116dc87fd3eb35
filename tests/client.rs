//! `fanfare subscribe` and `fanfare publish` against servers that play back prepared answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use support::nginx::Nginx;

mod support;

/// Far beyond what anything here takes; only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(60);

const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n";

/// A server that gives one answer per connection, in turn, and then listens no more.
struct Playback {
    address: String,
    requests: mpsc::Receiver<String>,
}

impl Playback {
    fn new(answers: &[&str]) -> Playback {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, requests) = mpsc::channel();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                sender.send(read_request(&mut stream)).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Playback { address, requests }
    }

    fn request(&self) -> String {
        self.requests.recv_timeout(DEADLINE).unwrap()
    }
}

/// One request with its body, if it has a length.
fn read_request(stream: &mut impl Read) -> String {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut request).unwrap(), 0, "the client left: {request}");
    }
    let length = header(&request, "content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request + &String::from_utf8(body).unwrap()
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = request.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn start(args: &[&str], env: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Closes standard input and waits for the end.
fn finish(mut child: Child) -> (i32, String, String) {
    drop(child.stdin.take());
    let id = child.id();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(DEADLINE) else {
        let _ = Command::new("kill").arg(id.to_string()).status();
        panic!("the command does not end");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn run(args: &[&str]) -> (i32, String, String) {
    finish(start(args, &[]))
}

fn answer(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[test]
fn over_tls_the_ca_decides_who_is_trusted() {
    let server = Playback::new(&[
        &format!("{STREAM_HEAD}id: 1\ndata: secured\n\n"),
        &answer("202 Accepted", "application/json", "{\"id\":\"7\"}"),
    ]);
    let nginx = Nginx::start(server.address.parse().unwrap());
    let (stream, publish) = (nginx.https("/events"), nginx.https("/publish"));
    let [ca, other] = ["ca.pem", "other.pem"].map(|name| nginx.file(name).display().to_string());
    for untrusted in [&[][..], &["--ca", &other]] {
        let (code, _, stderr) = run(&[&["subscribe", &stream, "--no-reconnect"], untrusted].concat());
        assert!(code == 1 && stderr.contains("certificate"), "{code} {stderr}");
    }
    let (code, stdout, stderr) = run(&["subscribe", &stream, "--count", "1", "--data-only", "--ca", &ca]);
    assert_eq!((code, stdout.as_str()), (0, "secured\n"), "{stderr}");
    let (code, stdout, stderr) = run(&["publish", "--url", &publish, "t", "x", "--ca", &ca]);
    assert_eq!((code, stdout.as_str()), (0, "7\n"), "{stderr}");
}

#[test]
fn a_stream_is_printed_and_resumed_after_its_last_event() {
    let first = format!("{STREAM_HEAD}retry: 1\nid: run-0\n\ndata: a\nid: run-1\n\n:\ndata: lost");
    let second = format!("{STREAM_HEAD}event: e\nid: run-2\ndata: b\ndata: c\n\n");
    let server = Playback::new(&[&first, &second]);
    let url = format!("http://{}/events?x=1", server.address);
    let args = ["subscribe", &url, "--topic", "orders", "--topic", "a b", "-H", "X-Key: 7", "--json", "--count", "2"];
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines,
        [r#"{"id":"run-1","event":"message","data":"a"}"#, r#"{"id":"run-2","event":"e","data":"b\nc"}"#]
    );
    let request = server.request();
    assert!(request.starts_with("GET /events?x=1&topic=orders&topic=a+b HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "accept"), Some("text/event-stream"));
    assert_eq!(header(&request, "x-key"), Some("7"));
    assert_eq!(header(&request, "last-event-id"), None);
    assert_eq!(header(&server.request(), "last-event-id"), Some("run-1"));
    assert!(stderr.contains("the stream ended; retrying in 100ms"), "{stderr}");
}

#[test]
fn chunked_streams_are_read_as_well() {
    let head = STREAM_HEAD.replace("Connection: close", "Transfer-Encoding: chunked");
    let chunks = "8\r\ndata: a\n\r\n9\r\n\ndata: b\n\r\n1\r\n\n\r\n0\r\n\r\n";
    let server = Playback::new(&[&format!("{head}{chunks}")]);
    let (code, stdout, stderr) = run(&["subscribe", &server.address, "--data-only", "--no-reconnect"]);
    assert_eq!((code, stdout.as_str()), (0, "a\nb\n"), "{stderr}");
    assert!(server.request().starts_with("GET /events HTTP/1.1\r\n"));
}

#[test]
fn the_first_connection_resumes_after_the_given_event() {
    let server = Playback::new(&["HTTP/1.1 204 No Content\r\n\r\n"]);
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "hunter2\n").unwrap();
    let path = tokens.path().to_str().unwrap();
    let args = ["subscribe", &server.address, "--last-event-id", "run-7", "--token-file", path];
    assert_eq!(run(&args), (0, String::new(), String::new()), "204 says that there is nothing to follow");
    let request = server.request();
    assert_eq!(header(&request, "last-event-id"), Some("run-7"));
    assert_eq!(header(&request, "authorization"), Some("Bearer hunter2"));
}

#[test]
fn a_temporary_failure_is_retried() {
    let busy = answer("503 Service Unavailable", "application/problem+json", "{\"title\":\"Draining\"}");
    let server = Playback::new(&[&busy, &busy, &format!("{STREAM_HEAD}data: a\n\n")]);
    let (code, stdout, stderr) = run(&["subscribe", &server.address, "--data-only", "--count", "1"]);
    assert_eq!((code, stdout.as_str()), (0, "a\n"), "{stderr}");
    assert_eq!(stderr.matches("503 Service Unavailable: Draining; retrying in").count(), 2, "{stderr}");
}

#[test]
fn a_token_in_the_url_is_not_shown() {
    let busy = answer("503 Service Unavailable", "text/plain", "");
    let server = Playback::new(&[&busy, "HTTP/1.1 204 No Content\r\n\r\n"]);
    let url = format!("http://me:hunter2@{}/events?access_token=hunter2", server.address);
    let (code, _, stderr) = run(&["subscribe", &url]);
    assert_eq!(code, 0, "{stderr}");
    let shown = format!("http://me:***@{}/events?access_token=***: 503", server.address);
    assert!(stderr.contains(&shown) && !stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn a_permanent_failure_is_explained_and_exits_1() {
    let check = |answer: &str, words: &str| {
        let server = Playback::new(&[answer]);
        let (code, _, stderr) = run(&["subscribe", &server.address]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(words), "{words:?} is not in {stderr}");
    };
    let problem = r#"{"type":"about:blank","title":"Too many topics","detail":"65 named, 64 allowed"}"#;
    let explained = "400 Bad Request: Too many topics: 65 named, 64 allowed";
    check(&answer("400 Bad Request", "application/problem+json", problem), explained);
    check(&answer("404 Not Found", "text/html", "<h1>no</h1>\n<p>"), "404 Not Found: <h1>no</h1>\n");
    let problem = r#"{"title":"Not found","detail":"nothing is there"}"#;
    check(&answer("404 Not Found", "application/problem+json", problem), "404 Not Found: nothing is there\n");
    let problem = r#"{"title":"Not authorized"}"#;
    let advice = "401 Unauthorized: Not authorized; give a token with --token-file FILE or in FANFARE_TOKEN\n";
    check(&answer("401 Unauthorized", "application/problem+json", problem), advice);
    check(&answer("200 OK", "text/html", "hello"), "Content-Type is text/html");
}

#[test]
fn a_url_that_http_does_not_know_is_explained() {
    let (code, _, stderr) = run(&["subscribe", "http://{host}:3001"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("{host}:3001: ") && stderr.contains("invalid uri"), "{stderr}");
}

#[test]
fn a_server_that_speaks_no_tls_is_not_retried() {
    for command in [&["subscribe"][..], &["publish", "t", "x", "--url"]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.read_exact(&mut [0; 5]).unwrap();
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            }
        });
        let (code, _, stderr) = run(&[command, &[&format!("https://{address}/")]].concat());
        let expected = format!("error: {address}: the server does not speak TLS; did you mean http://?\n");
        assert_eq!((code, stderr), (1, expected), "{command:?}");
    }
}

#[test]
fn a_refusal_that_never_ends_is_cut_short() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let child = start(&["subscribe", &address], &[]);
    let (mut endless, _) = listener.accept().unwrap();
    read_request(&mut endless);
    endless.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\n").unwrap();
    let (mut second, _) = listener.accept().unwrap();
    read_request(&mut second);
    second.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    let (code, _, stderr) = finish(child);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("503 Service Unavailable; retrying in"), "{stderr}");
}

#[test]
fn without_reconnecting_a_failure_exits_1() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (code, _, stderr) = run(&["subscribe", &address, "--no-reconnect"]);
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("nothing listens on {address}")), "{stderr}");
}

#[test]
fn a_closed_standard_output_ends_the_stream_quietly() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut child = start(&["subscribe", &address, "--data-only"], &[]);
    let (mut stream, _) = listener.accept().unwrap();
    read_request(&mut stream);
    stream.write_all(format!("{STREAM_HEAD}data: a\n\n").as_bytes()).unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "a\n");
    drop(stdout);
    // Again and again: a child that another test is starting right now may hold the pipe's other end for a moment.
    std::thread::spawn(move || while stream.write_all(b"data: b\n\n").is_ok() {});
    let (code, _, stderr) = finish(child);
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn a_stream_that_falls_silent_is_opened_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let child = start(&["subscribe", &address, "--data-only", "--idle-timeout", "1s"], &[]);
    let (mut silent, _) = listener.accept().unwrap();
    read_request(&mut silent);
    silent.write_all(format!("{STREAM_HEAD}retry: 1\ndata: a\nid: 7\n\n").as_bytes()).unwrap();
    let (mut second, _) = listener.accept().unwrap();
    assert_eq!(header(&read_request(&mut second), "last-event-id"), Some("7"));
    second.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    let (code, stdout, stderr) = finish(child);
    assert_eq!((code, stdout.as_str()), (0, "a\n"), "{stderr}");
    assert!(stderr.contains("the stream was silent for 1s (--idle-timeout); retrying in"), "{stderr}");
}

#[test]
fn a_unix_socket_serves_as_a_port_does() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("fanfare.sock");
    let url = format!("unix:{}", socket.display());
    let (code, _, stderr) = run(&["subscribe", &url, "--no-reconnect"]);
    assert_eq!((code, stderr), (1, format!("error: {url}: No such file or directory (os error 2)\n")));

    let listener = UnixListener::bind(&socket).unwrap();
    socket2::SockRef::from(&listener).set_read_timeout(Some(DEADLINE)).unwrap();
    // A drop alone may come late: a process that another test starts has all descriptors until it executes its program.
    let end = |stream: UnixStream| stream.shutdown(Shutdown::Both).unwrap();
    let accept = || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream);
        (stream, request)
    };
    // It ends, falls silent, refuses without end, and refuses for good.
    let given = format!("{url}:/events?access_token=hunter2");
    let child = start(&["subscribe", &given, "--topic", "a", "--data-only", "--idle-timeout", "1s"], &[]);
    let (mut ending, request) = accept();
    assert!(request.starts_with("GET /events?access_token=hunter2&topic=a HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "host"), Some("localhost"));
    ending.write_all(format!("{STREAM_HEAD}retry: 1\ndata: one\nid: 7\n\n").as_bytes()).unwrap();
    end(ending);
    let (mut silent, request) = accept();
    assert_eq!(header(&request, "last-event-id"), Some("7"));
    silent.write_all(format!("{STREAM_HEAD}data: two\n\n").as_bytes()).unwrap();
    let (mut endless, _) = accept();
    endless.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\n").unwrap();
    let (mut elsewhere, _) = accept();
    elsewhere.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").unwrap();
    let (code, stdout, stderr) = finish(child);
    assert_eq!((code, stdout.as_str()), (1, "one\ntwo\n"), "{stderr}");
    let shown = format!("{url}:/events?access_token=***&topic=a: ");
    for words in ["the stream ended", "the stream was silent for 1s", "503 Service Unavailable; retrying in"] {
        assert!(stderr.contains(&format!("{shown}{words}")), "{words:?} is not in {stderr}");
    }
    assert!(
        stderr.contains("a redirect leads away from the socket, to 127.0.0.1:1\n") && !stderr.contains("hunter2"),
        "{stderr}"
    );

    let mut child = start(&["publish", "--url", &url, "orders", "-"], &[]);
    let mut lines = child.stdin.take().unwrap();
    lines.write_all(b"one\n").unwrap();
    let (mut stream, request) = accept();
    assert!(request.starts_with("POST /publish HTTP/1.1\r\n"), "{request}");
    let taken = b"HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\n{\"id\":\"1\"}";
    stream.write_all(taken).unwrap();
    let mut ids = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(ids.next().unwrap().unwrap(), "1");
    lines.write_all(b"two\n").unwrap();
    let request = read_request(&mut stream);
    assert!(request.ends_with(r#"{"topic":"orders","data":"two"}"#), "on the same connection: {request}");
    stream.write_all(taken).unwrap();
    end(stream); // the next one finds it closed, and connects again
    assert_eq!(ids.next().unwrap().unwrap(), "1");
    lines.write_all(b"three\n").unwrap();
    let (mut stream, request) = accept();
    assert!(request.ends_with(r#"{"topic":"orders","data":"three"}"#), "{request}");
    stream.write_all(taken).unwrap();
    drop(lines);
    assert_eq!(finish(child).0, 0);
}

#[test]
fn health_is_what_the_server_answers_in_time() {
    let server = Playback::new(&[
        &answer("200 OK", "application/json", "{\"status\":\"ok\"}\n"),
        &answer("200 OK", "application/json", "{\"status\":\"ready\"}"),
        &answer("503 Service Unavailable", "application/json", "{\"status\":\"draining\"}"),
    ]);
    let (code, stdout, stderr) = run(&["health", &server.address]);
    assert_eq!((code, stdout.as_str()), (0, "{\"status\":\"ok\"}\n"), "{stderr}");
    assert!(server.request().starts_with("GET /health/live HTTP/1.1\r\n"));
    let ready = format!("http://{}/health/ready", server.address);
    assert_eq!(run(&["health", &ready]).0, 0);
    assert!(server.request().starts_with("GET /health/ready HTTP/1.1\r\n"));
    let (code, stdout, stderr) = run(&["health", &ready]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: 503 Service Unavailable"), "{stderr}");
    let (code, _, stderr) = run(&["health", &server.address]);
    assert_eq!(
        (code, stderr),
        (1, format!("error: nothing listens on {}: is the server running there?\n", server.address))
    );

    let hangs = TcpListener::bind("127.0.0.1:0").unwrap(); // the kernel accepts, and the program never answers
    let address = hangs.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(&["health", &address, "--timeout", "200ms"]);
    assert_eq!((code, stderr), (1, format!("error: {address}: no answer in time\n")));
}

#[test]
fn an_event_is_published_over_http() {
    let server = Playback::new(&[&answer("202 Accepted", "application/json", "{\"id\":\"run-8\"}")]);
    let data = "{\"b\":1.0, \"a\":2}";
    let args = ["publish", "--url", &server.address, "orders", data, "--json", "--event", "e", "--retry", "5s"];
    let (code, stdout, stderr) = finish(start(&args, &[("FANFARE_PUBLISH_TOKEN", "hunter2")]));
    assert_eq!((code, stdout.as_str()), (0, "run-8\n"), "{stderr}");
    let request = server.request();
    assert!(request.starts_with("POST /publish HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "authorization"), Some("Bearer hunter2"));
    let body = request.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(body, r#"{"topic":"orders","event":"e","retry":5000,"data":{"b":1.0, "a":2}}"#);
}

#[test]
fn lines_of_standard_input_are_events() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut child = start(&["publish", "--url", &address, "orders", "-"], &[]);
    child.stdin.take().unwrap().write_all(b"one\n\ntwo\nthree").unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    // How many lines travel together is a matter of speed; that they arrive in order, and on one connection, is not.
    let mut events: Vec<serde_json::Value> = Vec::new();
    while events.len() < 3 {
        let request = read_request(&mut stream);
        match serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap() {
            serde_json::Value::Array(batch) => events.extend(batch),
            event => events.push(event),
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    }
    assert_eq!(finish(child).0, 0);
    assert_eq!(events, ["one", "two", "three"].map(|data| serde_json::json!({"topic": "orders", "data": data})));
}

#[test]
fn lines_before_a_wrong_one_are_published() {
    let server =
        Playback::new(&[&answer("202 Accepted", "application/json", r#"{"ids":["run-1"],"duplicates":["x"]}"#)]);
    let mut child = start(&["publish", "--url", &server.address, "orders", "-", "--json"], &[]);
    child.stdin.take().unwrap().write_all(b"1\n{\n2\n").unwrap();
    assert!(server.request().ends_with(r#"{"topic":"orders","data":1}"#));
    let (code, stdout, stderr) = finish(child);
    assert_eq!((code, stdout.as_str()), (1, "run-1\nx\n"), "{stderr}");
    assert!(stderr.contains("line 2: the data is not JSON"), "{stderr}");
    assert!(stderr.contains("1 already published: skipped"), "{stderr}");
}

#[test]
fn a_refused_publication_is_explained_and_exits_1() {
    let check = |answer: &str, env: &[(&str, &str)], words: &str| {
        let server = Playback::new(&[answer]);
        let (code, _, stderr) = finish(start(&["publish", "--url", &server.address, "t", "x"], env));
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(words), "{words:?} is not in {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    };
    let unauthorized = answer("401 Unauthorized", "application/problem+json", "{\"title\":\"No token\"}");
    check(&unauthorized, &[], "401 Unauthorized: No token; give a token with --token-file FILE");
    let given = [("FANFARE_PUBLISH_TOKEN", "hunter2")];
    check(&unauthorized, &given, "401 Unauthorized: No token; the refused token comes from FANFARE_PUBLISH_TOKEN\n");
    let problem = r#"{"title":"Not permitted","detail":"the token does not name the topic t to publish to"}"#;
    let forbidden = answer("403 Forbidden", "application/problem+json", problem);
    check(&forbidden, &given, "403 Forbidden: Not permitted: the token does not name the topic t to publish to\n");
    check(&answer("413 Payload Too Large", "text/plain", ""), &[], "413 Payload Too Large");
}

#[test]
fn events_are_published_through_redis() {
    let check = |args: &[&str], receivers: u64, expected: &str, words: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || play_redis(listener.accept().unwrap().0, receivers));
        let (code, stdout, stderr) = run(&[&["publish", "--redis-url", &url], args].concat());
        assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert_eq!(server.join().unwrap(), ["PUBLISH", "orders", expected]);
    };
    check(&["orders", "a\nb"], 1, "a\nb", "");
    check(&["orders", "[1.0]", "--json"], 0, "[1.0]", "no client is subscribed to orders");
    let envelope = r#"{"topic":"orders","id":"7","data":"a"}"#;
    check(&["orders", "a", "--id", "7", "--redis-payload", "envelope"], 1, envelope, "");
}

#[test]
fn what_a_redis_refuses_is_explained_without_the_password_it_quotes() {
    let check = |env: &[(&str, &str)], exchange: &[(&[&str], &str)], words: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let answers: Vec<String> = exchange.iter().map(|(_, answer)| format!("{answer}\r\n")).collect();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let answer = |answer: String| {
                let command = read_redis_command(&mut reader);
                stream.write_all(answer.as_bytes()).unwrap();
                command
            };
            answers.into_iter().map(answer).collect::<Vec<_>>()
        });
        let (code, _, stderr) = finish(start(&["publish", "--redis-url", &url, "orders", "a"], env));
        assert_eq!(server.join().unwrap(), exchange.iter().map(|(command, _)| *command).collect::<Vec<_>>());
        assert!(code == 1 && stderr.contains(words) && !stderr.contains("hunter2"), "{code} {stderr}");
    };
    let password = [("FANFARE_REDIS_PASSWORD", "hunter2")];
    let (auth, publish) = (&["AUTH", "hunter2"][..], &["PUBLISH", "orders", "a"][..]);
    check(&password, &[(auth, "+OK"), (publish, "-ERR not after AUTH hunter2")], "not after AUTH ***");
    let refused = "Redis refuses the login: check --redis-password-file or FANFARE_REDIS_PASSWORD";
    check(&password, &[(auth, "-WRONGPASS invalid username-password pair or user is disabled.")], refused);
    check(&[], &[(publish, "-NOAUTH Authentication required.")], refused);
}

/// A Redis that knows OK and PUBLISH; answers with the words of the first PUBLISH.
fn play_redis(mut stream: TcpStream, receivers: u64) -> Vec<String> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let words = read_redis_command(&mut reader);
        if words[0] == "PUBLISH" {
            stream.write_all(format!(":{receivers}\r\n").as_bytes()).unwrap();
            return words;
        }
        stream.write_all(b"+OK\r\n").unwrap();
    }
}

fn read_redis_command(reader: &mut impl BufRead) -> Vec<String> {
    let count = read_redis_length(reader, '*');
    let mut read_word = || {
        let mut word = vec![0; read_redis_length(reader, '$') + 2];
        reader.read_exact(&mut word).unwrap();
        String::from_utf8(word).unwrap().trim_end_matches("\r\n").to_owned()
    };
    (0..count).map(|_| read_word()).collect()
}

fn read_redis_length(reader: &mut impl BufRead, mark: char) -> usize {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end().strip_prefix(mark).unwrap().parse().unwrap()
}
