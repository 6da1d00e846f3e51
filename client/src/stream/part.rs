//! The parts of a backup: its data directory and its tablespaces.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, PathBuf};

use anyhow::{Result, ensure};

/// Content of one archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The data directory without tablespaces.
    Base,
    /// One tablespace.
    Tablespace(u32),
}

impl Part {
    /// OID argument of send_backup_files().
    pub fn oid(self) -> u32 {
        match self {
            Self::Base => 0,
            Self::Tablespace(oid) => oid,
        }
    }

    /// Prefix of its member names in the manifest.
    pub fn prefix(self) -> Vec<u8> {
        match self {
            Self::Base => Vec::new(),
            Self::Tablespace(oid) => format!("pg_tblspc/{oid}/").into_bytes(),
        }
    }
}

/// Request of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Everything.
    All,
    /// Content of one archive.
    Part(Part),
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
    /// Validates a tablespace from an untrusted source.
    ///
    /// # Errors
    /// An error if OID or location is invalid.
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
