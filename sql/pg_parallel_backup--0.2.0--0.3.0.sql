\echo Use "ALTER EXTENSION pg_parallel_backup UPDATE TO '0.3.0'" to load this file. \quit

-- send_backup_files() gets the argument max_bytes, which makes a new function of it. Roles that could
-- execute the old one can execute the new one.
ALTER FUNCTION send_backup_files(
    bigint, text[], oid, integer, boolean, pg_lsn, text, text
) RENAME TO send_backup_files_0_2_0;

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

DO LANGUAGE plpgsql $grants$
DECLARE
    new_function CONSTANT text :=
        'send_backup_files(bigint, text[], oid, integer, boolean, pg_lsn, text, text, bigint)';
    privilege record;
BEGIN
    FOR privilege IN
        SELECT CASE grantee WHEN 0::oid THEN 'PUBLIC' ELSE grantee::regrole::text END AS role,
            is_grantable
        FROM pg_catalog.pg_proc, LATERAL pg_catalog.aclexplode(proacl)
        WHERE pg_proc.oid OPERATOR(pg_catalog.=) 'send_backup_files_0_2_0'::regproc
            AND grantee OPERATOR(pg_catalog.<>) proowner
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s%s', new_function, privilege.role,
            CASE WHEN privilege.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$grants$;

DROP FUNCTION send_backup_files_0_2_0;
