//! Expected files of a backup, and which of them were found.

use std::cmp::Reverse;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use backup_format::checksum::Algorithm;

use crate::manifest::backup_path::display;
use crate::manifest::exemption::{EXEMPT, is_within};
use crate::manifest::file_table::{FileId, FileTable};
use crate::manifest::parser::{Entry, Manifest};

/// Files in the manifest.
#[derive(Debug)]
pub struct Expected {
    files: FileTable<Marks>,
    /// Ignored paths, including everything below them.
    ignored: Vec<Vec<u8>>,
}

/// A file as the manifest has it.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its size in bytes.
    pub size: u64,
    /// Checksum algorithm.
    pub algorithm: Algorithm,
    /// Its checksum.
    pub checksum: &'a [u8],
    marks: &'a Marks,
}

#[derive(Debug)]
struct Marks {
    algorithm: Algorithm,
    found: AtomicBool,
    bad: AtomicBool,
}

impl Expected {
    /// Begins without files, and with the paths that the user does not care for.
    pub fn new(ignored: &[Vec<u8>]) -> Self {
        let always = EXEMPT.into_iter().map(<[u8]>::to_vec);
        Self {
            files: FileTable::default(),
            ignored: always.chain(ignored.iter().cloned()).collect(),
        }
    }

    /// Reads a manifest; `ignored` are paths that the user does not care for.
    ///
    /// # Errors
    /// As [`Manifest::read`], and where a file is in it twice.
    pub fn read(source: impl Read, ignored: &[Vec<u8>]) -> Result<(Manifest, Self)> {
        let mut expected = Self::new(ignored);
        let mut added = Ok(());
        let manifest = Manifest::read(source, |entry| {
            if added.is_ok() {
                added = expected.add(&entry);
            }
        })?;
        added?;
        Ok((manifest, expected))
    }

    /// Adds a file of the manifest.
    ///
    /// # Errors
    /// Where it is in the manifest twice.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        ensure!(
            self.files.find(&entry.path).is_none(),
            "duplicate path name in backup manifest: \"{}\"",
            display(&entry.path)
        );
        let marks = Marks {
            algorithm: entry.algorithm,
            found: AtomicBool::new(false),
            bad: AtomicBool::new(false),
        };
        self.files
            .insert(&entry.path, entry.size, &entry.checksum, marks)?;
        Ok(())
    }

    /// The file of that path.
    pub fn file(&self, path: &[u8]) -> Option<File<'_>> {
        self.files.find(path).map(|id| self.get(id))
    }

    /// The file of that number.
    pub fn get(&self, id: FileId) -> File<'_> {
        let entry = self.files.entry(id);
        File {
            size: entry.size,
            algorithm: entry.state.algorithm,
            checksum: self.files.digest(id),
            marks: &entry.state,
        }
    }

    /// Its path.
    pub fn path(&self, id: FileId) -> &[u8] {
        self.files.path(id)
    }

    /// Whether a path is ignored.
    pub fn ignores(&self, path: &[u8]) -> bool {
        self.ignored.iter().any(|ignored| is_within(path, ignored))
    }

    /// Ignores a path and everything below it.
    pub fn ignore(&mut self, path: Vec<u8>) {
        self.ignored.push(path);
    }

    /// Missing files by their paths.
    pub fn missing(&self) -> Vec<&[u8]> {
        let missing = self.looked_at().filter(|&id| !self.get(id).is_found());
        let mut paths: Vec<_> = missing.map(|id| self.path(id)).collect();
        paths.sort_unstable();
        paths
    }

    /// The files whose content is yet to be checked, the largest first.
    pub fn unchecked(&self) -> Vec<FileId> {
        let is_unchecked =
            |file: File<'_>| file.is_found() && !file.is_bad() && file.algorithm != Algorithm::None;
        let unchecked = self.looked_at().filter(|&id| is_unchecked(self.get(id)));
        let mut files: Vec<_> = unchecked.collect();
        let key = |id| (Reverse(self.files.entry(id).size), self.path(id));
        files.sort_unstable_by(|&id, &other| key(id).cmp(&key(other)));
        files
    }

    fn looked_at(&self) -> impl Iterator<Item = FileId> {
        self.files.ids().filter(|&id| !self.ignores(self.path(id)))
    }
}

impl File<'_> {
    /// Marks the file as found; returns whether it was found before.
    pub fn find(&self) -> bool {
        self.marks.found.swap(true, Ordering::Relaxed)
    }

    fn is_found(&self) -> bool {
        self.marks.found.load(Ordering::Relaxed)
    }

    fn is_bad(&self) -> bool {
        self.marks.bad.load(Ordering::Relaxed)
    }

    /// Something is wrong with it, so that its checksum is of no interest.
    pub fn spoil(&self) {
        self.marks.bad.store(true, Ordering::Relaxed);
    }

    /// What is wrong with a checksum of its content, where something is.
    pub fn compare(&self, name: &str, digest: &[u8]) -> Option<String> {
        if digest.len() != self.checksum.len() {
            return Some(format!(
                "file {name} has checksum of length {}, but expected {}",
                self.checksum.len(),
                digest.len()
            ));
        }
        (digest != self.checksum).then(|| format!("checksum mismatch for file {name}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn entry(path: &str, size: u64) -> Entry {
        Entry {
            path: path.into(),
            size,
            algorithm: Algorithm::Crc32c,
            checksum: vec![0; 4],
        }
    }

    #[test]
    fn what_is_below_an_ignored_path_is_ignored() {
        let expected = Expected::new(&[b"base/1".to_vec()]);
        for path in ["base/1", "base/1/2", "pg_wal", "pg_wal/x", "standby.signal"] {
            assert!(expected.ignores(path.as_bytes()), "{path}");
        }
        for path in ["base", "base/12", "pg_wal.tar", "x/pg_wal"] {
            assert!(!expected.ignores(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn large_files_come_first() {
        let mut expected = Expected::new(&[]);
        for entry in [entry("a", 1), entry("b", 3), entry("c", 3), entry("d", 2)] {
            expected.add(&entry).unwrap();
        }
        assert_eq!(expected.missing(), [b"a", b"b", b"c", b"d"]);
        for path in [b"a", b"b", b"c"] {
            assert!(!expected.file(path).unwrap().find());
        }
        expected.file(b"a").unwrap().spoil();
        assert!(expected.file(b"b").unwrap().find());
        let unchecked = expected.unchecked();
        let unchecked: Vec<_> = unchecked.iter().map(|&id| expected.path(id)).collect();
        assert_eq!(unchecked, [b"b", b"c"]);
        assert_eq!(expected.missing(), [b"d"]);
    }
}
