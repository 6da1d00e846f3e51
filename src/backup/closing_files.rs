//! The files that the end of a backup adds to what workers have sent.

use std::borrow::Cow;

use backup_format::archive::Attributes;

/// What the end of a backup adds, in the order in which it leaves: a server starts on a directory that
/// has `pg_control`, so everything that recovery needs comes before that.
pub struct ClosingFiles {
    /// `backup_label`, where there are tablespaces `tablespace_map`, and init forks. The WAL follows them.
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

/// A file that the end of a backup adds to what workers have sent.
pub struct ClosingFile {
    /// Relative to the data directory.
    pub path: Cow<'static, [u8]>,
    /// All of it.
    pub content: Vec<u8>,
    /// Mode, owner and modification time.
    pub attributes: Attributes,
}
