//! Stop of a backup: proof of completeness, core's stop, and the files that only the end of a
//! backup can write.

use core::sync::atomic::Ordering;
use std::collections::BTreeSet;
use std::time::Duration;

use backup_format::manifest::PathStyle;

use crate::backup::state::Phase;
use crate::server::backend_progress::{ProgressPhase, ProgressRow};
use crate::server::backup_control::{self, StoppedBackup};
use crate::server::control_file::{self, ControlFile};
use crate::server::encoding;
use crate::server::file;
use crate::server::interrupt::{self, WaitEvent};
use crate::server::report::{Error, Result, Sqlstate, warning};

use super::closing_files::{ClosingFile, ClosingFiles};
use super::files::SharedFiles;
use super::leader::{self, BackupGuard, Leader};
use super::manifest::Manifest;
use super::{damage, unlogged};

/// Number of paths in an error about an incomplete backup.
const EXAMPLES: usize = 5;

/// Backup that has left backup mode; its closing files remain to be handed over.
pub struct Stopped {
    /// Guard of the backup.
    pub running: BackupGuard,
    /// Stop position.
    pub end: StoppedBackup,
    /// pg_control as it was before the stop, after everything else.
    pub control_file: ControlFile,
    /// Init forks that were missing before the stop.
    init_forks: Vec<Vec<u8>>,
}

/// Stops the backup that this session leads. `check_handover` decides whether the last files can be
/// handed over, given the init forks among them. It is called while the gate is closed and the
/// backup can still go on.
///
/// # Errors
/// `object_not_in_prerequisite_state` where this session leads no backup, or where files have not
/// been sent, and those of `check_handover`; the backup then goes on. Any later error ends it,
/// `data_corrupted` among them, which says that workers found bad pages.
pub fn stop(
    wait_for_archive: bool,
    allow_incomplete: bool,
    check_handover: impl FnOnce(&Leader, &[Vec<u8>]) -> Result<()>,
) -> Result<Stopped> {
    let running = leader::take()?;
    let leader = running.leader();
    let closed = close_to_workers(leader, allow_incomplete, |leader| {
        let init_forks = unlogged::missing_init_forks(leader)?;
        check_handover(leader, &init_forks)?;
        Ok(init_forks)
    });
    let init_forks = match closed {
        Ok(init_forks) => init_forks,
        Err(failure) => {
            leader::resume(running);
            return Err(failure);
        }
    };
    let leader = running.leader();
    let _row = ProgressRow::start(
        leader.backup.backup_type(),
        ProgressPhase::WaitingForArchive,
    );
    if let Err(failure) = check_verified(leader) {
        running.end(Phase::Aborted);
        return Err(failure);
    }
    if leader.has_lost_retention() {
        warning(
            Sqlstate::ERRCODE_WARNING,
            "the background worker that retained the WAL of the backup has ended early",
        );
    }
    let control_file = control_file::read()?;
    let end = backup_control::stop(&leader.started, wait_for_archive)?;
    Ok(Stopped {
        running,
        end,
        control_file,
        init_forks,
    })
}

impl Stopped {
    /// Closing files, without WAL and manifest.
    #[must_use]
    pub fn closing_files(&self) -> ClosingFiles {
        let started = &self.running.leader().started;
        let mut before_wal = Vec::new();
        for (path, content) in [
            (&b"backup_label"[..], &started.backup_label),
            (b"tablespace_map", &started.tablespace_map),
        ] {
            if !content.is_empty() {
                before_wal.push(ClosingFile {
                    path: path.into(),
                    content: content.clone(),
                    attributes: file::attributes_of_new_file(),
                });
            }
        }
        ClosingFiles {
            before_wal,
            control_file: ClosingFile {
                path: control_file::PATH.into(),
                content: self.control_file.content.clone(),
                attributes: self.control_file.attributes,
            },
        }
    }

    /// Closing files of a stream, which include init forks.
    ///
    /// # Errors
    /// As [`unlogged::missing_init_forks`].
    pub fn closing_files_of_stream(&self) -> Result<ClosingFiles> {
        let mut closing = self.closing_files();
        let mut missing: BTreeSet<_> = self.init_forks.iter().cloned().collect();
        missing.extend(unlogged::missing_init_forks(self.running.leader())?);
        let init_forks = missing.into_iter().map(|path| ClosingFile {
            path: path.into(),
            content: Vec::new(),
            attributes: file::attributes_of_new_file(),
        });
        closing.before_wal.extend(init_forks);
        Ok(closing)
    }

    /// The manifest; `None` where the backup was started without one.
    ///
    /// # Errors
    /// As [`Manifest::with_end`].
    pub fn manifest(
        &self,
        closing: &ClosingFiles,
        path_style: PathStyle,
    ) -> Result<Option<Manifest>> {
        let leader = self.running.leader();
        Manifest::of_sent(leader, path_style)?
            .map(|manifest| manifest.with_end(leader, closing, self.end))
            .transpose()
    }

    /// Releases the retained WAL after it was sent.
    pub fn release_wal(&self) {
        self.running.leader().release_wal();
    }

    /// Ends the backup after everything was handed over.
    pub fn finish(self) {
        self.running.end(Phase::Stopped);
    }
}

/// Closes the backup to workers, unless files are missing or `check` fails.
fn close_to_workers<T>(
    leader: &Leader,
    allow_incomplete: bool,
    check: impl FnOnce(&Leader) -> Result<T>,
) -> Result<T> {
    let check_complete = || match allow_incomplete {
        true => Ok(()),
        false => check_complete(leader),
    };
    // A stop that comes too early disturbs nobody.
    check_complete()?;
    let files = leader.files();
    let table = files.as_ref().map(SharedFiles::table);
    let gate = table.map(|table| table.header().gate.close());
    while gate.as_ref().is_some_and(|gate| !gate.is_empty()) {
        // Passages are short. A cancel ends the backup, as everywhere in a stop.
        interrupt::wait(Duration::from_millis(1), WaitEvent::Extension);
    }
    check_complete()?;
    let checked = check(leader)?;
    leader.backup.enter(Phase::Stopping);
    leader.backup.wal.wake_sender();
    if let Some(gate) = gate {
        gate.keep_closed();
    }
    Ok(checked)
}

fn check_complete(leader: &Leader) -> Result<()> {
    let Some(files) = leader.files() else {
        return Ok(());
    };
    let table = files.table();
    let unsent = table.unsent(EXAMPLES);
    if unsent.count == 0 {
        return Ok(());
    }
    let names: Vec<_> = unsent
        .examples
        .iter()
        .map(|path| format!("\"{}\"", encoding::display(path)))
        .collect();
    let more = if unsent.count > names.len() {
        ", ..."
    } else {
        ""
    };
    let workers = table.header().workers.load(Ordering::Relaxed);
    let running = match workers {
        0 => String::new(),
        1 => " 1 worker is still sending.".to_owned(),
        count => format!(" {count} workers are still sending."),
    };
    Err(Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "backup is incomplete: {} of {} files have not been sent",
            unsent.count,
            table.slots().len()
        ),
    )
    .detail(format!("Not sent: {}{more}.{running}", names.join(", ")))
    .hint("Send them with send_backup_files(), with parts => true those that have arrived in parts, and stop again, end the backup with abort_backup(), or use allow_incomplete => true if they are copied by other means."))
}

fn check_verified(leader: &Leader) -> Result<()> {
    let failures = leader.files().map_or(0, |files| {
        files
            .table()
            .header()
            .checksum_failures
            .load(Ordering::Relaxed)
    });
    if failures == 0 {
        return Ok(());
    }
    Err(damage::found()
        .detail("The backup has been ended without a result.")
        .hint("The warnings of the workers and the server log name the damaged files and blocks. To back up a damaged cluster as it is, use start_backup(verify_checksums => false)."))
}
