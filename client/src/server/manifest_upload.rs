//! Upload of an earlier backup's manifest, before an incremental backup.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cli::configuration::Earlier;
use crate::manifest::LARGEST;
use crate::manifest::hex::hex;
use crate::runtime::cancellation::Cancellation;
use crate::server::connection::Session;
use crate::server::extension::Extension;
use crate::server::requirements;
use crate::storage::folder::Folder;
use crate::storage::source::Source;

/// Name of a manifest in a repository.
const MANIFEST: &str = "backup_manifest";
/// First version with incremental backups.
const FIRST_VERSION: i32 = 170_000;
/// Bytes of one part.
const PART: u64 = 256 * 1024;

/// Manifest of an earlier backup, in a directory or in an object store.
#[derive(Clone, Debug)]
pub struct EarlierManifest {
    folder: Folder,
    name: String,
    is_in_repository: bool,
}

impl EarlierManifest {
    /// Prepares access to it.
    ///
    /// # Errors
    /// As [`Folder::open_backup`].
    fn find(earlier: &Earlier) -> Result<Self> {
        match earlier {
            Earlier::Manifest(path) => {
                let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
                let name = path.file_name().unwrap_or_default().to_str();
                Ok(Self {
                    folder: Folder::directory(folder.unwrap_or(Path::new("."))),
                    name: name
                        .with_context(|| format!("\"{}\" is no text", path.display()))?
                        .to_owned(),
                    is_in_repository: false,
                })
            }
            Earlier::Backup(location, access) => Ok(Self {
                folder: Folder::open_backup(location, access)?,
                name: MANIFEST.to_owned(),
                is_in_repository: true,
            }),
        }
    }

    /// Name of the backup, if it is in a repository.
    pub fn backup_name(&self) -> Option<String> {
        let place = self.folder.to_string();
        let name = place.trim_end_matches('/').rsplit('/').next();
        name.filter(|_| self.is_in_repository).map(str::to_owned)
    }

    /// Reader of the manifest.
    ///
    /// # Errors
    /// Where there is none, it is too large or cannot be read.
    pub fn reader(&self) -> Result<Box<dyn Source>> {
        let place = || format!("file \"{}/{}\"", self.folder, self.name);
        let found = self.folder.find(&self.name);
        let found = found.with_context(|| format!("could not open {}", place()))?;
        let (mut source, _) = found
            .with_context(|| format!("could not open {}: No such file or directory", place()))?;
        let size = source.seek(SeekFrom::End(0)).and_then(|size| {
            source.rewind()?;
            Ok(size)
        });
        let size = size.with_context(|| format!("could not read {}", place()))?;
        ensure!(size < LARGEST, "could not open {}: File too large", place());
        Ok(source)
    }
}

/// Checks that the server and the role can take an incremental backup, and finds the manifest.
///
/// # Errors
/// For a server before version 17, for missing privileges, and for a manifest that cannot be read.
pub fn check(session: &Session, earlier: &Earlier) -> Result<EarlierManifest> {
    ensure!(
        session.server_version()? >= FIRST_VERSION,
        "server does not support incremental backup"
    );
    requirements::check_functions(session, &["upload_manifest"])?;
    let earlier = EarlierManifest::find(earlier)?;
    earlier.reader()?;
    Ok(earlier)
}

/// Uploads a manifest in parts.
///
/// # Errors
/// Errors of the file and of the server, and cancellation.
pub fn upload(
    extension: &Extension,
    session: &Session,
    earlier: &EarlierManifest,
    cancellation: &Cancellation,
) -> Result<()> {
    let mut source = earlier.reader()?;
    let statement = format!("SELECT {}upload_manifest($1::bytea)", extension.schema);
    loop {
        cancellation.check()?;
        let mut part = Vec::new();
        (&mut source)
            .take(PART)
            .read_to_end(&mut part)
            .context("could not read the manifest of the earlier backup")?;
        if part.is_empty() {
            return Ok(());
        }
        session.rows(&statement, &[format!("\\x{}", hex(&part)).as_bytes()])?;
    }
}
