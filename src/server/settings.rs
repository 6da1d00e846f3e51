//! Properties of the cluster that do not change while the server runs.

use backup_format::checksummed_files::ChecksummedFiles;
use backup_format::wal::SegmentSize;
use pgrx::pg_sys;

/// Bytes of a page.
pub const PAGE_SIZE: usize = pg_sys::BLCKSZ as usize;

/// Pages of a full segment of a relation.
pub const PAGES_PER_SEGMENT: u32 = pg_sys::RELSEG_SIZE;

/// The version directory of a tablespace (TABLESPACE_VERSION_DIRECTORY in common/relpath.h).
#[must_use]
pub fn tablespace_version_directory() -> String {
    format!(
        "PG_{}_{}",
        pg_sys::PG_MAJORVERSION_NUM,
        pg_sys::CATALOG_VERSION_NO
    )
}

/// Which files core's base backup verifies.
#[must_use]
pub fn checksummed_files() -> ChecksummedFiles {
    if cfg!(not(pg17_or_newer)) {
        ChecksummedFiles::AllButListed
    } else {
        ChecksummedFiles::Relations
    }
}

/// Directories of pg_wal that a backup keeps, empty.
#[must_use]
pub fn emptied_wal_directories() -> &'static [&'static [u8]] {
    if cfg!(not(pg17_or_newer)) {
        &[b"archive_status"]
    } else {
        &[b"archive_status", b"summaries"]
    }
}

/// The system identifier where the manifest of this version carries it: from 17 on.
#[must_use]
pub fn manifest_system_identifier() -> Option<u64> {
    // SAFETY: reads shared memory that is set once at server start.
    let identifier = unsafe { pg_sys::GetSystemIdentifier() };
    cfg!(pg17_or_newer).then_some(identifier)
}

/// The data directory's absolute path.
#[must_use]
pub fn data_directory() -> Vec<u8> {
    // SAFETY: a terminated string, set once at server start.
    unsafe {
        core::ffi::CStr::from_ptr(pg_sys::DataDir)
            .to_bytes()
            .to_vec()
    }
}

/// Whether the cluster has data checksums.
#[must_use]
pub fn has_data_checksums() -> bool {
    // SAFETY: reads shared state.
    unsafe { pg_sys::DataChecksumsEnabled() }
}

/// The size of a WAL segment.
#[must_use]
pub fn wal_segment_size() -> SegmentSize {
    // SAFETY: set once at server start.
    let bytes = unsafe { pg_sys::wal_segment_size };
    let size = u32::try_from(bytes).ok().and_then(SegmentSize::new);
    size.unwrap_or_else(|| unreachable!("the server checks wal_segment_size when it starts"))
}

/// The mode of the cluster's directories: 0700, or 0750 with group access.
#[must_use]
pub fn directory_mode() -> u32 {
    // SAFETY: set once at server start.
    unsafe { bindings::pg_dir_create_mode as u32 }
}

/// The mode of the cluster's files: 0600, or 0640 with group access.
#[must_use]
pub fn file_mode() -> u32 {
    // SAFETY: set once at server start.
    unsafe { bindings::pg_file_create_mode as u32 }
}

/// Variables of common/file_perm.h, which pgrx does not bind.
mod bindings {
    unsafe extern "C" {
        pub static pg_dir_create_mode: core::ffi::c_int;
        pub static pg_file_create_mode: core::ffi::c_int;
    }
}
