//! How a client reads its streams, one after the other: a head, a preamble, items.

use std::time::Duration;

use fanfare::protocol::decoder::{Decoder, Item};

use super::coding::Coding;
use super::ledger::{Received, must};
use super::wire::find;

/// What a client has received of its streams.
#[derive(Default)]
pub(crate) struct Reception {
    decoder: Decoder,
    reading: Reading,
    coding: Coding,
}

/// Which part of the answer comes next, and what has arrived of it.
#[derive(Debug, Default)]
enum Reading {
    Head(Vec<u8>),
    Preamble(Vec<u8>),
    Items,
    /// No stream, or one that has only a reconnection time.
    #[default]
    Refusal,
}

/// What has arrived complete.
pub(crate) enum Arrived<'a> {
    /// The preamble of a stream, and its id.
    Preamble {
        id: Option<&'a str>,
        is_compressed: bool,
    },
    Item(Received<'a>),
}

impl Reception {
    /// A request for a stream was sent.
    pub(crate) fn begin(&mut self) {
        self.reading = Reading::Head(Vec::new());
    }

    /// The connection is over.
    pub(crate) fn end(&mut self) {
        self.decoder = std::mem::take(&mut self.decoder).reconnected();
        self.reading = Reading::Refusal;
    }

    /// The id that the client would come back with.
    pub(crate) fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// The reconnection time that it received.
    pub(crate) fn retry(&self) -> Duration {
        self.decoder.retry().unwrap_or(Duration::from_secs(3))
    }

    /// Takes what arrived, and hands out what that completes.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Arrived<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut rest = bytes.to_vec();
        if let Reading::Head(head) = &mut self.reading {
            head.append(&mut rest);
            let Some(end) = find(head, b"\r\n\r\n") else { return Ok(()) };
            rest = head.split_off(end + 4);
            let head = String::from_utf8_lossy(head).into_owned();
            self.take_head(&head)?;
            self.coding = Coding::of_head(&head);
        }
        let mut rest = self.coding.decode(rest)?;
        if let Reading::Preamble(preamble) = &mut self.reading {
            preamble.append(&mut rest);
            let Some(end) = find(preamble, b"\n\n") else { return Ok(()) };
            rest = preamble.split_off(end + 2);
            let preamble = std::mem::take(preamble);
            self.decoder.feed(&preamble, |_| ()).map_err(|error| error.to_string())?;
            self.reading = Reading::Items;
            let has_id = preamble.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"id:"));
            let id = has_id.then_some(self.decoder.last_event_id());
            take(Arrived::Preamble { id, is_compressed: self.coding.is_gzip() })?;
        }
        if matches!(self.reading, Reading::Items) { self.take_items(&rest, take) } else { Ok(()) }
    }

    fn take_head(&mut self, head: &str) -> Result<(), String> {
        let is_stream = head.contains("text/event-stream");
        let status = head.split(' ').nth(1).unwrap_or_default();
        must(is_stream || ["503", "429", "408"].contains(&status), || format!("no stream: {head:?}"))?;
        let goes_on = is_stream && !head.contains("Connection: close");
        self.reading = if goes_on { Reading::Preamble(Vec::new()) } else { Reading::Refusal };
        Ok(())
    }

    fn take_items(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Arrived<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut outcome = Ok(());
        let fed = self.decoder.feed(bytes, |item| {
            let Item::Event { event_type, data, id } = item else { return };
            if outcome.is_ok() {
                outcome = take(Arrived::Item(Received { event_type, data, id }));
            }
        });
        fed.map_err(|error| error.to_string()).and(outcome)
    }
}

/// The head of a request for a stream.
pub(crate) fn stream_request(
    mut target: String,
    last_event_id: &str,
    in_query: bool,
    is_event_source: bool,
    accepts_gzip: bool,
) -> Vec<u8> {
    if in_query && !last_event_id.is_empty() {
        target.push_str(&format!("&lastEventId={last_event_id}"));
    }
    let mut head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n");
    if is_event_source {
        head.push_str("Accept: text/event-stream\r\n");
    }
    if accepts_gzip {
        head.push_str("Accept-Encoding: gzip, deflate\r\n");
    }
    if !in_query && !last_event_id.is_empty() {
        head.push_str(&format!("Last-Event-ID: {last_event_id}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}
