//! Expected files of a backup, and which of them were found.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use backup_format::checksum::Algorithm;

use crate::manifest::Entry;
use crate::manifest::backup_path::display;
use crate::manifest::exemption::{EXEMPT, is_within};

/// Files in the manifest.
#[derive(Debug)]
pub struct Expected {
    files: HashMap<Vec<u8>, File>,
    /// Ignored paths, including everything below them.
    ignored: Vec<Vec<u8>>,
}

/// A file as the manifest has it.
#[derive(Debug)]
pub struct File {
    /// Its size in bytes.
    pub size: u64,
    /// Checksum algorithm.
    pub algorithm: Algorithm,
    /// Its checksum.
    pub checksum: Vec<u8>,
    found: AtomicBool,
    bad: AtomicBool,
}

impl Expected {
    /// Takes the files of a manifest, and the paths that the user does not care for.
    ///
    /// # Errors
    /// Where a file is in it twice.
    pub fn new(entries: Vec<Entry>, ignored: &[Vec<u8>]) -> Result<Self> {
        let mut files = HashMap::with_capacity(entries.len());
        for entry in entries {
            let file = File {
                size: entry.size,
                algorithm: entry.algorithm,
                checksum: entry.checksum,
                found: AtomicBool::new(false),
                bad: AtomicBool::new(false),
            };
            ensure!(
                !files.contains_key(&entry.path),
                "duplicate path name in backup manifest: \"{}\"",
                display(&entry.path)
            );
            files.insert(entry.path, file);
        }
        let always = EXEMPT.into_iter().map(<[u8]>::to_vec);
        Ok(Self {
            files,
            ignored: always.chain(ignored.iter().cloned()).collect(),
        })
    }

    /// The file of that path.
    pub fn file(&self, path: &[u8]) -> Option<&File> {
        self.files.get(path)
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
        let missing = self.looked_at().filter(|(_, file)| !file.is_found());
        let mut paths: Vec<_> = missing.map(|(path, _)| path).collect();
        paths.sort_unstable();
        paths
    }

    /// The files whose content is yet to be checked, the largest first.
    pub fn unchecked(&self) -> Vec<(&[u8], &File)> {
        let good = |file: &File| file.is_found() && !file.bad.load(Ordering::Relaxed);
        let unchecked = self
            .looked_at()
            .filter(|(_, file)| good(file) && file.algorithm != Algorithm::None);
        let mut files: Vec<_> = unchecked.collect();
        files.sort_unstable_by(|(path, file), (other_path, other)| {
            (other.size, path).cmp(&(file.size, other_path))
        });
        files
    }

    fn looked_at(&self) -> impl Iterator<Item = (&[u8], &File)> {
        self.files
            .iter()
            .map(|(path, file)| (path.as_slice(), file))
            .filter(|(path, _)| !self.ignores(path))
    }
}

impl File {
    /// Marks the file as found; returns whether it was found before.
    pub fn find(&self) -> bool {
        self.found.swap(true, Ordering::Relaxed)
    }

    fn is_found(&self) -> bool {
        self.found.load(Ordering::Relaxed)
    }

    /// Something is wrong with it, so that its checksum is of no interest.
    pub fn spoil(&self) {
        self.bad.store(true, Ordering::Relaxed);
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
        let expected = Expected::new(Vec::new(), &[b"base/1".to_vec()]).unwrap();
        for path in ["base/1", "base/1/2", "pg_wal", "pg_wal/x", "standby.signal"] {
            assert!(expected.ignores(path.as_bytes()), "{path}");
        }
        for path in ["base", "base/12", "pg_wal.tar", "x/pg_wal"] {
            assert!(!expected.ignores(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn large_files_come_first() {
        let entries = vec![entry("a", 1), entry("b", 3), entry("c", 3), entry("d", 2)];
        let expected = Expected::new(entries, &[]).unwrap();
        assert_eq!(expected.missing(), [b"a", b"b", b"c", b"d"]);
        for path in [b"a", b"b", b"c"] {
            assert!(!expected.file(path).unwrap().find());
        }
        expected.file(b"a").unwrap().spoil();
        assert!(expected.file(b"b").unwrap().find());
        let unchecked: Vec<_> = expected.unchecked().iter().map(|&(path, _)| path).collect();
        assert_eq!(unchecked, [b"b", b"c"]);
        assert_eq!(expected.missing(), [b"d"]);
    }
}
