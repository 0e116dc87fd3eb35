//! The floor: the least that a broadcast over plain sockets can cost, one `send(2)` for each and nothing else.
//!
//! Arguments: connections; payload bytes. It says `listening ADDR`, `accepted` once all are there, then for each `send`
//! broadcasts one frame, of the size that Fanfare's has, and says `sent`.

use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use fanfare::event::{Event, RunName, Sequence, Topic};
use fanfare::protocol::encoder;
use fanfare::protocol::response::stream_head;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::payload;
use super::process::unix_ns;

/// As `fanfare serve` sets by default (`--tcp-user-timeout`, `--backlog`). Bytes that wait are not bounded here: the floor
/// takes whatever the kernel does.
const USER_TIMEOUT: Duration = Duration::from_secs(120);
const BACKLOG: i32 = 4096;

/// Plays the role.
pub fn play(arguments: &[String]) {
    let [count, payload_bytes] = arguments else { panic!("floor: {arguments:?}") };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    fanfare::io::limits::raise_descriptor_limit().expect("the limit on descriptors can be read");
    let streams = accept_all(number(count)).expect("connections can be accepted");
    let frame = frame(number(payload_bytes));
    println!("accepted");
    let mut rest = Rest::new(&streams).expect("epoll is there");
    obey(|| send_to_all(&streams, &frame, &mut rest));
}

/// Broadcasts on each command, until the commands end.
fn obey(mut broadcast: impl FnMut()) {
    for command in io::stdin().lock().lines() {
        assert_eq!(command.expect("a pipe can be read"), "send");
        broadcast();
        println!("sent");
    }
}

/// One send to each; what a socket has no room for follows when it has.
fn send_to_all(streams: &[TcpStream], frame: &[u8], rest: &mut Rest) {
    for (index, stream) in streams.iter().enumerate() {
        rest.taken[index] = Some(0);
        rest.lacking += 1;
        rest.send(index, stream, frame);
    }
    rest.finish(streams, frame).expect("sockets can be waited for");
}

/// What sockets had no room for.
struct Rest {
    poll: Poll,
    events: Events,
    /// How much of the frame a socket has taken that lacks some of it.
    taken: Vec<Option<usize>>,
    lacking: usize,
}

impl Rest {
    fn new(streams: &[TcpStream]) -> io::Result<Rest> {
        let poll = Poll::new()?;
        for (index, stream) in streams.iter().enumerate() {
            poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(index), Interest::WRITABLE)?;
        }
        Ok(Rest { poll, events: Events::with_capacity(1024), taken: vec![None; streams.len()], lacking: 0 })
    }

    /// Sends what a socket lacks, as far as it has room. The standard library's write on a socket is one send(2).
    fn send(&mut self, index: usize, mut stream: &TcpStream, frame: &[u8]) {
        let Some(taken) = self.taken[index] else { return };
        let taken = match stream.write(&frame[taken..]) {
            Ok(more) => taken + more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => taken,
            Err(error) => panic!("a socket whose peer reads: {error}"),
        };
        let is_whole = taken == frame.len();
        self.taken[index] = (!is_whole).then_some(taken);
        self.lacking -= usize::from(is_whole);
    }

    fn finish(&mut self, streams: &[TcpStream], frame: &[u8]) -> io::Result<()> {
        while self.lacking > 0 {
            self.poll.poll(&mut self.events, None)?;
            let ready: Vec<_> = self.events.iter().map(|event| event.token().0).collect();
            ready.into_iter().for_each(|index| self.send(index, &streams[index], frame));
        }
        Ok(())
    }
}

/// A frame as Fanfare would write for such a payload.
pub fn frame(payload_bytes: usize) -> Vec<u8> {
    let topic = Topic::new("bench").expect("a topic");
    let event = Event::message(topic, payload::data(payload_bytes, unix_ns()));
    encoder::event(&event, &RunName::from_bits(1).id(Sequence(100))).bytes().to_vec()
}

/// A listening socket with the options that Fanfare's has.
pub fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts that many streams and answers their requests.
fn accept_all(count: usize) -> io::Result<Vec<TcpStream>> {
    let listener = listen()?;
    println!("listening {}", listener.local_addr()?);
    let head = stream_head(&[], 1, "Thu, 01 Jan 1970 00:00:00 GMT", false);
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let (mut stream, _) = listener.accept()?;
        let (mut request, mut filled) = ([0; 1024], 0);
        while !request[..filled].ends_with(b"\r\n\r\n") {
            match stream.read(&mut request[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        stream.write_all(&head)?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    Ok(streams)
}
