-- The SQL interface. Other programs rely on names, arguments, defaults and result columns: a change
-- here needs an upgrade script. Only roles with EXECUTE can call a function.

CREATE FUNCTION upload_manifest(part bytea) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'upload_manifest_wrapper';

CREATE FUNCTION start_backup(
    label text DEFAULT 'pg_parallel_backup',
    fast boolean DEFAULT false,
    tablespace_map boolean DEFAULT true,
    max_rate integer DEFAULT NULL,
    verify_checksums boolean DEFAULT true,
    manifest_checksums text DEFAULT 'CRC32C',
    retain_wal boolean DEFAULT false,
    incremental boolean DEFAULT false
) RETURNS TABLE (
    backup_id bigint,
    start_lsn pg_lsn,
    timeline integer,
    backup_label text,
    tablespace_map text,
    file_count bigint,
    total_bytes bigint
) ROWS 1
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'start_backup_or_increment_wrapper';

CREATE FUNCTION backup_tablespaces(backup_id bigint DEFAULT NULL)
RETURNS TABLE (spcoid oid, spclocation text, size bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'backup_tablespaces_wrapper';

CREATE FUNCTION backup_filelist(backup_id bigint DEFAULT NULL, tablespace oid DEFAULT NULL)
RETURNS TABLE (path text, type "char", size bigint, mtime timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'backup_filelist_wrapper';

CREATE FUNCTION send_backup_files(
    backup_id bigint DEFAULT NULL,
    files text[] DEFAULT NULL,
    tablespace oid DEFAULT NULL,
    max_rate integer DEFAULT NULL,
    verify_checksums boolean DEFAULT NULL,
    start_wal_location pg_lsn DEFAULT NULL,
    compression text DEFAULT NULL,
    target text DEFAULT 'client',
    max_bytes bigint DEFAULT NULL,
    parts boolean DEFAULT false
) RETURNS SETOF bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'send_backup_files_within_wrapper';

CREATE FUNCTION send_wal(
    backup_id bigint DEFAULT NULL,
    from_lsn pg_lsn DEFAULT NULL,
    wait interval DEFAULT '10 s',
    compression text DEFAULT NULL
) RETURNS SETOF bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'send_wal_wrapper';

CREATE FUNCTION stop_backup(wait boolean DEFAULT true, allow_incomplete boolean DEFAULT false)
RETURNS TABLE (
    stop_lsn pg_lsn,
    timeline integer,
    backup_label text,
    tablespace_map text,
    pg_control bytea,
    backup_manifest text
) ROWS 1
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'stop_backup_wrapper';

CREATE FUNCTION send_stop_backup(
    wal boolean DEFAULT false,
    wait boolean DEFAULT true,
    allow_incomplete boolean DEFAULT false,
    compression text DEFAULT NULL
) RETURNS SETOF bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'send_stop_backup_wrapper';

CREATE FUNCTION base_backup(
    label text DEFAULT 'pg_parallel_backup',
    fast boolean DEFAULT false,
    tablespace_map boolean DEFAULT true,
    max_rate integer DEFAULT NULL,
    verify_checksums boolean DEFAULT true,
    manifest_checksums text DEFAULT 'CRC32C',
    retain_wal boolean DEFAULT false,
    wal boolean DEFAULT false,
    wait boolean DEFAULT true,
    allow_incomplete boolean DEFAULT false,
    compression text DEFAULT NULL,
    incremental boolean DEFAULT false
) RETURNS SETOF bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'base_backup_or_increment_wrapper';

CREATE FUNCTION abort_backup() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'abort_backup_wrapper';

CREATE FUNCTION backup_progress()
RETURNS TABLE (
    backup_id bigint,
    leader_pid integer,
    label text,
    phase text,
    started_at timestamptz,
    workers integer,
    files_total bigint,
    files_sent bigint,
    bytes_total bigint,
    bytes_sent bigint,
    checksum_failures bigint,
    wal_segments_sent bigint,
    wal_sent_lsn pg_lsn
)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'backup_progress_with_wal_wrapper';

REVOKE ALL ON FUNCTION upload_manifest(bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION start_backup(
    text, boolean, boolean, integer, boolean, text, boolean, boolean
) FROM PUBLIC;
REVOKE ALL ON FUNCTION backup_tablespaces(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION backup_filelist(bigint, oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION send_backup_files(
    bigint, text[], oid, integer, boolean, pg_lsn, text, text, bigint, boolean
) FROM PUBLIC;
REVOKE ALL ON FUNCTION send_wal(bigint, pg_lsn, interval, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION stop_backup(boolean, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION send_stop_backup(boolean, boolean, boolean, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION base_backup(
    text, boolean, boolean, integer, boolean, text, boolean, boolean, boolean, boolean, text, boolean
) FROM PUBLIC;
REVOKE ALL ON FUNCTION abort_backup() FROM PUBLIC;
REVOKE ALL ON FUNCTION backup_progress() FROM PUBLIC;

-- Without argument types, so that the installation fails if another function has one of these names:
-- calls with omitted arguments would be ambiguous.
COMMENT ON FUNCTION upload_manifest IS
    'adds a part of the manifest of an earlier backup, for an incremental backup of this session';
COMMENT ON FUNCTION start_backup IS
    'starts a backup that this session leads';
COMMENT ON FUNCTION backup_tablespaces IS
    'tablespaces of a backup with their sizes';
COMMENT ON FUNCTION backup_filelist IS
    'files, directories and links of a backup';
COMMENT ON FUNCTION send_backup_files IS
    'sends files of a backup as a tar archive, in COPY (SELECT ...) TO STDOUT';
COMMENT ON FUNCTION send_wal IS
    'sends complete WAL segments of a backup while it runs, in COPY (SELECT ...) TO STDOUT';
COMMENT ON FUNCTION stop_backup IS
    'stops the backup of this session and returns its last files';
COMMENT ON FUNCTION send_stop_backup IS
    'stops the backup of this session and sends its last files, in COPY (SELECT ...) TO STDOUT';
COMMENT ON FUNCTION base_backup IS
    'takes a whole backup in one statement, in COPY (SELECT ...) TO STDOUT';
COMMENT ON FUNCTION abort_backup IS
    'ends the backup of this session without a result';
COMMENT ON FUNCTION backup_progress IS
    'backups that run on this server';
