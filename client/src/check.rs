//! Members of an archive that is kept as it is: their names are looked at, and their checksums
//! computed, while they pass by.

use anyhow::{Error, Result, ensure};
use backup_format::checksum::Algorithm;
use backup_format::member::{Kind, Member, Receiver};

use crate::digest::Digest;
use crate::folder::{check_name, display};
use crate::progress::{Counter, Tally};
use crate::received::{Files, Written};

/// Computes the checksums of members that pass by.
pub struct Check<'a> {
    prefix: Vec<u8>,
    algorithm: Algorithm,
    tally: Tally<'a>,
    current: Option<(Vec<u8>, u64, Digest)>,
    files: Files,
    members: u64,
}

impl<'a> Check<'a> {
    /// For an archive whose names in the manifest have a prefix.
    pub fn new(prefix: Vec<u8>, algorithm: Algorithm, counter: &'a Counter) -> Self {
        Self {
            prefix,
            algorithm,
            tally: Tally::new(counter),
            current: None,
            files: Files::new(),
            members: 0,
        }
    }

    /// The file that is passing.
    pub fn current(&self) -> Option<String> {
        self.current.as_ref().map(|(path, ..)| display(path))
    }

    /// Whether nothing has passed.
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// All have passed, and count.
    pub fn into_files(mut self) -> Files {
        self.tally.keep();
        std::mem::take(&mut self.files)
    }
}

impl Receiver for Check<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        self.members += 1;
        check_name(&member.path)?;
        // The file tablespace_map has what would be links.
        ensure!(
            member.kind != Kind::Link,
            "the server sent a symbolic link \"{}\", which is refused",
            display(&member.path)
        );
        if member.kind == Kind::File {
            let path = [&self.prefix, member.path.as_slice()].concat();
            self.current = Some((path, member.size, Digest::new(self.algorithm)));
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some((_, _, digest)) = &mut self.current {
            digest.update(bytes);
        }
        self.tally.add_bytes(bytes.len());
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.tally.add_file();
        if let Some((path, size, digest)) = self.current.take() {
            let digest = digest.finish();
            self.files.insert(path, Written { size, digest });
        }
        Ok(())
    }
}
