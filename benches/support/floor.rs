//! The floor: the least that a broadcast over plain sockets can cost, one `send(2)` for each and nothing else; and
//! the same work by way of io_uring.
//!
//! Arguments: `send`, `io_uring` or `tokio_uring`; connections; payload bytes. It says `listening ADDR`, `accepted`
//! once all are there, then for each `send` broadcasts one frame, of the size that Fanfare's has, and says `sent`.

use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use fanfare::event::{Event, RunName, Sequence, Topic};
use fanfare::protocol::encoder;
use fanfare::protocol::response::stream_head;
use socket2::{Domain, Socket, TcpKeepalive, Type};

use super::process::unix_ns;
use super::{payload, uring};

/// As `fanfare serve` sets by default (`--send-buffer`, `--tcp-user-timeout`, `--backlog`).
const SEND_BUFFER_BYTES: usize = 16 << 10;
const USER_TIMEOUT: Duration = Duration::from_secs(60);
const BACKLOG: i32 = 4096;

/// Plays the role.
pub fn play(arguments: &[String]) {
    let [how, count, payload_bytes] = arguments else { panic!("floor: {arguments:?}") };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    fanfare::io::limits::raise_descriptor_limit().expect("the limit on descriptors can be read");
    let streams = accept_all(number(count)).expect("connections can be accepted");
    let frame = frame(number(payload_bytes));
    println!("accepted");
    match how.as_str() {
        "send" => obey(|| send_to_all(&streams, &frame)),
        "io_uring" => {
            let mut ring = uring::Ring::new().expect("io_uring is allowed here");
            obey(|| ring.send_to_all(&streams, &frame));
        }
        "tokio_uring" => uring::with_tokio(streams, frame, obey),
        _ => panic!("floor: {arguments:?}"),
    }
}

/// Broadcasts whenever it is told to, until there is nobody to tell.
fn obey(mut broadcast: impl FnMut()) {
    for command in io::stdin().lock().lines() {
        assert_eq!(command.expect("a pipe can be read"), "send");
        broadcast();
        println!("sent");
    }
}

fn send_to_all(streams: &[TcpStream], frame: &[u8]) {
    for mut stream in streams {
        // The standard library's write on a socket is one send(2).
        let sent = stream.write(frame).expect("a socket whose peer reads takes a frame");
        assert_eq!(sent, frame.len(), "a frame fits the send buffer");
    }
}

/// A frame as Fanfare would write for such a payload.
fn frame(payload_bytes: usize) -> Vec<u8> {
    let topic = Topic::new("bench").expect("a topic");
    let event = Event::message(topic, payload::data(payload_bytes, unix_ns()));
    encoder::event(&event, &RunName::from_bits(1).id(Sequence(100))).bytes().to_vec()
}

/// A listening socket with the options that Fanfare's has.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(USER_TIMEOUT).with_interval(USER_TIMEOUT / 4))?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
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
