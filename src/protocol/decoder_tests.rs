//! The decoder's table of WHATWG HTML 9.2.6 cases, each in one piece and byte by byte.

use super::*;

/// `type:data#id` of every event, `retry=ms`, and `;comment`.
fn check(stream: impl AsRef<[u8]>, expected: &[&str]) {
    let stream = stream.as_ref();
    for chunk_bytes in [stream.len().max(1), 1, 2, 3] {
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        for chunk in stream.chunks(chunk_bytes) {
            decoder.feed(chunk, |item| seen.push(show(item))).unwrap();
        }
        assert_eq!(seen, expected, "{:?} by {chunk_bytes}", String::from_utf8_lossy(stream));
    }
}

fn show(item: Item<'_>) -> String {
    match item {
        Item::Event { event_type, data, id } => format!("{event_type}:{data}#{id}"),
        Item::Retry(retry) => format!("retry={}", retry.as_millis()),
        Item::Comment(text) => format!(";{text}"),
    }
}

#[test]
fn the_examples_of_the_standard() {
    check("data: YHOO\ndata: +2\ndata: 10\n\n", &["message:YHOO\n+2\n10#"]);
    check(
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        &[";test stream", "message:first event#1", "message:second event#", "message: third event#"],
    );
    check("data\n\ndata\ndata\n\ndata:", &["message:#", "message:\n#"]);
    check("data:test\n\ndata: test\n\n", &["message:test#", "message:test#"]);
    check("event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n", &["add:73857293#", "remove:2153#"]);
}

#[test]
fn lines_end_in_three_ways() {
    check("data: a\n\ndata: b\r\rdata: c\r\n\r\n", &["message:a#", "message:b#", "message:c#"]);
    check("data: a\r\n\ndata: b\n\r\n", &["message:a#", "message:b#"]);
    check("data: a\r\ndata: b\rdata: c\n\r", &["message:a\nb\nc#"]);
    check("data: a\n\r\ndata: b\r\n\n", &["message:a#", "message:b#"]);
}

#[test]
fn an_event_is_dispatched_at_the_carriage_return() {
    let mut decoder = Decoder::new();
    let mut count = 0;
    decoder.feed(b"data: a\r\n\r", |_| count += 1).unwrap();
    assert_eq!(count, 1);
    decoder.feed(b"\ndata: b\n\n", |_| count += 1).unwrap();
    assert_eq!(count, 2);
}

#[test]
fn one_byte_order_mark_is_cut_off() {
    check("\u{feff}data: a\n\n", &["message:a#"]);
    check("\u{feff}\u{feff}data: a\n\n", &[]);
    check("data: a\n\n\u{feff}data: b\n\n", &["message:a#"]);
    check(b"\xEF\xBBdata: a\n\ndata: b\n\n", &["message:b#"]);
    check(b"\xEF\xBB\ndata: b\n\n", &["message:b#"]);
    check("\u{feff}\n\u{feff}:x\n:y\n", &[";y"]);
    check("data: \u{feff}a\n\n", &["message:\u{feff}a#"]);
}

#[test]
fn fields_are_read_to_the_letter() {
    check("data:a:b\n\n", &["message:a:b#"]);
    check("data:\ta\n\n", &["message:\ta#"]);
    check(" data: a\nDATA: a\nData: a\nunknown: x\nfoo\n\n", &[]);
    check("data : a\n\n", &[]);
    check(":\n: a\n:  b\n::\n", &[";", ";a", "; b", ";:"]);
    check("event: a\nevent: b\ndata: x\n\ndata: y\n\n", &["b:x#", "message:y#"]);
    check("event:\ndata: x\n\n", &["message:x#"]);
    check("event: a\n\ndata: x\n\n", &["message:x#"]);
    check("data: a\0b\n\n", &["message:a\0b#"]);
}

#[test]
fn an_id_holds_until_the_next_one() {
    check("id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", &["message:a#1", "message:b#1", "message:c#"]);
    check("id: 1\n\ndata: b\n\n", &["message:b#1"]);
    check("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", &["message:a#1", "message:b#1"]);
    check("id: 1\nid: 2\ndata: a\n\n", &["message:a#2"]);
    check("id:  1 \ndata: a\n\n", &["message:a# 1 "]);
}

#[test]
fn retry_takes_digits_only() {
    check("retry: 1000\nretry:07\n", &["retry=1000", "retry=7"]);
    check("retry: 1000x\nretry: -1\nretry: 1.5\nretry: 1 \nretry:\nretry\nretry: ٣\n", &[]);
    check("retry: 99999999999999999999999\n", &["retry=4294967295"]);
}

#[test]
fn what_is_not_finished_is_not_dispatched() {
    check("data: a\n", &[]);
    check("data: a\n\ndata: b", &["message:a#"]);
    check("", &[]);
    let mut decoder = Decoder::new();
    decoder.feed(b"id: 1\n\nid: 2\n", |_| {}).unwrap();
    assert_eq!(decoder.last_event_id(), "1");
}

#[test]
fn invalid_utf8_is_replaced() {
    check(
        b"data: \xff\xE2\x82\ndata: \x80\nevent: \xC3\nid: \xF0\x9F\n\n",
        &["\u{fffd}:\u{fffd}\u{fffd}\n\u{fffd}#\u{fffd}"],
    );
    check(b": \xff\n", &[";\u{fffd}"]);
}

#[test]
fn an_idle_decoder_holds_no_buffers() {
    let mut decoder = Decoder::new();
    for chunk in
        ["retry: 3\nid: a-1\n\n", "data: a\n", "data: b\n\n", ": heart", "beat\n\n", "id: a-2\ndata: x\r\n\r", "\n"]
    {
        decoder.feed(chunk.as_bytes(), |_| {}).unwrap();
    }
    assert!(decoder.pending.is_none());
    assert_eq!((decoder.last_event_id(), decoder.retry()), ("a-2", Some(Duration::from_millis(3))));
}

#[test]
fn a_reconnect_keeps_id_and_retry_and_drops_the_rest() {
    let mut decoder = Decoder::new();
    decoder.feed(b"retry: 9\nid: 1\n\nid: 2\ndata: lost", |_| {}).unwrap();
    let mut decoder = decoder.reconnected();
    assert_eq!((decoder.last_event_id(), decoder.retry()), ("1", Some(Duration::from_millis(9))));
    let mut seen = Vec::new();
    decoder.feed("\u{feff}data: a\n\n".as_bytes(), |item| seen.push(show(item))).unwrap();
    assert_eq!(seen, ["message:a#1"]);
}

#[test]
fn events_and_lines_are_bounded_wherever_the_chunks_end() {
    let check = |stream: &str, expected: bool| {
        for chunk_bytes in [stream.len(), 1] {
            let mut decoder = Decoder::with_event_bytes_max(20);
            let outcome = stream.as_bytes().chunks(chunk_bytes).try_for_each(|chunk| decoder.feed(chunk, |_| {}));
            assert_eq!(outcome.is_ok(), expected, "{stream:?} by {chunk_bytes}");
            assert_eq!(decoder.feed(b"\n", |_| {}).is_ok(), expected, "a failed stream stays failed");
        }
    };
    check(&"data: 45678901234567\n\n".repeat(3), true);
    check("data: 456789012345678\n\n", false);
    check(": 3456789012345678901\n", false);
    check(": 3456789012345678901", false);
    check("data: a\ndata: b\ndata: c\n\n", true);
    check(&"data:\n".repeat(16), true);
    check(&"data:\n".repeat(18), false);
}
