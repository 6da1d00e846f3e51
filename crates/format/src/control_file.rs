//! The system identifier in pg_control (`ControlFileData`).
//!
//! The file is in the byte order of the machine that wrote it. This module reads it in native byte
//! order, so the reading machine must have the same.

use core::fmt;

/// Size of the file in bytes.
pub const SIZE: usize = 8192;
/// Size in bytes of the data at its start; the rest of the file is zeros.
pub const CONTENT_SIZE: usize = 296;

/// Possible offsets of the CRC, which covers all bytes before it. From PostgreSQL 18 on, one more field
/// precedes it.
const CHECKSUM_PLACES: [usize; 2] = [288, 292];
/// `PG_CONTROL_VERSION` of PostgreSQL 13 to 16, 17 and 18.
const VERSIONS: [u32; 3] = [1300, 1700, 1800];

/// Reason why a file is not a valid pg_control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidControlFile {
    /// The file is shorter than [`CONTENT_SIZE`].
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

/// Reads the system identifier. `crc32c` computes the CRC-32C of a byte slice.
///
/// # Errors
/// If the file is damaged or of an unknown version.
pub fn system_identifier(
    content: &[u8],
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<u64, InvalidControlFile> {
    let (Some(content), Some((identifier, after))) = (
        content.get(..CONTENT_SIZE),
        content.split_first_chunk::<8>(),
    ) else {
        return Err(InvalidControlFile::Short);
    };
    let version = after.first_chunk().copied().map(u32::from_ne_bytes);
    let is_right = |place: usize| {
        let (covered, rest) = content.split_at(place);
        rest.first_chunk().copied().map(u32::from_ne_bytes) == Some(crc32c(covered))
    };
    if !CHECKSUM_PLACES.into_iter().any(is_right) {
        return Err(InvalidControlFile::Checksum);
    }
    if !version.is_some_and(|version| VERSIONS.contains(&version)) {
        return Err(InvalidControlFile::Version);
    }
    Ok(u64::from_ne_bytes(*identifier))
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

    #[test]
    fn the_system_is_known_in_all_versions() {
        for (version, place) in [(1300, 288), (1700, 288), (1800, 292)] {
            let content = control_file(version, place);
            assert_eq!(
                system_identifier(&content, sum),
                Ok(0x1234_5678_9abc_def0),
                "{version}"
            );
        }
    }

    #[test]
    fn a_damaged_file_tells_nothing() {
        let content = control_file(1300, 288);
        for size in [0, 8, 295] {
            assert_eq!(
                system_identifier(&content[..size], sum),
                Err(InvalidControlFile::Short)
            );
        }
        assert!(system_identifier(&content[..296], sum).is_ok());
        for place in [0, 100, 287, 289] {
            let mut content = content.clone();
            content[place] ^= 1;
            assert_eq!(
                system_identifier(&content, sum),
                Err(InvalidControlFile::Checksum),
                "{place}"
            );
        }
        let other = control_file(1200, 288);
        assert_eq!(
            system_identifier(&other, sum),
            Err(InvalidControlFile::Version)
        );
    }
}
