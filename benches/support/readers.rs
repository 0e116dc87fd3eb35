//! Readers: many streams of one topic, compressed or not, that all get the same bytes. The first of them is decoded.
//!
//! Arguments: address, path, connections, `gzip` or `identity`. They say `open` once every stream has begun, then obey:
//! - `read K`: `read BYTES`, once every connection has K events more than before: the bytes of them, on each.
//!
//! Absent: time. All but the first connection are read when the first one has everything, so that few sends wake a reader.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use flate2::{Decompress, FlushDecompress};

/// How long any event may take.
const TIMEOUT: Duration = Duration::from_secs(60);
const HEADER_BYTES: usize = 10;

struct First {
    stream: TcpStream,
    inflate: Option<Decompress>,
}

/// Plays the role.
pub fn play(arguments: &[String]) {
    let [address, path, count, coding] = arguments else { panic!("readers: {arguments:?}") };
    fanfare::io::limits::raise_descriptor_limit().expect("the limit on descriptors can be read");
    let count: usize = count.parse().expect("a number");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: {coding}\r\n\r\n");
    let mut streams: Vec<_> = (0..count).map(|_| open(address, &request)).collect();
    let mut bodies: Vec<_> = streams.iter_mut().map(|stream| begin(stream, coding == "gzip")).collect();
    let stream = streams.remove(0);
    let mut first = First { stream, inflate: (coding == "gzip").then(|| Decompress::new(false)) };
    first.decode(&bodies.remove(0));
    println!("open");
    let mut rest = Vec::new();
    for command in io::stdin().lock().lines() {
        let command = command.expect("a pipe can be read");
        let events = command.strip_prefix("read ").and_then(|events| events.parse().ok());
        let bytes = first.read(events.unwrap_or_else(|| panic!("readers were told {command:?}")));
        rest.resize(bytes, 0);
        streams.iter_mut().for_each(|stream| stream.read_exact(&mut rest).expect("all get the same"));
        println!("read {bytes}");
    }
}

fn open(address: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a positive time");
    stream.write_all(request.as_bytes()).expect("the server reads");
    stream
}

/// Reads through the first frame; what of the body that was, without the gzip header.
fn begin(stream: &mut TcpStream, is_gzip: bool) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).expect("the server answers");
        assert!(read > 0, "the server closed: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let body = &bytes[end + 4..];
        if body.ends_with(if is_gzip { b"\n\n\0\0\0\xff\xff" } else { b"\n\n" }) {
            assert_eq!(is_gzip, bytes[..end].windows(22).any(|window| window == b"Content-Encoding: gzip"));
            return body[if is_gzip { HEADER_BYTES } else { 0 }..].to_vec();
        }
    }
}

impl First {
    /// Reads so many events; the bytes that they took.
    fn read(&mut self, events: usize) -> usize {
        let (mut bytes, mut text, mut buffer) = (0, Vec::new(), vec![0; 1 << 16]);
        while text.windows(2).filter(|window| window == b"\n\n").count() < events {
            let read = self.stream.read(&mut buffer).expect("the events come");
            assert!(read > 0, "the server closed the stream");
            bytes += read;
            text.extend(self.decode(&buffer[..read]));
        }
        bytes
    }

    fn decode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(inflate) = &mut self.inflate else { return bytes.to_vec() };
        let mut text = Vec::with_capacity(1 << 20);
        inflate.decompress_vec(bytes, &mut text, FlushDecompress::Sync).expect("the stream is deflated");
        assert!(text.len() < text.capacity(), "not all of it was decoded");
        text
    }
}
