\echo Use "ALTER EXTENSION pg_parallel_backup UPDATE TO '0.3.0'" to load this file. \quit

-- Functions that get arguments or result columns are new functions. Roles that could execute the old ones
-- can execute the new ones.
ALTER FUNCTION start_backup(
    text, boolean, boolean, integer, boolean, text, boolean
) RENAME TO start_backup_0_2_0;
ALTER FUNCTION send_backup_files(
    bigint, text[], oid, integer, boolean, pg_lsn, text, text
) RENAME TO send_backup_files_0_2_0;
ALTER FUNCTION base_backup(
    text, boolean, boolean, integer, boolean, text, boolean, boolean, boolean, boolean, text
) RENAME TO base_backup_0_2_0;
ALTER FUNCTION backup_progress() RENAME TO backup_progress_0_2_0;

CREATE FUNCTION upload_manifest(part bytea) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'upload_manifest_wrapper';
REVOKE ALL ON FUNCTION upload_manifest(bytea) FROM PUBLIC;
COMMENT ON FUNCTION upload_manifest IS
    'adds a part of the manifest of an earlier backup, for an incremental backup of this session';

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
REVOKE ALL ON FUNCTION start_backup(
    text, boolean, boolean, integer, boolean, text, boolean, boolean
) FROM PUBLIC;
COMMENT ON FUNCTION start_backup IS
    'starts a backup that this session leads';

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
REVOKE ALL ON FUNCTION send_backup_files(
    bigint, text[], oid, integer, boolean, pg_lsn, text, text, bigint, boolean
) FROM PUBLIC;
COMMENT ON FUNCTION send_backup_files IS
    'sends files of a backup as a tar archive, in COPY (SELECT ...) TO STDOUT';

CREATE FUNCTION send_wal(
    backup_id bigint DEFAULT NULL,
    from_lsn pg_lsn DEFAULT NULL,
    wait interval DEFAULT '10 s',
    compression text DEFAULT NULL
) RETURNS SETOF bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'send_wal_wrapper';
REVOKE ALL ON FUNCTION send_wal(bigint, pg_lsn, interval, text) FROM PUBLIC;
COMMENT ON FUNCTION send_wal IS
    'sends complete WAL segments of a backup while it runs, in COPY (SELECT ...) TO STDOUT';

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
REVOKE ALL ON FUNCTION base_backup(
    text, boolean, boolean, integer, boolean, text, boolean, boolean, boolean, boolean, text, boolean
) FROM PUBLIC;
COMMENT ON FUNCTION base_backup IS
    'takes a whole backup in one statement, in COPY (SELECT ...) TO STDOUT';

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
REVOKE ALL ON FUNCTION backup_progress() FROM PUBLIC;
COMMENT ON FUNCTION backup_progress IS
    'backups that run on this server';

-- Who can start a backup can upload a manifest for it, and who can send files can send WAL.
DO LANGUAGE plpgsql $grants$
DECLARE
    privilege record;
BEGIN
    FOR privilege IN
        SELECT new_function,
            CASE grantee WHEN 0::oid THEN 'PUBLIC' ELSE grantee::regrole::text END AS role,
            is_grantable
        FROM (VALUES
                ('start_backup_0_2_0'::regproc,
                    'upload_manifest(bytea)'),
                ('start_backup_0_2_0',
                    'start_backup(text, boolean, boolean, integer, boolean, text, boolean, boolean)'),
                ('send_backup_files_0_2_0',
                    'send_backup_files(bigint, text[], oid, integer, boolean, pg_lsn, text, text, bigint, boolean)'),
                ('send_backup_files_0_2_0',
                    'send_wal(bigint, pg_lsn, interval, text)'),
                ('base_backup_0_2_0',
                    'base_backup(text, boolean, boolean, integer, boolean, text, boolean, boolean, boolean, boolean, text, boolean)'),
                ('backup_progress_0_2_0',
                    'backup_progress()')
            ) AS replaced (old_function, new_function)
            JOIN pg_catalog.pg_proc ON pg_proc.oid OPERATOR(pg_catalog.=) old_function,
            LATERAL pg_catalog.aclexplode(proacl)
        WHERE grantee OPERATOR(pg_catalog.<>) proowner
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s%s',
            privilege.new_function, privilege.role,
            CASE WHEN privilege.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$grants$;

DROP FUNCTION start_backup_0_2_0;
DROP FUNCTION send_backup_files_0_2_0;
DROP FUNCTION base_backup_0_2_0;
DROP FUNCTION backup_progress_0_2_0;
