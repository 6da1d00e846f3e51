//! Checksums of files, computed while their bytes arrive.

use backup_format::checksum::Algorithm;
use crc_fast::CrcAlgorithm;
use sha2::Digest as _;

/// Checksum in progress.
pub enum Digest {
    /// No checksum.
    None,
    /// CRC-32C.
    Crc32c(crc_fast::Digest),
    /// SHA-224.
    Sha224(sha2::Sha224),
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// SHA-384.
    Sha384(sha2::Sha384),
    /// SHA-512.
    Sha512(sha2::Sha512),
}

impl Digest {
    /// Creates it.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::None => Self::None,
            Algorithm::Crc32c => Self::Crc32c(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi)),
            Algorithm::Sha224 => Self::Sha224(sha2::Sha224::new()),
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32c(digest) => digest.update(bytes),
            Self::Sha224(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
            Self::Sha384(digest) => digest.update(bytes),
            Self::Sha512(digest) => digest.update(bytes),
        }
    }

    /// The checksum in the manifest's byte order.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Crc32c(digest) => crc32c_bytes(digest.finalize() as u32),
            Self::Sha224(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
            Self::Sha384(digest) => digest.finalize().to_vec(),
            Self::Sha512(digest) => digest.finalize().to_vec(),
        }
    }
}

/// CRC-32C of bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C of two parts one after the other, of their checksums and the length of the second.
pub fn combine_crc32c(first: u32, second: u32, second_length: u64) -> u32 {
    let (first, second) = (u64::from(first), u64::from(second));
    crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, first, second, second_length) as u32
}

/// A CRC-32C in the manifest's byte order: the server's own, which is that of every machine it is common on.
pub fn crc32c_bytes(crc: u32) -> Vec<u8> {
    crc.to_le_bytes().to_vec()
}

/// The number of a CRC-32C in the manifest's byte order; 0 of no checksum.
pub fn crc32c_number(bytes: &[u8]) -> u32 {
    let bytes = bytes.first_chunk();
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Bytes of a checksum.
pub fn length(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::None => 0,
        Algorithm::Crc32c => 4,
        Algorithm::Sha224 => 28,
        Algorithm::Sha256 => 32,
        Algorithm::Sha384 => 48,
        Algorithm::Sha512 => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums_come_out() {
        let of = |algorithm| {
            let mut digest = Digest::new(algorithm);
            digest.update(b"1234");
            digest.update(b"56789");
            digest.finish()
        };
        assert_eq!(of(Algorithm::Crc32c), 0xE306_9283_u32.to_le_bytes());
        assert_eq!(of(Algorithm::Sha256)[..4], [0x15, 0xe2, 0xb0, 0xd3]);
        assert!(of(Algorithm::None).is_empty());
        for algorithm in [
            Algorithm::None,
            Algorithm::Crc32c,
            Algorithm::Sha224,
            Algorithm::Sha256,
            Algorithm::Sha384,
            Algorithm::Sha512,
        ] {
            assert_eq!(of(algorithm).len(), length(algorithm));
        }
    }
}
