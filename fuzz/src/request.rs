//! A connection's bytes: the requests in them, heads and bodies, are the same in whatever pieces they arrive.

use fanfare::protocol::body::BodyReader;
use fanfare::protocol::head::{HeadLimits, RequestHead, parse_grown};
use fanfare::protocol::{Parsed, RequestError};

use super::chunks::chunkings;

const HEAD_LIMITS: HeadLimits = HeadLimits { head_bytes_max: 300, target_bytes_max: 60, headers_max: 5 };
const BODY_BYTES_MAX: usize = 64;

/// A head and its body.
pub type Request = (RequestHead, Vec<u8>);

pub fn check(bytes: &[u8]) {
    let whole = read_requests(std::iter::once(bytes));
    for (head, body) in &whole.0 {
        assert!(body.len() <= BODY_BYTES_MAX, "{} bytes of body", body.len());
        assert!(!head.target.path.contains('\0'), "{head:?}");
    }
    for pieces in chunkings(bytes) {
        assert_eq!(read_requests(pieces.iter().copied()), whole, "in {pieces:?}");
    }
}

/// The server's reading of a connection: requests one after the other, from a buffer that chunks are appended to.
pub fn read_requests<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Request>, Option<RequestError>) {
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
