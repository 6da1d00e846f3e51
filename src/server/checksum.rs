//! Checksums by the server's own functions: of pages (storage/checksum.h) and of files
//! (common/checksum_helper.h).

use core::ffi::c_int;

use backup_format::checksum::Algorithm;
use pgrx::pg_sys;

use super::report::{Failure, Outcome, Sqlstate};
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

    // None of these can raise an ERROR, so they need no guard: the page checksum is arithmetic,
    // and the others report failure by their result.
    unsafe extern "C" {
        pub fn pg_checksum_page(page: *mut core::ffi::c_char, block: u32) -> u16;
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

/// The checksum that a page should carry, computed as the server does. `block` counts from the
/// start of the relation's fork.
///
/// # Panics
/// Where `page` is no whole page, or does not begin at a multiple of four bytes.
#[must_use]
pub fn page_checksum(page: &mut [u8], block: u32) -> u16 {
    assert_eq!(
        page.len(),
        PAGE_SIZE,
        "a page checksum is taken of a whole page"
    );
    assert!(
        page.as_ptr().addr().is_multiple_of(4),
        "pages are read as 32-bit words"
    );
    // SAFETY: a whole, aligned page that may be written: the server sets its checksum field to
    // zero and back.
    unsafe { bindings::pg_checksum_page(page.as_mut_ptr().cast(), block) }
}

/// The checksum of a file, as it grows.
pub struct Digest {
    context: Context,
    length: usize,
    finished: bool,
}

impl Digest {
    /// Starts a checksum.
    ///
    /// # Errors
    /// Where the server's cryptography library refuses.
    pub fn new(algorithm: Algorithm) -> Outcome<Self> {
        let mut context = Context {
            algorithm: 0,
            raw: 0,
        };
        // SAFETY: guarded; fills the context. What a SHA-2 context holds outside belongs to the
        // current resource owner, which frees it after an ERROR.
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

    /// Adds bytes.
    ///
    /// # Errors
    /// Where the server's cryptography library refuses.
    pub fn update(&mut self, bytes: &[u8]) -> Outcome<()> {
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

    /// Ends the checksum and gives its bytes, of which there are as many as the algorithm has.
    ///
    /// # Errors
    /// Where the server's cryptography library refuses.
    pub fn finish(mut self) -> Outcome<DigestBytes> {
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

impl Drop for Digest {
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

impl AsRef<[u8]> for DigestBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn failure(action: &str) -> Failure {
    Failure::new(
        Sqlstate::ERRCODE_INTERNAL_ERROR,
        format!("could not {action} checksum of a file"),
    )
}

const _: () = assert!(pg_sys::BLCKSZ.is_multiple_of(4));

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use backup_format::checksum::Algorithm;
    use pgrx::{Spi, pg_test};

    use super::{Digest, page_checksum};

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
    fn page_checksums_are_those_of_the_server() {
        assert_eq!(Spi::run("CREATE EXTENSION pageinspect"), Ok(()));
        let query = "SELECT get_raw_page('pg_class', 0)";
        let Ok(Some(page)) = Spi::get_one::<Vec<u8>>(query) else {
            panic!("{query}")
        };
        for block in [0, 1, 131_073] {
            let query = format!("SELECT page_checksum(get_raw_page('pg_class', 0), {block})");
            let expected = Spi::get_one::<i16>(&query)
                .ok()
                .flatten()
                .map(i16::cast_unsigned);
            let mut copy = page.clone();
            assert_eq!(
                Some(page_checksum(&mut copy, block)),
                expected,
                "block {block}"
            );
            assert!(copy == page, "the page was changed");
        }
    }
}
