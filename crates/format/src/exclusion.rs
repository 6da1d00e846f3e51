//! Files and directory contents that a base backup excludes: the lists `excludeFiles` and
//! `excludeDirContents` of `basebackup.c`, and the directories that can contain relation files to
//! exclude.

use crate::path::below_version_directory;

/// Whether a file or directory with this name is excluded, in any directory.
///
/// The excluded files are those that the server creates anew and those of another backup.
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
    // The server writes the relation cache under a name that ends in its process id, then renames it.
    const PREFIXES: [&[u8]; 2] = [b"pg_internal.init", b"pgsql_tmp"];

    // Nearly all names are numbers.
    if name.first().is_some_and(u8::is_ascii_digit) {
        return false;
    }
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a backup contains a directory with this name empty, for its permissions only.
///
/// The server empties or rebuilds these directories when it starts. `pg_wal` is not in the list:
/// its subdirectory `archive_status` is kept too.
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

/// Whether a directory belongs to a database, and so can contain temporary and unlogged relations.
///
/// `path` is relative to the data directory: `base/5`, or `pg_tblspc/16400/PG_15_202209061/5`.
/// `global` is not a database directory: shared relations are always permanent.
pub fn is_database_directory(path: &[u8]) -> bool {
    let name = path
        .strip_prefix(b"base/")
        .or_else(|| below_version_directory(path));
    name.is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_the_server_makes_anew_are_excluded() {
        for name in [
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "pg_internal.init",
            "pg_internal.init.123",
            "backup_label",
            "tablespace_map",
            "backup_manifest",
            "postmaster.pid",
            "postmaster.opts",
            "pgsql_tmp",
            "pgsql_tmp123.0",
            ".DS_Store",
        ] {
            assert!(is_excluded_file(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn files_of_similar_names_are_not_excluded() {
        for name in [
            "",
            "postgresql.auto.conf",
            "postgresql.auto.conf.tmp2",
            "current_logfiles",
            "pg_internal.ini",
            "backup_label.old",
            "backup_label_",
            "tablespace_map.old",
            "backup_manifest2",
            "postmaster.pid.1",
            "my_pgsql_tmp",
            ".DS_Store2",
            "Backup_Label",
            "pg_control",
            "16384",
        ] {
            assert!(!is_excluded_file(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn directories_that_the_server_empties_are_emptied() {
        for name in [
            "pg_stat_tmp",
            "pg_replslot",
            "pg_dynshmem",
            "pg_notify",
            "pg_serial",
            "pg_snapshots",
            "pg_subtrans",
        ] {
            assert!(is_emptied_directory(name.as_bytes()), "{name}");
        }
        for name in [
            "pg_wal",
            "pg_stat",
            "pg_xact",
            "pg_subtrans2",
            "pg_tblspc",
            "",
        ] {
            assert!(!is_emptied_directory(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn database_directories_are_told_by_their_paths() {
        for path in [
            "base/5",
            "base/16384",
            "pg_tblspc/16400/PG_15_202209061/5",
            "pg_tblspc/16400/PG_17_202406281/5",
        ] {
            assert!(is_database_directory(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "5",
            "global",
            "base",
            "base/",
            "base/pgsql_tmp",
            "base/5x",
            "base/5/6",
            "./base/5",
            "pg_multixact/5",
            "pg_tblspc/16400",
            "pg_tblspc/16400/PG_15_202209061",
            "pg_tblspc/16400/PG_15_202209061/",
            "pg_tblspc/16400/PG_15_202209061/pgsql_tmp",
            "pg_tblspc/16400/PG_15_202209061/5/6",
            "pg_tblspc/16400/other/5",
            "pg_tblspc//PG_15_202209061/5",
        ] {
            assert!(!is_database_directory(path.as_bytes()), "{path}");
        }
    }
}
