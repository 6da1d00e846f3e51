//! The error that bad pages lead to.

use crate::server::report::{Error, Sqlstate};

/// The error for a backup or a stream with bad pages, in core's words.
#[must_use]
pub fn found() -> Error {
    Error::new(
        Sqlstate::ERRCODE_DATA_CORRUPTED,
        "checksum verification failure during base backup",
    )
}
