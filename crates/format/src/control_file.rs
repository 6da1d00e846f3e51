//! What a backup's tools need of pg_control (`ControlFileData`).
//!
//! The file is in the byte order of the machine that wrote it. This module reads it in native byte
//! order, so the reading machine must have the same.

use core::fmt;

/// Size of the file in bytes.
pub const SIZE: usize = 8192;
/// Size in bytes of the data at its start, in the version that has most; the rest of the file is zeros.
pub const LARGEST_CONTENT: usize = 312;
/// The same before PostgreSQL 19.
const CONTENT_BEFORE_19: usize = 296;

/// Where a version has its fields.
struct Layout {
    /// `PG_CONTROL_VERSION`.
    version: u32,
    block_size: usize,
    segment_blocks: usize,
    data_checksum_version: usize,
    /// Of the CRC, which covers all bytes before it.
    crc: usize,
    /// Size of all.
    content: usize,
}

impl Layout {
    const fn before_19(version: u32, crc: usize) -> Self {
        Self {
            version,
            block_size: 216,
            segment_blocks: 220,
            data_checksum_version: 252,
            crc,
            content: CONTENT_BEFORE_19,
        }
    }
}

/// Of PostgreSQL 13 to 16, 17, 18 and 19.
const LAYOUTS: [Layout; 4] = [
    Layout::before_19(1300, 288),
    Layout::before_19(1700, 288),
    Layout::before_19(1800, 292),
    Layout {
        version: 1905,
        block_size: 224,
        segment_blocks: 228,
        data_checksum_version: 268,
        crc: 308,
        content: LARGEST_CONTENT,
    },
];

/// Reason why a file is not a valid pg_control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidControlFile {
    /// The file is shorter than [`content_size`] of it.
    Short,
    /// The CRC does not match the content.
    Checksum,
    /// The file is of an unsupported PostgreSQL version.
    Version,
}

impl fmt::Display for InvalidControlFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the control file is too short"),
            Self::Checksum => f.write_str("CRC is incorrect"),
            Self::Version => f.write_str("unexpected control file version"),
        }
    }
}

impl core::error::Error for InvalidControlFile {}

/// Offset of `PG_CONTROL_VERSION`, the same in all versions.
const VERSION: usize = 8;

/// Size in bytes of the data of a file, of which only a part may be there.
pub fn content_size(content: &[u8]) -> usize {
    let version = number_at(content, VERSION);
    let layout = LAYOUTS
        .iter()
        .find(|layout| Some(layout.version) == version);
    layout.map_or(CONTENT_BEFORE_19, |layout| layout.content)
}

fn number_at(content: &[u8], place: usize) -> Option<u32> {
    let bytes = content.get(place..)?.first_chunk().copied();
    bytes.map(u32::from_ne_bytes)
}

/// Fields of a pg_control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Identifies the cluster.
    pub system_identifier: u64,
    /// `PG_CONTROL_VERSION`, which tells the version of PostgreSQL.
    pub version: u32,
    /// Bytes of a page of a relation (`blcksz`).
    pub block_size: u32,
    /// Pages of a segment of a relation (`relseg_size`).
    pub segment_blocks: u32,
    /// Version of the page checksums; 0 without.
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// Reads a file. `crc32c` computes the CRC-32C of a byte slice.
    ///
    /// # Errors
    /// If the file is damaged or of an unknown version.
    pub fn read(content: &[u8], crc32c: impl Fn(&[u8]) -> u32) -> Result<Self, InvalidControlFile> {
        if content.len() < content_size(content) {
            return Err(InvalidControlFile::Short);
        }
        let Some((identifier, _)) = content.split_first_chunk::<8>() else {
            return Err(InvalidControlFile::Short);
        };
        let number = |place| number_at(content, place).unwrap_or_default();
        let is_right = |layout: &&Layout| {
            layout.content <= content.len() && number(layout.crc) == crc32c(&content[..layout.crc])
        };
        let mut right = LAYOUTS.iter().filter(is_right).peekable();
        if right.peek().is_none() {
            return Err(InvalidControlFile::Checksum);
        }
        let version = number(VERSION);
        let Some(layout) = right.find(|layout| layout.version == version) else {
            return Err(InvalidControlFile::Version);
        };
        Ok(Self {
            system_identifier: u64::from_ne_bytes(*identifier),
            version,
            block_size: number(layout.block_size),
            segment_blocks: number(layout.segment_blocks),
            data_checksum_version: number(layout.data_checksum_version),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// Stand-in for CRC-32C. The tests depend only on which bytes it covers.
    fn sum(bytes: &[u8]) -> u32 {
        let bytes = bytes.iter().map(|&byte| u32::from(byte));
        bytes.fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
    }

    fn control_file(version: u32, place: usize) -> Vec<u8> {
        let mut content = vec![0; SIZE];
        content[..8].copy_from_slice(&0x1234_5678_9abc_def0_u64.to_ne_bytes());
        content[8..12].copy_from_slice(&version.to_ne_bytes());
        let crc = sum(&content[..place]);
        content[place..place + 4].copy_from_slice(&crc.to_ne_bytes());
        content
    }

    fn read(content: &[u8]) -> Result<u64, InvalidControlFile> {
        ControlFile::read(content, sum).map(|file| file.system_identifier)
    }

    #[test]
    fn the_system_is_known_in_all_versions() {
        for (version, place) in [(1300, 288), (1700, 288), (1800, 292), (1905, 308)] {
            let content = control_file(version, place);
            assert_eq!(read(&content), Ok(0x1234_5678_9abc_def0), "{version}");
        }
    }

    #[test]
    fn a_damaged_file_tells_nothing() {
        let content = control_file(1300, 288);
        for size in [0, 8, 295] {
            assert_eq!(read(&content[..size]), Err(InvalidControlFile::Short));
        }
        assert!(read(&content[..296]).is_ok());
        let newer = control_file(1905, 308);
        assert_eq!(read(&newer[..311]), Err(InvalidControlFile::Short));
        assert!(read(&newer[..312]).is_ok());
        for place in [0, 100, 287, 288] {
            let mut content = content.clone();
            content[place] ^= 1;
            assert_eq!(read(&content), Err(InvalidControlFile::Checksum), "{place}");
        }
        // Other versions, and those with the CRC where another has it.
        for (version, place) in [(1200, 288), (1300, 292), (1800, 288), (1902, 308)] {
            let other = control_file(version, place);
            let expected = Err(InvalidControlFile::Version);
            assert_eq!(read(&other), expected, "{version}, {place}");
        }
    }
}
