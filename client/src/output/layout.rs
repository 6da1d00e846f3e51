//! Where the parts of a backup are, and where they go.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, ensure};

/// Where a backup goes, and its parts.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The data directory.
    pub target: &'a Path,
    /// Where its WAL goes, if not into the target.
    pub waldir: Option<&'a Path>,
    /// New places of tablespaces, by their old ones.
    pub mapping: &'a BTreeMap<PathBuf, PathBuf>,
}

/// A tablespace outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID, which is the name of its link.
    pub oid: u32,
    /// Where it is on the server, or was: an absolute path.
    pub location: PathBuf,
}

impl Tablespace {
    /// Checks what is told by somebody who may be wrong.
    ///
    /// # Errors
    /// Where no tablespace can be so.
    pub fn check(teller: &str, oid: u32, location: &[u8]) -> Result<Self> {
        ensure!(oid > 0, "{teller} has a tablespace with OID 0");
        let location = PathBuf::from(OsStr::from_bytes(location));
        let is_plain = location.is_absolute()
            && location
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        ensure!(
            is_plain,
            "{teller} has tablespace {oid} in \"{}\", which is refused",
            location.display()
        );
        Ok(Self { oid, location })
    }
}
