//! Page headers and checksums, as far as a backup needs them.

use crate::lsn::Lsn;

/// Size of a page header in bytes, `SizeOfPageHeaderData`.
pub const HEADER_SIZE: usize = 24;

/// Fields of a page header that a checksum verification needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The end of the last WAL record that changed the page, `pd_lsn`.
    pub lsn: Lsn,
    /// The page's checksum as of its last write, `pd_checksum`.
    pub checksum: u16,
    /// The end of the page's free space, `pd_upper`.
    pub upper: u16,
}

impl PageHeader {
    /// Reads the header in native byte order. A page shorter than its header is read as if zeros
    /// followed.
    pub fn read(page: &[u8]) -> Self {
        let header: [u8; HEADER_SIZE] = match page.first_chunk() {
            Some(header) => *header,
            None => std::array::from_fn(|at| page.get(at).copied().unwrap_or(0)),
        };
        let [
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
            l6,
            l7,
            c0,
            c1,
            _,
            _,
            _,
            _,
            u0,
            u1,
            ..,
        ] = header;
        // pd_lsn is two 32-bit numbers, the upper half first, on every machine.
        let xlogid = u32::from_ne_bytes([l0, l1, l2, l3]);
        let xrecoff = u32::from_ne_bytes([l4, l5, l6, l7]);
        Self {
            lsn: Lsn(u64::from(xlogid) << 32 | u64::from(xrecoff)),
            checksum: u16::from_ne_bytes([c0, c1]),
            upper: u16::from_ne_bytes([u0, u1]),
        }
    }

    /// Whether the page was allocated but never initialized (`PageIsNew`). Such a page has no checksum.
    pub fn is_new(&self) -> bool {
        self.upper == 0
    }
}

/// Computes the checksum of a page as block `block` of its relation fork
/// (`src/include/storage/checksum_impl.h`). The checksum stored in the page counts as zero.
///
/// The length must be a multiple of 128 bytes, as every page size is; bytes beyond that are ignored.
/// Always inlined, so that callers can compile it for wider vectors than the build's own.
#[inline(always)]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<{ 4 * SUMS }>();
    let mut sums = CHECKSUM_BASE_OFFSETS;
    if let Some((first, rows)) = rows.split_first() {
        let mut first = *first;
        first[CHECKSUM_FIELD].fill(0);
        mix(&mut sums, &first);
        for row in rows {
            mix(&mut sums, row);
        }
    }
    for _ in 0..2 {
        mix(&mut sums, &[0; 4 * SUMS]);
    }
    checksum_of_sums(sums.iter().fold(0, |folded, sum| folded ^ sum), block)
}

/// The checksum of block `block`, of what its partial checksums give by exclusive or.
#[inline(always)]
pub fn checksum_of_sums(folded: u32, block: u32) -> u16 {
    ((folded ^ block) % 65_535 + 1) as u16
}

/// Number of partial checksums computed in parallel, `N_SUMS`.
const SUMS: usize = 32;

/// The factor of a round, `FNV_PRIME`.
pub const FNV_PRIME: u32 = 16_777_619;

/// Position of `pd_checksum` in a page.
const CHECKSUM_FIELD: std::ops::Range<usize> = 8..10;

/// What the partial checksums begin with, `checksumBaseOffsets`.
pub const CHECKSUM_BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Mixes one row of a page into all sums.
#[inline(always)]
fn mix(sums: &mut [u32; SUMS], row: &[u8; 4 * SUMS]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_ne_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// Whether all bytes are zero, as they must be in a new page.
pub fn is_all_zeros(page: &[u8]) -> bool {
    // In chunks: the compiler vectorizes a loop only if it has no early exit.
    page.chunks(256)
        .all(|piece| piece.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_in_native_byte_order() {
        let mut page = vec![0xAA; 8192];
        page[0..4].copy_from_slice(&0x16_u32.to_ne_bytes());
        page[4..8].copy_from_slice(&0xB374_D848_u32.to_ne_bytes());
        page[8..10].copy_from_slice(&0x1A2B_u16.to_ne_bytes());
        page[14..16].copy_from_slice(&0x0102_u16.to_ne_bytes());
        let header = PageHeader::read(&page);
        assert_eq!(
            header,
            PageHeader {
                lsn: Lsn(0x16_B374_D848),
                checksum: 0x1A2B,
                upper: 0x0102,
            }
        );
        assert!(!header.is_new());
    }

    /// Expected values are from page_checksum() of the extension pageinspect.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_checksum_is_that_of_the_server() {
        let page: Vec<u8> = (0..8192).map(|at| (at % 251) as u8).collect();
        for (block, expected) in [(0, 7648), (1, 7647), (70_000, 3887)] {
            assert_eq!(checksum(&page, block), expected, "{block}");
        }
    }

    #[test]
    fn the_checksum_covers_every_byte_but_its_own() {
        let page = vec![7; 8192];
        let expected = checksum(&page, 1);
        for at in 0..page.len() {
            let mut page = page.clone();
            page[at] ^= 0x10;
            assert_eq!(
                checksum(&page, 1) == expected,
                CHECKSUM_FIELD.contains(&at),
                "{at}"
            );
        }
        assert_ne!(checksum(&page, 2), expected);
    }

    #[test]
    fn a_page_is_new_when_its_free_space_has_no_end() {
        let mut page = vec![0xAA; 8192];
        page[14..16].fill(0);
        assert!(PageHeader::read(&page).is_new());
    }

    #[test]
    fn a_page_without_a_whole_header_reads_as_if_zeros_followed() {
        let page = [0xAA; HEADER_SIZE];
        assert_eq!(PageHeader::read(&page), PageHeader::read(&[0xAA; 8192]));
        assert_eq!(PageHeader::read(&page[..10]).checksum, 0xAAAA);
        assert!(PageHeader::read(&page[..14]).is_new());
        assert!(PageHeader::read(b"").is_new());
    }

    #[test]
    fn one_bit_anywhere_makes_a_page_other_than_zeros() {
        for len in [1, 24, 255, 256, 257, 8192] {
            let mut page = vec![0; len];
            assert!(is_all_zeros(&page), "{len}");
            for at in [0, len / 2, len - 1] {
                page[at] = 0x80;
                assert!(!is_all_zeros(&page), "byte {at} of {len}");
                page[at] = 0;
            }
        }
        assert!(is_all_zeros(b""));
    }
}
