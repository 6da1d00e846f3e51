//! Where the parts of a backup are, and where they go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
