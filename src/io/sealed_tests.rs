//! TLS over epoll, against clients of rustls: what the contract says, with real sockets and threads.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use rustls::{ClientConnection, StreamOwned};

use super::*;
use crate::io::epoll::EpollIo;
use crate::io::handshakes::{CurrentConfig, HandshakeThreads, ThreadedHandshakes};
use crate::io::listener::{ListenAddress, Listener};
use crate::io::socket_options::SocketOptions;
use crate::tls::testing::{client, server};

const DEADLINE: Duration = Duration::from_secs(60);
const PLAIN: ListenerIndex = ListenerIndex(0);
const TLS: ListenerIndex = ListenerIndex(1);

type TlsClient = StreamOwned<ClientConnection, TcpStream>;

/// A server's IO with a plain listener and one that speaks TLS.
struct Stand {
    io: Sealed<EpollIo, ThreadedHandshakes>,
    addresses: [SocketAddr; 2],
    trusted: String,
    next_slot: u32,
    /// What was ready and not asked for yet.
    ready: Vec<Readiness>,
    buffer: Vec<u8>,
}

impl Stand {
    fn new() -> Stand {
        const OPTIONS: SocketOptions = SocketOptions {
            backlog: 512,
            send_buffer_bytes: Some(4096),
            unsent_bytes_max: 16 << 10,
            user_timeout: Duration::from_secs(120),
        };
        let listeners = [(); 2].map(|()| Listener::open(&"127.0.0.1:0".parse().unwrap(), &OPTIONS, false).unwrap());
        let addresses = listeners.each_ref().map(|listener| match *listener.address() {
            ListenAddress::Tcp(address) => address,
            ListenAddress::Unix(_) => unreachable!(),
        });
        let wire = EpollIo::new(listeners.into(), None).unwrap();
        let (config, trusted) = server();
        let threads =
            HandshakeThreads::start(1, &CurrentConfig::new(config), || panic!("a thread has failed")).unwrap();
        let handshakes = threads.for_loop(wire.wake());
        let io = Sealed::new(wire, handshakes, vec![false, true]);
        Stand { io, addresses, trusted, next_slot: 0, ready: Vec::new(), buffer: vec![0; 64 << 10] }
    }

    /// Accepts a client of this listener, which has connected.
    fn accept(&mut self, listener: ListenerIndex) -> (Socket, Token) {
        let deadline = self.io.now() + DEADLINE;
        loop {
            match self.io.accept(listener) {
                Accept::Connection(socket, _) => {
                    let token = Token { slot: self.next_slot, generation: 1 };
                    self.next_slot += 1;
                    self.io.watch(socket, token).unwrap();
                    return (socket, token);
                }
                other => assert!(self.io.now() < deadline, "{other:?}"),
            }
            self.wait_briefly();
        }
    }

    fn wait_briefly(&mut self) {
        self.io.wait(Some(Duration::from_millis(10)), &mut self.ready).unwrap();
    }

    /// Waits until this is reported, and takes it.
    #[track_caller]
    fn wait_for(&mut self, expected: Readiness) {
        let deadline = self.io.now() + DEADLINE;
        loop {
            if let Some(at) = self.ready.iter().position(|ready| *ready == expected) {
                self.ready.remove(at);
                return;
            }
            assert!(self.io.now() < deadline, "{expected:?} is not among {:?}", self.ready);
            self.wait_briefly();
        }
    }

    /// A client with TLS whose handshake is done.
    fn secured(&mut self) -> (Socket, Token, TlsClient) {
        let mut stream = TlsClient::new(client(&self.trusted), TcpStream::connect(self.addresses[1]).unwrap());
        stream.sock.set_read_timeout(Some(DEADLINE)).unwrap();
        let handshake = std::thread::spawn(move || {
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            stream
        });
        let (socket, token) = self.accept(TLS);
        assert!(socket.speaks_tls());
        self.io.secure(socket, token, Vec::new());
        self.wait_for(Readiness::Secured(token));
        let stream = handshake.join().unwrap();
        self.ready.clear(); // what the handshake made ready
        (socket, token, stream)
    }

    /// Reads until there is something to report.
    #[track_caller]
    fn read(&mut self, socket: Socket) -> Result<Vec<u8>, Read> {
        let deadline = self.io.now() + DEADLINE;
        loop {
            match self.io.read(socket, &mut self.buffer) {
                Read::Bytes(count) => return Ok(self.buffer[..count].to_vec()),
                Read::WouldBlock => assert!(self.io.now() < deadline, "nothing to read"),
                other => return Err(other),
            }
            self.wait_briefly();
        }
    }

    fn send(&mut self, run: &[Frame], skip_bytes: usize, targets: &[Socket]) -> Vec<Sent> {
        let mut outcomes = Vec::new();
        self.io.send(run, skip_bytes, targets.iter().copied(), &mut outcomes);
        outcomes
    }
}

fn frame(text: &str) -> Frame {
    text.as_bytes().into()
}

fn exactly(client: &mut impl std::io::Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_request_comes_in_and_events_go_out_until_close_notify() {
    let mut stand = Stand::new();
    let (socket, _, mut client) = stand.secured();
    client.write_all(b"GET /events HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(stand.read(socket), Ok(b"GET /events HTTP/1.1\r\n\r\n".to_vec()));
    assert_eq!(stand.io.read(socket, &mut stand.buffer), Read::WouldBlock);
    let run = [frame("data: one\n\n"), frame("data: two\n\n")];
    assert_eq!(stand.send(&run, 6, &[socket]), [Sent::Bytes(16)]);
    assert_eq!(exactly(&mut client, 16), b"one\n\ndata: two\n\n");
    stand.io.end(socket);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    client.conn.send_close_notify();
    client.conn.complete_io(&mut client.sock).unwrap();
    assert_eq!(stand.read(socket), Err(Read::Ended));
    stand.io.close(socket, Close::Graceful);
}

#[test]
fn an_end_without_close_notify_is_a_truncation() {
    let mut stand = Stand::new();
    let (socket, _, mut client) = stand.secured();
    stand.send(&[frame("data: half")], 0, &[socket]);
    stand.io.close(socket, Close::Graceful);
    assert_eq!(exactly(&mut client, 10), b"data: half");
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn sockets_with_and_without_tls_get_one_run_in_the_order_of_targets() {
    let mut stand = Stand::new();
    let mut plain: Vec<_> = (0..3).map(|_| TcpStream::connect(stand.addresses[0]).unwrap()).collect();
    let plain_sockets: Vec<_> = (0..3).map(|_| stand.accept(PLAIN).0).collect();
    assert!(plain_sockets.iter().all(|socket| !socket.speaks_tls()));
    let (one, _, mut first) = stand.secured();
    let (other, _, mut second) = stand.secured();
    let (gone, _, leaving) = stand.secured();
    socket2::SockRef::from(&leaving.sock).set_linger(Some(Duration::ZERO)).unwrap();
    drop(leaving);
    assert_eq!(stand.read(gone), Err(Read::Gone(Gone::Reset)));
    let targets = [plain_sockets[0], one, plain_sockets[1], plain_sockets[2], gone, other];
    let run = [frame("a"), frame("bc")];
    let sent = Sent::Bytes(3);
    assert_eq!(stand.send(&run, 0, &targets), [sent, sent, sent, sent, Sent::Gone(Gone::Reset), sent]);
    for client in &mut plain {
        assert_eq!(exactly(client, 3), b"abc");
    }
    assert_eq!(exactly(&mut first, 3), b"abc");
    assert_eq!(exactly(&mut second, 3), b"abc");
}

#[test]
fn what_a_full_socket_does_not_take_is_held_and_goes_out_once() {
    let mut stand = Stand::new();
    let (socket, token, mut client) = stand.secured();
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let run = [Frame::from(content.clone())];
    let reader = std::thread::spawn(move || (exactly(&mut client, 3_000_000), client));
    let (mut taken, mut held) = (0, 0);
    while taken < content.len() {
        match stand.send(&run, taken, &[socket])[0] {
            Sent::Bytes(count) => taken += count,
            Sent::Held(count) => {
                taken += count;
                held += 1;
                let bytes = stand.io.held[&token.slot].bytes.len();
                assert!(bytes <= CONTENT_BYTES_MAX + record::OVERHEAD_BYTES, "{bytes} bytes are held");
                stand.wait_for(Readiness::Writable(token));
                assert!(stand.io.held.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(held > 0, "the socket was never full");
    let (received, mut client) = reader.join().unwrap();
    assert!(received == content);
    stand.io.end(socket);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn the_end_follows_what_is_held() {
    let mut stand = Stand::new();
    let (socket, token, mut client) = stand.secured();
    let run = [Frame::from(vec![b'x'; 16 << 10])];
    let mut taken = 0;
    loop {
        match stand.send(&run, 0, &[socket])[0] {
            Sent::Bytes(count) => taken += count,
            Sent::Held(count) => break taken += count,
            other => panic!("{other:?}"),
        }
    }
    stand.io.end(socket);
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        client.read_to_end(&mut received).map(|count| (count, client))
    });
    stand.wait_for(Readiness::Writable(token));
    let (received, _client) = reader.join().unwrap().unwrap();
    assert_eq!(received, taken);
}

#[test]
fn a_connection_that_breaks_while_bytes_are_held_is_reported() {
    let mut stand = Stand::new();
    let (socket, token, client) = stand.secured();
    let run = [Frame::from(vec![b'x'; 16 << 10])];
    while !matches!(stand.send(&run, 0, &[socket])[0], Sent::Held(_)) {}
    socket2::SockRef::from(&client.sock).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    stand.wait_for(Readiness::Readable(token));
    assert_eq!(stand.read(socket), Err(Read::Gone(Gone::Reset)));
    stand.io.close(socket, Close::Reset);
    assert!(stand.io.held.is_empty());
}

#[test]
fn a_record_that_arrives_byte_by_byte_waits_until_it_is_whole() {
    let mut stand = Stand::new();
    let (socket, token, mut client) = stand.secured();
    client.conn.writer().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut record = Vec::new();
    client.conn.write_tls(&mut record).unwrap();
    client.sock.set_nodelay(true).unwrap();
    let (last, first) = record.split_last().unwrap();
    for byte in first {
        client.sock.write_all(&[*byte]).unwrap();
        stand.wait_for(Readiness::Readable(token));
        assert_eq!(stand.io.read(socket, &mut stand.buffer), Read::WouldBlock);
    }
    client.sock.write_all(&[*last]).unwrap();
    assert_eq!(stand.read(socket), Ok(b"GET / HTTP/1.1\r\n\r\n".to_vec()));
}

#[test]
fn half_a_record_before_the_end_is_the_end() {
    let mut stand = Stand::new();
    let (socket, _, mut client) = stand.secured();
    client.sock.write_all(&[23, 3, 3, 0]).unwrap();
    client.sock.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stand.read(socket), Err(Read::Ended));
}

/// Sends bytes after the handshake that are no record of TLS 1.3; returns what its client reads.
fn after(bytes: &[u8]) -> (Result<Vec<u8>, Read>, std::io::Error) {
    let mut stand = Stand::new();
    let (socket, _, mut client) = stand.secured();
    let (other, _, mut neighbour) = stand.secured();
    client.sock.write_all(bytes).unwrap();
    let read = stand.read(socket);
    stand.io.close(socket, Close::Graceful);
    let received = client.read(&mut [0; 8]).unwrap_err();
    stand.send(&[frame("still here")], 0, &[other]);
    assert_eq!(exactly(&mut neighbour, 10), b"still here");
    (read, received)
}

#[test]
fn a_record_that_was_changed_ends_its_connection_only_and_says_so() {
    let mut forged = vec![23, 3, 3, 0, 30];
    forged.extend_from_slice(&[7; 30]);
    for (bytes, alert) in [
        (&forged[..], "BadRecordMac"),
        (b"\x17\x03\x03\x50\x00", "RecordOverflow"),
        (b"\x17\x03\x03\x00\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "DecodeError"),
        (b"GET / HTTP/1.1\r\n\r\n", "UnexpectedMessage"),
    ] {
        let (read, received) = after(bytes);
        assert_eq!(read, Err(Read::Gone(Gone::Record)));
        assert!(received.to_string().contains(alert), "{received}, not {alert}");
    }
}

/// A client of ours, with keys of its own, can send what rustls would not.
#[test]
fn records_without_content_are_bounded_whatever_they_are() {
    for (content_type, content) in [(ContentType::Data, &b""[..]), (ContentType::Alert, &[1, 90])] {
        let (mut sealing, mut opening) = crate::tls::record::test_pair();
        let mut records = |count: usize| {
            let mut bytes = Vec::new();
            for _ in 0..count {
                let mut record = Vec::new();
                record::begin(&mut record);
                record.extend_from_slice(content);
                sealing.seal(content_type, &mut record).unwrap();
                bytes.extend(record);
            }
            bytes
        };
        let mut empty_records = 0;
        for _ in 0..EMPTY_RECORDS_MAX {
            let opened = open_records(&mut opening, &mut records(1), &mut empty_records);
            assert!(opened.last.is_none() && opened.content_bytes == 0);
        }
        let opened = open_records(&mut opening, &mut records(1), &mut empty_records);
        assert!(matches!(opened.last, Some(Last::Bad(BadRecord::Unexpected))));
    }
}

#[test]
fn new_keys_are_refused() {
    let mut stand = Stand::new();
    let (socket, _, mut client) = stand.secured();
    client.conn.refresh_traffic_keys().unwrap();
    client.conn.complete_io(&mut client.sock).unwrap();
    assert_eq!(stand.read(socket), Err(Read::Gone(Gone::Record)));
}

#[test]
fn plain_http_gets_an_answer_that_names_https() {
    let mut stand = Stand::new();
    let mut client = TcpStream::connect(stand.addresses[1]).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let (socket, token) = stand.accept(TLS);
    stand.io.secure(socket, token, Vec::new());
    stand.wait_for(Readiness::NotSecured(token, Failure::PlainHttp));
    stand.io.close(socket, Close::Graceful);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
}

#[test]
fn a_handshake_that_is_cancelled_gives_its_socket_back() {
    let mut stand = Stand::new();
    let mut client = TcpStream::connect(stand.addresses[1]).unwrap();
    let (socket, token) = stand.accept(TLS);
    stand.io.secure(socket, token, Vec::new());
    stand.io.close(socket, Close::Graceful);
    let deadline = stand.io.now() + DEADLINE;
    while !stand.io.securing.is_empty() {
        assert!(stand.io.now() < deadline);
        stand.wait_briefly();
    }
    assert!(!stand.ready.contains(&Readiness::Secured(token)));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "it is closed");
}

#[test]
fn what_was_read_before_the_handshake_is_its_beginning() {
    for read_bytes in [1, 5, 100] {
        let mut stand = Stand::new();
        let mut stream = TlsClient::new(client(&stand.trusted), TcpStream::connect(stand.addresses[1]).unwrap());
        stream.conn.write_tls(&mut stream.sock).unwrap();
        let (socket, token) = stand.accept(TLS);
        stand.wait_for(Readiness::Readable(token));
        let mut received = vec![0; read_bytes];
        assert_eq!(stand.io.read(socket, &mut received), Read::Bytes(read_bytes));
        stand.io.secure(socket, token, received);
        let handshake = std::thread::spawn(move || stream.conn.complete_io(&mut stream.sock).map(|_| stream));
        stand.wait_for(Readiness::Secured(token));
        handshake.join().unwrap().unwrap();
    }
}

#[test]
fn handshakes_beyond_the_bound_wait_and_listeners_pause() {
    use crate::io::handshakes::HANDSHAKES_PER_THREAD_MAX;
    let mut stand = Stand::new();
    let mut idle = Vec::new();
    for at in 0..=HANDSHAKES_PER_THREAD_MAX {
        assert_eq!(stand.io.has_room_for(TLS), at < HANDSHAKES_PER_THREAD_MAX, "{at}");
        let client = TcpStream::connect(stand.addresses[1]).unwrap();
        let (socket, token) = stand.accept(TLS);
        stand.io.secure(socket, token, Vec::new());
        idle.push((socket, client));
    }
    assert!(stand.io.has_room_for(PLAIN));
    // The first of them leaves, and so the last one, which waits, begins.
    let (socket, mut last) = idle.pop().unwrap();
    let (first, _) = idle[0];
    stand.io.close(first, Close::Graceful);
    last.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stand.wait_for(Readiness::NotSecured(Token { slot: stand.next_slot - 1, generation: 1 }, Failure::PlainHttp));
    stand.io.close(socket, Close::Graceful);
    assert!(stand.io.has_room_for(TLS));
}

#[test]
fn a_listener_without_tls_is_as_it_was() {
    let mut stand = Stand::new();
    let mut client = TcpStream::connect(stand.addresses[0]).unwrap();
    let (socket, _) = stand.accept(PLAIN);
    client.write_all(b"\x16\x03\x01").unwrap();
    assert_eq!(stand.read(socket), Ok(b"\x16\x03\x01".to_vec()));
    assert_eq!(stand.send(&[frame("plain")], 0, &[socket]), [Sent::Bytes(5)]);
    stand.io.end(socket);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"plain");
}
