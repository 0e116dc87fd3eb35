//! The real server: the `fanfare` binary as users run it, published to over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{SERVER_CORE, pinned};

/// The binary as `cargo bench` builds it.
const BINARY: &str = env!("CARGO_BIN_EXE_fanfare");
/// What publishers show.
const TOKEN: &str = "bench-token-of-no-value";
/// How long any answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server, ended when this is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts `fanfare serve` with further flags, and waits until it accepts.
    pub fn start(flags: &[&str]) -> Server {
        Server::spawn(pinned(SERVER_CORE, BINARY.as_ref()), flags)
    }

    /// Starts a server that says nothing but answers at a known address.
    pub fn found_at(mut command: Command, address: SocketAddr) -> Server {
        let child = command.spawn().expect("the server starts");
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nothing answers at {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Server { child, address }
    }

    /// Starts it under a tool that takes a command line.
    pub fn start_under(mut tool: Command, flags: &[&str]) -> Server {
        tool.arg(BINARY);
        Server::spawn(tool, flags)
    }

    /// Starts it with a second listener, which speaks TLS with the certificate in this folder. Returns its address, too.
    pub fn start_with_tls(folder: &Path, flags: &[&str]) -> (Server, SocketAddr) {
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.join(name));
        let mut command = Server::command(pinned(SERVER_CORE, BINARY.as_ref()), flags);
        command.args(["--listen", "tls:127.0.0.1:0", "--tls-certificate"]).arg(certificate).arg("--tls-key").arg(key);
        let (server, mut lines) = Server::announcing(command);
        let mut line = String::new();
        lines.read_line(&mut line).expect("a pipe can be read");
        let address = line.trim().strip_prefix("listening on https://").and_then(|address| address.parse().ok());
        (server, address.unwrap_or_else(|| panic!("the server said {line:?}")))
    }

    fn spawn(command: Command, flags: &[&str]) -> Server {
        Server::announced_by(Server::command(command, flags))
    }

    fn command(mut command: Command, flags: &[&str]) -> Command {
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error"]).args(flags);
        command.env("FANFARE_PUBLISH_TOKEN", TOKEN);
        command
    }

    /// Starts any server that says where it listens, as Fanfare does.
    pub fn announced_by(command: Command) -> Server {
        Server::announcing(command).0
    }

    /// As [`Server::announced_by`], with what else it says.
    fn announcing(mut command: Command) -> (Server, BufReader<ChildStdout>) {
        command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("a pipe can be read");
        let address = line.trim().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        (Server { child, address: address.unwrap_or_else(|| panic!("the server said {line:?}")) }, out)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a service manager would, and waits until it has left.
    pub fn terminate(mut self) {
        let pid = self.pid().to_string();
        Command::new("kill").arg(pid).status().expect("there is a kill command");
        self.child.wait().expect("a child can be waited for");
    }

    /// A number from its metrics page.
    pub fn metric(&self, name: &str) -> f64 {
        let page = Requests::new(self.address).get("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in the metrics"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A kept-alive connection for requests, one at a time or pipelined.
pub struct Requests {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Requests {
    /// Connects.
    pub fn new(address: SocketAddr) -> Requests {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a positive time");
        Requests { stream: BufReader::new(stream), address }
    }

    /// The bytes of a publish of one event.
    pub fn publish_bytes(&self, path: &str, body: &str) -> Vec<u8> {
        let (address, length) = (self.address, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    /// Sends a request whole.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Reads one answer: its status and its body, by Content-Length or chunks.
    pub fn answer(&mut self) -> (u16, String) {
        let mut line = self.line();
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let (mut length, mut chunked) = (0, false);
        while !line.is_empty() {
            line = self.line().to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().expect("a number"),
                Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
                _ => {}
            }
        }
        let mut body = self.take(length);
        while chunked {
            let size = usize::from_str_radix(self.line().trim(), 16).expect("a chunk's size");
            body.extend(self.take(size));
            self.line();
            chunked = size > 0;
        }
        (status, String::from_utf8(body).expect("text"))
    }

    /// Publishes one body and waits for the answer; true when it was taken.
    pub fn publish(&mut self, path: &str, body: &str) -> bool {
        let bytes = self.publish_bytes(path, body);
        self.send(&bytes);
        let (status, answer) = self.answer();
        assert!((200..300).contains(&status) || status == 503, "publishing was answered {status}: {answer}");
        status != 503
    }

    /// Fetches a page.
    pub fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.send(request.as_bytes());
        let (status, body) = self.answer();
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).expect("the server answers");
        assert!(read > 0, "the server closed the connection");
        line.truncate(line.trim_end().len());
        line
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("the whole body comes");
        bytes
    }
}
