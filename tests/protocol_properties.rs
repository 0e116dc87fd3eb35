//! Properties of the wire: how bytes are cut into chunks changes nothing, what is encoded is decoded, and no bytes
//! make a parser panic. Each against an oracle, which the fuzz targets share: one-shot parsing, the event itself, or a naive decoder.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::time::Duration;

use fanfare::event::{Event, EventId, EventType, Topic};
use fanfare::protocol::publish::{envelopes, parse};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use fuzz::publish::LIMITS;
use fuzz::request::read_requests;
use fuzz::sse_decoder::{decode, decode_naively};

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
        fuzz::sse_encoder::check_events(&events, |stream| decode(cut(stream, &cuts)));
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
        prop_assert_eq!(parse(envelopes(&events).as_bytes(), &LIMITS), Ok(events));
    }

    #[test]
    fn no_publish_body_makes_the_parser_panic(bytes in vec(any::<u8>(), 0..100), text in "[\\[\\]{}:,\"a-z0-9\\\\ ]{0,60}") {
        let _ = parse(&bytes, &LIMITS);
        let _ = parse(text.as_bytes(), &LIMITS);
    }
}
