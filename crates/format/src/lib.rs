//! Formats of a PostgreSQL base backup, independent of a server and without `unsafe`.
//!
//! This crate is the only place that knows the bytes and names in a backup. It consists of plain
//! functions over byte slices. Paths are bytes throughout, because PostgreSQL accepts any file
//! name that the file system does. No function panics on any input.
//!
//! | module | subject | PostgreSQL source |
//! |---|---|---|
//! | [`archive`] | tar headers and padding | `src/port/tar.c` |
//! | [`member`] | incremental reading of tar archives | `src/fe_utils/astreamer_tar.c` |
//! | [`manifest`] | the backup manifest | `src/backend/backup/backup_manifest.c` |
//! | [`timeline`] | the WAL ranges of a backup | `src/backend/backup/backup_manifest.c` |
//! | [`tablespace_map`] | the file `tablespace_map` | `src/backend/access/transam/xlogrecovery.c` |
//! | [`backup_label`] | the file `backup_label` | `src/bin/pg_combinebackup/backup_label.c` |
//! | [`control_file`] | fields of pg_control | `src/include/catalog/pg_control.h` |
//! | [`checksum`] | names of checksum algorithms | `src/common/checksum_helper.c` |
//! | [`compression`] | names and levels of compression methods | `src/common/compression.c` |
//! | [`checksummed_files`] | files whose pages have checksums | `src/backend/backup/basebackup.c` |
//! | [`relation_file`] | names of relation files | `src/backend/storage/file/reinit.c` |
//! | [`exclusion`] | files that a base backup excludes | `src/backend/backup/basebackup.c` |
//! | [`path`] | paths as SQL text | `src/backend/utils/adt/encode.c` |
//! | [`incremental`] | files that hold changed blocks only | `src/backend/backup/basebackup_incremental.c` |
//! | [`page`] | page headers | `src/include/storage/bufpage.h` |
//! | [`lsn`] | log sequence numbers | `src/backend/utils/adt/pg_lsn.c` |
//! | [`wal`] | names and order of WAL segments | `src/include/access/xlog_internal.h` |

#![forbid(unsafe_code)]

pub mod archive;
pub mod backup_label;
pub mod checksum;
pub mod checksummed_files;
pub mod compression;
pub mod control_file;
pub mod exclusion;
pub mod incremental;
pub mod lsn;
pub mod manifest;
pub mod member;
pub mod page;
pub mod path;
pub mod relation_file;
pub mod tablespace_map;
pub mod timeline;
pub mod wal;
