//! Where a frame of LZ4 ends (lz4_Frame_format.md of the LZ4 library).
//!
//! The decoder of the crate lz4 counts some bytes that it holds already among those that it still needs. Then it
//! reads beyond the end of its frame, and what it has read of the next one is lost. So it is given no more than
//! its frame.

/// Magic number of a frame.
const FRAME: u32 = 0x184D_2204;
/// Magic number of a frame that a reader skips, without its last four bits.
const SKIPPABLE: u32 = 0x184D_2A50;
/// Flags in the descriptor of a frame.
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const DICTIONARY_ID: u8 = 1;
/// A block's size without the bit that says that it is stored as it is.
const BLOCK_SIZE: u32 = 0x7FFF_FFFF;
/// Bytes of a checksum of a block or of the content.
const CHECKSUM: u64 = 4;

/// Reads along with a frame that arrives in pieces, from its first byte on.
#[derive(Clone)]
pub struct FrameEnd {
    next: Field,
    /// Bytes before the next field.
    skip: u64,
    /// The beginning of the next field, as far as it has come: a number in little-endian order.
    field: [u8; 4],
    length: usize,
    /// Bytes of the checksums that the descriptor announces.
    block_checksum: u64,
    content_checksum: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Magic,
    Flags,
    BlockSize,
    SkippableSize,
    /// None: the frame ends here.
    End,
    /// It is no frame, which the decoder will say.
    Unknown,
}

impl Field {
    fn size(self) -> usize {
        match self {
            Self::Magic | Self::BlockSize | Self::SkippableSize => 4,
            Self::Flags => 1,
            Self::End | Self::Unknown => 0,
        }
    }
}

impl FrameEnd {
    /// At the first byte of a frame.
    pub fn new() -> Self {
        Self {
            next: Field::Magic,
            skip: 0,
            field: [0; 4],
            length: 0,
            block_checksum: 0,
            content_checksum: 0,
        }
    }

    /// How many of the next bytes belong to the frame: all but those behind its end.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        loop {
            let skipped =
                usize::try_from(self.skip).map_or(rest.len(), |skip| skip.min(rest.len()));
            rest = &rest[skipped..];
            self.skip -= skipped as u64;
            if self.next == Field::Unknown {
                return bytes.len();
            }
            if self.skip > 0 || self.next == Field::End {
                return bytes.len() - rest.len();
            }
            let wanted = self.next.size() - self.length;
            let (found, behind) = rest.split_at(wanted.min(rest.len()));
            self.field[self.length..][..found.len()].copy_from_slice(found);
            self.length += found.len();
            rest = behind;
            if found.len() < wanted {
                return bytes.len();
            }
            let field = u32::from_le_bytes(std::mem::take(&mut self.field));
            self.length = 0;
            self.read(field);
        }
    }

    fn read(&mut self, field: u32) {
        (self.next, self.skip) = match self.next {
            Field::Magic if field == FRAME => (Field::Flags, 0),
            Field::Magic if field & !0xF == SKIPPABLE => (Field::SkippableSize, 0),
            Field::Flags => {
                // One byte.
                let has = |flag| field as u8 & flag != 0;
                let size_of = |flag, size| if has(flag) { size } else { 0 };
                self.block_checksum = size_of(BLOCK_CHECKSUM, CHECKSUM);
                self.content_checksum = size_of(CONTENT_CHECKSUM, CHECKSUM);
                // The sizes of blocks come before, and the descriptor's checksum behind.
                let descriptor = 1 + size_of(CONTENT_SIZE, 8) + size_of(DICTIONARY_ID, 4) + 1;
                (Field::BlockSize, descriptor)
            }
            Field::BlockSize if field == 0 => (Field::End, self.content_checksum),
            Field::BlockSize => {
                let size = u64::from(field & BLOCK_SIZE);
                (Field::BlockSize, size + self.block_checksum)
            }
            Field::SkippableSize => (Field::End, field.into()),
            Field::Magic | Field::End | Field::Unknown => (Field::Unknown, 0),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;

    use lz4::liblz4::BlockChecksum;
    use lz4::{ContentChecksum, EncoderBuilder};

    use super::*;

    /// How many bytes it takes of a frame and what is behind, in pieces.
    fn taken(bytes: &[u8], piece: usize) -> usize {
        let mut end = FrameEnd::new();
        bytes.chunks(piece).map(|piece| end.take(piece)).sum()
    }

    fn assert_ends(frame: &[u8], what: &str) {
        let bytes = [frame, b"behind it"].concat();
        for piece in [1, 2, 3, 5, 7, 11, 1000, bytes.len()] {
            assert_eq!(
                taken(&bytes, piece),
                frame.len(),
                "{what} in pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_frame_ends_where_the_library_ends_it() {
        let noise: Vec<u8> = (0..200_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let contents = [vec![], vec![b'x'; 300_000], noise];
        for content in &contents {
            for size in [0, content.len() as u64] {
                for checksum in [
                    ContentChecksum::NoChecksum,
                    ContentChecksum::ChecksumEnabled,
                ] {
                    for blocks in [
                        BlockChecksum::NoBlockChecksum,
                        BlockChecksum::BlockChecksumEnabled,
                    ] {
                        let mut encoder = EncoderBuilder::new()
                            .content_size(size)
                            .checksum(checksum.clone())
                            .block_checksum(blocks.clone())
                            .build(Vec::new())
                            .unwrap();
                        encoder.write_all(content).unwrap();
                        let (frame, ended) = encoder.finish();
                        ended.unwrap();
                        assert_ends(&frame, &format!("{} bytes", content.len()));
                    }
                }
            }
        }
    }

    #[test]
    fn a_frame_that_readers_skip_ends_behind_its_content() {
        assert_ends(b"\x5a\x2a\x4d\x18\x05\0\0\0abcde", "five bytes");
        assert_ends(b"\x50\x2a\x4d\x18\0\0\0\0", "no bytes");
    }

    #[test]
    fn what_is_no_frame_has_no_end() {
        for bytes in [&b"garbage"[..], b"\x02\x21\x4c\x18\0\0\0\0", b"\0"] {
            assert_eq!(taken(bytes, 3), bytes.len());
        }
    }
}
