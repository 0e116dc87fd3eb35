//! Properties of the wire: how bytes are cut into chunks changes nothing, what is encoded is decoded, and no bytes
//! make a parser panic. Each against an oracle: one-shot parsing, the event itself, or a naive decoder written here.

use std::time::Duration;

use fanfare::event::{Event, EventId, EventType, Topic};
use fanfare::protocol::body::BodyReader;
use fanfare::protocol::decoder::{Decoder, Item};
use fanfare::protocol::head::{HeadLimits, RequestHead, parse_grown};
use fanfare::protocol::publish::{PublishLimits, envelopes, parse};
use fanfare::protocol::{Parsed, RequestError, encoder};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const HEAD_LIMITS: HeadLimits = HeadLimits { head_bytes_max: 300, target_bytes_max: 60, headers_max: 5 };
const BODY_BYTES_MAX: usize = 64;
const PUBLISH_LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 100, data_bytes_max: 1000, batch_max: 10 };

type Request = (RequestHead, Vec<u8>);

/// The server's reading of a connection: requests one after the other, from a buffer that chunks are appended to.
fn read_requests<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Request>, Option<RequestError>) {
    let (mut requests, mut buffer) = (Vec::new(), Vec::new());
    let mut known = 0;
    let mut open: Option<(RequestHead, BodyReader, Vec<u8>)> = None;
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            if let Some((head, mut reader, mut body)) = open.take() {
                let progress = match reader.feed(&buffer, &mut body) {
                    Ok(progress) => progress,
                    Err(error) => return (requests, Some(error)),
                };
                buffer.drain(..progress.consumed);
                if !progress.complete {
                    open = Some((head, reader, body));
                    break;
                }
                requests.push((head, body));
            }
            match parse_grown(&buffer, known, &HEAD_LIMITS) {
                Ok(Parsed::NeedMore) => {
                    known = buffer.len();
                    break;
                }
                Ok(Parsed::Complete { value, consumed }) => {
                    buffer.drain(..consumed);
                    known = 0;
                    let reader = BodyReader::new(value.framing, BODY_BYTES_MAX);
                    open = Some((value, reader, Vec::new()));
                }
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

/// What a naive decoder makes of a whole stream: WHATWG HTML 9.2.6 as it is written, one step at a time.
fn decode_naively(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let unified = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = unified.split('\n').collect();
    lines.pop();
    let (mut data, mut event_type, mut id, mut seen) = (String::new(), String::new(), String::new(), Vec::new());
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                let event_type = if event_type.is_empty() { "message" } else { &event_type };
                seen.push(format!("{event_type}|{data}|{id}"));
            }
            data.clear();
            event_type.clear();
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => seen.push(format!("comment|{value}")),
            "data" => data = data + value + "\n",
            "event" => event_type = value.to_owned(),
            "id" if !value.contains('\0') => id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                seen.push(format!("retry|{}", value.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }
    seen
}

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
    for chunk in chunks {
        let outcome = decoder.feed(chunk, |item| {
            seen.push(match item {
                Item::Event { event_type, data, id } => format!("{event_type}|{data}|{id}"),
                Item::Retry(retry) => format!("retry|{}", retry.as_millis()),
                Item::Comment(text) => format!("comment|{text}"),
            });
        });
        outcome.expect("these streams are short");
    }
    seen
}

/// Cuts bytes at the given places, wherever they fall; the pieces may be empty.
fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> impl Iterator<Item = &'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    ends.into_iter().scan(0, |start, end| Some(&bytes[std::mem::replace(start, end)..end]))
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..12)
}

/// Requests mostly well-formed, so that the parser gets past the first line, with a fault here and there.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /publish HTTP/1.1\r\n",
        "GET /e?a=%20 HTTP/1.0\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://h/x HTTP/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "GET /% HTTP/1.1\r\n",
        "GET / HTTP/2.0\r\n",
        "GET /\n",
        "GET /0123456789012345678901234567890123456789012345678901234567890123456789 HTTP/1.1\r\n",
    ]);
    let header = select(vec![
        "Host: h\r\n",
        "Accept: text/event-stream\r\n",
        "Connection: close\r\n",
        "Cookie: a\r\n",
        "X: \u{e9}\r\n",
        "Expect: 100-continue\r\n",
        "Last-Event-ID: 7\r\n",
        "Via: x\r\n",
        "A : b\r\n",
        "A: b\rc\r\n",
        "A: b\n",
    ]);
    let body = select(vec![
        "\r\n",
        "Content-Length: 5\r\n\r\nhello",
        "Content-Length: 65\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nB;x=y\r\n0123456789\n\r\n0\r\nT: u\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n40\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\n",
        "Transfer-Encoding: x\r\n\r\n",
    ]);
    // The weights keep most requests whole, so that several in a row get past their first line.
    (
        prop_oneof![4 => Just("GET / HTTP/1.1\r\n"), 3 => line],
        vec(header, 0..3),
        prop_oneof![2 => Just("\r\n"), 3 => body],
    )
        .prop_map(|(line, headers, body)| [line, "Host: h\r\n", &headers.concat(), body].concat().into_bytes())
}

/// Text full of what matters to a stream: line ends, colons, field names, characters of several bytes.
fn stream_text() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "\n",
        "\r",
        "\r\n",
        ":",
        " ",
        "data",
        "data:",
        "data: x",
        "event: tick",
        "id: 7",
        "id",
        "id: \0",
        "retry: 10",
        "retry: x",
        ": note",
        "é",
        "\u{feff}",
        "\u{1F600}",
        "0",
        "\n\n",
    ]);
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn event() -> impl Strategy<Value = Event> {
    let text = prop_oneof![stream_text(), any::<String>()];
    let id = proptest::option::of("[!-~]{1,12}".prop_map(|id| EventId::new(&id).unwrap()));
    let event_type =
        proptest::option::of("[a-z: é]{1,8}").prop_map(|name| name.and_then(|name| EventType::new(&name).ok()));
    let retry = proptest::option::of(any::<u32>().prop_map(|ms| Duration::from_millis(ms.into())));
    ("[a-zé:/]{1,8}", id, event_type, text, retry).prop_map(|(topic, id, event_type, data, retry)| Event {
        topic: Topic::new(&topic).unwrap(),
        id,
        event_type,
        data,
        retry,
    })
}

proptest! {
    #[test]
    fn any_chunking_of_pipelined_requests_parses_as_one(requests in vec(request(), 1..5), cuts in cuts()) {
        let bytes = requests.concat();
        let whole = read_requests(std::iter::once(&bytes[..]));
        prop_assert_eq!(&read_requests(cut(&bytes, &cuts)), &whole);
        prop_assert_eq!(&read_requests(bytes.chunks(1)), &whole);
    }

    #[test]
    fn arbitrary_bytes_parse_alike_in_any_chunking_or_fail_alike(bytes in vec(any::<u8>(), 0..400), cuts in cuts()) {
        let whole = read_requests(std::iter::once(&bytes[..]));
        prop_assert_eq!(read_requests(cut(&bytes, &cuts)), whole);
    }

    #[test]
    fn one_changed_byte_never_makes_chunking_matter(request in request(), at in any::<Index>(), byte: u8, cuts in cuts()) {
        let mut bytes = request;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let whole = read_requests(std::iter::once(&bytes[..]));
        prop_assert_eq!(read_requests(cut(&bytes, &cuts)), whole);
    }

    #[test]
    fn an_encoded_event_is_decoded_with_its_line_ends_unified(events in vec(event(), 1..4), cuts in cuts()) {
        let position = EventId::new("p-0").unwrap();
        let mut stream = encoder::preamble(Duration::from_secs(3), &position).bytes().to_vec();
        let mut expected = vec!["retry|3000".to_owned()];
        for event in &events {
            let id = event.id.as_ref().unwrap_or(&position);
            stream.extend_from_slice(encoder::event(event, id).bytes());
            stream.extend_from_slice(encoder::HEARTBEAT);
            expected.extend(event.retry.map(|retry| format!("retry|{}", retry.as_millis())));
            let event_type = event.event_type.as_ref().map_or("message", EventType::as_str);
            let data = event.data.replace("\r\n", "\n").replace('\r', "\n");
            expected.push(format!("{event_type}|{data}|{id}"));
            expected.push("comment|heartbeat".to_owned());
        }
        prop_assert_eq!(decode(cut(&stream, &cuts)), expected);
    }

    #[test]
    fn the_decoder_agrees_with_a_naive_one(text in stream_text(), cuts in cuts()) {
        prop_assert_eq!(decode(cut(text.as_bytes(), &cuts)), decode_naively(text.as_bytes()));
    }

    #[test]
    fn the_decoder_agrees_with_a_naive_one_on_broken_utf8(text in stream_text(), faults in vec(any::<(Index, u8)>(), 0..4), cuts in cuts()) {
        let mut bytes = text.into_bytes();
        for (at, byte) in faults {
            bytes.insert(at.index(bytes.len() + 1), byte);
        }
        prop_assert_eq!(decode(cut(&bytes, &cuts)), decode_naively(&bytes));
    }

    #[test]
    fn an_envelope_is_read_back_as_the_same_events(events in vec(event(), 1..4)) {
        prop_assert_eq!(parse(envelopes(&events).as_bytes(), &PUBLISH_LIMITS), Ok(events));
    }

    #[test]
    fn no_publish_body_makes_the_parser_panic(bytes in vec(any::<u8>(), 0..100), text in "[\\[\\]{}:,\"a-z0-9\\\\ ]{0,60}") {
        let _ = parse(&bytes, &PUBLISH_LIMITS);
        let _ = parse(text.as_bytes(), &PUBLISH_LIMITS);
    }
}
