//! Configuration parameters of the extension (utils/guc.h).

use core::ffi::c_char;
use std::ffi::CString;
use std::sync::OnceLock;
use std::thread;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_guard;

/// By which instructions checksums of pages and files are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, pgrx::guc::PostgresGucEnum)]
pub enum ChecksumVectors {
    /// The widest that the processor has.
    #[name = c"auto"]
    Auto,
    /// AVX-512, as far as the processor has it.
    #[name = c"avx512"]
    Avx512,
    /// AVX2, as far as the processor has it.
    #[name = c"avx2"]
    Avx2,
    /// Whatever the server was built with: its own functions.
    #[name = c"server"]
    Server,
}

static CHECKSUM_VECTORS: GucSetting<ChecksumVectors> =
    GucSetting::<ChecksumVectors>::new(ChecksumVectors::Auto);

static MANIFEST_FORCE_ENCODE: GucSetting<bool> = GucSetting::<bool>::new(false);

static LIST_UNREADABLE_FILES: GucSetting<bool> = GucSetting::<bool>::new(false);

/// In kB.
static ENCRYPTED_RECORD_SIZE: GucSetting<i32> = GucSetting::<i32>::new(SMALLEST_RECORD);

/// libpq (`pqReadData()` in fe-misc.c) reads while its buffer has room for 8 kB, and then enlarges it
/// if a part of the last record is left. With records of 16 kB that happens whenever the buffer gets
/// full: a fast server makes it double, up to 1 GB, where libpq gives up. A record of 8 kB always fits.
/// Up to 16 `pq_putmessage()` makes such records.
const SMALLEST_RECORD: i32 = 8;

/// The largest record that TLS has.
const LARGEST_RECORD: i32 = 16;

/// Only there to be shown, and then as [`show_processors`] says.
static SERVER_PROCESSORS: GucSetting<i32> = GucSetting::<i32>::new(1);

/// Defines the parameters. To be called once, when the library loads.
pub fn define() {
    GucRegistry::define_enum_guc(
        c"pg_parallel_backup.checksum_vectors",
        c"Selects the instructions that compute checksums of pages and files.",
        c"All give the same checksums. A width that the processor lacks falls back to a narrower one.",
        &CHECKSUM_VECTORS,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"pg_parallel_backup.manifest_force_encode",
        c"Writes all paths in a backup manifest in hexadecimal.",
        c"Otherwise only those are that are no text.",
        &MANIFEST_FORCE_ENCODE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"pg_parallel_backup.list_unreadable_files",
        c"Starts a backup although the server cannot read a file.",
        c"The file is then an error of the stream that is to send it.",
        &LIST_UNREADABLE_FILES,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_parallel_backup.encrypted_record_size",
        c"Sets the size of the records in which an encrypted connection carries a stream.",
        c"Larger records than the default cost less, but make the memory of a client with libpq grow.",
        &ENCRYPTED_RECORD_SIZE,
        SMALLEST_RECORD,
        LARGEST_RECORD,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    // SAFETY: the hook is guarded, and what it returns stays.
    unsafe {
        GucRegistry::define_int_guc_with_hooks(
            c"pg_parallel_backup.server_processors",
            c"Shows the number of processors that the server may use.",
            c"More workers than that seldom make a backup faster.",
            &SERVER_PROCESSORS,
            1,
            i32::MAX,
            GucContext::Internal,
            GucFlags::default(),
            None,
            None,
            Some(show_processors),
        );
    }
    // SAFETY: guarded by pgrx; the server copies the name. A setting of this prefix that is not defined
    // above is an error from now on, and not a placeholder.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(c"pg_parallel_backup".as_ptr()) };
}

/// As the operating system says, with what limits this process (affinity, cgroup).
#[pg_guard]
extern "C-unwind" fn show_processors() -> *const c_char {
    static SHOWN: OnceLock<CString> = OnceLock::new();
    let shown = SHOWN.get_or_init(|| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        CString::new(processors.to_string()).unwrap_or_default()
    });
    shown.as_ptr()
}

/// The value of pg_parallel_backup.manifest_force_encode.
#[must_use]
pub fn manifest_force_encode() -> bool {
    MANIFEST_FORCE_ENCODE.get()
}

/// The value of pg_parallel_backup.list_unreadable_files.
#[must_use]
pub fn list_unreadable_files() -> bool {
    LIST_UNREADABLE_FILES.get()
}

/// Bytes of one write to an encrypted connection, which makes one record of it: the value of
/// pg_parallel_backup.encrypted_record_size.
#[must_use]
pub fn encrypted_record_size() -> usize {
    ENCRYPTED_RECORD_SIZE.get().unsigned_abs() as usize * 1024
}

/// The value of pg_parallel_backup.checksum_vectors.
#[must_use]
pub fn checksum_vectors() -> ChecksumVectors {
    CHECKSUM_VECTORS.get()
}
