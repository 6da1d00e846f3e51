//! The header that every page of a relation begins with, as far as a backup looks at it.

use crate::lsn::Lsn;

/// The size of a page header in bytes, `SizeOfPageHeaderData`.
pub const HEADER_SIZE: usize = 24;

/// The fields of a page header that say whether its checksum is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The end of the last WAL record that changed the page, `pd_lsn`.
    pub lsn: Lsn,
    /// The checksum when the page was written, `pd_checksum`.
    pub checksum: u16,
    /// The end of the page's free space, `pd_upper`.
    pub upper: u16,
}

impl PageHeader {
    /// Reads the header in this machine's byte order. A page that is shorter than its header
    /// reads as if zeros followed.
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
        // Not one number of 64 bits: pd_lsn is its upper half, then its lower, on every machine.
        let xlogid = u32::from_ne_bytes([l0, l1, l2, l3]);
        let xrecoff = u32::from_ne_bytes([l4, l5, l6, l7]);
        Self {
            lsn: Lsn(u64::from(xlogid) << 32 | u64::from(xrecoff)),
            checksum: u16::from_ne_bytes([c0, c1]),
            upper: u16::from_ne_bytes([u0, u1]),
        }
    }

    /// Whether the page was allocated but never filled, so that it has no checksum (`PageIsNew`).
    pub fn is_new(&self) -> bool {
        self.upper == 0
    }
}

/// Whether all bytes are zero, as they must be in a page that is new.
pub fn is_all_zeros(page: &[u8]) -> bool {
    // A piece at a time: a loop without an early exit is one that the compiler vectorizes.
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
