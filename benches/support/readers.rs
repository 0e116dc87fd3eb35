//! Readers: many streams of one topic, compressed or not, that all get the same bytes. The first of them is decoded.
//!
//! Arguments: address, path, connections, and `gzip` or `identity`; or `each`: gzip whose bytes differ from stream to
//! stream, all of which are decoded. They say `open` once every stream has begun, then obey:
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

struct Reader {
    stream: TcpStream,
    inflate: Option<Decompress>,
}

/// Plays the role.
pub fn play(arguments: &[String]) {
    let [address, path, count, coding] = arguments else { panic!("readers: {arguments:?}") };
    fanfare::io::limits::raise_descriptor_limit().expect("the limit on descriptors can be read");
    let count: usize = count.parse().expect("a number");
    let accepted = if coding == "each" { "gzip" } else { coding };
    // To HTTP/1.0 there are no chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept-Encoding: {accepted}\r\n\r\n");
    let mut streams: Vec<_> = (0..count).map(|_| open(address, &request)).collect();
    let decoded = streams.split_off(0).into_iter();
    let mut decoded: Vec<_> = decoded.map(|stream| Reader::begin(stream, accepted == "gzip")).collect();
    if coding != "each" {
        streams = decoded.split_off(1).into_iter().map(|reader| reader.stream).collect();
    }
    println!("open");
    let mut rest = Vec::new();
    for command in io::stdin().lock().lines() {
        let command = command.expect("a pipe can be read");
        let events = command.strip_prefix("read ").and_then(|events| events.parse().ok());
        let events = events.unwrap_or_else(|| panic!("readers were told {command:?}"));
        let bytes = decoded.iter_mut().map(|reader| reader.read(events)).max().expect("at least one");
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

impl Reader {
    /// Reads through the first frame.
    fn begin(mut stream: TcpStream, is_gzip: bool) -> Reader {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("the server answers");
            head.push(byte[0]);
        }
        assert_eq!(is_gzip, head.windows(22).any(|window| window == b"Content-Encoding: gzip"));
        let mut reader = Reader { stream, inflate: is_gzip.then(|| Decompress::new(false)) };
        if is_gzip {
            reader.stream.read_exact(&mut [0; HEADER_BYTES]).expect("the gzip header comes");
        }
        reader.read(1);
        // The empty block that ends the frame.
        reader
    }

    /// Reads this number of events. Returns the bytes that they took.
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
