//! Checksums of pages (storage/checksum.h): by vectors as wide as the processor has, and by the
//! server's own function, which has the last word on a mismatch.

use backup_format::page;

use super::parameters::{self, ChecksumVectors};
use super::settings::PAGE_SIZE;

mod bindings {
    // Arithmetic: it cannot raise an ERROR, so it needs no guard.
    unsafe extern "C" {
        pub fn pg_checksum_page(page: *mut core::ffi::c_char, block: u32) -> u16;
    }
}

/// The checksum that a page should carry, computed by the server. `block` counts from the start of
/// the relation's fork.
///
/// # Panics
/// Where `page` is no whole page, or does not begin at a multiple of four bytes.
#[must_use]
pub fn by_server(page: &mut [u8], block: u32) -> u16 {
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

/// A way to compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// The instructions that this library was built for.
    Baseline,
    /// AVX2, which the processor has.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512, which the processor has.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The server's own function.
    Server,
}

impl Width {
    /// The widest that this processor has and pg_parallel_backup.checksum_vectors allows.
    #[must_use]
    pub fn chosen() -> Self {
        let allowed = parameters::checksum_vectors();
        if allowed == ChecksumVectors::Server {
            return Self::Server;
        }
        #[cfg(target_arch = "x86_64")]
        {
            let narrow = allowed == ChecksumVectors::Avx2;
            if !narrow && is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Baseline
    }

    /// The checksum that a page should carry, as of [`by_server`].
    #[must_use]
    pub fn checksum(self, page: &mut [u8], block: u32) -> u16 {
        match self {
            Self::Baseline => page::checksum(page, block),
            // SAFETY: a width is chosen only where the processor and the operating system have it.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { by_avx2(page, block) },
            // SAFETY: this variant too is chosen only where its instructions exist.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { by_avx512(page, block) },
            Self::Server => by_server(page, block),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn by_avx512(page: &[u8], block: u32) -> u16 {
    page::checksum(page, block)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn by_avx2(page: &[u8], block: u32) -> u16 {
    page::checksum(page, block)
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::{Spi, pg_test};

    use super::{Width, by_server};

    #[pg_test]
    fn page_checksums_are_those_of_the_server() {
        let query = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pageinspect'";
        if cfg!(feature = "pg16") && Spi::get_one(query) == Ok(Some(0_i64)) {
            // The server of scripts/servers.sh has no contrib modules.
            return;
        }
        assert_eq!(Spi::run("CREATE EXTENSION pageinspect"), Ok(()));
        let query = "SELECT get_raw_page('pg_class', 0)";
        let Ok(Some(page)) = Spi::get_one::<Vec<u8>>(query) else {
            panic!("{query}")
        };
        for block in [0, 1, 131_073, u32::MAX - 1] {
            let query = format!("SELECT page_checksum(get_raw_page('pg_class', 0), {block})");
            let expected = Spi::get_one::<i16>(&query)
                .ok()
                .flatten()
                .map(i16::cast_unsigned);
            let mut copy = page.clone();
            assert_eq!(Some(by_server(&mut copy, block)), expected, "block {block}");
            assert!(copy == page, "the page was changed");
        }
    }

    #[pg_test]
    fn every_width_of_vectors_gives_the_checksum_of_the_server() {
        // Numbers without a pattern, the same in every run.
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        for block in 0..200 {
            let mut page: Vec<u8> = (0..super::PAGE_SIZE).map(|_| next()).collect();
            let expected = by_server(&mut page, block);
            for vectors in ["auto", "avx512", "avx2", "server"] {
                let set = format!("SET pg_parallel_backup.checksum_vectors = {vectors}");
                assert_eq!(Spi::run(&set), Ok(()));
                assert_eq!(
                    Width::chosen().checksum(&mut page, block),
                    expected,
                    "{vectors}"
                );
            }
            assert_eq!(Width::Baseline.checksum(&mut page, block), expected);
        }
    }
}
