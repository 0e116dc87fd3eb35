//! What a client decodes of a stream's body: gzip, if the answer's head says so. It knows nothing of how the bytes came about.

use flate2::{Decompress, FlushDecompress, Status};

use super::ledger::must;

/// The header without any optional field (RFC 1952, 2.3).
const HEADER_BYTES: usize = 10;

/// The body of one answer.
#[derive(Default)]
pub(crate) enum Coding {
    #[default]
    Identity,
    /// The gzip header is not complete yet.
    Header(Vec<u8>),
    Deflate(Box<Decompress>),
}

impl Coding {
    pub(crate) fn of_head(head: &str) -> Coding {
        match head.contains("\r\nContent-Encoding: gzip\r\n") {
            true => Coding::Header(Vec::new()),
            false => Coding::Identity,
        }
    }

    pub(crate) fn is_gzip(&self) -> bool {
        !matches!(self, Coding::Identity)
    }

    /// What the bytes that arrived stand for.
    pub(crate) fn decode(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        if let Coding::Header(header) = self {
            header.append(&mut bytes);
            if header.len() < HEADER_BYTES {
                return Ok(Vec::new());
            }
            bytes = header.split_off(HEADER_BYTES);
            must(header.starts_with(&[0x1f, 0x8b, 8, 0]), || format!("not the header of gzip: {header:?}"))?;
            *self = Coding::Deflate(Box::new(Decompress::new(false)));
        }
        match self {
            Coding::Deflate(inflate) => inflated(inflate, &bytes),
            _ => Ok(bytes),
        }
    }
}

fn inflated(inflate: &mut Decompress, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (start, mut decoded) = (inflate.total_in(), Vec::new());
    loop {
        decoded.reserve(4 * bytes.len() + 64);
        let taken = (inflate.total_in() - start) as usize;
        let status = inflate.decompress_vec(&bytes[taken..], &mut decoded, FlushDecompress::Sync);
        let status = status.map_err(|error| format!("what arrived is not deflated: {error}"))?;
        must(status != Status::StreamEnd, || "a block says that it is the last".into())?;
        if decoded.len() < decoded.capacity() {
            return Ok(decoded);
        }
    }
}
