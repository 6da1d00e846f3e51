//! What has changed since an earlier backup (backup/basebackup_incremental.h, from 17 on).

use core::cell::Cell;
#[cfg(pg17_or_newer)]
use std::ffi::CString;

#[cfg(pg17_or_newer)]
use pgrx::pg_sys;

use backup_format::relation_file::RelationFile;

use super::report::{Error, Result, Sqlstate};

/// Bytes of a manifest that are handed to the server's parser at once: larger parts would grow its
/// buffer.
#[cfg(pg17_or_newer)]
const PIECE: usize = 64 * 1024;

/// The server's IncrementalBackupInfo.
#[repr(C)]
#[cfg(pg17_or_newer)]
struct Info {
    _opaque: [u8; 0],
}

#[cfg(pg17_or_newer)]
#[allow(ffi_unwind_calls, non_snake_case, clippy::too_many_arguments)]
mod bindings {
    use core::ffi::{c_char, c_int, c_uint};

    use pgrx::pg_sys;

    use super::Info;

    #[pgrx::pg_guard]
    unsafe extern "C-unwind" {
        pub fn CreateIncrementalBackupInfo(context: pg_sys::MemoryContext) -> *mut Info;
        pub fn AppendIncrementalManifestData(info: *mut Info, data: *const c_char, length: c_int);
        pub fn FinalizeIncrementalManifest(info: *mut Info);
        pub fn PrepareForIncrementalBackup(info: *mut Info, state: *mut pg_sys::BackupState);
        pub fn GetFileBackupMethod(
            info: *mut Info,
            path: *const c_char,
            database: pg_sys::Oid,
            tablespace: pg_sys::Oid,
            relfilenode: pg_sys::Oid,
            fork: c_int,
            segment: c_uint,
            size: usize,
            block_count: *mut c_uint,
            blocks: *mut u32,
            truncation_length: *mut c_uint,
        ) -> c_uint;
    }
}

#[cfg(pg17_or_newer)]
unsafe extern "C" {
    /// postmaster/walsummarizer.h
    static summarize_wal: bool;
}

/// BACK_UP_FILE_INCREMENTALLY.
#[cfg(pg17_or_newer)]
const INCREMENTALLY: core::ffi::c_uint = 1;

/// The manifest of an earlier backup, and after [`EarlierManifest::prepare`] what has changed since. All of
/// it lies in a memory context of its own, which goes with the value.
pub struct EarlierManifest(Raw);

/// A manifest that nothing drops: at the exit of a process the server must not be called.
#[derive(Clone, Copy)]
struct Raw {
    #[cfg(pg17_or_newer)]
    context: pg_sys::MemoryContext,
    /// Context for one call.
    #[cfg(pg17_or_newer)]
    scratch: pg_sys::MemoryContext,
    #[cfg(pg17_or_newer)]
    info: *mut Info,
    /// Owner of the parser's checksum, which must outlive the statement.
    #[cfg(pg17_or_newer)]
    owner: pg_sys::ResourceOwner,
}

/// Place of a relation file.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(pg17_or_newer), allow(dead_code))]
pub struct Place {
    /// 0 for shared relations.
    pub database: u32,
    /// pg_default and pg_global too have an oid here.
    pub tablespace: u32,
    /// The parts of its name.
    pub file: RelationFile,
}

thread_local! {
    /// The manifest that this session uploads.
    static UPLOADED: Cell<Option<Raw>> = const { Cell::new(None) };
}

/// Makes sure that this server can take incremental backups.
///
/// # Errors
/// `feature_not_supported`.
pub fn check_supported() -> Result<()> {
    if cfg!(pg17_or_newer) {
        return Ok(());
    }
    Err(Error::new(
        Sqlstate::ERRCODE_FEATURE_NOT_SUPPORTED,
        "incremental backups are not supported by this version of PostgreSQL",
    )
    .hint("Incremental backups need PostgreSQL 17 or later. Take a full backup."))
}

/// Adds a part to the manifest that this session uploads.
///
/// # Errors
/// As [`check_supported`]; raises the server's own errors, after which the upload begins anew.
pub fn upload(part: &[u8]) -> Result<()> {
    check_supported()?;
    #[cfg(not(pg17_or_newer))]
    let _ = part;
    #[cfg(pg17_or_newer)]
    {
        let manifest = UPLOADED
            .take()
            .map_or_else(EarlierManifest::new, EarlierManifest);
        let _owner = Owner::enter(manifest.0.owner);
        for piece in part.chunks(PIECE) {
            // SAFETY: guarded. The bytes are copied.
            unsafe {
                bindings::AppendIncrementalManifestData(
                    manifest.0.info,
                    piece.as_ptr().cast(),
                    piece.len() as core::ffi::c_int,
                );
            }
        }
        UPLOADED.set(Some(manifest.0));
        core::mem::forget(manifest);
    }
    Ok(())
}

/// Takes the manifest that this session has uploaded, checked as far as it says so itself.
///
/// # Errors
/// `object_not_in_prerequisite_state` where WAL is not summarized or no manifest was uploaded; raises
/// the server's own errors about the manifest.
pub fn take_uploaded() -> Result<EarlierManifest> {
    check_supported()?;
    #[cfg(pg17_or_newer)]
    // SAFETY: a setting of the server.
    if !unsafe { summarize_wal } {
        return Err(Error::new(
            Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "incremental backups cannot be taken unless WAL summarization is enabled",
        )
        .hint(
            "Set summarize_wal = on. Summaries are needed from the start of the earlier backup on.",
        ));
    }
    let manifest = UPLOADED.take().map(EarlierManifest).ok_or_else(|| {
        Error::new(
            Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "must upload a manifest before an incremental backup",
        )
        .hint("Call upload_manifest() in this session with the backup_manifest of the earlier backup.")
    })?;
    #[cfg(pg17_or_newer)]
    {
        let _owner = Owner::enter(manifest.0.owner);
        // SAFETY: guarded; called once.
        unsafe { bindings::FinalizeIncrementalManifest(manifest.0.info) };
    }
    Ok(manifest)
}

#[cfg(pg17_or_newer)]
impl EarlierManifest {
    fn new() -> Self {
        // SAFETY: guarded by pgrx. Both contexts live until they are deleted.
        unsafe {
            let create = |parent, name: &'static core::ffi::CStr| {
                pg_sys::AllocSetContextCreateInternal(
                    parent,
                    name.as_ptr(),
                    pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
                )
            };
            let context = create(pg_sys::TopMemoryContext, c"incremental backup information");
            let scratch = create(context, c"one file of an incremental backup");
            let owner = pg_sys::ResourceOwnerCreate(
                core::ptr::null_mut(),
                c"incremental backup information".as_ptr(),
            );
            let _owner = Owner::enter(owner);
            let info = bindings::CreateIncrementalBackupInfo(context);
            Self(Raw {
                context,
                scratch,
                info,
                owner,
            })
        }
    }

    /// Waits for the summaries of the WAL up to the start of a backup and reads them. Notes in `state`,
    /// and so in backup_label, which backup it follows. Interrupts are served.
    ///
    /// Raises the server's own errors: summaries that are missing, timelines that do not lead here.
    pub fn prepare(&self, state: &mut pg_sys::BackupState) {
        // SAFETY: guarded; the manifest has been finalized.
        unsafe { bindings::PrepareForIncrementalBackup(self.0.info, state) }
    }

    /// Which blocks of a relation file have changed: their numbers come first in `blocks`, which has room
    /// for those of a whole segment. Returns their number and the truncation length; `None` where the
    /// file is to be sent as a whole.
    ///
    /// # Errors
    /// Raises the server's own errors.
    pub fn changed_blocks(
        &self,
        path: &[u8],
        place: Place,
        size: u64,
        blocks: &mut [u32],
    ) -> Result<Option<(u32, u32)>> {
        debug_assert!(blocks.len() >= pg_sys::RELSEG_SIZE as usize);
        let Ok(path) = CString::new(path) else {
            return Ok(None);
        };
        let (mut count, mut truncation_length) = (0, 0);
        let file = place.file;
        let _context = Scratch::enter(self.0.scratch);
        // SAFETY: guarded. The path is terminated, and the array has room for the blocks of a segment.
        let method = unsafe {
            bindings::GetFileBackupMethod(
                self.0.info,
                path.as_ptr(),
                pg_sys::Oid::from(place.database),
                pg_sys::Oid::from(place.tablespace),
                pg_sys::Oid::from(file.relfilenode),
                // Fork has the order of ForkNumber.
                file.fork as core::ffi::c_int,
                file.segment,
                size as usize,
                &raw mut count,
                blocks.as_mut_ptr(),
                &raw mut truncation_length,
            )
        };
        Ok((method == INCREMENTALLY).then_some((count, truncation_length)))
    }
}

/// A resource owner that is the current one for as long as the value lives.
#[cfg(pg17_or_newer)]
struct Owner {
    before: pg_sys::ResourceOwner,
}

#[cfg(pg17_or_newer)]
impl Owner {
    fn enter(owner: pg_sys::ResourceOwner) -> Self {
        // SAFETY: a variable of this process. The owner lives longer than this value.
        unsafe {
            let before = pg_sys::CurrentResourceOwner;
            pg_sys::CurrentResourceOwner = owner;
            Self { before }
        }
    }
}

#[cfg(pg17_or_newer)]
impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the owner of the statement, which still runs.
        unsafe { pg_sys::CurrentResourceOwner = self.before }
    }
}

/// A context that is the current one for as long as the value lives, and is empty afterwards.
#[cfg(pg17_or_newer)]
struct Scratch {
    context: pg_sys::MemoryContext,
    before: pg_sys::MemoryContext,
}

#[cfg(pg17_or_newer)]
impl Scratch {
    fn enter(context: pg_sys::MemoryContext) -> Self {
        // SAFETY: the context lives longer than this value.
        let before = unsafe { pg_sys::MemoryContextSwitchTo(context) };
        Self { context, before }
    }
}

#[cfg(pg17_or_newer)]
impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: both contexts live. Neither call raises.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.before);
            pg_sys::MemoryContextReset(self.context);
        }
    }
}

#[cfg(not(pg17_or_newer))]
impl EarlierManifest {
    /// No file: such a server gives no manifest out.
    ///
    /// # Errors
    /// None.
    pub fn changed_blocks(
        &self,
        _path: &[u8],
        _place: Place,
        _size: u64,
        _blocks: &mut [u32],
    ) -> Result<Option<(u32, u32)>> {
        Ok(None)
    }
}

#[cfg(pg17_or_newer)]
impl Drop for EarlierManifest {
    fn drop(&mut self) {
        use pg_sys::ResourceReleasePhase as Phase;
        // SAFETY: owner and context are this value's own and nobody's current ones: calls that fail give
        // those back. What is owned lies in the context, so it goes first. An owner that is released as
        // by an abort raises nothing, and neither does the end of a context.
        unsafe {
            for phase in [
                Phase::RESOURCE_RELEASE_BEFORE_LOCKS,
                Phase::RESOURCE_RELEASE_LOCKS,
                Phase::RESOURCE_RELEASE_AFTER_LOCKS,
            ] {
                pg_sys::ResourceOwnerRelease(self.0.owner, phase, false, false);
            }
            pg_sys::ResourceOwnerDelete(self.0.owner);
            pg_sys::MemoryContextDelete(self.0.context);
        }
    }
}
