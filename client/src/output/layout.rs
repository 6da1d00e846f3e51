//! Locations of the parts of a backup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Target directories of a backup.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The data directory.
    pub target: &'a Path,
    /// Directory for WAL, if not in the target.
    pub waldir: Option<&'a Path>,
    /// New locations of tablespaces by their old ones.
    pub mapping: &'a BTreeMap<PathBuf, PathBuf>,
}
