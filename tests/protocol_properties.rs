//! Properties of the wire: how bytes are cut into chunks changes nothing, what is encoded is decoded, and no bytes
//! make a parser panic. Each against an oracle, which the fuzz targets share: one-shot parsing, the event itself, or a naive decoder.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::net::IpAddr;
use std::time::Duration;

use fanfare::event::{Event, EventId, EventType, Topic};
use fanfare::protocol::envelope::envelopes;
use fanfare::protocol::forwarded::ForwardedFor;
use fanfare::protocol::publish::parse;
use fanfare::protocol::{Parsed, proxy_header};
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

/// Headers of the PROXY protocol, of both versions.
fn proxy_header() -> impl Strategy<Value = Vec<u8>> {
    let line = (any::<[u8; 4]>(), any::<u16>()).prop_map(|([a, b, c, d], port)| {
        format!("PROXY TCP4 {}.{b}.{c}.{d} 127.0.0.1 {port} 80\r\n", a.max(1)).into_bytes()
    });
    let binary = (vec(any::<u8>(), 36..300), select(vec![0x00, 0x11, 0x21]), 0x20..=0x21u8).prop_map(
        |(mut block, family, command)| {
            block[0] = block[0].max(1);
            let length = (block.len() as u16).to_be_bytes();
            [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, &block].concat()
        },
    );
    prop_oneof![line, binary, Just(b"PROXY UNKNOWN\r\n".to_vec())]
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
    fn a_proxy_header_is_read_alike_however_much_of_what_follows_is_there(
        header in proxy_header(), rest in vec(any::<u8>(), 0..20), fault in proptest::option::of(any::<(Index, u8)>()),
    ) {
        let mut bytes = [header, rest].concat();
        if let Some((at, byte)) = fault {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let first = (0..=bytes.len()).map(|end| proxy_header::parse(&bytes[..end])).find(|read| *read != Ok(Parsed::NeedMore));
        prop_assert_eq!(first.clone().unwrap_or(Ok(Parsed::NeedMore)), proxy_header::parse(&bytes));
        if fault.is_none() {
            prop_assert!(matches!(first, Some(Ok(_))));
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_proxy_header_and_no_panic(bytes in vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        let start: &[u8] = if magic { b"\r\n\r\n\0\r\nQUIT\n\x21" } else { b"" };
        let bytes = [start, &bytes].concat();
        let first = (0..=bytes.len()).map(|end| proxy_header::parse(&bytes[..end])).find(|read| *read != Ok(Parsed::NeedMore));
        prop_assert_eq!(first.unwrap_or(Ok(Parsed::NeedMore)), proxy_header::parse(&bytes));
    }

    #[test]
    fn whatever_a_client_writes_first_the_proxys_word_counts(lie in "[ -~]{0,40}", more in "[ -~]{0,20}") {
        let lines = |appended: bool, name: &str| match appended {
            true => vec![format!("{lie}, {name}192.0.2.7")],
            false => vec![lie.clone(), more.clone(), format!("{name}192.0.2.7")],
        };
        let is_trusted = |address: IpAddr| address.is_loopback();
        for appended in [true, false] {
            let plain = ForwardedFor { x_forwarded_for: lines(appended, ""), ..ForwardedFor::default() };
            prop_assert_eq!(plain.client(is_trusted), Some("192.0.2.7:0".parse().unwrap()));
            let elements = ForwardedFor { forwarded: lines(appended, "for="), ..ForwardedFor::default() };
            let client = elements.client(is_trusted);
            // In the client's own line a quote may stay open: then no address is believed.
            prop_assert!(client == Some("192.0.2.7:0".parse().unwrap()) || appended && client.is_none(), "{client:?}");
        }
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
