//! A backup in tar archives: `base.tar` and one for each tablespace, as pg_basebackup names them.
//! With several workers each has archives of its own, `base.0.tar`, `base.1.tar` and so on, and all
//! of them unpacked into one directory are the backup.
//!
//! The archives are what the server sends, byte for byte, checked on the way. Only the first is
//! continued: the closing stream goes to its end, but for the manifest, which is a file beside
//! them. Until then it has another name.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, ensure};
use backup_format::archive::{self, END};
use backup_format::checksum::Algorithm;
use backup_format::member::{Kind, Member, Reader, Receiver};

use crate::check::Check;
use crate::folder::MANIFEST;
use crate::made::Made;
use crate::plan::Plan;
use crate::progress::Counter;
use crate::received::Files;
use crate::stop::Stop;

/// What an archive is called until it is complete.
const UNFINISHED: &str = ".unfinished";

/// The archives of a backup.
#[derive(Debug)]
pub struct Archives {
    target: PathBuf,
    jobs: usize,
    file_mode: u32,
}

/// What one archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The data directory without tablespaces.
    Base,
    /// One tablespace.
    Tablespace(u32),
}

impl Part {
    /// As the server's function wants it.
    pub fn oid(self) -> u32 {
        match self {
            Self::Base => 0,
            Self::Tablespace(oid) => oid,
        }
    }

    /// What precedes the names of its members in the manifest.
    fn prefix(self) -> Vec<u8> {
        match self {
            Self::Base => Vec::new(),
            Self::Tablespace(oid) => format!("pg_tblspc/{oid}/").into_bytes(),
        }
    }
}

impl Archives {
    /// Makes the directory.
    ///
    /// # Errors
    /// Where it exists and is not empty, or cannot be made.
    pub fn create(plan: &Plan, mode: u32, made: &mut Made) -> Result<Self> {
        made.directory(&plan.target, mode)?;
        Ok(Self {
            target: plan.target.clone(),
            jobs: plan.jobs,
            // Who may enter the directory may read what is in it.
            file_mode: mode & 0o640,
        })
    }

    fn path(&self, part: Part, worker: usize) -> PathBuf {
        let name = match part {
            Part::Base => "base".to_owned(),
            Part::Tablespace(oid) => oid.to_string(),
        };
        self.target.join(if self.jobs == 1 {
            format!("{name}.tar")
        } else {
            format!("{name}.{worker}.tar")
        })
    }

    fn create_file(&self, path: &Path) -> Result<File> {
        let mut options = File::options();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(self.file_mode);
        options
            .open(path)
            .with_context(|| format!("could not create file \"{}\"", path.display()))
    }

    fn first_unfinished(&self) -> PathBuf {
        with_mark(self.path(Part::Base, 0))
    }

    /// Begins the archive of a worker, anew where it has failed before.
    ///
    /// # Errors
    /// The operating system's.
    pub fn begin<'a>(
        &self,
        part: Part,
        worker: usize,
        algorithm: Algorithm,
        stop: &'a Stop,
        counter: &'a Counter,
    ) -> Result<Archive<'a>> {
        let is_first = part == Part::Base && worker == 0;
        let path = if is_first {
            self.first_unfinished()
        } else {
            self.path(part, worker)
        };
        let file = self.create_file(&path)?;
        Ok(Archive {
            file,
            path,
            may_be_empty: !is_first,
            reader: Reader::default(),
            check: Check::new(part.prefix(), algorithm, counter),
            stop,
        })
    }

    /// Continues the first archive with the closing stream.
    ///
    /// # Errors
    /// The operating system's, and where the archive is none.
    pub fn continue_first<'a>(
        &self,
        algorithm: Algorithm,
        stop: &'a Stop,
        counter: &'a Counter,
    ) -> Result<Closing<'a>> {
        let path = self.first_unfinished();
        let open = || {
            let mut file = File::options().read(true).write(true).open(&path)?;
            let end = file.seek(SeekFrom::End(-(END.len() as i64)))?;
            let mut last = Vec::new();
            file.read_to_end(&mut last)?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            Ok::<_, std::io::Error>((file, last))
        };
        let (file, last) =
            open().with_context(|| format!("could not continue file \"{}\"", path.display()))?;
        ensure!(
            last == END,
            "file \"{}\" does not end as an archive does",
            path.display()
        );
        let manifest_path = with_mark(self.manifest_path());
        let manifest = self.create_file(&manifest_path)?;
        Ok(Closing {
            reader: Reader::default(),
            stop,
            output: Output {
                file,
                manifest,
                path,
                in_manifest: false,
                left_to_pad: 0,
                check: Check::new(Vec::new(), algorithm, counter),
            },
        })
    }

    fn manifest_path(&self) -> PathBuf {
        let name = String::from_utf8_lossy(MANIFEST);
        self.target.join(name.as_ref())
    }

    /// The content of the manifest.
    ///
    /// # Errors
    /// The operating system's.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        fs::read(with_mark(self.manifest_path())).context("could not read the backup manifest")
    }

    /// Everything is there: gives the first archive and the manifest their names.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&self, with_manifest: bool) -> Result<()> {
        let manifest = self.manifest_path();
        let rename = |to: PathBuf| {
            fs::rename(with_mark(to.clone()), &to)
                .with_context(|| format!("could not rename file to \"{}\"", to.display()))
        };
        if with_manifest {
            rename(manifest)?;
        } else {
            fs::remove_file(with_mark(manifest)).context("could not remove an empty manifest")?;
        }
        rename(self.path(Part::Base, 0))
    }
}

fn with_mark(path: PathBuf) -> PathBuf {
    let mut path = path.into_os_string();
    path.push(UNFINISHED);
    path.into()
}

/// The archive of a worker.
pub struct Archive<'a> {
    file: File,
    path: PathBuf,
    may_be_empty: bool,
    reader: Reader,
    check: Check<'a>,
    stop: &'a Stop,
}

impl Archive<'_> {
    /// The file that is being received.
    pub fn current(&self) -> Option<String> {
        self.check.current()
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// What is wrong with them, and where they cannot be written.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.stop.check()?;
        self.reader.push(bytes, &mut self.check)?;
        self.file
            .write_all(bytes)
            .with_context(|| format!("could not write file \"{}\"", self.path.display()))
    }

    /// The stream has ended well; returns what it held. An archive of nothing does not stay.
    ///
    /// # Errors
    /// Where it has not.
    pub fn finish(self) -> Result<Files> {
        self.reader.finish()?;
        if self.may_be_empty && self.check.is_empty() {
            fs::remove_file(&self.path)
                .with_context(|| format!("could not remove file \"{}\"", self.path.display()))?;
        }
        Ok(self.check.into_files())
    }
}

/// The closing stream on its way to the end of the first archive.
pub struct Closing<'a> {
    reader: Reader,
    stop: &'a Stop,
    output: Output<'a>,
}

struct Output<'a> {
    file: File,
    manifest: File,
    path: PathBuf,
    in_manifest: bool,
    left_to_pad: usize,
    check: Check<'a>,
}

impl Closing<'_> {
    /// The file that is being received.
    pub fn current(&self) -> Option<String> {
        self.output.check.current()
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// As [`Archive::take`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.stop.check()?;
        self.reader.push(bytes, &mut self.output)
    }

    /// The stream has ended well; returns what it held.
    ///
    /// # Errors
    /// Where it has not.
    pub fn finish(mut self) -> Result<Files> {
        self.reader.finish()?;
        self.output.write(&END)?;
        Ok(self.output.check.into_files())
    }
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("could not write file \"{}\"", self.path.display()))
    }
}

impl Receiver for Output<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        self.check.begin(member)?;
        self.in_manifest = member.kind == Kind::File && member.path == MANIFEST;
        self.left_to_pad = archive::padding(member.size);
        if self.in_manifest {
            return Ok(());
        }
        let (path, attributes) = (&member.path, &member.attributes);
        let mut header = Vec::new();
        match member.kind {
            Kind::File => archive::file_header(&mut header, path, member.size, attributes),
            Kind::Directory => archive::directory_header(&mut header, path, attributes),
            Kind::Link => archive::link_header(&mut header, path, &member.target, attributes),
        }
        self.write(&header)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.check.content(bytes)?;
        if self.in_manifest {
            self.manifest
                .write_all(bytes)
                .context("could not write the backup manifest")
        } else {
            self.write(bytes)
        }
    }

    fn end(&mut self) -> Result<()> {
        self.check.end()?;
        if self.in_manifest {
            return Ok(());
        }
        let zeros = [0; archive::BLOCK_SIZE];
        self.write(&zeros[..self.left_to_pad])
    }
}
