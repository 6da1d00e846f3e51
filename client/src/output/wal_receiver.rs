//! Receiver of WAL files: of a WAL stream, and of the closing stream beside its other files.

use anyhow::{Error, Result, ensure};
use backup_format::archive::FilePart;
use backup_format::lsn::Lsn;
use backup_format::member::{Kind, Member, Receiver};
use backup_format::wal::SegmentName;

use crate::console::progress::{Counter, Tally};
use crate::manifest::backup_path::display;
use crate::output::wal_store::{PG_WAL, WalFile, WalStore, is_wal_file};
use crate::stream::input::Input;

/// Suffix of a file of the WAL stream until it is whole, as pg_receivewal has it.
const PARTIAL: &str = ".partial";
/// The same for the closing stream.
const CLOSING_PARTIAL: &str = ".closing.partial";

/// Receives WAL files. Those that the store has already are skipped.
pub struct WalReceiver<'a> {
    store: &'a WalStore<'a>,
    suffix: &'static str,
    tally: Tally<'a>,
    current: Option<Current<'a>>,
    end: Option<Lsn>,
}

struct Current<'a> {
    /// Its name, relative to `pg_wal`.
    name: Vec<u8>,
    size: u64,
    /// `None` for one that is skipped.
    file: Option<WalFile<'a>>,
}

/// WAL stream while it arrives.
pub struct WalStream<'a> {
    input: Input,
    receiver: WalReceiver<'a>,
}

/// Receiver of a closing stream: WAL files go to the receiver of WAL, all others to another.
pub struct ClosingReceiver<'r, 'a, R> {
    /// Receiver of WAL files; `None` if they are as all others.
    pub wal: Option<&'r mut WalReceiver<'a>>,
    /// Receiver of all others.
    pub files: &'r mut R,
}

impl<'a> WalReceiver<'a> {
    /// Receiver of the closing stream's WAL.
    pub fn of_closing(store: &'a WalStore<'a>, counter: &'a Counter) -> Self {
        Self::new(store, CLOSING_PARTIAL, counter)
    }

    fn new(store: &'a WalStore<'a>, suffix: &'static str, counter: &'a Counter) -> Self {
        Self {
            store,
            suffix,
            tally: Tally::new(counter),
            current: None,
            end: None,
        }
    }

    /// Name of the current file.
    pub fn current(&self) -> Option<String> {
        (self.current.as_ref()).map(|current| display(&[PG_WAL, &current.name].concat()))
    }

    /// The stream has ended well. Has its files on disk, and returns the end of its newest segment.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn finish(self) -> Result<Option<Lsn>> {
        self.store.settle()?;
        Ok(self.end)
    }

    fn note_end(&mut self, segment: SegmentName) {
        let size = self.store.segment_size();
        let number = size.number_of(segment.log, segment.seg);
        self.end = self.end.max(Some(size.end_of(number)));
    }
}

impl Receiver for WalReceiver<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        let path = &member.path;
        ensure!(
            member.kind == Kind::File && is_wal_file(path),
            "the server sent \"{}\" as WAL, which is refused",
            display(path)
        );
        let name = path[PG_WAL.len()..].to_owned();
        let segment_size = u64::from(self.store.segment_size().bytes());
        ensure!(
            SegmentName::parse(&name).is_none() || member.size == segment_size,
            "unexpected WAL file size \"{}\"",
            display(&name)
        );
        let file = if self.store.has(&name) {
            None
        } else {
            let attributes = member.attributes;
            Some(self.store.create(&name, self.suffix, attributes)?)
        };
        self.current = Some(Current {
            name,
            size: member.size,
            file,
        });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(Current {
            file: Some(file), ..
        }) = &mut self.current
        {
            file.write(bytes)?;
            self.tally.add_bytes(bytes.len() as u64);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(Current { name, size, file }) = self.current.take() else {
            return Ok(());
        };
        if let Some(file) = file
            && self.store.keep(&name, size, file)?
        {
            // It stays, whatever comes of the stream.
            self.tally.add_file();
            self.tally.keep();
        }
        if let Some(segment) = SegmentName::parse(&name) {
            self.note_end(segment);
        }
        Ok(())
    }
}

impl<'a> WalStream<'a> {
    /// Begins.
    pub fn new(store: &'a WalStore<'a>, input: Input, counter: &'a Counter) -> Self {
        Self {
            input,
            receiver: WalReceiver::new(store, PARTIAL, counter),
        }
    }

    /// Processes the next bytes of the stream.
    ///
    /// # Errors
    /// An error for invalid bytes, and errors of the output.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { input, receiver } = self;
        input.push(bytes, |reader, plain| reader.push(plain, receiver))
    }

    /// Name of the current file.
    pub fn current(&self) -> Option<String> {
        self.receiver.current()
    }

    /// The stream has ended well. Has its files on disk, and returns the end of its newest segment.
    ///
    /// # Errors
    /// An error if the stream is incomplete, and errors of the operating system.
    pub fn finish(self) -> Result<Option<Lsn>> {
        self.input.finish()?;
        self.receiver.finish()
    }
}

impl<R> ClosingReceiver<'_, '_, R> {
    /// The receiver of WAL while it has the current member.
    fn wal_of_member(&mut self) -> Option<&mut impl Receiver<Error = Error>> {
        (self.wal.as_deref_mut()).filter(|wal| wal.current.is_some())
    }
}

impl<R: Receiver<Error = Error>> Receiver for ClosingReceiver<'_, '_, R> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        match &mut self.wal {
            Some(wal) if is_wal_file(&member.path) => wal.begin(member),
            _ => self.files.begin(member),
        }
    }

    fn begin_part(&mut self, member: &Member, part: FilePart) -> Result<()> {
        self.files.begin_part(member, part)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        match self.wal_of_member() {
            Some(wal) => wal.content(bytes),
            None => self.files.content(bytes),
        }
    }

    fn end(&mut self) -> Result<()> {
        match self.wal_of_member() {
            Some(wal) => wal.end(),
            None => self.files.end(),
        }
    }
}
