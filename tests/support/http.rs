//! A client that speaks bytes: what is sent is exactly what the test wrote, and nothing in an answer is forgiven.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::secured;
use super::wait::DEADLINE;

/// One connection.
pub struct Client {
    socket: Socket,
    unread: Vec<u8>,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<secured::Stream>),
}

/// A response, whole.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::over_tcp(TcpStream::connect(address).expect("the server listens"))
    }

    /// A client that connects from this address of the loopback network.
    pub fn connect_from(from: &str, address: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
        socket.connect(&address.into()).expect("the server listens");
        Client::over_tcp(socket.into())
    }

    pub fn over_tcp(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let speaks_tls = stream.peer_addr().is_ok_and(|server| secured::is_address(&server));
        let socket = if speaks_tls { Socket::Tls(Box::new(secured::over(stream))) } else { Socket::Tcp(stream) };
        Client { socket, unread: Vec::new() }
    }

    /// A client for which the kernel buffers little: it takes few unread bytes to block who sends to it.
    pub fn connect_with_small_buffer(address: SocketAddr) -> Client {
        Client::connect_with_small_buffer_from("127.0.0.1", address)
    }

    /// As [`Client::connect_with_small_buffer`], from this address of the loopback network.
    pub fn connect_with_small_buffer_from(from: &str, address: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
        socket.connect(&address.into()).expect("the server listens");
        Client::over_tcp(socket.into())
    }

    pub fn connect_unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { socket: Socket::Unix(stream), unread: Vec::new() }
    }

    /// This end's address and port, as the server's log names it.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Unix(_) => "unix".to_owned(),
            _ => self.tcp().local_addr().unwrap().to_string(),
        }
    }

    /// Another hold on the same connection.
    pub fn try_clone(&self) -> TcpStream {
        self.tcp().try_clone().unwrap()
    }

    fn tcp(&self) -> &TcpStream {
        match &self.socket {
            Socket::Tcp(stream) => stream,
            Socket::Tls(stream) => &stream.sock,
            Socket::Unix(_) => unreachable!("no test needs it"),
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server still takes bytes");
    }

    /// Sends to a server that may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(bytes.as_ref()),
            Socket::Unix(stream) => stream.write_all(bytes.as_ref()),
            Socket::Tls(stream) => stream.write_all(bytes.as_ref()),
        }
    }

    /// A `GET` without a body.
    pub fn get(&mut self, target: &str) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }

    /// Says that nothing more will come.
    pub fn end_sending(&mut self) {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Socket::Tls(stream) => {
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock).unwrap();
                }
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        }
    }

    /// Ends it as a crash of the host would: with a reset, whatever is under way.
    pub fn reset(self) {
        socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads what is there, at least a byte; 0 when the server has ended its side.
    pub fn try_read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let count = match &mut self.socket {
            Socket::Tcp(stream) => stream.read(&mut buffer)?,
            Socket::Unix(stream) => stream.read(&mut buffer)?,
            Socket::Tls(stream) => stream.read(&mut buffer)?,
        };
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// Reads at least this number of further bytes, and keeps them for the next answer.
    #[track_caller]
    pub fn read_some(&mut self, count: usize) {
        let wanted = self.unread.len() + count;
        while self.unread.len() < wanted {
            assert_ne!(self.try_read().expect("the answer continues"), 0, "the body ended early");
        }
    }

    /// Reads until what is unread has `delimiter`, and takes it with everything before; none if the server ends first.
    #[track_caller]
    pub fn read_through(&mut self, delimiter: &[u8]) -> Option<Vec<u8>> {
        let mut searched = 0;
        loop {
            let found = self.unread[searched..].windows(delimiter.len()).position(|window| window == delimiter);
            if let Some(at) = found {
                return Some(self.unread.drain(..searched + at + delimiter.len()).collect());
            }
            searched = self.unread.len().saturating_sub(delimiter.len() - 1);
            match self.try_read() {
                Ok(0) => return None,
                // A read with a timeout is not resumed after the machine was paused (signal(7)).
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                outcome => drop(outcome.expect("an answer, or an orderly end")),
            }
        }
    }

    /// The next response's head, for a body of unknown length.
    #[track_caller]
    pub fn head(&mut self) -> Answer {
        let Some(head) = self.read_through(b"\r\n\r\n") else {
            panic!("the server ended after {:?}", String::from_utf8_lossy(&self.unread));
        };
        let head = String::from_utf8(head).unwrap().trim_end().to_owned();
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        Answer { status: status.unwrap_or_else(|| panic!("no status line: {head}")), head, body: Vec::new() }
    }

    /// The next response, with its body.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = match answer.header("content-length") {
            Some(length) => length.parse().unwrap(),
            None => {
                assert!(matches!(answer.status, 100 | 204 | 304), "no length: {}", answer.head);
                0
            }
        };
        answer.body = self.read_exactly(length);
        answer
    }

    /// The next `length` bytes.
    #[track_caller]
    pub fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert_ne!(self.try_read().unwrap(), 0, "the body ended early");
        }
        self.unread.drain(..length).collect()
    }

    /// Everything until the server closes its side; a reset fails.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.try_read().expect("an orderly end") > 0 {}
        std::mem::take(&mut self.unread)
    }

    /// Checks that the server sends nothing more and closes its side without a reset.
    #[track_caller]
    pub fn ends(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.read_to_end()), "");
    }

    /// Checks that the server ends the connection, with or without a reset, and sends nothing.
    #[track_caller]
    pub fn closes_unanswered(&mut self) {
        self.read_until_broken();
        assert_eq!(String::from_utf8_lossy(&self.unread), "");
    }

    /// Reads until the connection breaks, and tells how: an orderly end is none.
    pub fn read_until_broken(&mut self) -> Option<io::ErrorKind> {
        loop {
            match self.try_read() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(error.kind()),
            }
        }
    }
}

impl Answer {
    /// A header's value; several of one name fail.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = values.next();
        assert!(values.next().is_none(), "{name} is there more than once: {}", self.head);
        value
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The head with its lines joined by `|` and today's date as `DATE`, to be compared as a whole.
    #[track_caller]
    pub fn shown_head(&self) -> String {
        let date = self.header("date").unwrap_or_else(|| panic!("no date: {}", self.head));
        let age = httpdate::parse_http_date(date).unwrap().elapsed().unwrap_or_default();
        assert!(age.as_secs() < 3600, "the date is of another day: {date}");
        self.head.replace(date, "DATE").replace("\r\n", "|")
    }

    /// Checks that this is an error as programs and people read it (RFC 9457), and gives its title.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{self}");
        problem["title"].as_str().unwrap().to_owned()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.head, String::from_utf8_lossy(&self.body))
    }
}
