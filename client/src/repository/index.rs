//! Index of an archive: which members it has, and from where each can be read without what is before it.
//!
//! An index is text with one JSON object a line. The first line describes the archive. A line with
//! `stored` and `plain` says that reading can begin at byte `stored` of the file, which is byte `plain` of
//! the archive: a frame of LZ4 or zstd begins there, or gzip forgets what was before. A line with a
//! `path` or an `encoded_path` is a member, whose header begins at byte `plain` of the archive. The last line has
//! totals and the SHA-256 checksum of all lines before.
//!
//! Who reads an archive by its index still reads the headers of its members. What an index says decides where
//! to read, and never what a file is.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, bail, ensure};
use backup_format::compression::Method;
use backup_format::member::Kind;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::manifest::hex::{hex, unhex};
use crate::manifest::manifest_file::ManifestFile;

/// Suffix of the name of an index.
pub const SUFFIX: &str = ".index";
/// Number of the format.
const FORMAT: u32 = 1;
/// Longest line in bytes: a path of 4096 bytes in hexadecimal, and the rest.
const LONGEST_LINE: u64 = 16 * 1024;

/// Name of the index of an archive.
pub fn name_of(archive: &str) -> String {
    format!("{archive}{SUFFIX}")
}

/// First line.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    archive: String,
    compression: String,
    checksums: String,
}

/// Any other line.
#[derive(Default, Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoded_path: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    members: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// Member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Path in the backup.
    pub path: Vec<u8>,
    /// Type.
    pub kind: Kind,
    /// Bytes of its content.
    pub size: u64,
    /// Checksum of its content; empty where there is none.
    pub checksum: Vec<u8>,
    /// Position of its header in the archive.
    pub plain: u64,
}

/// Place in an archive from which reading can begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Position in the file, before encryption.
    pub stored: u64,
    /// Position in the archive.
    pub plain: u64,
}

/// Entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A place to begin.
    Frame(Frame),
    /// A member.
    Member(Member),
}

/// Totals of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of members.
    pub members: u64,
    /// Bytes of the archive.
    pub plain: u64,
    /// Bytes of its file, before encryption.
    pub stored: u64,
}

/// Sum of the members of a part of an archive, in their order: two parts with the same sum have the same
/// members at the same places.
#[derive(Clone, Debug, Default)]
pub struct MemberSum(Sha256);

impl MemberSum {
    /// Adds a member, whose header begins at a position of the archive.
    pub fn add(&mut self, path: &[u8], kind: Kind, size: u64, position: u64) {
        let kind = match kind {
            Kind::File => 0_u64,
            Kind::Directory => 1,
            Kind::Link => 2,
        };
        for number in [path.len() as u64, kind, size, position] {
            self.0.update(number.to_le_bytes());
        }
        self.0.update(path);
    }

    /// Whether two sums are the same.
    pub fn is(&self, other: &Self) -> bool {
        self.0.clone().finalize() == other.0.clone().finalize()
    }
}

/// Index while its archive is written.
pub struct IndexWriter {
    file: ManifestFile,
    checksum: Sha256,
    buffer: Vec<u8>,
    members: u64,
}

impl IndexWriter {
    /// Begins the index of an archive.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn new(archive: &str, method: Method, checksums: &str) -> Result<Self> {
        let mut index = Self {
            file: ManifestFile::temporary()?,
            checksum: Sha256::new(),
            buffer: Vec::new(),
            members: 0,
        };
        index.line(&Head {
            format: FORMAT,
            archive: archive.to_owned(),
            compression: method.name().to_owned(),
            checksums: checksums.to_owned(),
        })?;
        index.frame(Frame::default())?;
        Ok(index)
    }

    /// Adds a place to begin.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn frame(&mut self, frame: Frame) -> Result<()> {
        self.line(&Line {
            stored: Some(frame.stored),
            plain: Some(frame.plain),
            ..Line::default()
        })
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn member(&mut self, member: &Member) -> Result<()> {
        self.members += 1;
        // JSON has six letters for a control character.
        let is_printable = |text: &&str| !text.contains(char::is_control);
        let text = std::str::from_utf8(&member.path).ok().filter(is_printable);
        let is_file = member.kind == Kind::File;
        self.line(&Line {
            path: text.map(str::to_owned),
            encoded_path: text.is_none().then(|| hex(&member.path)),
            kind: match member.kind {
                Kind::File => None,
                Kind::Directory => Some("directory".to_owned()),
                Kind::Link => Some("link".to_owned()),
            },
            size: is_file.then_some(member.size),
            checksum: (!member.checksum.is_empty()).then(|| hex(&member.checksum)),
            plain: Some(member.plain),
            ..Line::default()
        })
    }

    /// Ends the index. Returns it and the totals.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn finish(mut self, plain: u64, stored: u64) -> Result<(ManifestFile, Totals)> {
        let totals = Totals {
            members: self.members,
            plain,
            stored,
        };
        let checksum = self.checksum.clone().finalize();
        self.line(&Line {
            members: Some(totals.members),
            plain: Some(plain),
            stored: Some(stored),
            sha256: Some(hex(&checksum)),
            ..Line::default()
        })?;
        self.flush()?;
        Ok((self.file, totals))
    }

    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        let start = self.buffer.len();
        serde_json::to_writer(&mut self.buffer, line).context("could not write an index")?;
        self.buffer.push(b'\n');
        self.checksum.update(&self.buffer[start..]);
        if self.buffer.len() >= 64 * 1024 {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Reader of an index. Nothing of it is to be relied on before its end was read.
pub struct IndexReader<R> {
    source: BufReader<R>,
    checksum: Sha256,
    line: Vec<u8>,
    members: u64,
    last: Frame,
    totals: Option<Totals>,
}

impl<R: Read> IndexReader<R> {
    /// Begins the index of an archive.
    ///
    /// # Errors
    /// Where it is damaged, is of another archive or of another format.
    pub fn new(source: R, archive: &str) -> Result<Self> {
        let mut reader = Self {
            source: BufReader::with_capacity(256 * 1024, source),
            checksum: Sha256::new(),
            line: Vec::new(),
            members: 0,
            last: Frame::default(),
            totals: None,
        };
        ensure!(reader.next_line()?, "the index is empty");
        let head: Head = serde_json::from_slice(&reader.line).context(MALFORMED)?;
        ensure!(
            head.format == FORMAT,
            "the index has format {}, and this program knows format {FORMAT}",
            head.format
        );
        ensure!(
            head.archive == archive,
            "the index is of the archive \"{}\"",
            head.archive
        );
        reader.checksum.update(&reader.line);
        Ok(reader)
    }

    /// The next entry; [`None`] at the end.
    ///
    /// # Errors
    /// Where the index is damaged.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        if self.totals.is_some() {
            return Ok(None);
        }
        ensure!(self.next_line()?, "the index is incomplete");
        let line: Line = serde_json::from_slice(&self.line).context(MALFORMED)?;
        if line.sha256.is_some() {
            self.end(&line)?;
            return Ok(None);
        }
        let entry = line.entry().context(MALFORMED)?;
        let place = match &entry {
            Entry::Frame(frame) => *frame,
            Entry::Member(member) => {
                self.members += 1;
                Frame {
                    plain: member.plain,
                    ..self.last
                }
            }
        };
        ensure!(
            place.stored >= self.last.stored && place.plain >= self.last.plain,
            "{MALFORMED}: its entries are not in the order of the archive"
        );
        self.last = place;
        self.checksum.update(&self.line);
        Ok(Some(entry))
    }

    fn end(&mut self, line: &Line) -> Result<()> {
        let found = hex(&self.checksum.clone().finalize());
        ensure!(
            line.sha256.as_ref() == Some(&found),
            "the index has a wrong checksum"
        );
        ensure!(!self.next_line()?, "the index goes on after its end");
        let (Some(stored), Some(plain)) = (line.stored, line.plain) else {
            bail!("{MALFORMED}: it has no totals");
        };
        ensure!(
            line.members == Some(self.members)
                && stored >= self.last.stored
                && plain >= self.last.plain,
            "{MALFORMED}: its totals are wrong"
        );
        self.totals = Some(Totals {
            members: self.members,
            plain,
            stored,
        });
        Ok(())
    }

    /// Totals, after the last entry.
    pub fn totals(&self) -> Option<Totals> {
        self.totals
    }

    /// Reads a line with its end; returns whether there was one.
    fn next_line(&mut self) -> Result<bool> {
        self.line.clear();
        let length = (&mut self.source)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut self.line)
            .context("could not read the index")?;
        ensure!(
            length == 0 || self.line.ends_with(b"\n"),
            "the index is incomplete"
        );
        Ok(length > 0)
    }
}

const MALFORMED: &str = "the index is malformed";

impl Line {
    fn entry(self) -> Result<Entry> {
        let plain = self.plain.context("an entry has no position")?;
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_bytes(),
            (None, Some(path)) => unhex(&path).context("a path is not hexadecimal")?,
            (None, None) => {
                let stored = self.stored.context("an entry has no path")?;
                return Ok(Entry::Frame(Frame { stored, plain }));
            }
            (Some(_), Some(_)) => bail!("a member has two paths"),
        };
        let kind = match self.kind.as_deref() {
            None => Kind::File,
            Some("directory") => Kind::Directory,
            Some("link") => Kind::Link,
            Some(other) => bail!("a member has the type \"{other}\""),
        };
        let checksum = self.checksum.unwrap_or_default();
        Ok(Entry::Member(Member {
            path,
            kind,
            size: self.size.unwrap_or_default(),
            checksum: unhex(&checksum).context("a checksum is not hexadecimal")?,
            plain,
        }))
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sample() -> (Vec<Entry>, Vec<u8>) {
        let file = |path: &[u8], plain| Member {
            path: path.to_vec(),
            kind: Kind::File,
            size: 3,
            checksum: vec![1, 2, 3, 4],
            plain,
        };
        let directory = Member {
            kind: Kind::Directory,
            size: 0,
            checksum: Vec::new(),
            ..file(b"base", 0)
        };
        let frame = Frame {
            stored: 700,
            plain: 1536,
        };
        let entries = vec![
            Entry::Frame(Frame::default()),
            Entry::Member(directory),
            Entry::Member(file(b"base/1 \"x\"", 512)),
            Entry::Frame(frame),
            Entry::Member(file(b"base/\xff", 1536)),
            Entry::Member(file(&[1; 4096], 2560)),
        ];
        let mut index = IndexWriter::new("base.0.tar.zst", Method::Zstd, "CRC32C").unwrap();
        for entry in &entries[1..] {
            match entry {
                Entry::Frame(frame) => index.frame(*frame).unwrap(),
                Entry::Member(member) => index.member(member).unwrap(),
            }
        }
        let (file, totals) = index.finish(3584, 900).unwrap();
        assert_eq!(totals.members, 4);
        let mut text = Vec::new();
        file.reader().unwrap().read_to_end(&mut text).unwrap();
        (entries, text)
    }

    fn read(text: &[u8], archive: &str) -> Result<(Vec<Entry>, Option<Totals>)> {
        let mut reader = IndexReader::new(text, archive)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            entries.push(entry);
        }
        Ok((entries, reader.totals()))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (entries, text) = sample();
        let (found, totals) = read(&text, "base.0.tar.zst").unwrap();
        assert_eq!(found, entries);
        let expected = Totals {
            members: 4,
            plain: 3584,
            stored: 900,
        };
        assert_eq!(totals.unwrap(), expected);
    }

    #[test]
    fn every_change_of_an_index_is_noticed() {
        let (_, text) = sample();
        let read = |text: &[u8]| read(text, "base.0.tar.zst");
        for length in 0..text.len() {
            assert!(read(&text[..length]).is_err(), "{length}");
        }
        for place in 0..text.len() - 1 {
            let mut changed = text.clone();
            changed[place] ^= 1;
            let same_text = read(&changed).is_ok();
            // The totals are in the line that has the checksum.
            let in_last_line = !text[place..text.len() - 1].contains(&b'\n');
            assert!(!same_text || in_last_line, "{place}");
        }
        assert!(read(&[&text[..], b"{}\n"].concat()).is_err());
        assert!(super::tests::read(&text, "base.1.tar.zst").is_err());
    }
}
