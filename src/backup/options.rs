//! Validated options of a backup.

use std::time::Duration;

use backup_format::checksum::Algorithm;
use backup_format::compression::{Compression, InvalidCompression};

use crate::server::encoding;
use crate::server::report::{Error, Result, Sqlstate};

/// Valid rates in kB/s (MAX_RATE_LOWER and MAX_RATE_UPPER in backup/basebackup.h).
const RATES: core::ops::RangeInclusive<i32> = 32..=1_048_576;

/// Validated arguments of start_backup().
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// In the encoding of the database.
    pub label: Vec<u8>,
    /// Whether the checkpoint is fast.
    pub fast: bool,
    /// Whether tablespace links are sent as the file tablespace_map; otherwise they are entries of
    /// the listing.
    pub tablespace_map: bool,
    /// kB/s of all workers together.
    pub max_rate: Option<u32>,
    /// Whether pages are verified, where the cluster has checksums.
    pub verify_checksums: bool,
    /// The manifest's algorithm; `None` for no manifest.
    pub manifest: Option<Algorithm>,
    /// Whether the backup's WAL is retained.
    pub retain_wal: bool,
    /// Whether only what has changed since the backup of the uploaded manifest is sent.
    pub incremental: bool,
}

/// Destination of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The stream of the running COPY.
    #[default]
    Client,
    /// Nowhere.
    Blackhole,
}

/// Checks a rate limit in kB/s.
///
/// # Errors
/// `numeric_value_out_of_range`, in core's words.
pub fn check_max_rate(max_rate: Option<i32>) -> Result<Option<u32>> {
    let Some(rate) = max_rate else {
        return Ok(None);
    };
    if !RATES.contains(&rate) {
        return Err(Error::new(
            Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!(
                "{rate} is outside the valid range for parameter \"max_rate\" ({} .. {})",
                RATES.start(),
                RATES.end()
            ),
        ));
    }
    Ok(Some(rate.unsigned_abs()))
}

/// Checks the number of bytes after which an archive ends.
///
/// # Errors
/// `numeric_value_out_of_range`.
pub fn check_max_bytes(max_bytes: Option<i64>) -> Result<Option<u64>> {
    let Some(bytes) = max_bytes else {
        return Ok(None);
    };
    match u64::try_from(bytes) {
        Ok(bytes) if bytes > 0 => Ok(Some(bytes)),
        _ => Err(Error::new(
            Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("argument \"max_bytes\" must be at least 1, and is {bytes}"),
        )
        .hint("Leave the argument out for an archive of all files that are left.")),
    }
}

/// Checks the longest wait for something to send, in microseconds.
///
/// # Errors
/// `invalid_parameter_value`.
pub fn check_wait(microseconds: i128) -> Result<Duration> {
    u64::try_from(microseconds.min(u64::MAX.into()))
        .map(Duration::from_micros)
        .map_err(|_| {
            Error::new(
                Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
                "argument \"wait\" cannot be negative",
            )
        })
}

/// Checks the name of a manifest's checksum algorithm. OFF stands for no manifest.
///
/// # Errors
/// `invalid_parameter_value`.
pub fn check_manifest_checksums(name: &[u8]) -> Result<Option<Algorithm>> {
    if name.eq_ignore_ascii_case(b"off") {
        return Ok(None);
    }
    let text = encoding::display(name);
    match Algorithm::parse(&text) {
        Some(algorithm) => Ok(Some(algorithm)),
        None => Err(Error::new(
            Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("unrecognized checksum algorithm: \"{text}\""),
        )
        .hint("Available algorithms are NONE, CRC32C, SHA224, SHA256, SHA384, SHA512; OFF writes no manifest.")),
    }
}

/// Checks a compression, `method[:level]`; NULL is none.
///
/// # Errors
/// `invalid_parameter_value`, in core's words.
pub fn check_compression(text: Option<&[u8]>) -> Result<Compression> {
    let Some(bytes) = text else {
        return Ok(Compression::default());
    };
    let text = encoding::display(bytes);
    let invalid = |message| Error::new(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE, message);
    Compression::parse(&text).map_err(|error| match error {
        InvalidCompression::UnknownMethod => invalid(format!(
            "unrecognized compression algorithm: \"{text}\""
        ))
        .hint(
            "Available algorithms are none, gzip, lz4 and zstd; a level can follow, as in zstd:1.",
        ),
        InvalidCompression::InvalidLevel(_) => {
            invalid(format!("invalid compression specification: \"{text}\""))
                .detail(error.to_string())
        }
    })
}

/// Checks the name of a target.
///
/// # Errors
/// `invalid_parameter_value`, in core's words.
pub fn check_target(name: &[u8]) -> Result<Target> {
    if name.eq_ignore_ascii_case(b"client") {
        Ok(Target::Client)
    } else if name.eq_ignore_ascii_case(b"blackhole") {
        Ok(Target::Blackhole)
    } else {
        Err(Error::new(
            Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("unrecognized target: \"{}\"", encoding::display(name)),
        )
        .hint("Available targets are client and blackhole."))
    }
}
