//! gzip for streams (RFC 1951, RFC 1952): a frame as deflate blocks that end at a byte, so that the blocks of one frame may
//! follow those of any other, and all subscribers share them.
//!
//! A back-reference counts bytes backwards in what its receiver has decoded. So a frame may be deflated after others only
//! for receivers that got exactly those others immediately before it. The result depends on nothing else: it can be made
//! again at any time. No frame ends the stream, and no checksum follows: both would differ from subscriber to subscriber.

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::event::{Frame, FrameKey};

/// What precedes the blocks: no name, no time, an unknown system (RFC 1952, 2.3).
pub const HEADER: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// The level of zlib: on the sample events, level 9 saves half a percent of the bytes more and takes twice the time.
const LEVEL: u32 = 6;
/// Topics that are being deflated, each with a window that need not be filled again for its next frame: about 300 KiB each.
const LANES_MAX: usize = 8;
/// Ends at a byte. Go's decoder returns what a stored block holds only when the next block begins.
const EMPTY_BLOCK: &[u8] = &[0, 0, 0, 0xff, 0xff];
/// Bytes of one stored block (RFC 1951, 3.2.4).
const STORED_BYTES_MAX: usize = 0xffff;

/// A frame as stored blocks: its bytes as they are.
pub fn stored(bytes: &[u8]) -> Frame {
    let mut blocks = Vec::with_capacity(stored_len(bytes.len()));
    for block in bytes.chunks(STORED_BYTES_MAX) {
        let length = block.len() as u16;
        blocks.push(0);
        blocks.extend_from_slice(&length.to_le_bytes());
        blocks.extend_from_slice(&(!length).to_le_bytes());
        blocks.extend_from_slice(block);
    }
    blocks.extend_from_slice(EMPTY_BLOCK);
    blocks.into()
}

fn stored_len(bytes: usize) -> usize {
    bytes + (bytes.div_ceil(STORED_BYTES_MAX) + 1) * EMPTY_BLOCK.len()
}

/// Deflates frames.
#[derive(Debug, Default)]
pub struct Deflater {
    alone: Option<Compress>,
    /// The one that was used last comes last.
    lanes: Vec<Lane>,
    blocks: Vec<u8>,
}

/// A window that ends with some frame.
#[derive(Debug)]
struct Lane {
    deflate: Compress,
    /// Kept, so that no other frame has its key.
    last: Frame,
}

impl Deflater {
    /// For every receiver.
    pub fn deflate(&mut self, frame: &Frame) -> Frame {
        let alone = self.alone.get_or_insert_with(new_deflate);
        alone.reset();
        deflated(alone, frame, &mut self.blocks)
    }

    /// For every receiver, and [`Deflater::deflate_after`] will follow.
    pub fn deflate_first(&mut self, frame: &Frame) -> Frame {
        let mut lane = self.take_lane(None, frame);
        lane.deflate.reset();
        self.deflate_in(lane, frame)
    }

    /// True if a frame after the one with this key needs no bytes of the frames before it.
    pub fn has_window_after(&self, key: FrameKey) -> bool {
        self.lanes.iter().any(|lane| lane.last.key() == key)
    }

    /// For receivers that got the frames `before` immediately before it, in this order.
    pub fn deflate_after(&mut self, frame: &Frame, before: &[&Frame]) -> Frame {
        let last = before.last().map(|last| last.key()).filter(|last| self.has_window_after(*last));
        let mut lane = self.take_lane(last, frame);
        if last.is_none() {
            lane.deflate.reset();
            let window: Vec<u8> = before.iter().flat_map(|frame| frame.bytes()).copied().collect();
            // A window that can't be filled stays empty: the blocks are larger, and as valid.
            if lane.deflate.set_dictionary(&window).is_err() {
                lane.deflate.reset();
            }
        }
        self.deflate_in(lane, frame)
    }

    /// The lane of a key, or one for another window.
    fn take_lane(&mut self, key: Option<FrameKey>, frame: &Frame) -> Lane {
        match self.lanes.iter().position(|lane| Some(lane.last.key()) == key) {
            Some(place) => self.lanes.remove(place),
            None if self.lanes.len() < LANES_MAX => Lane { deflate: new_deflate(), last: frame.clone() },
            None => self.lanes.remove(0),
        }
    }

    fn deflate_in(&mut self, mut lane: Lane, frame: &Frame) -> Frame {
        let blocks = deflated(&mut lane.deflate, frame, &mut self.blocks);
        lane.last = frame.clone();
        self.lanes.push(lane);
        blocks
    }
}

fn new_deflate() -> Compress {
    Compress::new(Compression::new(LEVEL), false)
}

/// The frame's blocks, stored if deflating saves nothing: the window holds the frame either way.
fn deflated(deflate: &mut Compress, frame: &Frame, blocks: &mut Vec<u8>) -> Frame {
    blocks.clear();
    let end = deflate.total_in() + frame.len() as u64;
    loop {
        blocks.reserve(frame.len() / 2 + 64);
        let rest = (end - deflate.total_in()) as usize;
        let status = deflate.compress_vec(&frame.bytes()[frame.len() - rest..], blocks, FlushCompress::Sync);
        debug_assert!(status.is_ok(), "deflating has no other errors than wrong calls");
        // RFC 1951 knows no end of the flush: it is done when room is left.
        if deflate.total_in() == end && blocks.len() < blocks.capacity() || !matches!(status, Ok(Status::Ok)) {
            break;
        }
    }
    match blocks.len() < stored_len(frame.len()) {
        true => Frame::from(&blocks[..]),
        false => stored(frame.bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    /// What a client decodes of blocks, one after the other: of each, all of its bytes.
    fn inflated(blocks: &[Frame]) -> Vec<Vec<u8>> {
        let mut inflate = Decompress::new(false);
        let decode = |block: &Frame| {
            let mut bytes = Vec::with_capacity(1 << 20);
            inflate.decompress_vec(block.bytes(), &mut bytes, FlushDecompress::Sync).unwrap();
            bytes
        };
        blocks.iter().map(decode).collect()
    }

    fn event(n: usize) -> Frame {
        format!("id: {n}\ndata: {{\"price\": {}, \"text\": \"the same in each\"}}\n\n", n * 7919).into_bytes().into()
    }

    #[test]
    fn each_frame_is_decoded_whole_as_soon_as_its_blocks_arrive() {
        let mut deflater = Deflater::default();
        let sizes = [0, 1, 65_535, 65_536, 200_000];
        let frames: Vec<Frame> = sizes.map(|size| vec![b'a'; size].into()).into_iter().chain([event(1)]).collect();
        let alone: Vec<_> = frames.iter().map(|frame| deflater.deflate(frame)).collect();
        let as_is: Vec<_> = frames.iter().map(|frame| stored(frame.bytes())).collect();
        for blocks in [alone, as_is] {
            assert!(inflated(&blocks).iter().zip(&frames).all(|(bytes, frame)| bytes == frame.bytes()));
        }
    }

    #[test]
    fn a_frame_after_others_is_the_same_whether_its_window_was_kept_or_filled_again() {
        let frames: Vec<_> = (0..60).map(event).collect();
        let (mut keeping, mut filling) = (Deflater::default(), Deflater::default());
        let mut blocks = [vec![keeping.deflate_first(&frames[0])], vec![filling.deflate(&frames[0])]];
        for n in 1..frames.len() {
            let before: Vec<_> = frames[..n].iter().collect();
            assert!(keeping.has_window_after(frames[n - 1].key()) && !filling.has_window_after(frames[n - 1].key()));
            blocks[0].push(keeping.deflate_after(&frames[n], &before[n - 1..]));
            blocks[1].push(filling.deflate_after(&frames[n], &before));
            (0..LANES_MAX).for_each(|lane| _ = filling.deflate_first(&event(1000 + lane)));
        }
        for blocks in &blocks {
            assert!(inflated(blocks).iter().zip(&frames).all(|(bytes, frame)| bytes == frame.bytes()));
            let [bytes, of_frames] = [blocks, &frames].map(|of| of.iter().map(Frame::len).sum::<usize>());
            assert!(bytes * 2 < of_frames, "{bytes} of {of_frames}");
        }
    }

    #[test]
    fn what_deflating_does_not_shorten_is_stored() {
        let noise: Vec<u8> = (0..2000u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let mut deflater = Deflater::default();
        for bytes in [b":\n".to_vec(), b"id: 17".to_vec(), noise] {
            let frame = Frame::from(bytes);
            assert!(deflater.deflate(&frame).len() <= stored(frame.bytes()).len());
        }
    }
}
