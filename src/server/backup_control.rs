//! The server's own start, stop and abort of a backup (access/xlog.h, backup/basebackup.h).

use core::cell::Cell;
use core::ffi::{CStr, c_char};
use std::ffi::CString;

use pgrx::{IntoDatum, pg_sys};

use super::incremental::EarlierManifest;
use super::report::{Error, Result, Sqlstate};

/// A tablespace as do_pg_backup_start() found it (tablespaceinfo in backup/basebackup.h, which
/// pgrx does not bind).
#[repr(C)]
struct TablespaceInfo {
    #[cfg(not(pg17_or_newer))]
    oid: *mut c_char,
    #[cfg(pg17_or_newer)]
    oid: pg_sys::Oid,
    path: *mut c_char,
    relative_path: *mut c_char,
    size: i64,
}

/// A tablespace outside pg_default and pg_global.
#[derive(Clone, Debug)]
pub struct Tablespace {
    /// Its oid, and the name of its link in pg_tblspc.
    pub oid: u32,
    /// Where the link leads.
    pub location: Vec<u8>,
    /// Its place relative to the data directory, if it lies inside.
    pub inside_data_directory: Option<Vec<u8>>,
}

/// Result of the start.
#[derive(Default)]
pub struct StartedBackup {
    /// The checkpoint's redo position.
    pub start_lsn: u64,
    /// The timeline of that position.
    pub timeline: u32,
    /// The content of backup_label.
    pub backup_label: Vec<u8>,
    /// The content of tablespace_map; empty without tablespaces.
    pub tablespace_map: Vec<u8>,
    /// The tablespaces at that time.
    pub tablespaces: Vec<Tablespace>,
    /// State that core needs at the stop.
    #[cfg(pg16_or_newer)]
    state: Box<pg_sys::BackupState>,
}

/// The backup that an incremental one follows.
#[cfg_attr(not(pg17_or_newer), allow(dead_code))]
pub struct Earlier<'a> {
    /// Its manifest.
    pub manifest: &'a EarlierManifest,
    /// Called before the summaries of WAL are awaited.
    pub on_wait: &'a dyn Fn(),
}

/// Result of the stop.
#[derive(Clone, Copy)]
pub struct StoppedBackup {
    /// The position up to which WAL is needed.
    pub stop_lsn: u64,
    /// The timeline of that position.
    pub timeline: u32,
}

/// Whether a backup runs in this session, whoever started it.
#[must_use]
pub fn is_running() -> bool {
    // SAFETY: reads a variable of this session.
    let status = unsafe { pg_sys::get_backup_status() };
    status != pg_sys::SessionBackupState::SESSION_BACKUP_NONE
}

thread_local! {
    /// Whether the backup of this session, if any, was started here and not by pg_backup_start().
    static STARTED_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether a backup runs in this session that [`start`] has started.
#[must_use]
pub fn is_ours() -> bool {
    STARTED_HERE.get() && is_running()
}

/// Has core's pg_backup_start() fill the variables that its pg_backup_stop() reads, and fail before
/// it starts anything.
///
/// A pg_backup_stop() that is looked up before our start and runs after it, by a cursor for
/// example, is not seen by the function hook. It would follow a null pointer; now it fails for
/// want of a label, after having ended the backup.
fn fill_variables_of_core() {
    let label = "x".repeat(pg_sys::MAXPGPATH as usize + 1);
    pgrx::PgTryBuilder::new(|| {
        // SAFETY: an SQL function with the arguments that it is declared with.
        unsafe {
            pgrx::direct_function_call::<i64>(
                pg_sys::pg_backup_start,
                &[label.as_str().into_datum(), true.into_datum()],
            );
        }
    })
    // "backup label too long", and nothing else: what else could be wrong is found by the start.
    .catch_others(|_| ())
    .execute();
}

/// Starts a backup, as pg_backup_start() does. Waits for a checkpoint; interrupts are served. An incremental
/// backup waits for the summaries of the WAL since the earlier one, too.
///
/// # Errors
/// Raises the server's own errors: wal_level too low, label too long, and so on.
pub fn start(label: &[u8], fast: bool, earlier: Option<Earlier<'_>>) -> Result<StartedBackup> {
    let label = CString::new(label).map_err(|_| {
        Error::new(
            Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
            "backup label cannot contain null bytes",
        )
    })?;
    // No older server gives an earlier manifest out.
    #[cfg(not(pg17_or_newer))]
    let _ = earlier;
    fill_variables_of_core();
    STARTED_HERE.set(true);
    // SAFETY: guarded by pgrx. The buffers are made by the server in the current memory context,
    // the list holds tablespaceinfo structures, and all of it is copied before the context ends.
    unsafe {
        pg_sys::register_persistent_abort_backup_handler();
        let map_file = pg_sys::makeStringInfo();
        let mut tablespaces: *mut pg_sys::List = core::ptr::null_mut();
        #[cfg(not(pg16_or_newer))]
        {
            let label_file = pg_sys::makeStringInfo();
            let mut timeline = 0;
            let start_lsn = pg_sys::do_pg_backup_start(
                label.as_ptr(),
                fast,
                &raw mut timeline,
                label_file,
                &raw mut tablespaces,
                map_file,
            );
            Ok(StartedBackup {
                start_lsn,
                timeline,
                backup_label: string_info_bytes(label_file),
                tablespace_map: string_info_bytes(map_file),
                tablespaces: tablespace_list(tablespaces),
            })
        }
        #[cfg(pg16_or_newer)]
        {
            let mut state = Box::<pg_sys::BackupState>::default();
            pg_sys::do_pg_backup_start(
                label.as_ptr(),
                fast,
                &raw mut tablespaces,
                &raw mut *state,
                map_file,
            );
            #[cfg(pg17_or_newer)]
            if let Some(Earlier { manifest, on_wait }) = earlier {
                on_wait();
                manifest.prepare(&mut state);
            }
            let label_file = pg_sys::build_backup_content(&raw mut *state, false);
            Ok(StartedBackup {
                start_lsn: state.startpoint,
                timeline: state.starttli,
                backup_label: CStr::from_ptr(label_file).to_bytes().to_vec(),
                tablespace_map: string_info_bytes(map_file),
                tablespaces: tablespace_list(tablespaces),
                state,
            })
        }
    }
}

/// Stops the backup of this session, as pg_backup_stop() does, and waits for its WAL to be
/// archived where `wait_for_archive` is set and the server archives.
///
/// # Errors
/// Raises the server's own errors. Whether the backup still runs afterwards differs; call
/// [`abort`] in any case.
pub fn stop(started: &StartedBackup, wait_for_archive: bool) -> Result<StoppedBackup> {
    if !is_ours() {
        return Err(Error::new(
            Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "backup is not in progress",
        )
        .detail("It was ended by another function of the server, such as pg_backup_stop()."));
    }
    #[cfg(not(pg16_or_newer))]
    {
        let mut label_file = started.backup_label.clone();
        label_file.push(0);
        let mut timeline = 0;
        // SAFETY: guarded by pgrx. The server reads the label, which is terminated and outlives the
        // call; it does not write to it.
        let stop_lsn = unsafe {
            pg_sys::do_pg_backup_stop(
                label_file.as_mut_ptr().cast(),
                wait_for_archive,
                &raw mut timeline,
            )
        };
        Ok(StoppedBackup { stop_lsn, timeline })
    }
    #[cfg(pg16_or_newer)]
    {
        let mut state = started.state.clone();
        // SAFETY: guarded by pgrx. The state is the one that the start has filled.
        unsafe { pg_sys::do_pg_backup_stop(&raw mut *state, wait_for_archive) };
        Ok(StoppedBackup {
            stop_lsn: state.stoppoint,
            timeline: state.stoptli,
        })
    }
}

/// Ends the backup of this session without a result. Harmless when none runs, and does not raise.
pub fn abort() {
    STARTED_HERE.set(false);
    // Core takes this for the end of the session, and from 16 on warns of it. It is meant.
    let _silence = Silence::begin();
    // SAFETY: the argument is false for a backup that has started; the call does nothing without
    // one.
    unsafe { pg_sys::do_pg_abort_backup(0, pg_sys::Datum::from(false)) }
}

#[cfg(not(pg19_or_newer))]
fn log_min_messages() -> *mut core::ffi::c_int {
    &raw mut pg_sys::log_min_messages
}

/// From 19 on each kind of process has its own level.
#[cfg(pg19_or_newer)]
fn log_min_messages() -> *mut core::ffi::c_int {
    let levels = (&raw mut pg_sys::log_min_messages).cast::<core::ffi::c_int>();
    // SAFETY: the kind of this process is an index of the array.
    unsafe { levels.add(pg_sys::MyBackendType as usize) }
}

/// Keeps the server from reporting WARNINGs for as long as it lives.
struct Silence {
    to_client: core::ffi::c_int,
    to_log: core::ffi::c_int,
}

impl Silence {
    fn begin() -> Self {
        let error = pgrx::PgLogLevel::ERROR as core::ffi::c_int;
        // SAFETY: variables of this session's process, which has one thread.
        unsafe {
            let before = Self {
                to_client: pg_sys::client_min_messages,
                to_log: *log_min_messages(),
            };
            pg_sys::client_min_messages = error;
            *log_min_messages() = error;
            before
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // SAFETY: plain variables of this process, set back to the values found in them.
        unsafe {
            pg_sys::client_min_messages = self.to_client;
            *log_min_messages() = self.to_log;
        }
    }
}

/// # Safety
/// `buffer` is a StringInfo of the server.
unsafe fn string_info_bytes(buffer: pg_sys::StringInfo) -> Vec<u8> {
    // SAFETY: a StringInfo holds `len` bytes.
    unsafe {
        let length = usize::try_from((*buffer).len).unwrap_or(0);
        core::slice::from_raw_parts((*buffer).data.cast::<u8>(), length).to_vec()
    }
}

/// # Safety
/// `list` is NIL or a list of tablespaceinfo.
unsafe fn tablespace_list(list: *mut pg_sys::List) -> Vec<Tablespace> {
    let mut tablespaces = Vec::new();
    if list.is_null() {
        return tablespaces;
    }
    // SAFETY: the list's cells point to tablespaceinfo structures with terminated strings.
    unsafe {
        for index in 0..(*list).length {
            let info: *const TablespaceInfo = pg_sys::list_nth(list, index).cast();
            #[cfg(not(pg17_or_newer))]
            let oid = CStr::from_ptr((*info).oid)
                .to_str()
                .ok()
                .and_then(|oid| oid.parse().ok());
            #[cfg(pg17_or_newer)]
            let oid = Some((*info).oid.to_u32());
            let Some(oid) = oid else {
                continue;
            };
            let location = CStr::from_ptr((*info).path).to_bytes();
            // From 16 on core names in-place tablespaces too, by a path that is not absolute. Their
            // files belong to the data directory, as in 15.
            if !location.starts_with(b"/") {
                continue;
            }
            let inside = (*info).relative_path;
            tablespaces.push(Tablespace {
                oid,
                location: location.to_vec(),
                inside_data_directory: (!inside.is_null())
                    .then(|| CStr::from_ptr(inside).to_bytes().to_vec()),
            });
        }
    }
    tablespaces
}
