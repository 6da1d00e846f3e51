//! Check of an archive that is kept unchanged: checks names and computes checksums of passing
//! members.

use anyhow::{Error, Result, ensure};
use backup_format::member::{Kind, Member, Receiver};

use crate::console::progress::Counter;
use crate::manifest;
use crate::manifest::backup_path::{MANIFEST, check_name, display};
use crate::manifest::incoming_files::IncomingFiles;
use crate::manifest::manifest_file::ManifestFile;
use crate::manifest::received_files::ReceivedFiles;
use crate::repository::index;

/// Creates the file of the manifest.
type CreateManifest<'a> = Box<dyn Fn() -> Result<ManifestFile> + 'a>;

/// Checks passing members and keeps the manifest.
pub struct Check<'a> {
    prefix: Vec<u8>,
    arriving: IncomingFiles<'a>,
    members: u64,
    create_manifest: Option<CreateManifest<'a>>,
    manifest: Option<ManifestFile>,
    in_manifest: bool,
    /// Whether members are described for an index.
    describes: bool,
    /// The member that began last, until it has ended and another one begins.
    last: Option<index::Member>,
    /// Members that ended, without the last one.
    ended: Vec<index::Member>,
}

impl<'a> Check<'a> {
    /// Creates a check for an archive whose member names lack a prefix of the manifest's paths.
    pub fn new(prefix: Vec<u8>, received: &'a ReceivedFiles, counter: &'a Counter) -> Self {
        Self {
            prefix,
            arriving: IncomingFiles::new(received, counter),
            members: 0,
            create_manifest: None,
            manifest: None,
            in_manifest: false,
            describes: false,
            last: None,
            ended: Vec::new(),
        }
    }

    /// Has members described for an index, where that is wanted.
    pub fn describing(mut self, describes: bool) -> Self {
        self.describes = describes;
        self
    }

    /// Position and size of the member that began last.
    pub fn last_begun(&self) -> Option<(u64, u64)> {
        let last = self.last.as_ref()?;
        Some((last.plain, last.size))
    }

    /// Takes the descriptions of the members that ended, except for the one that began last.
    pub fn take_ended(&mut self) -> Vec<index::Member> {
        std::mem::take(&mut self.ended)
    }

    /// Takes the descriptions of all members that are left, after the end of the archive.
    pub fn take_all(&mut self) -> Vec<index::Member> {
        self.ended.extend(self.last.take());
        self.take_ended()
    }

    /// Creates a check for the archive that contains the manifest, which goes to the file that
    /// `create_manifest` creates.
    pub fn with_manifest(
        received: &'a ReceivedFiles,
        counter: &'a Counter,
        create_manifest: impl Fn() -> Result<ManifestFile> + 'a,
    ) -> Self {
        Self {
            create_manifest: Some(Box::new(create_manifest)),
            ..Self::new(Vec::new(), received, counter)
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

    /// The stream has ended well: its files count. Returns the manifest if there was one.
    ///
    /// # Errors
    /// As [`IncomingFiles::finish`].
    pub fn finish(self) -> Result<Option<ManifestFile>> {
        self.arriving.finish(|_, _| Ok(()))?;
        Ok(self.manifest)
    }

    /// The stream has failed, and what it held comes again in another.
    pub fn discard(self) {
        self.arriving.discard(|_, _| ());
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
        self.ended.extend(self.last.take());
        if self.describes {
            self.last = Some(index::Member {
                path: path.clone(),
                kind: member.kind,
                size: member.size,
                checksum: Vec::new(),
                plain: member.position,
            });
        }
        if member.kind == Kind::File {
            let create = (self.create_manifest.as_ref()).filter(|_| path == MANIFEST);
            self.in_manifest = create.is_some();
            if let Some(create) = create {
                manifest::check_size(member.size)?;
                self.manifest = Some(create()?);
            }
            // Each archive is a file of its own, so that none of its members is in another's way.
            let _aside = self.arriving.begin(&path, member.size)?;
        } else {
            self.arriving.begin_directory(path);
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(manifest) = self.manifest.as_mut().filter(|_| self.in_manifest) {
            manifest.write(bytes)?;
        }
        self.arriving.content(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.in_manifest {
            // It is a file of its own.
            self.last = None;
        }
        self.in_manifest = false;
        let digest = self.arriving.end()?;
        if let Some((last, digest)) = self.last.as_mut().zip(digest) {
            last.checksum = digest;
        }
        Ok(())
    }
}
