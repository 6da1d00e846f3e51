//! Check of an archive that is kept unchanged: checks names and computes checksums of passing
//! members.

use anyhow::{Error, Result, ensure};
use backup_format::checksum::Algorithm;
use backup_format::member::{Kind, Member, Receiver};

use crate::console::progress::Counter;
use crate::manifest;
use crate::manifest::backup_path::{MANIFEST, check_name, display};
use crate::manifest::received_files::{Contents, IncomingFiles};

/// Checks passing members and keeps the manifest.
pub struct Check<'a> {
    prefix: Vec<u8>,
    arriving: IncomingFiles<'a>,
    members: u64,
    keeps_manifest: bool,
    manifest: Vec<u8>,
    in_manifest: bool,
}

impl<'a> Check<'a> {
    /// Creates a check for an archive whose member names lack a prefix of the manifest's paths.
    pub fn new(prefix: Vec<u8>, algorithm: Algorithm, counter: &'a Counter) -> Self {
        Self {
            prefix,
            arriving: IncomingFiles::new(algorithm, counter),
            members: 0,
            keeps_manifest: false,
            manifest: Vec::new(),
            in_manifest: false,
        }
    }

    /// Creates a check for the archive that contains the manifest.
    pub fn with_manifest(algorithm: Algorithm, counter: &'a Counter) -> Self {
        Self {
            keeps_manifest: true,
            ..Self::new(Vec::new(), algorithm, counter)
        }
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        self.arriving.current()
    }

    /// Whether the archive has no member yet.
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Whether the current member is the manifest.
    pub fn is_in_manifest(&self) -> bool {
        self.in_manifest
    }

    /// Returns the content of the archive, and the manifest if there was one.
    pub fn into_contents(self) -> (Contents, Vec<u8>) {
        (self.arriving.into_contents(), self.manifest)
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
            "the backup has a symbolic link \"{}\", which is refused",
            display(&member.path)
        );
        let path = [&self.prefix, member.path.as_slice()].concat();
        if member.kind == Kind::File {
            self.in_manifest = self.keeps_manifest && path == MANIFEST;
            if self.in_manifest {
                manifest::check_size(member.size)?;
                self.manifest.clear();
            }
            self.arriving.begin(path, member.size);
        } else {
            self.arriving.begin_directory(path);
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if self.in_manifest {
            self.manifest.extend_from_slice(bytes);
        }
        self.arriving.content(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.in_manifest = false;
        self.arriving.end()
    }
}
