//! A server on tokio-uring, the usual runtime for io_uring: one task for each connection, and writes that are awaited.
//!
//! Argument: payload bytes. It says `listening ADDR`; then for each `send` it writes one frame, of the size that
//! Fanfare's has, to all whose streams have begun, and says `sent`. Every connection has a read under way, since that is
//! how its end is noticed.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use bytes::Bytes;
use fanfare::protocol::response::stream_head;
use tokio_uring::net::{TcpListener, TcpStream};

use super::floor;

/// Writes under way at a time.
const BATCH: usize = 256;
const REQUEST_BYTES: usize = 512;

type Streams = Rc<RefCell<Vec<Rc<TcpStream>>>>;

/// Plays the role.
pub fn play(arguments: &[String]) {
    let [payload_bytes] = arguments else { panic!("tokio_uring: {arguments:?}") };
    fanfare::io::limits::raise_descriptor_limit().expect("the limit on descriptors can be read");
    let frame = Bytes::from(floor::frame(payload_bytes.parse().expect("a number")));
    let listener = floor::listen().expect("a free port");
    println!("listening {}", listener.local_addr().expect("it is bound"));
    tokio_uring::builder().entries(BATCH as u32).start(async {
        let streams = Streams::default();
        tokio_uring::spawn(accept_all(TcpListener::from_std(listener), Rc::clone(&streams)));
        obey(&streams, &frame).await;
    });
    std::process::exit(0);
}

async fn accept_all(listener: TcpListener, streams: Streams) {
    loop {
        let (stream, _) = listener.accept().await.expect("connections can be accepted");
        tokio_uring::spawn(serve(Rc::new(stream), Rc::clone(&streams)));
    }
}

/// Answers a request, lets the stream be sent to, and waits for its end.
async fn serve(stream: Rc<TcpStream>, streams: Streams) {
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    while !request.ends_with(b"\r\n\r\n") {
        let (read, buffer) = stream.read(Vec::with_capacity(REQUEST_BYTES)).await;
        match read {
            Ok(1..) => request.extend_from_slice(&buffer),
            _ => return,
        }
    }
    drop(request);
    let (sent, _) = stream.write_all(stream_head(&[], 1, "Thu, 01 Jan 1970 00:00:00 GMT", false)).await;
    sent.expect("a fresh socket takes an answer");
    streams.borrow_mut().push(Rc::clone(&stream));
    while let (Ok(1..), _) = stream.read(Vec::with_capacity(1)).await {}
    streams.borrow_mut().retain(|other| !Rc::ptr_eq(other, &stream));
}

/// Broadcasts on each command, until the commands end.
async fn obey(streams: &Streams, frame: &Bytes) {
    let commands = io::stdin().as_fd().try_clone_to_owned().expect("a descriptor is free");
    let commands = tokio_uring::fs::File::from_std(File::from(commands));
    loop {
        // The parent waits for the answer before it says anything more. A pipe has no place to read at.
        let (read, command) = commands.read_at(Vec::with_capacity(16), 0).await;
        if read.expect("a pipe can be read") == 0 {
            return;
        }
        assert_eq!(command, b"send\n");
        let all = streams.borrow().clone();
        for batch in all.chunks(BATCH) {
            let writes: Vec<_> = batch.iter().map(|stream| stream.write(frame.clone()).submit()).collect();
            for write in writes {
                let (sent, _) = write.await;
                assert_eq!(sent.expect("a socket whose peer reads takes a frame"), frame.len());
            }
        }
        println!("sent");
    }
}
