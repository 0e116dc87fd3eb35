//! The same bytes in other pieces.

/// Bytes cut in ways that depend on nothing but the bytes: one by one, and three times by chance.
pub fn chunkings(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let by_chance = [2, 16, 200].map(|bytes_max| cut(bytes, bytes_max));
    std::iter::once(bytes.chunks(1).collect()).chain(by_chance)
}

/// Pieces of up to `bytes_max` bytes, among them empty ones.
fn cut(mut bytes: &[u8], bytes_max: usize) -> Vec<&[u8]> {
    let mut state = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| mix(hash ^ u64::from(*byte)));
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        state = mix(state);
        let (piece, rest) = bytes.split_at((state >> 32) as usize % (bytes_max + 1).min(bytes.len() + 1));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// One step of FNV-1a, with a shift so that low bits depend on high ones.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_mul(0x0100_0000_01b3).wrapping_add(1);
    state ^ (state >> 29)
}
