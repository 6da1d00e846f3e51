//! send_backup_files(), send_wal(), send_stop_backup() and base_backup(). They write to the stream of a COPY and
//! return no rows. A blackhole target needs no COPY.

use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use crate::backup::options::{self, Target};
use crate::server::allocation::ByteStrings;
use crate::server::copy_query::Call;
use crate::server::report::{Error, Result, Sqlstate, or_raise};
use crate::stream::{closing, data_files, wal_stream, whole_backup};

use super::arguments::{begin_stream, required};
use super::leading::StartArguments;

fn no_rows(outcome: Result<()>) -> SetOfIterator<'static, Vec<u8>> {
    or_raise(outcome);
    SetOfIterator::empty()
}

/// The function of versions up to 0.2.0, whose definitions can outlive their library.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn send_backup_files(
    backup_id: Option<i64>,
    files: Option<Array<&[u8]>>,
    tablespace: Option<Oid>,
    max_rate: Option<i32>,
    verify_checksums: Option<bool>,
    start_wal_location: Option<i64>,
    compression: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    call: Call<'_>,
) -> SetOfIterator<'static, Vec<u8>> {
    send_backup_files_within(
        backup_id,
        files,
        tablespace,
        max_rate,
        verify_checksums,
        start_wal_location,
        compression,
        target,
        None,
        Some(false),
        call,
    )
}

/// send_backup_files() since 0.3.0, with `max_bytes` and `parts`.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn send_backup_files_within(
    backup_id: Option<i64>,
    files: Option<Array<&[u8]>>,
    tablespace: Option<Oid>,
    max_rate: Option<i32>,
    verify_checksums: Option<bool>,
    start_wal_location: Option<i64>,
    compression: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    max_bytes: Option<i64>,
    parts: Option<bool>,
    call: Call<'_>,
) -> SetOfIterator<'static, Vec<u8>> {
    let request = || {
        let target = options::check_target(&required("target", target)?)?;
        if target == Target::Client {
            begin_stream("send_backup_files", &call)?;
        }
        let max_bytes = options::check_max_bytes(max_bytes)?;
        if max_bytes.is_some() && files.is_some() {
            return Err(Error::new(
                Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
                "argument \"max_bytes\" cannot be used with a list of files",
            )
            .hint("Named files are sent all, in one archive. Name fewer of them."));
        }
        let parts = required("parts", parts)?;
        let is_of_queue = files.is_none() && tablespace.is_none() && target == Target::Client;
        if parts && !is_of_queue {
            return Err(Error::new(
                Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
                "argument \"parts\" cannot be used with \"files\", \"tablespace\" or another target than client",
            )
            .hint("Workers share large files of the queue, with their paths in the backup."));
        }
        Ok(data_files::Request {
            backup_id,
            files: files.map(names).transpose()?,
            tablespace: tablespace.map(Oid::to_u32),
            max_rate: options::check_max_rate(max_rate)?,
            verify_checksums,
            start_lsn: start_wal_location.map(i64::cast_unsigned),
            max_bytes,
            parts,
            compression: options::check_compression(compression.as_deref())?,
            target,
        })
    };
    no_rows(request().and_then(|request| data_files::send(&request)))
}

fn names(files: Array<&[u8]>) -> Result<ByteStrings> {
    let mut names = ByteStrings::default();
    for name in files.iter() {
        let name = name.ok_or_else(|| {
            Error::new(
                Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "list of files cannot contain null",
            )
        })?;
        names.push(&[name])?;
    }
    Ok(names)
}

#[pg_extern(sql = false)]
fn send_wal(
    backup_id: Option<i64>,
    from_lsn: Option<i64>,
    wait: Option<Interval>,
    compression: Option<Vec<u8>>,
    call: Call<'_>,
) -> SetOfIterator<'static, Vec<u8>> {
    let request = || {
        begin_stream("send_wal", &call)?;
        Ok(wal_stream::Request {
            backup_id,
            from_lsn: from_lsn.map(i64::cast_unsigned),
            wait: options::check_wait(required("wait", wait)?.as_micros())?,
            compression: options::check_compression(compression.as_deref())?,
        })
    };
    no_rows(request().and_then(|request| wal_stream::send(&request)))
}

fn closing_request(
    wal: Option<bool>,
    wait: Option<bool>,
    allow_incomplete: Option<bool>,
    compression: Option<&[u8]>,
) -> Result<closing::Request> {
    Ok(closing::Request {
        wal: required("wal", wal)?,
        wait: required("wait", wait)?,
        allow_incomplete: required("allow_incomplete", allow_incomplete)?,
        compression: options::check_compression(compression)?,
    })
}

#[pg_extern(sql = false)]
fn send_stop_backup(
    wal: Option<bool>,
    wait: Option<bool>,
    allow_incomplete: Option<bool>,
    compression: Option<Vec<u8>>,
    call: Call<'_>,
) -> SetOfIterator<'static, Vec<u8>> {
    let request = || {
        begin_stream("send_stop_backup", &call)?;
        closing_request(wal, wait, allow_incomplete, compression.as_deref())
    };
    no_rows(request().and_then(|request| closing::send(&request)))
}

/// The function of versions up to 0.2.0, whose definitions can outlive their library.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn base_backup(
    label: Option<Vec<u8>>,
    fast: Option<bool>,
    tablespace_map: Option<bool>,
    max_rate: Option<i32>,
    verify_checksums: Option<bool>,
    manifest_checksums: Option<Vec<u8>>,
    retain_wal: Option<bool>,
    wal: Option<bool>,
    wait: Option<bool>,
    allow_incomplete: Option<bool>,
    compression: Option<Vec<u8>>,
    call: Call<'_>,
) -> SetOfIterator<'static, Vec<u8>> {
    base_backup_or_increment(
        label,
        fast,
        tablespace_map,
        max_rate,
        verify_checksums,
        manifest_checksums,
        retain_wal,
        wal,
        wait,
        allow_incomplete,
        compression,
        Some(false),
        call,
    )
}

/// base_backup() since 0.3.0, with `incremental`.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn base_backup_or_increment(
    label: Option<Vec<u8>>,
    fast: Option<bool>,
    tablespace_map: Option<bool>,
    max_rate: Option<i32>,
    verify_checksums: Option<bool>,
    manifest_checksums: Option<Vec<u8>>,
    retain_wal: Option<bool>,
    wal: Option<bool>,
    wait: Option<bool>,
    allow_incomplete: Option<bool>,
    compression: Option<Vec<u8>>,
    incremental: Option<bool>,
    call: Call<'_>,
) -> SetOfIterator<'static, Vec<u8>> {
    let requests = || {
        begin_stream("base_backup", &call)?;
        let start = StartArguments {
            label,
            fast,
            tablespace_map,
            max_rate,
            verify_checksums,
            manifest_checksums,
            retain_wal,
            incremental,
        };
        Ok((
            start.check()?,
            closing_request(wal, wait, allow_incomplete, compression.as_deref())?,
        ))
    };
    no_rows(requests().and_then(|(start, end)| whole_backup::send(&start, &end)))
}
