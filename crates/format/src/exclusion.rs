//! What a base backup leaves out: the lists `excludeFiles` and `excludeDirContents` of
//! `basebackup.c`, and the directories in which names of relation files have a meaning.

use crate::path::below_version_directory;

/// Whether a file or directory of this name is left out, wherever it is.
///
/// These are files that the server makes anew, and files that belong to another backup.
pub fn is_excluded_file(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 8] = [
        b"postgresql.auto.conf.tmp",
        b"current_logfiles.tmp",
        b"backup_label",
        b"tablespace_map",
        b"backup_manifest",
        b"postmaster.pid",
        b"postmaster.opts",
        b".DS_Store",
    ];
    // The relation cache is written under a name that ends in the process id, then renamed.
    const PREFIXES: [&[u8]; 2] = [b"pg_internal.init", b"pgsql_tmp"];

    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a directory of this name is kept for its permissions, without its contents.
///
/// The server empties or rebuilds these when it starts. `pg_wal`, whose `archive_status` is kept
/// too, is not among them.
pub fn is_emptied_directory(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 7] = [
        b"pg_stat_tmp",
        b"pg_replslot",
        b"pg_dynshmem",
        b"pg_notify",
        b"pg_serial",
        b"pg_snapshots",
        b"pg_subtrans",
    ];

    NAMES.contains(&name)
}

/// Whether a directory is a database's: one that can hold temporary and unlogged relations.
///
/// `path` is relative to the data directory: `base/5`, or `pg_tblspc/16400/PG_15_202209061/5`.
/// `global` is none, since shared relations are always permanent.
pub fn is_database_directory(path: &[u8]) -> bool {
    let name = path
        .strip_prefix(b"base/")
        .or_else(|| below_version_directory(path));
    name.is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_digit))
}
