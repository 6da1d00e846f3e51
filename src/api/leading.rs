//! upload_manifest(), start_backup(), stop_backup() and abort_backup().

use pgrx::name;
use pgrx::prelude::*;

use crate::backup::leader;
use crate::backup::options::{self, StartOptions};
use crate::backup::{stop, stop_row, unlogged};
use crate::server::report::{Error, Result, Sqlstate, or_raise};
use crate::server::{encoding, incremental};

use super::arguments::required;

/// Options of start_backup() and base_backup(), as passed from SQL.
pub struct StartArguments {
    pub label: Option<Vec<u8>>,
    pub fast: Option<bool>,
    pub tablespace_map: Option<bool>,
    pub max_rate: Option<i32>,
    pub verify_checksums: Option<bool>,
    pub manifest_checksums: Option<Vec<u8>>,
    pub retain_wal: Option<bool>,
    pub incremental: Option<bool>,
}

impl StartArguments {
    /// Checks the options.
    ///
    /// # Errors
    /// `null_value_not_allowed`, and those of [`options`].
    pub fn check(self) -> Result<StartOptions> {
        Ok(StartOptions {
            label: required("label", self.label)?,
            fast: required("fast", self.fast)?,
            tablespace_map: required("tablespace_map", self.tablespace_map)?,
            max_rate: options::check_max_rate(self.max_rate)?,
            verify_checksums: required("verify_checksums", self.verify_checksums)?,
            manifest: options::check_manifest_checksums(&required(
                "manifest_checksums",
                self.manifest_checksums,
            )?)?,
            retain_wal: required("retain_wal", self.retain_wal)?,
            incremental: required("incremental", self.incremental)?,
        })
    }
}

type StartRow = (i64, i64, i32, Vec<u8>, Option<Vec<u8>>, i64, i64);

#[pg_extern(sql = false)]
fn upload_manifest(part: Option<Vec<u8>>) {
    let part = part.ok_or_else(|| {
        Error::new(
            Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "part of a manifest cannot be null",
        )
    });
    or_raise(part.and_then(|part| incremental::upload(&part)));
}

/// The function of versions up to 0.2.0, whose definitions can outlive their library.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn start_backup(
    label: Option<Vec<u8>>,
    fast: Option<bool>,
    tablespace_map: Option<bool>,
    max_rate: Option<i32>,
    verify_checksums: Option<bool>,
    manifest_checksums: Option<Vec<u8>>,
    retain_wal: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(backup_id, i64),
        name!(start_lsn, i64),
        name!(timeline, i32),
        name!(backup_label, Vec<u8>),
        name!(tablespace_map, Option<Vec<u8>>),
        name!(file_count, i64),
        name!(total_bytes, i64),
    ),
> {
    start_backup_or_increment(
        label,
        fast,
        tablespace_map,
        max_rate,
        verify_checksums,
        manifest_checksums,
        retain_wal,
        Some(false),
    )
}

/// start_backup() since 0.3.0, with `incremental`.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn start_backup_or_increment(
    label: Option<Vec<u8>>,
    fast: Option<bool>,
    tablespace_map: Option<bool>,
    max_rate: Option<i32>,
    verify_checksums: Option<bool>,
    manifest_checksums: Option<Vec<u8>>,
    retain_wal: Option<bool>,
    incremental: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(backup_id, i64),
        name!(start_lsn, i64),
        name!(timeline, i32),
        name!(backup_label, Vec<u8>),
        name!(tablespace_map, Option<Vec<u8>>),
        name!(file_count, i64),
        name!(total_bytes, i64),
    ),
> {
    let arguments = StartArguments {
        label,
        fast,
        tablespace_map,
        max_rate,
        verify_checksums,
        manifest_checksums,
        retain_wal,
        incremental,
    };
    TableIterator::once(or_raise(start(arguments)))
}

fn start(arguments: StartArguments) -> Result<StartRow> {
    let summary = leader::start(&arguments.check()?)?;
    Ok((
        summary.backup_id,
        summary.start_lsn.cast_signed(),
        summary.timeline.cast_signed(),
        summary.backup_label,
        // NULL if the map is not valid text: the client could not read the row at all.
        // send_stop_backup() sends such a map intact, as a file.
        Some(summary.tablespace_map).filter(|map| encoding::is_text(map)),
        summary.file_count.cast_signed(),
        summary.total_bytes.cast_signed(),
    ))
}

type StopRow = (i64, i32, Vec<u8>, Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// A caller that writes these files must write `global/pg_control` after all others except the manifest:
/// a server starts on a directory that has it, and without `backup_label` from the wrong checkpoint.
#[pg_extern(sql = false)]
fn stop_backup(
    wait: Option<bool>,
    allow_incomplete: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(stop_lsn, i64),
        name!(timeline, i32),
        name!(backup_label, Vec<u8>),
        name!(tablespace_map, Vec<u8>),
        name!(pg_control, Vec<u8>),
        name!(backup_manifest, Option<Vec<u8>>),
    ),
> {
    TableIterator::once(or_raise(stop(wait, allow_incomplete)))
}

fn stop(wait: Option<bool>, allow_incomplete: Option<bool>) -> Result<StopRow> {
    let (wait, allow_incomplete) = (
        required("wait", wait)?,
        required("allow_incomplete", allow_incomplete)?,
    );
    leader::with_leader(stop_row::check_map_is_text).transpose()?;
    let stopped = stop::stop(wait, allow_incomplete, |leader, init_forks| {
        unlogged::check_none_is_missing(init_forks)?;
        stop_row::check_manifest_fits(leader, stop_row::LARGEST)
    })?;
    let closing = stopped.closing_files();
    let manifest = stopped.manifest(&closing, stop_row::PATH_STYLE)?;
    let manifest = manifest
        .map(|manifest| stop_row::as_text(&manifest))
        .transpose()?;
    let started = &stopped.running.leader().started;
    let row = (
        stopped.end.stop_lsn.cast_signed(),
        stopped.end.timeline.cast_signed(),
        started.backup_label.clone(),
        started.tablespace_map.clone(),
        stopped.control_file.content.clone(),
        manifest,
    );
    stopped.finish();
    Ok(row)
}

#[pg_extern(sql = false)]
fn abort_backup() {
    or_raise(leader::abort());
}
