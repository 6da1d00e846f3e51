//! The stream of a worker: files of a backup, from its queue or from a list.

use backup_format::compression::Compression;
use backup_format::path;

use crate::backup::file_table::{FileTable, Slot};
use crate::backup::options::Target;
use crate::backup::queue::QueueCursor;
use crate::backup::worker::Worker;
use crate::backup::{damage, tablespace};
use crate::server::allocation::{self, ByteStrings};
use crate::server::backend_progress::{ProgressPhase, ProgressRow};
use crate::server::client;
use crate::server::encoding;
use crate::server::report::{Error, Result, Sqlstate, warning};
use crate::server::settings;

use super::archive::Archive;
use super::compress;
use super::file_sender::FileSender;
use super::throttle::Throttle;

/// Arguments of send_backup_files().
#[derive(Default)]
pub struct Request {
    /// `backup_id`; `None` for the backup of this session.
    pub backup_id: Option<i64>,
    /// Named files, in sending order; `None` to take files from the queue.
    pub files: Option<ByteStrings>,
    /// Tablespace to send; 0 for the data directory without tablespaces.
    pub tablespace: Option<u32>,
    /// kB/s of this stream.
    pub max_rate: Option<u32>,
    /// Override of the backup's setting.
    pub verify_checksums: Option<bool>,
    /// Override of the position from which a page counts as changed.
    pub start_lsn: Option<u64>,
    /// Bytes of files after which the archive ends, at the end of a file or a part; `None` for no limit. Only
    /// for files of the queue.
    pub max_bytes: Option<u64>,
    /// Whether the stream may have parts of large files, which workers share. Only for all files of the queue.
    pub parts: bool,
    /// How the archive is compressed.
    pub compression: Compression,
    /// Where it goes.
    pub target: Target,
}

/// Sends files of a backup into the stream of the running COPY.
///
/// # Errors
/// Where the backup or a file of the request does not exist, before anything is sent;
/// `data_corrupted` after everything is sent, where pages were bad; and those of the stream.
pub fn send(request: &Request) -> Result<()> {
    let worker = Worker::join(request.backup_id)?;
    let backup = worker.backup();
    let throttle = Throttle::new(
        request.max_rate,
        backup.options().max_rate,
        &backup.rate_clock,
    );
    let encoder = compress::encoder(request.compression)?;
    let mut archive = Archive::new(request.target, throttle, encoder, worker.running_check())?;
    let failures = send_files(&worker, request, &mut archive)?;
    archive.finish()?;
    worker.settle(request.target)?;
    match failures {
        0 => Ok(()),
        failures => Err(report_damage(failures)),
    }
}

/// Sends the files into an archive, and returns the number of bad pages in them.
///
/// # Errors
/// As [`send`], but for bad pages.
pub fn send_files(worker: &Worker, request: &Request, archive: &mut Archive<'_>) -> Result<u64> {
    worker.check_not_promoted()?;
    let table = worker.table();
    let options = worker.backup().options();
    let filter = Filter::new(request.tablespace, &table)?;
    let listed = match &request.files {
        Some(files) => {
            let slots = find_listed(&table, &filter, files)?;
            if request.claims() {
                worker.take_all(&slots)?;
            }
            Some(slots)
        }
        None => None,
    };

    let verify_checksums = request.verify_checksums.unwrap_or(options.verify_checksums);
    let verify_from = request
        .start_lsn
        .unwrap_or_else(|| worker.backup().start_lsn());
    let progress = ProgressRow::start(worker.backup().backup_type(), ProgressPhase::Streaming);
    progress.set_bytes_total(table.header().bytes_total.cast_signed());
    let prefix = filter.prefix();
    if !prefix.is_empty() && request.claims() {
        table.note_relative_stream();
    }
    let mut sender = FileSender {
        table,
        algorithm: options.algorithm,
        verify_from: (verify_checksums && settings::has_data_checksums()).then_some(verify_from),
        claimed: request.claims(),
        prefix,
        progress,
        bytes_sent: 0,
        failures: 0,
    };
    match listed {
        Some(slots) => {
            for slot in slots {
                worker.check_not_promoted()?;
                sender.send(archive, slot)?;
            }
        }
        None => send_queue(worker, request, archive, &filter, &mut sender)?,
    }
    Ok(sender.failures)
}

/// Sends files of the queue until none is left, or until there are as many bytes as were asked for.
fn send_queue(
    worker: &Worker,
    request: &Request,
    archive: &mut Archive<'_>,
    filter: &Filter,
    sender: &mut FileSender<'_>,
) -> Result<()> {
    let mut position = QueueCursor::default();
    let mut batch = Vec::new();
    let max_bytes = request.max_bytes.unwrap_or(u64::MAX);
    let most_bytes = |sender: &FileSender<'_>| max_bytes.saturating_sub(sender.bytes_sent);
    while most_bytes(sender) > 0 {
        worker.take(
            &mut position,
            request.target,
            |slot| filter.accepts(slot),
            most_bytes(sender),
            &mut batch,
        );
        // Files that have vanished send nothing, and so check nothing.
        client::check_interrupts();
        worker.check_running()?;
        for slot in &batch {
            worker.check_not_promoted()?;
            if !request.parts || !sender.can_divide(slot)? {
                sender.send(archive, slot)?;
                continue;
            }
            worker.table().divide(slot);
            while most_bytes(sender) > 0
                && let Some(part) = worker.take_part_of(slot)
            {
                worker.check_not_promoted()?;
                sender.send_part(archive, part)?;
            }
        }
        if batch.is_empty() {
            // Others may be glad of help.
            let Some(part) = request.parts.then(|| worker.take_part()).flatten() else {
                break;
            };
            worker.check_not_promoted()?;
            sender.send_part(archive, part)?;
        }
    }
    Ok(())
}

impl Request {
    /// Whether the request takes ownership of files. Named files for the blackhole keep their
    /// owner: they may have been sent, or be on their way in another stream.
    fn claims(&self) -> bool {
        self.target == Target::Client || self.files.is_none()
    }
}

/// The slots of a list.
fn find_listed<'a>(
    table: &FileTable<'a>,
    filter: &Filter,
    files: &ByteStrings,
) -> Result<Vec<&'a Slot>> {
    let mut slots = Vec::new();
    for name in files.iter() {
        let found = find(table, name).filter(|slot| filter.accepts(slot));
        let slot = found.ok_or_else(|| not_in_backup(name, filter))?;
        allocation::push(&mut slots, slot)?;
    }
    Ok(slots)
}

/// Finds an entry by its name in the listing.
fn find<'a>(table: &FileTable<'a>, name: &[u8]) -> Option<&'a Slot> {
    let path = encoding::listed_path(path::strip_current_directory(name))?;
    table.find(&path)
}

fn not_in_backup(name: &[u8], filter: &Filter) -> Error {
    let failure = Error::new(
        Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
        format!(
            "file \"{}\" is not part of the backup",
            encoding::display(name)
        ),
    );
    match filter.tablespace {
        None => failure.hint("backup_filelist() shows the files that are."),
        Some(0) => failure.detail("Only the data directory without tablespaces was asked for."),
        Some(oid) => failure.detail(format!("Only the tablespace with OID {oid} was asked for.")),
    }
}

/// Part of the listing that a stream covers.
struct Filter {
    tablespace: Option<u32>,
}

impl Filter {
    fn new(tablespace: Option<u32>, table: &FileTable<'_>) -> Result<Self> {
        if let Some(oid) = tablespace {
            tablespace::check_in_backup(oid, table)?;
        }
        Ok(Self { tablespace })
    }

    fn accepts(&self, slot: &Slot) -> bool {
        self.tablespace.is_none_or(|oid| slot.tablespace == oid)
    }

    /// Members of one tablespace have names relative to its location.
    fn prefix(&self) -> Vec<u8> {
        match self.tablespace {
            None | Some(0) => Vec::new(),
            Some(oid) => {
                let mut prefix = tablespace::directory(oid);
                prefix.push(b'/');
                prefix
            }
        }
    }
}

/// Reports the total of bad pages, and returns the error for the stream.
#[must_use]
pub fn report_damage(failures: u64) -> Error {
    if failures > 1 {
        warning(
            Sqlstate::ERRCODE_DATA_CORRUPTED,
            format!("{failures} total checksum verification failures"),
        );
    }
    damage::found()
        .detail("All files of this stream have been sent, but the backup cannot be completed.")
        .hint(
            "The warnings before this error and the server log name the damaged files and blocks.",
        )
}
