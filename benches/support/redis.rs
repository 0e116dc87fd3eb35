//! A redis-server of its own for a bench, and a publisher that pipelines.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{CLIENT_CORE, pinned};

const PROGRAM: &str = "redis-server";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A redis-server with default settings that keeps nothing on disk, ended when this is dropped.
pub struct Redis {
    child: Child,
    pub address: SocketAddr,
}

impl Redis {
    /// Starts one on the clients' core; none where it is not installed.
    pub fn start() -> Option<Redis> {
        Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().ok()?;
        let address = free_address();
        let port = address.port().to_string();
        let mut command = pinned(CLIENT_CORE, PROGRAM.as_ref());
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        let child = command.stdout(Stdio::null()).current_dir(std::env::temp_dir()).spawn().expect("it is installed");
        let redis = Redis { child, address };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer at {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of loopback that nothing listens on.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound")
}

/// A connection that sends many PUBLISH commands before it reads their answers.
pub struct Publisher {
    stream: BufReader<TcpStream>,
    commands: Vec<u8>,
    queued: usize,
}

impl Publisher {
    pub fn connect(address: SocketAddr) -> Publisher {
        let stream = TcpStream::connect(address).expect("redis-server accepts");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a positive time");
        Publisher { stream: BufReader::new(stream), commands: Vec::new(), queued: 0 }
    }

    /// Adds a PUBLISH to those that the next [`Publisher::flush`] sends.
    pub fn queue(&mut self, channel: impl Display, data: &str) {
        let channel = channel.to_string();
        let (channel_len, data_len) = (channel.len(), data.len());
        write!(self.commands, "*3\r\n$7\r\nPUBLISH\r\n${channel_len}\r\n{channel}\r\n${data_len}\r\n{data}\r\n")
            .expect("a Vec takes all bytes");
        self.queued += 1;
    }

    /// Sends what is queued in one write and reads the answers; how many receivers Redis found for all of it together.
    pub fn flush(&mut self) -> u64 {
        (0..self.send()).map(|_| self.answer()).sum()
    }

    /// Publishes to each channel until it has a receiver. The data counts as no event.
    pub fn wait_for_receivers(&mut self, mut channels: Vec<String>) {
        const PAUSE: Duration = Duration::from_millis(200);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            channels.iter().for_each(|channel| self.queue(channel, "probe"));
            self.send();
            channels.retain(|_| self.answer() == 0);
            if channels.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{} channels have no receiver", channels.len());
            std::thread::sleep(PAUSE);
        }
    }

    /// Sends what is queued; how many answers that will have.
    fn send(&mut self) -> usize {
        self.stream.get_mut().write_all(&self.commands).expect("redis-server reads");
        self.commands.clear();
        std::mem::take(&mut self.queued)
    }

    fn answer(&mut self) -> u64 {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("redis-server answers");
        let receivers = line.trim_end().strip_prefix(':').and_then(|number| number.parse().ok());
        receivers.unwrap_or_else(|| panic!("redis-server answered {line:?}"))
    }
}
