//! Configuration parameters of the extension (utils/guc.h).

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

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
}

/// The value of pg_parallel_backup.checksum_vectors.
#[must_use]
pub fn checksum_vectors() -> ChecksumVectors {
    CHECKSUM_VECTORS.get()
}
