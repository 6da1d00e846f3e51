//! Where a backup goes: a directory that starts as it is, or archives.

use anyhow::Result;
use backup_format::compression::Method;
use backup_format::wal::SegmentSize;

use crate::cli::configuration::{BackupConfig, Format};
use crate::console::progress::Counter;
use crate::manifest::incoming_files::IncomingFiles;
use crate::manifest::manifest_file::ManifestFile;
use crate::manifest::received_files::ReceivedFiles;
use crate::output::archive_set::ArchiveSet;
use crate::output::archive_stream::{Archive, Closing};
use crate::output::cleanup::CleanupList;
use crate::output::data_directory::DataDirectory;
use crate::output::layout::Layout;
use crate::output::new_backup::{NewBackup, Summary};
use crate::output::pipe::Commands;
use crate::output::unpacker::Unpacker;
use crate::output::wal_receiver::WalReceiver;
use crate::output::wal_store::{Place, WalStore};
use crate::runtime::cancellation::Cancellation;
use crate::stream::input::Input;
use crate::stream::member_check::Check;
use crate::stream::part::Tablespace;
use crate::stream::part::{Part, Request};

/// Bytes of files of a stream to a repository, at most.
const LARGEST_STREAM: u64 = 32 << 30;

/// Where a backup goes.
pub enum Target {
    /// A data directory.
    Plain(DataDirectory),
    /// Archives, and which ones.
    Tar(Box<ArchiveSet>, Vec<Part>),
}

/// What all streams of a backup have in common.
#[derive(Clone, Copy)]
pub struct Streams<'a> {
    /// By which method the server compresses them.
    pub method: Method,
    /// Whether the server was asked for parts of large files.
    pub has_parts: bool,
    /// Where their files count.
    pub received: &'a ReceivedFiles,
    /// Cancellation flag.
    pub cancellation: &'a Cancellation,
    /// What has arrived.
    pub counter: &'a Counter,
}

/// Where the WAL of the closing stream goes if there is a WAL stream, and what has arrived of it.
pub type ClosingWal<'a> = (&'a WalStore<'a>, &'a Counter);

/// What the bytes of a stream go into.
pub enum Sink<'a> {
    /// Files.
    Unpacker(Unpacker<'a>),
    /// An archive.
    Archive(Archive<'a>),
    /// The end of the first archive.
    Closing(Closing<'a>),
}

impl Target {
    /// Makes the directories, with a mode. What was made is in `made` also when it fails.
    ///
    /// # Errors
    /// As [`DataDirectory::create`].
    pub fn create(
        config: &BackupConfig,
        tablespaces: &[Tablespace],
        (jobs, commands): (usize, &Commands),
        mode: u32,
        repository: Option<NewBackup>,
        cleanup: &mut CleanupList,
    ) -> Result<Self> {
        Ok(match config.format {
            Format::Plain => {
                let layout = Layout {
                    target: &config.target,
                    waldir: config.waldir.as_deref(),
                    mapping: &config.mapping,
                };
                let folder = DataDirectory::create(layout, tablespaces, mode, cleanup)?;
                Self::Plain(folder.synchronized(config.sync.is_some()))
            }
            Format::Tar => {
                let mut parts = vec![Part::Base];
                parts.extend(tablespaces.iter().map(|t| Part::Tablespace(t.oid)));
                let archives =
                    ArchiveSet::create(config, (jobs, commands), mode, repository, cleanup)?;
                Self::Tar(Box::new(archives), parts)
            }
        })
    }

    /// The entry in a repository, if the backup is in one.
    pub fn repository(&self) -> Option<&NewBackup> {
        match self {
            Self::Plain(_) => None,
            Self::Tar(archives, _) => archives.repository(),
        }
    }

    /// What each worker asks for, one after the other.
    pub fn requests(&self) -> Vec<Request> {
        match self {
            Self::Plain(_) => vec![Request::All],
            Self::Tar(_, parts) => parts.iter().copied().map(Request::Part).collect(),
        }
    }

    /// Bytes after which a worker's stream ends. One worker alone has one archive, as pg_basebackup: it
    /// is one stream where another stream cannot continue it. In a repository every archive has a limit,
    /// because objects have.
    pub fn stream_size(&self, config: &BackupConfig, jobs: usize) -> Option<u64> {
        match self {
            Self::Tar(archives, _) if archives.has_indexes() => {
                Some((config.stream_size).map_or(LARGEST_STREAM, |size| size.min(LARGEST_STREAM)))
            }
            Self::Tar(archives, _) if jobs == 1 && !archives.are_continued() => None,
            _ => config.stream_size,
        }
    }

    /// Sink of a worker's request.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn sink<'a>(
        &'a self,
        request: Request,
        worker: usize,
        streams: Streams<'a>,
    ) -> Result<Sink<'a>> {
        let Streams {
            method,
            has_parts,
            received,
            cancellation,
            counter,
        } = streams;
        let input = Input::new(method)?;
        Ok(match (self, request) {
            (Self::Tar(archives, _), Request::Part(part)) => {
                let check = Check::new(part.prefix(), received, counter);
                let id = archives.next(part, worker);
                Sink::Archive(Archive::new(archives, id, input, check, cancellation)?)
            }
            (Self::Tar(..), Request::All) => self.closing_sink(streams, None)?,
            (Self::Plain(folder), _) => {
                let arriving = IncomingFiles::new(received, counter);
                let unpacker = Unpacker::new(folder, input, arriving, cancellation);
                Sink::Unpacker(unpacker.with_parts(has_parts))
            }
        })
    }

    /// Sink of the closing stream.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn closing_sink<'a>(
        &'a self,
        streams: Streams<'a>,
        wal: Option<ClosingWal<'a>>,
    ) -> Result<Sink<'a>> {
        let Streams {
            method,
            received,
            cancellation,
            counter,
            ..
        } = streams;
        let input = Input::new(method)?;
        let wal = wal.map(|(store, counter)| WalReceiver::of_closing(store, counter));
        Ok(match self {
            Self::Tar(archives, _) => {
                let create = || archives.create_manifest();
                let check = Check::with_manifest(received, counter, create);
                let closing = Closing::new(archives, input, check, cancellation)?;
                Sink::Closing(closing.with_wal(wal))
            }
            Self::Plain(folder) => {
                let arriving = IncomingFiles::new(received, counter);
                let unpacker = Unpacker::new(folder, input, arriving, cancellation);
                Sink::Unpacker(unpacker.with_wal(wal))
            }
        })
    }

    /// Store of the backup's WAL files, if there is a WAL stream with segments of some size.
    pub fn wal_store<'a>(
        &'a self,
        config: &BackupConfig,
        segment_size: Option<SegmentSize>,
        cancellation: &'a Cancellation,
    ) -> Option<WalStore<'a>> {
        let place = match self {
            Self::Plain(folder) => Place::Directory(folder),
            Self::Tar(archives, _) => Place::Archive(archives),
        };
        let sync = config.sync.is_some();
        segment_size.map(|size| WalStore::new(place, size, sync, cancellation))
    }

    /// Which request is for an entry of the backup.
    pub fn request_for(&self, path: &[u8]) -> Request {
        match self {
            Self::Plain(_) => Request::All,
            Self::Tar(_, parts) => {
                let holds = |part: &&Part| **part != Part::Base && path.starts_with(&part.prefix());
                Request::Part(parts.iter().find(holds).copied().unwrap_or(Part::Base))
            }
        }
    }

    /// For what is asked for again when the workers are done.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn late_sink<'a>(&'a self, request: Request, streams: Streams<'a>) -> Result<Sink<'a>> {
        match (self, request) {
            (Self::Tar(archives, _), Request::Part(Part::Base)) if !archives.has_indexes() => {
                let check = Check::new(Vec::new(), streams.received, streams.counter);
                let input = Input::new(streams.method)?;
                Ok(Sink::Closing(Closing::new(
                    archives,
                    input,
                    check,
                    streams.cancellation,
                )?))
            }
            (Self::Tar(archives, _), Request::Part(part)) => {
                self.sink(request, archives.late(part).worker, streams)
            }
            _ => self.sink(request, 0, streams),
        }
    }

    /// The manifest that was received.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn take_manifest(&self) -> Result<ManifestFile> {
        match self {
            Self::Plain(folder) => folder.manifest(),
            Self::Tar(archives, _) => archives.take_manifest(),
        }
    }

    /// Makes a standby of the backup, where it is a data directory.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn make_standby(&self, settings: &str) -> Result<()> {
        match self {
            Self::Plain(folder) => folder.make_standby(settings),
            Self::Tar(..) => Ok(()),
        }
    }

    /// All is as the manifest says: writes what has waited for that.
    ///
    /// # Errors
    /// As [`ArchiveSet::end`].
    pub fn end(
        &self,
        manifest: Option<&ManifestFile>,
        summary: &Summary,
        cancellation: &Cancellation,
    ) -> Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tar(archives, _) => archives.end(manifest, summary, cancellation),
        }
    }

    /// Everything is there, and on disk: takes away the mark.
    ///
    /// # Errors
    /// As [`ArchiveSet::finish`].
    pub fn finish(
        &self,
        manifest: Option<&ManifestFile>,
        cancellation: &Cancellation,
    ) -> Result<()> {
        match self {
            Self::Plain(folder) => folder.finish(manifest.is_some()),
            Self::Tar(archives, _) => archives.finish(manifest, cancellation),
        }
    }
}

impl Sink<'_> {
    /// Processes the next bytes of the stream.
    ///
    /// # Errors
    /// An error for invalid bytes, and errors of the output.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Unpacker(unpacker) => unpacker.take(bytes),
            Self::Archive(archive) => archive.take(bytes),
            Self::Closing(closing) => closing.take(bytes),
        }
    }

    /// The stream has failed, and what it held comes again in another.
    ///
    /// # Errors
    /// As [`Archive::discard`].
    pub fn discard(self) -> Result<()> {
        match self {
            Self::Unpacker(unpacker) => unpacker.discard(),
            Self::Archive(archive) => archive.discard()?,
            Self::Closing(closing) => closing.discard(),
        }
        Ok(())
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        match self {
            Self::Unpacker(unpacker) => unpacker.current(),
            Self::Archive(archive) => archive.current(),
            Self::Closing(closing) => closing.current(),
        }
    }

    /// The stream has ended well: its files count.
    ///
    /// # Errors
    /// An error if the stream or its archive is incomplete, and if another stream that ended well
    /// had the same file.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Unpacker(unpacker) => unpacker.finish(),
            Self::Archive(archive) => archive.finish(),
            Self::Closing(closing) => closing.finish(),
        }
    }
}
