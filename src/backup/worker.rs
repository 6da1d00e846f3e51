//! Worker: a session that streams files of a backup.

use crate::backup::file_table::{FileTable, PartSlot, Slot};
use crate::backup::state::{BackupState, Phase};
use crate::server::encoding;
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate};

use super::gate::Passage;
use super::lookup::{self, Found};
use super::options::Target;
use super::queue::{InUse, QueueCursor};

/// Check of a stream whether its backup still runs.
#[derive(Clone, Copy)]
pub enum RunningCheck<'a> {
    /// A worker's stream ends with the backup.
    Worker {
        /// The backup.
        backup: &'a BackupState,
        /// Its `backup_id`.
        backup_id: i64,
    },
    /// The WAL stream fails with the backup, but may outlast a stop.
    WalSender {
        /// The backup.
        backup: &'a BackupState,
        /// Its `backup_id`.
        backup_id: i64,
    },
    /// The backup ends with the leader's stream.
    Leader,
}

impl RunningCheck<'_> {
    /// Checks.
    ///
    /// # Errors
    /// `object_not_in_prerequisite_state` where it does not.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Worker { backup, backup_id } => check_running(backup, backup_id),
            Self::WalSender { backup, backup_id } => match backup.phase() {
                Phase::Stopping | Phase::TransferringWal | Phase::Stopped => Ok(()),
                _ => check_running(backup, backup_id),
            },
            Self::Leader => Ok(()),
        }
    }
}

/// Membership of a session in a backup. On drop its unsettled files return to the queue.
pub struct Worker {
    found: Found,
    number: u32,
}

impl Worker {
    /// Joins a backup; `None` stands for the one that this session leads.
    ///
    /// # Errors
    /// As [`lookup::find`]; `object_not_in_prerequisite_state` where the backup is being stopped.
    pub fn join(backup_id: Option<i64>) -> Result<Self> {
        let found = lookup::find(backup_id)?;
        check_running(&found.backup, found.backup_id)?;
        let number = found.files.table().register_worker();
        if !found.is_own {
            found.files.release_on_detach(number);
        }
        Ok(Self { found, number })
    }

    /// The backup's state.
    #[must_use]
    pub fn backup(&self) -> &BackupState {
        &self.found.backup
    }

    /// The backup's files.
    #[must_use]
    pub fn table(&self) -> FileTable<'_> {
        self.found.files.table()
    }

    /// Takes the next files of the queue that `wanted` accepts. Leaves `batch` empty where there is
    /// none left. The batch ends with the file that brings it to `most_bytes`, or earlier.
    pub fn take<'a>(
        &'a self,
        position: &mut QueueCursor,
        target: Target,
        wanted: impl Fn(&Slot) -> bool,
        most_bytes: u64,
        batch: &mut Vec<&'a Slot>,
    ) {
        let table = self.table();
        // What went nowhere still has to go to a client.
        let also_discarded = target == Target::Client;
        table.take(
            self.number,
            position,
            also_discarded,
            wanted,
            most_bytes,
            batch,
        );
    }

    /// Takes the next part of a file that this worker has divided. `None` where none is left.
    pub fn take_part_of(&self, slot: &Slot) -> Option<&PartSlot> {
        self.table().take_first_part(self.number, slot)
    }

    /// Takes a part of a file that another worker has divided. `None` where none is left.
    pub fn take_part(&self) -> Option<&PartSlot> {
        self.table().take_last_part(self.number)
    }

    /// Takes files by name, also those that have been sent before. Takes none where one cannot be
    /// had.
    ///
    /// # Errors
    /// `object_in_use` where a stream that still runs has one of them;
    /// `object_not_in_prerequisite_state` where a stop counts what was sent.
    pub fn take_all(&self, slots: &[&Slot]) -> Result<()> {
        let table = self.table();
        let passage = self.enter_gate()?;
        let taken = table.take_named(self.number, slots, &passage)?;
        drop(passage);
        taken.map_err(|InUse { index }| self.in_use(&table.slots()[index]))
    }

    /// Enters the gate.
    fn enter_gate(&self) -> Result<Passage<'_>> {
        let passage = self.table().header().gate.enter();
        self.check_running()?;
        passage.ok_or_else(|| {
            Error::new(
                Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("backup {} is being stopped", self.found.backup_id),
            )
            .detail("Its leader counts the files that have been sent.")
            .hint("Should the stop be refused, files can be sent again.")
        })
    }

    fn in_use(&self, slot: &Slot) -> Error {
        let path = encoding::display(self.table().path(slot)).into_owned();
        Error::new(
            Sqlstate::ERRCODE_OBJECT_IN_USE,
            format!("file \"{path}\" is being sent by another worker"),
        )
        .hint("It can be sent again when that worker has ended.")
    }

    /// Makes sure that the backup still runs.
    ///
    /// # Errors
    /// `object_not_in_prerequisite_state`.
    pub fn check_running(&self) -> Result<()> {
        check_running(self.backup(), self.found.backup_id)
    }

    /// The check for the stages of a stream.
    #[must_use]
    pub fn running_check(&self) -> RunningCheck<'_> {
        RunningCheck::Worker {
            backup: self.backup(),
            backup_id: self.found.backup_id,
        }
    }

    /// Makes sure that a standby is still one.
    ///
    /// # Errors
    /// `object_not_in_prerequisite_state`, in core's words.
    pub fn check_not_promoted(&self) -> Result<()> {
        check_not_promoted(self.backup())
    }

    /// Settles or discards the files of a stream that has ended well.
    ///
    /// # Errors
    /// Where the backup has ended meanwhile, or is being stopped.
    pub fn settle(&self, target: Target) -> Result<()> {
        match target {
            Target::Client => {
                let passage = self.enter_gate()?;
                self.table().settle(self.number, &passage);
            }
            Target::Blackhole => {
                self.check_running()?;
                self.table().discard(self.number);
            }
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.found.is_own {
            // The leader's mapping stays, so that no detach callback does it. When the leader's
            // process exits without coming here, the whole backup ends.
            self.table().release_worker(self.number);
        }
    }
}

/// Makes sure that workers may send files of a backup.
///
/// # Errors
/// `object_not_in_prerequisite_state`.
pub fn check_running(backup: &BackupState, backup_id: i64) -> Result<()> {
    let detail = match backup.phase() {
        Phase::Streaming => return Ok(()),
        Phase::Initializing
        | Phase::WaitingForCheckpoint
        | Phase::WaitingForSummaries
        | Phase::ListingFiles => "It has not started yet.",
        Phase::Stopping | Phase::TransferringWal | Phase::Stopped => "Its leader has stopped it.",
        Phase::Aborted => "Its leader has aborted it, or failed.",
        Phase::Abandoned => "The session of its leader has ended.",
    };
    Err(Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("backup {backup_id} has ended"),
    )
    .detail(detail)
    .hint("What this stream has sent is no part of a backup. Start a new one."))
}

/// The error of a promotion where there was one, which explains any other failure.
#[must_use]
pub fn or_promotion(backup: &BackupState, failure: Error) -> Error {
    check_not_promoted(backup).err().unwrap_or(failure)
}

/// Makes sure that a standby is still one.
///
/// # Errors
/// `object_not_in_prerequisite_state`, in core's words.
pub fn check_not_promoted(backup: &BackupState) -> Result<()> {
    if backup.options().started_in_recovery && !recovery::is_in_recovery() {
        return Err(Error::new(
            Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the standby was promoted during online backup",
        )
        .hint("This means that the backup being taken is corrupt and should not be used. Try taking another online backup."));
    }
    Ok(())
}
