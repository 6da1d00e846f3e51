\echo Use "ALTER EXTENSION pg_parallel_backup UPDATE TO '0.3.0'" to load this file. \quit

-- send_backup_files() gets the argument max_bytes, and backup_progress() the columns about WAL, which
-- makes new functions of them. Roles that could execute the old ones can execute the new ones.
ALTER FUNCTION send_backup_files(
    bigint, text[], oid, integer, boolean, pg_lsn, text, text
) RENAME TO send_backup_files_0_2_0;
ALTER FUNCTION backup_progress() RENAME TO backup_progress_0_2_0;

CREATE FUNCTION send_backup_files(
    backup_id bigint DEFAULT NULL,
    files text[] DEFAULT NULL,
    tablespace oid DEFAULT NULL,
    max_rate integer DEFAULT NULL,
    verify_checksums boolean DEFAULT NULL,
    start_wal_location pg_lsn DEFAULT NULL,
    compression text DEFAULT NULL,
    target text DEFAULT 'client',
    max_bytes bigint DEFAULT NULL
) RETURNS SETOF bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'send_backup_files_within_wrapper';
REVOKE ALL ON FUNCTION send_backup_files(
    bigint, text[], oid, integer, boolean, pg_lsn, text, text, bigint
) FROM PUBLIC;
COMMENT ON FUNCTION send_backup_files IS
    'sends files of a backup as a tar archive, in COPY (SELECT ...) TO STDOUT';

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

-- Who can send files of a backup can send its WAL.
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

DO LANGUAGE plpgsql $grants$
DECLARE
    privilege record;
BEGIN
    FOR privilege IN
        SELECT new_function,
            CASE grantee WHEN 0::oid THEN 'PUBLIC' ELSE grantee::regrole::text END AS role,
            is_grantable
        FROM (VALUES
                ('send_backup_files_0_2_0'::regproc,
                    'send_backup_files(bigint, text[], oid, integer, boolean, pg_lsn, text, text, bigint)'),
                ('send_backup_files_0_2_0', 'send_wal(bigint, pg_lsn, interval, text)'),
                ('backup_progress_0_2_0', 'backup_progress()')
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

DROP FUNCTION send_backup_files_0_2_0;
DROP FUNCTION backup_progress_0_2_0;
