//! What a Redis says: read alike in whatever pieces it comes, within its bounds, and never with a panic.

use fanfare::redis_address::replies::{Replies, Reply, ReplyLimits, Violation};

use super::chunks::chunkings;

/// Small enough to be met by what a fuzzer makes.
const LIMITS: ReplyLimits = ReplyLimits { payload_bytes_max: 20 };

pub fn check(bytes: &[u8]) {
    let whole = read(std::iter::once(bytes));
    for pieces in chunkings(bytes) {
        assert_eq!(read(pieces.iter().copied()), whole, "in {pieces:?}");
    }
}

/// The replies, as text, and how reading ended.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Result<(), Violation>) {
    let (mut replies, mut seen) = (Replies::new(LIMITS), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            let space = replies.space();
            assert!(!space.is_empty() && space.len() <= LIMITS.buffer_bytes_max());
            let bytes = piece.len().min(space.len());
            space[..bytes].copy_from_slice(&piece[..bytes]);
            replies.filled(bytes);
            piece = &piece[bytes..];
            loop {
                match replies.next() {
                    Ok(None) => break,
                    Ok(Some(reply)) => {
                        if let Reply::Message(message) = reply {
                            assert!(message.payload.len() <= LIMITS.payload_bytes_max);
                        }
                        seen.push(format!("{reply:?}"));
                    }
                    Err(violation) => return (seen, Err(violation)),
                }
            }
        }
    }
    (seen, Ok(()))
}
