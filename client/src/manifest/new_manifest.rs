//! A manifest that this program writes, while threads make the files of a backup.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use backup_format::checksum::Algorithm;
use backup_format::manifest::{File, PathStyle, Writer};
use backup_format::timeline::WalRange;

use crate::manifest::digest::Digest;
use crate::manifest::manifest_file::ManifestFile;

/// Bytes that are written at once.
const PIECE: usize = 64 * 1024;

/// Manifest that grows by one file after the other, in any order.
pub struct NewManifest(Mutex<State>);

struct State {
    file: ManifestFile,
    writer: Writer,
    digest: Digest,
    /// Text that is not written yet.
    text: Vec<u8>,
}

impl NewManifest {
    /// Begins; the system identifier is that of the manifest that it goes back to.
    pub fn new(file: ManifestFile, algorithm: Algorithm, system_identifier: Option<u64>) -> Self {
        let writer = Writer::new(algorithm, PathStyle::Utf8, system_identifier);
        let mut text = Vec::with_capacity(PIECE);
        writer.begin(&mut text);
        Self(Mutex::new(State {
            file,
            writer,
            digest: Digest::new(Algorithm::Sha256),
            text,
        }))
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn add(&self, file: &File<'_>) -> Result<()> {
        let mut state = self.lock();
        let State { writer, text, .. } = &mut *state;
        writer.file(text, file);
        if state.text.len() >= PIECE {
            state.flush()?;
        }
        Ok(())
    }

    /// Adds what follows the files. Returns the whole manifest.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn finish(self, wal_ranges: &[WalRange]) -> Result<ManifestFile> {
        let mut state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.writer.wal_ranges(&mut state.text, wal_ranges);
        state.flush()?;
        let digest = std::mem::replace(&mut state.digest, Digest::None).finish();
        let digest = digest.first_chunk().context("a checksum has no length")?;
        state.writer.finish(&mut state.text, digest);
        state.file.write(&state.text)?;
        Ok(state.file)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn flush(&mut self) -> Result<()> {
        self.digest.update(&self.text);
        self.file.write(&self.text)?;
        self.text.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::manifest::parser::Manifest;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let file = ManifestFile::temporary().unwrap();
        let manifest = NewManifest::new(file, Algorithm::Crc32c, Some(17));
        for number in 0..2000 {
            let path = format!("base/1/{number}");
            manifest
                .add(&File {
                    path: path.as_bytes(),
                    size: number,
                    mtime: 0,
                    digest: &[1, 2, 3, 4],
                })
                .unwrap();
        }
        let file = manifest.finish(&[]).unwrap();
        let mut paths = Vec::new();
        let manifest =
            Manifest::read(file.reader().unwrap(), |entry| paths.push(entry.path)).unwrap();
        assert_eq!(manifest.system_identifier, Some(17));
        assert_eq!(paths.len(), 2000);
        assert_eq!(paths[1999], b"base/1/1999");
    }
}
