//! A real redis-server for a test: on a free port and a unix socket, keeping nothing, killed when dropped.
//!
//! Its unix socket serves the test's own commands, so that they work whatever the test does to the TCP side.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::{Client, Connection, FromRedisValue};
use tempfile::TempDir;

use super::wait::{DEADLINE, wait_until};

/// A server, running or killed.
pub struct RedisServer {
    directory: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server with nothing special about it.
    pub fn start() -> RedisServer {
        RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", "{port}"])
    }

    /// A server that finds what it needs, and writes, in `directory`. In the arguments `{port}` is a free port.
    pub fn start_in(directory: TempDir, arguments: &[&str]) -> RedisServer {
        let mut server = RedisServer { directory, port: 0, arguments: Vec::new(), child: None };
        // Between choosing a port and binding it another process may take it: then the server ends at once.
        for _ in 0..10 {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let port = server.port.to_string();
            server.arguments = arguments.iter().map(|argument| argument.replace("{port}", &port)).collect();
            if server.run() {
                return server;
            }
        }
        panic!("redis-server ended at once, ten times: {}", server.log());
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "redis-server did not start again: {}", self.log());
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops its process: its sockets stay open and nothing answers.
    pub fn hang(&self) {
        self.signal("STOP");
    }

    /// Lets it continue.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Its URL for `login`, which is empty or ends in `@`.
    pub fn url(&self, scheme: &str, login: &str) -> String {
        format!("{scheme}://{login}127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// A connection of the test's own.
    pub fn connect(&self) -> Connection {
        self.try_connect().expect("the server runs")
    }

    /// One command.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connect()).expect("a command that this server knows")
    }

    fn run(&mut self) -> bool {
        let output = |name: &str| File::create(self.directory.path().join(name)).unwrap();
        // A socket that a killed server left would look like one that is about to answer.
        let _ = std::fs::remove_file(self.socket());
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--enable-debug-command", "yes"])
            .args(["--dir".as_ref(), self.directory.path(), "--unixsocket".as_ref(), &self.socket()] as [&Path; 4])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output("log"))
            .stderr(output("errors"))
            .spawn()
            .expect("these tests need redis-server on the PATH (Debian: apt-get install redis-server)");
        self.child = Some(child);
        let mut ended = false;
        wait_until("redis-server answers PING", || {
            ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            ended || self.try_connect().is_some_and(|mut own| redis::cmd("PING").query::<()>(&mut own).is_ok())
        });
        !ended
    }

    fn try_connect(&self) -> Option<Connection> {
        let client = Client::open(format!("unix://{}", self.socket().display())).unwrap();
        client.get_connection_with_timeout(DEADLINE).ok()
    }

    fn signal(&self, name: &str) {
        super::process::signal(self.child.as_ref().expect("the server runs").id(), name);
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        read("log") + &read("errors")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `fanfare bus`; returns its exit status and output.
pub fn bus_command(redis: &RedisServer, action: &str) -> (Option<i32>, String) {
    let url = redis.url("redis", "");
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["bus", action, "--redis-url", &url]).output();
    let output = output.expect("cargo built it");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

/// Installs the functions of a durable bus.
pub fn install_bus(redis: &RedisServer) {
    let (status, output) = bus_command(redis, "install");
    assert_eq!(status, Some(0), "{output}");
}
