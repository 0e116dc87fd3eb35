//! A subscriber that reads the wire block by block, with a reader of its own: were it the server's decoder, both could
//! be wrong alike.

use std::time::Instant;

use super::http::{Answer, Client};
use super::server::Server;
use super::wait::DEADLINE;

/// An open stream.
pub struct Subscriber {
    pub client: Client,
    pub head: Answer,
    /// The first block.
    pub preamble: Block,
}

/// Lines up to an empty one, or a comment between two such blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// As it came, with the empty line that ends it; a comment has none.
    pub raw: String,
}

impl Subscriber {
    /// Subscribes as EventSource does; once this returns, whatever is published is for this subscriber too.
    #[track_caller]
    pub fn open(server: &Server, target: &str) -> Subscriber {
        Subscriber::over(server.connect(), target, "")
    }

    /// As [`Subscriber::open`], with the id of the last event that was received.
    #[track_caller]
    pub fn resume(server: &Server, target: &str, last_id: &str) -> Subscriber {
        Subscriber::over(server.connect(), target, &format!("Last-Event-ID: {last_id}\r\n"))
    }

    /// Subscribes over a connection, with further header lines.
    #[track_caller]
    pub fn over(mut client: Client, target: &str, header_lines: &str) -> Subscriber {
        client.send(stream_request(target, header_lines));
        let head = client.head();
        assert_eq!(head.status, 200, "{head}");
        assert_eq!(head.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let preamble = Block::read(&mut client).expect("a stream begins with its preamble");
        Subscriber { client, head, preamble }
    }

    /// The next block, whatever it is.
    #[track_caller]
    pub fn block(&mut self) -> Block {
        self.try_block().expect("the stream is open")
    }

    /// The next block, or the stream's orderly end.
    #[track_caller]
    pub fn try_block(&mut self) -> Option<Block> {
        Block::read(&mut self.client)
    }

    /// The next block that is not only a comment.
    #[track_caller]
    pub fn event(&mut self) -> Block {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let block = self.block();
            if !block.is_comment() {
                return block;
            }
            assert!(Instant::now() < deadline, "only heartbeats in {DEADLINE:?}");
        }
    }

    /// The data of the next `count` blocks, which all are events.
    #[track_caller]
    pub fn data(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.event().data().expect("an event")).collect()
    }

    /// Checks that exactly these events come next; what they would be followed by is for the test to publish.
    #[track_caller]
    pub fn expect(&mut self, data: &[&str]) {
        assert_eq!(self.data(data.len()), data);
    }
}

impl Block {
    #[track_caller]
    fn read(client: &mut Client) -> Option<Block> {
        let mut raw = client.read_through(b"\n")?;
        if !raw.starts_with(b":") {
            while !raw.ends_with(b"\n\n") {
                raw.extend(client.read_through(b"\n").expect("a block has an end"));
            }
        }
        Some(Block { raw: String::from_utf8(raw).unwrap() })
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a str> {
        self.raw.lines().filter_map(move |line| line.strip_prefix(field)?.strip_prefix(": "))
    }

    pub fn id(&self) -> Option<&str> {
        self.values("id").last()
    }

    pub fn event_type(&self) -> Option<&str> {
        self.values("event").last()
    }

    pub fn data(&self) -> Option<String> {
        let lines: Vec<_> = self.values("data").collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    pub fn retry_ms(&self) -> Option<u64> {
        self.values("retry").last().map(|value| value.parse().unwrap())
    }

    pub fn is_comment(&self) -> bool {
        self.raw.trim_end().lines().all(|line| line.starts_with(':'))
    }

    /// Checks that this is a gap, and gives what it says.
    #[track_caller]
    pub fn gap(&self) -> serde_json::Value {
        assert_eq!(self.event_type(), Some("gap"), "{self:?}");
        assert!(self.id().is_some(), "a gap has an id, or it would be repeated: {self:?}");
        serde_json::from_str(&self.data().unwrap()).unwrap()
    }
}

/// A `GET` as EventSource sends it.
pub fn stream_request(target: &str, header_lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{header_lines}\r\n")
}

/// What a subscriber has received: data, or the reason of a gap.
pub fn text_of(event: &Block) -> String {
    match event.event_type() {
        Some("gap") => format!("gap {}", event.gap()["reason"].as_str().unwrap()),
        _ => event.data().unwrap(),
    }
}
