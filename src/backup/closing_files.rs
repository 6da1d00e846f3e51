//! Files added by the stop of a backup.

use std::borrow::Cow;

use backup_format::archive::Attributes;

/// Files of the stop, in sending order. A server starts on a directory that has `pg_control`, so
/// everything that recovery needs precedes it.
pub struct ClosingFiles {
    /// `backup_label`, `tablespace_map` if there are tablespaces, and init forks. WAL follows them.
    pub before_wal: Vec<ClosingFile>,
    /// `global/pg_control`, which only the manifest follows.
    pub control_file: ClosingFile,
}

impl ClosingFiles {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ClosingFile> {
        self.before_wal.iter().chain([&self.control_file])
    }
}

/// File added by the stop.
pub struct ClosingFile {
    /// Relative to the data directory.
    pub path: Cow<'static, [u8]>,
    /// All of it.
    pub content: Vec<u8>,
    /// Mode, owner and modification time.
    pub attributes: Attributes,
}
