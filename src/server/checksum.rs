//! Checksums of files: SHA-2 by the server's own functions (common/checksum_helper.h), which use its
//! OpenSSL, and CRC-32C by wider instructions than the server was built for: a crate's way, or ours where
//! it is faster.

use core::ffi::c_int;

use backup_format::checksum::Algorithm;
use crc_fast::CrcAlgorithm::Crc32Iscsi;

use super::crc32c::{BLOCK, Crc32c};
use super::parameters::{self, ChecksumVectors};
use super::report::{Error, Result, Sqlstate};
use super::settings::PAGE_SIZE;

/// PG_CHECKSUM_MAX_LENGTH: bytes of the longest checksum.
pub const MAX_DIGEST_LENGTH: usize = 64;

/// pg_checksum_context in common/checksum_helper.h, which pgrx does not bind.
#[repr(C)]
struct Context {
    algorithm: c_int,
    /// A union of a CRC and a pointer.
    raw: u64,
}

mod bindings {
    use super::{Context, c_int};

    // They report failure by their result and raise no ERROR, so they need no guard.
    unsafe extern "C" {
        pub fn pg_checksum_update(context: *mut Context, input: *const u8, length: usize) -> c_int;
        pub fn pg_checksum_final(context: *mut Context, output: *mut u8) -> c_int;
    }

    pub mod guarded {
        #![allow(ffi_unwind_calls)]
        use super::super::{Context, c_int};

        // Allocates, which can raise.
        #[pgrx::pg_guard]
        unsafe extern "C-unwind" {
            pub fn pg_checksum_init(context: *mut Context, algorithm: c_int) -> c_int;
        }
    }
}

/// CRC-32C of two parts one after the other, of their checksums and the length of the second.
#[must_use]
pub fn combine_crc32c(first: u32, second: u32, second_length: u64) -> u32 {
    let (first, second) = (u64::from(first), u64::from(second));
    crc_fast::checksum_combine(Crc32Iscsi, first, second, second_length) as u32
}

/// The checksum of a file, as it grows.
pub enum Digest {
    /// None is asked for.
    None,
    /// CRC-32C by the crate.
    Crc32c(Box<crc_fast::Digest>),
    /// CRC-32C by our own products.
    OwnCrc32c(Crc32c),
    /// SHA-2; CRC-32C where the server's own is asked for.
    Server(ServerDigest),
}

impl Digest {
    /// Starts a checksum.
    ///
    /// # Errors
    /// Where the server's cryptography library refuses.
    pub fn new(algorithm: Algorithm) -> Result<Self> {
        let allowed = parameters::checksum_vectors();
        Ok(match algorithm {
            Algorithm::None => Self::None,
            Algorithm::Crc32c if allowed != ChecksumVectors::Server => {
                if let Some(crc) = Crc32c::new(allowed != ChecksumVectors::Avx2) {
                    return Ok(Self::OwnCrc32c(crc));
                }
                Self::Crc32c(Box::new(crc_fast::Digest::new(Crc32Iscsi)))
            }
            other => Self::Server(ServerDigest::new(other)?),
        })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Where the server's cryptography library refuses.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Crc32c(digest) => {
                digest.update(bytes);
                Ok(())
            }
            Self::OwnCrc32c(crc) => {
                crc.update(bytes);
                Ok(())
            }
            Self::Server(digest) => digest.update(bytes),
        }
    }

    /// The checksum as one that can take pages and give theirs; `None` where they are computed apart.
    pub fn of_pages(&mut self) -> Option<&mut Crc32c> {
        match self {
            Self::OwnCrc32c(crc) if PAGE_SIZE == BLOCK => Some(crc),
            _ => None,
        }
    }

    /// Ends the checksum and gives its bytes, of which there are as many as the algorithm has.
    ///
    /// # Errors
    /// Where the server's cryptography library refuses.
    pub fn finish(self) -> Result<DigestBytes> {
        match self {
            Self::None => Ok(DigestBytes {
                bytes: [0; MAX_DIGEST_LENGTH],
                length: 0,
            }),
            Self::Crc32c(digest) => Ok(DigestBytes::of_crc(digest.finalize() as u32)),
            Self::OwnCrc32c(crc) => Ok(DigestBytes::of_crc(crc.finish())),
            Self::Server(digest) => digest.finish(),
        }
    }
}

/// A checksum by the server's functions.
pub struct ServerDigest {
    context: Context,
    length: usize,
    finished: bool,
}

impl ServerDigest {
    fn new(algorithm: Algorithm) -> Result<Self> {
        let mut context = Context {
            algorithm: 0,
            raw: 0,
        };
        // SAFETY: guarded; fills the context. What it holds outside belongs to the current resource
        // owner, which frees it after an ERROR.
        let status = unsafe {
            bindings::guarded::pg_checksum_init(&raw mut context, c_int::from(algorithm.code()))
        };
        if status < 0 {
            return Err(failure("initialize"));
        }
        Ok(Self {
            context,
            length: algorithm.digest_len(),
            finished: false,
        })
    }

    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        // SAFETY: an initialized context and a valid slice.
        let status = unsafe {
            bindings::pg_checksum_update(&raw mut self.context, bytes.as_ptr(), bytes.len())
        };
        if status < 0 {
            Err(failure("update"))
        } else {
            Ok(())
        }
    }

    fn finish(mut self) -> Result<DigestBytes> {
        let mut bytes = [0; MAX_DIGEST_LENGTH];
        self.finished = true;
        // SAFETY: an initialized context; the output holds the longest checksum.
        let status =
            unsafe { bindings::pg_checksum_final(&raw mut self.context, bytes.as_mut_ptr()) };
        if status < 0 {
            return Err(failure("finalize"));
        }
        Ok(DigestBytes {
            bytes,
            length: self.length,
        })
    }
}

impl Drop for ServerDigest {
    /// A checksum that is given up frees what it holds. After an ERROR the server has done so, or
    /// will, together with everything else of the resource owner.
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            let mut bytes = [0; MAX_DIGEST_LENGTH];
            // SAFETY: as in `finish`.
            unsafe { bindings::pg_checksum_final(&raw mut self.context, bytes.as_mut_ptr()) };
        }
    }
}

/// A finished checksum.
pub struct DigestBytes {
    bytes: [u8; MAX_DIGEST_LENGTH],
    length: usize,
}

impl DigestBytes {
    /// In the machine's byte order, as the server writes it.
    fn of_crc(crc: u32) -> Self {
        let crc = crc.to_ne_bytes();
        let mut bytes = [0; MAX_DIGEST_LENGTH];
        bytes[..crc.len()].copy_from_slice(&crc);
        Self {
            bytes,
            length: crc.len(),
        }
    }

    /// The number of a CRC-32C; 0 of no checksum.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        let bytes = self.as_ref().first_chunk();
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

impl AsRef<[u8]> for DigestBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn failure(action: &str) -> Error {
    Error::new(
        Sqlstate::ERRCODE_INTERNAL_ERROR,
        format!("could not {action} checksum of a file"),
    )
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use backup_format::checksum::Algorithm;
    use pgrx::{Spi, pg_test};

    use super::{Digest, combine_crc32c};

    fn digest_of(algorithm: Algorithm, pieces: &[&[u8]]) -> Vec<u8> {
        let Ok(mut digest) = Digest::new(algorithm) else {
            panic!("no digest")
        };
        for piece in pieces {
            assert!(digest.update(piece).is_ok());
        }
        match digest.finish() {
            Ok(bytes) => bytes.as_ref().to_vec(),
            Err(_) => panic!("no digest"),
        }
    }

    #[pg_test]
    fn digests_are_those_of_the_server() {
        for (algorithm, function) in [
            (Algorithm::Sha224, "sha224"),
            (Algorithm::Sha256, "sha256"),
            (Algorithm::Sha384, "sha384"),
            (Algorithm::Sha512, "sha512"),
        ] {
            let query = format!("SELECT {function}('one and two'::bytea)");
            let expected = Spi::get_one::<Vec<u8>>(&query);
            assert_eq!(
                expected,
                Ok(Some(digest_of(algorithm, &[b"one ", b"", b"and two"])))
            );
        }
        // The check value of CRC-32C, in the machine's byte order, as the server writes it.
        let expected = 0xE306_9283_u32.to_ne_bytes();
        assert_eq!(digest_of(Algorithm::Crc32c, &[b"1234", b"56789"]), expected);
        assert_eq!(digest_of(Algorithm::None, &[b"1234"]), [0; 0]);
    }

    #[pg_test]
    fn the_checksum_of_a_whole_follows_from_those_of_its_parts() {
        let bytes: Vec<u8> = (0..100_000_u32)
            .map(|at| (at.wrapping_mul(at) >> 7) as u8)
            .collect();
        let crc = |bytes: &[u8]| {
            let digest = digest_of(Algorithm::Crc32c, &[bytes]);
            digest.first_chunk().map(|crc| u32::from_ne_bytes(*crc))
        };
        for at in [0, 1, 8192, 65_535, 99_999, 100_000] {
            let (Some(first), Some(second)) = (crc(&bytes[..at]), crc(&bytes[at..])) else {
                panic!("no digest")
            };
            let combined = combine_crc32c(first, second, (bytes.len() - at) as u64);
            assert_eq!(Some(combined), crc(&bytes), "{at}");
        }
    }
}
