//! The sink: an epoll client that holds many streams, counts the events on each, and says when everybody has all.
//!
//! Arguments: address, path (in which `{}` becomes the connection's number), connections, connections per source
//! address, `paced`, `storm`, or `tls:FILE` with the certificate to trust. Over TLS, it counts records and opens none: each event
//! is one. It says `open` once every stream has begun, then obeys:
//! - `expect K`: `ok`, and once every connection has K events more than before, `done UNIX_NS`. No stream may end
//!   meanwhile.
//! - `events`: `events TOTAL CLOSED`: all that arrived, and the streams that the server has closed.
//! - `tally K`: `tally COMPLETE LACKING DISORDERED LAST_NS`: connections with at least K events in all, the events that
//!   the others lack of K each, the events that came no later than their predecessor was made (of a few connections,
//!   each event of which is looked at), and when the last event of all arrived.
//! - `latencies`: `latencies COUNT P50 P99 MAX` in microseconds, of a few connections, since it was last asked.
//! - `stall M`: stops reading the first M connections for good, and says `ok`.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::payload;
use super::process::unix_ns;
use super::secured::{self, Records};

const COMMANDS: Token = Token(usize::MAX);
/// Connections whose latencies are looked at: parsing all would make the client the bottleneck.
const SAMPLED: usize = 16;
/// Connects under way at a time, unless it is a storm: what any server's backlog takes.
const CONNECTING_MAX: usize = 100;
const LATENCY_MAX_US: u64 = 600_000_000;
/// How long it rests between two looks. While it rests no send has to wake it: over loopback a wake-up would cost
/// the sender as much as the send, which no remote client does.
const REST: Duration = Duration::from_micros(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);

struct Connection {
    stream: TcpStream,
    phase: Phase,
    events: u64,
    records: Option<Records>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// The request is sent, nothing has come back.
    Asked,
    Open,
    Stalled,
    Closed,
}

/// What is known of a connection each event of which is looked at.
#[derive(Clone, Default)]
struct Sample {
    /// What came of a line not complete yet.
    carry: Vec<u8>,
    /// When the last event was made.
    made: u64,
    disordered: u64,
}

struct Sink {
    poll: Poll,
    server: SocketAddr,
    /// The request, before and after the connection's number.
    request: (String, String),
    per_address: usize,
    /// Source addresses are 127.network.x.y: sinks side by side must not search for free ports among each other's.
    network: u8,
    connections: Vec<Connection>,
    connecting: usize,
    open: usize,
    closed: usize,
    /// Events that everybody should have; how many lack some; when the last of them had all.
    target: u64,
    lacking: usize,
    waiting: bool,
    total: u64,
    last_arrival_ns: u64,
    /// Of every connection whose index is a multiple of the stride.
    samples: Vec<Sample>,
    sample_stride: usize,
    latencies_us: Histogram<u64>,
    buffer: Vec<u8>,
}

/// Plays the role.
pub fn play(arguments: &[String]) {
    let [server, path, count, per_address, manner] = arguments else { panic!("sink: {arguments:?}") };
    fanfare::io::limits::raise_descriptor_limit().expect("the limit on descriptors can be read");
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: text/event-stream\r\n\r\n");
    let request = match request.split_once("{}") {
        Some((before, after)) => (before.to_owned(), after.to_owned()),
        None => (request, String::new()),
    };
    let mut sink = Sink {
        poll: Poll::new().expect("epoll is there"),
        server: server.parse().expect("an address"),
        request,
        per_address: number(per_address),
        network: 1 + (std::process::id() % 250) as u8,
        connections: Vec::new(),
        connecting: 0,
        open: 0,
        closed: 0,
        target: 0,
        lacking: 0,
        waiting: false,
        total: 0,
        last_arrival_ns: 0,
        samples: vec![Sample::default(); SAMPLED + 1],
        sample_stride: number(count).div_ceil(SAMPLED),
        latencies_us: Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds in order"),
        buffer: vec![0; 256 << 10],
    };
    match manner.strip_prefix("tls:") {
        Some(trusted) => sink.connect_all_over_tls(number(count), trusted).expect("connections can be made"),
        None => {
            let connecting_max = if manner == "storm" { usize::MAX } else { CONNECTING_MAX };
            sink.connect_all(number(count), connecting_max).expect("connections can be made");
        }
    }
    say("open");
    sink.obey().expect("the loop turns");
}

fn say(line: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    // A parent that is gone wants no answer: the end of its commands ends this process.
    let _ = writeln!(out, "{line}");
}

impl Sink {
    fn connect_all(&mut self, count: usize, connecting_max: usize) -> io::Result<()> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let mut events = Events::with_capacity(1024);
        while self.open < count {
            while self.connections.len() < count && self.connecting < connecting_max {
                self.connect()?;
            }
            assert!(Instant::now() < deadline, "only {} of {count} streams opened", self.open);
            self.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
            events.iter().try_for_each(|event| self.serve(event.token().0))?;
        }
        Ok(())
    }

    /// Connects one after the other, and opens only what comes before the first event.
    fn connect_all_over_tls(&mut self, count: usize, trusted: &str) -> io::Result<()> {
        let config = Arc::new(secured::client_config(trusted));
        for index in 0..count {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&self.source_address(index).into())?;
            socket.connect(&self.server.into())?;
            let stream = secured::begin_stream(&config, socket.into(), &self.request.0)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            let records = Some(Records::default());
            self.connections.push(Connection { stream, phase: Phase::Open, events: 0, records });
            self.open += 1;
        }
        Ok(())
    }

    /// One address has too few ports for all, and a server may count connections by address.
    fn source_address(&self, index: usize) -> SocketAddr {
        let host = 2 + index / self.per_address;
        SocketAddr::from((Ipv4Addr::new(127, self.network, (host >> 8) as u8, host as u8), 0))
    }

    fn connect(&mut self) -> io::Result<()> {
        let index = self.connections.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.bind(&self.source_address(index).into())?;
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        self.connections.push(Connection { stream, phase: Phase::Connecting, events: 0, records: None });
        self.connecting += 1;
        Ok(())
    }

    /// Moves one connection forward as far as it goes.
    fn serve(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if connection.phase == Phase::Connecting {
            if let Some(error) = connection.stream.take_error()? {
                return Err(error);
            }
            let (before, after) = &self.request;
            let request = match after.is_empty() {
                true => before.clone(),
                false => format!("{before}{index}{after}"),
            };
            match connection.stream.write(request.as_bytes()) {
                Ok(written) => assert_eq!(written, request.len(), "a fresh socket takes a request whole"),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::WouldBlock) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            connection.phase = Phase::Asked;
        }
        while !matches!(connection.phase, Phase::Stalled | Phase::Closed) {
            let count = match connection.stream.read(&mut self.buffer) {
                Ok(0) => {
                    self.close(index);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.close(index);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
                Ok(count) => count,
            };
            if connection.phase == Phase::Asked {
                assert!(self.buffer.starts_with(b"HTTP/1.1 200"), "stream {index} was refused");
                connection.phase = Phase::Open;
                self.connecting -= 1;
                self.open += 1;
            }
            let bytes = &self.buffer[..count];
            let arrived = match &mut connection.records {
                Some(records) => records.count(bytes),
                None => memchr::memchr_iter(payload::END, bytes).count() as u64,
            };
            let lacked = connection.events < self.target;
            connection.events += arrived;
            self.total += arrived;
            self.lacking -= usize::from(lacked && connection.events >= self.target);
            if index.is_multiple_of(self.sample_stride) && connection.records.is_none() {
                let sample = &mut self.samples[index / self.sample_stride];
                sample.read(&self.buffer[..count], &mut self.latencies_us);
            }
            if count < self.buffer.len() {
                // All there was: what comes later is a new edge.
                return Ok(());
            }
        }
        Ok(())
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        assert!(!self.waiting && connection.phase == Phase::Open, "the server closed stream {index}");
        connection.phase = Phase::Closed;
        self.closed += 1;
    }

    fn obey(&mut self) -> io::Result<()> {
        let stdin = io::stdin();
        self.poll.registry().register(&mut SourceFd(&stdin.as_raw_fd()), COMMANDS, Interest::READABLE)?;
        let mut commands = io::BufReader::new(stdin);
        let mut events = Events::with_capacity(1024);
        loop {
            self.poll.poll(&mut events, None)?;
            let (mut told, before) = (false, self.total);
            for event in &events {
                match event.token() {
                    COMMANDS => told = true,
                    Token(index) => self.serve(index)?,
                }
            }
            if self.total > before {
                self.last_arrival_ns = unix_ns();
            }
            if told {
                // The parent waits for the answer before it says anything more, so one line is all there is.
                let mut line = String::new();
                if commands.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                self.follow(line.trim_end());
            }
            if self.waiting && self.lacking == 0 {
                self.waiting = false;
                say(format_args!("done {}", unix_ns()));
            }
            if !told {
                std::thread::sleep(REST);
            }
        }
    }

    fn follow(&mut self, command: &str) {
        let (word, number) = command.split_once(' ').unwrap_or((command, "0"));
        let number: u64 = number.parse().expect("a number");
        match word {
            "expect" => {
                self.target += number;
                self.lacking = self.connections.iter().filter(|connection| self.lacks(connection)).count();
                self.waiting = true;
                say("ok");
            }
            "events" => say(format_args!("events {} {}", self.total, self.closed)),
            "tally" => {
                let lacking = self.connections.iter().map(|connection| number.saturating_sub(connection.events));
                let complete = lacking.clone().filter(|lacking| *lacking == 0).count();
                let disordered: u64 = self.samples.iter().map(|sample| sample.disordered).sum();
                say(format_args!("tally {complete} {} {disordered} {}", lacking.sum::<u64>(), self.last_arrival_ns));
            }
            "latencies" => {
                let histogram = &mut self.latencies_us;
                let [p50, p99] = [0.5, 0.99].map(|quantile| histogram.value_at_quantile(quantile));
                say(format_args!("latencies {} {p50} {p99} {}", histogram.len(), histogram.max()));
                histogram.reset();
            }
            "stall" => {
                let stalled = self.connections.iter_mut().take(number as usize);
                stalled.for_each(|connection| connection.phase = Phase::Stalled);
                say("ok");
            }
            _ => panic!("sink: {command:?}"),
        }
    }

    fn lacks(&self, connection: &Connection) -> bool {
        connection.events < self.target && connection.phase != Phase::Stalled
    }
}

impl Sample {
    /// Notes how old each payload is whose line is complete, and whether it is in order; keeps what is not complete
    /// for the next read.
    fn read(&mut self, bytes: &[u8], latencies_us: &mut Histogram<u64>) {
        let now = unix_ns();
        self.carry.extend_from_slice(bytes);
        let mut rest = &self.carry[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if let Some(made) = payload::stamp(&rest[..end]) {
                latencies_us.saturating_record(now.saturating_sub(made) / 1000);
                self.disordered += u64::from(made <= self.made);
                self.made = made;
            }
            rest = &rest[end + 1..];
        }
        let kept = rest.len();
        self.carry.drain(..self.carry.len() - kept);
    }
}
