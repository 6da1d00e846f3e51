#!/usr/bin/env bash
# Tests both drivers against a scratch cluster: a backup that is restored and queried, and every failure
# after which a driver must leave nothing behind.
#
# LANGUAGES (sh, py) and TESTS (names without test_) select tests.
set -uo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/../scripts/environment.sh"
# shellcheck source=scripts/cluster.sh
. "$ROOT/scripts/cluster.sh"
require_postgres
export PATH=$PG_BIN:$PATH

readonly PORT=54611 RESTORED_PORT=54612
# A name that fails wherever it is not quoted.
readonly SCHEMA='"Backup ""of"" everything"'
passed=0
failed=0

# ---- the cluster -------------------------------------------------------------------------------

make_source() {
    init_cluster "$SCRATCH/source" || return 1
    mkdir "$SCRATCH/tablespace=1" && give_to_server "$SCRATCH/tablespace=1" || return 1
    # An autovacuum would add files while a test compares folders.
    start_cluster "$SCRATCH/source" $PORT autovacuum=off || return 1
    sql $PORT <<SQL
CREATE SCHEMA $SCHEMA;
CREATE EXTENSION pg_parallel_backup SCHEMA $SCHEMA;
CREATE TABLESPACE elsewhere LOCATION '$SCRATCH/tablespace=1';
CREATE TABLE here AS SELECT i, repeat(md5(i::text), 20) AS padding FROM generate_series(1, 40000) i;
CREATE TABLE there TABLESPACE elsewhere AS SELECT * FROM here;
CHECKPOINT;
SQL
}

python_with_psycopg() {
    local venv=${CARGO_TARGET_DIR:-$ROOT/target}/venv
    if ! "$venv/bin/python" -c 'import psycopg' 2>/dev/null; then
        python3 -m venv "$venv" \
            && "$venv/bin/pip" install --quiet --disable-pip-version-check \
                -r "$ROOT/examples/requirements.txt" || return 1
    fi
    driver_python=$venv/bin/python
}

# ---- how a driver is called --------------------------------------------------------------------

# The driver would inherit ignored signals from this script. A background job of a shell without job
# control ignores SIGINT.
run_driver() {
    local fresh=(env '--default-signal=INT,TERM,HUP')
    case $language in
        sh) fresh+=("$ROOT/examples/parallel_backup.sh") ;;
        py) fresh+=("$driver_python" "$ROOT/examples/parallel_backup.py") ;;
    esac
    exec "${fresh[@]}" -d "host=$SCRATCH/socket port=$PORT user=postgres dbname=postgres" "$@"
}

driver() {
    run_driver -D "$SCRATCH/backup" "$@"
}

mapped() {
    printf '%s=%s' "$SCRATCH/tablespace\\=1" "$SCRATCH/moved"
}

# take OPTION...: runs the driver to its end.
take() {
    (driver -c fast "$@") >"$SCRATCH/out" 2>&1
}

# take_slowly: starts the driver with a low rate, so that the backup takes long, and returns when files
# are being sent. Sets driver_pid.
take_slowly() {
    (driver -c fast -T "$(mapped)" -r 1024 -j 3) >"$SCRATCH/out" 2>&1 &
    driver_pid=$!
    until_true "workers stream" "SELECT count(*) = 1 FROM $SCHEMA.backup_progress()
        WHERE workers = 3 AND bytes_sent > 100000"
}

# until_true WHAT QUERY: polls the source until the query returns true.
until_true() {
    local deadline=$((SECONDS + 60))
    until [[ $(sql $PORT -c "$2") == t ]]; do
        if ((SECONDS > deadline)); then
            say "# waited in vain: $1"
            return 1
        fi
        sleep 0.05
    done
}

# ---- what is expected --------------------------------------------------------------------------

expect() {
    if ! "${@:2}"; then
        say "# not so: $1"
        return 1
    fi
}

# said PATTERN, or said -e PATTERN...
said() {
    [[ $1 == -e ]] || set -- -e "$1"
    grep -q "$@" "$SCRATCH/out"
}

# gave_up STATUS: checks that the driver failed and left nothing behind, here or on the server.
gave_up() {
    expect "exit status 1, not $1" test "$1" -eq 1 \
        && expect "backup directory is gone" test ! -e "$SCRATCH/backup" \
        && expect "tablespace directory is gone" test ! -e "$SCRATCH/moved" \
        && until_true "no backup in progress" "SELECT count(*) = 0 FROM $SCHEMA.backup_progress()" \
        && until_true "no session is left" "SELECT count(*) = 0 FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()" \
        && until_true "no slot is left" "SELECT count(*) = 0 FROM pg_replication_slots" \
        && expect "no tar is left" no_process_works_in "$SCRATCH/backup"
}

no_process_works_in() {
    local link
    for link in /proc/[0-9]*/cwd; do
        [[ $(readlink "$link" 2>/dev/null) != "$1"* ]] || return 1
    done
}

# descendants_named NAME PID: prints process IDs.
descendants_named() {
    local child
    for child in $(ps -o pid= --ppid "$2"); do
        if [[ $(ps -o comm= -p "$child") == "$1" ]]; then
            say "$child"
        fi
        descendants_named "$1" "$child"
    done
}

# ---- tests -------------------------------------------------------------------------------------

test_backup_with_moved_tablespace_restores() {
    local counts
    take -T "$(mapped)" -j 3 -l "it's a label" || return 1
    counts=$(sql $PORT -c "SELECT count(*), sum(i) FROM (TABLE here UNION ALL TABLE there) AS t")
    expect "verified" said 'verified by pg_verifybackup' \
        && expect "a rate for each worker" said 'worker 3 .* MB/s' \
        && expect "mode of the directory" test "$(stat -c %a "$SCRATCH/backup")" = 700 \
        && expect "label" grep -q "^LABEL: it's a label\$" "$SCRATCH/backup/backup_label" \
        && expect "the link" test "$(readlink "$SCRATCH"/backup/pg_tblspc/*)" = "$SCRATCH/moved" \
        && give_to_server "$SCRATCH/backup" "$SCRATCH/moved" \
        && start_cluster "$SCRATCH/backup" $RESTORED_PORT \
        && expect "the same rows" test "$counts" = "$(sql $RESTORED_PORT -c \
            "SELECT count(*), sum(i) FROM (TABLE here UNION ALL TABLE there) AS t")" \
        && expect "the new place" test "$SCRATCH/moved" = "$(sql $RESTORED_PORT -c \
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'")"
}

test_backup_without_wal_holds_no_segment() {
    take --no-wal -T "$(mapped)" -v || return 1
    expect "verified" said 'verified by pg_verifybackup' \
        && expect "no segment" test -z "$(find "$SCRATCH/backup/pg_wal" -type f)"
}

test_empty_directory_is_used_and_emptied_again() {
    mkdir "$SCRATCH/backup"
    take -T /no/such/tablespace="$SCRATCH/moved"
    expect "exit status" test $? -eq 1 \
        && expect "still there" test -d "$SCRATCH/backup" \
        && expect "empty" test -z "$(ls -A "$SCRATCH/backup")"
}

test_mapping_of_unknown_tablespace_is_refused() {
    take -T "$(mapped)" -T /no/such/tablespace="$SCRATCH/other"
    gave_up $? && expect "message" said 'no tablespace at "/no/such/tablespace"'
}

test_malformed_mappings_are_refused() {
    local text
    for text in /a =/b /a= /a=/b=/c a=/b /a=b; do
        if take -T "$text"; then
            say "# accepted: $text"
            return 1
        fi
        expect "message for $text" said 'tablespace mapping' || return 1
    done
}

test_directory_with_files_is_refused_and_kept() {
    mkdir "$SCRATCH/backup" && echo precious >"$SCRATCH/backup/file"
    take -T "$(mapped)"
    expect "exit status" test $? -eq 1 \
        && expect "message" said 'exists but is not empty' \
        && expect "the file" grep -q precious "$SCRATCH/backup/file"
}

test_place_of_live_tablespace_is_refused_and_kept() {
    local before after
    before=$(find "$SCRATCH/tablespace=1" | sort)
    take
    gave_up $? || return 1
    after=$(find "$SCRATCH/tablespace=1" | sort)
    expect "message" said 'exists but is not empty' \
        && expect "files of the tablespace" test "$before" = "$after"
}

test_terminated_worker_ends_the_backup() {
    local status
    take_slowly || return 1
    sql $PORT -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE '%worker 2'" >/dev/null
    wait "$driver_pid"
    status=$?
    gave_up "$status" && expect "names the worker" said 'error: worker 2: '
}

test_killed_tar_ends_the_backup() {
    local status tars
    take_slowly || return 1
    mapfile -t tars < <(descendants_named tar "$driver_pid")
    expect "a tar for each worker" test "${#tars[@]}" -eq 3 || return 1
    kill -KILL "${tars[1]}"
    wait "$driver_pid"
    status=$?
    gave_up "$status" && expect "names a worker and tar" said 'error: worker [123]: .*tar'
}

test_terminated_leader_ends_the_backup() {
    local status
    take_slowly || return 1
    sql $PORT -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE '%leader'" >/dev/null
    wait "$driver_pid"
    status=$?
    gave_up "$status"
}

# through_gateway SECONDS OPTION...: takes a backup through a gateway that closes silent connections.
through_gateway() {
    local gateway=$SCRATCH/gateway seconds=$1 status=0 proxy_pid
    shift
    rm -rf "$gateway"
    mkdir "$gateway" || return 1
    python3 "$ROOT/examples/idle_proxy.py" "$gateway/.s.PGSQL.$PORT" "$SCRATCH/socket/.s.PGSQL.$PORT" \
        "$seconds" &
    proxy_pid=$!
    until [[ -S $gateway/.s.PGSQL.$PORT ]]; do
        kill -0 "$proxy_pid" || return 1
        sleep 0.05
    done
    take -T "$(mapped)" -d "host=$gateway port=$PORT user=postgres dbname=postgres" "$@" || status=$?
    kill "$proxy_pid"
    wait "$proxy_pid" 2>/dev/null
    return "$status"
}

# The workers have something to say all the time, and the leader only what keeps it alive.
test_silent_gateway_needs_the_heartbeat() {
    expect "the backup succeeds" through_gateway 4 -r 8192 -j 2 --no-sync --heartbeat 1 || return 1
    rm -rf -- "$SCRATCH/backup" "$SCRATCH/moved"
    through_gateway 4 -r 8192 -j 2 --no-sync --heartbeat 0
    gave_up $? && expect "names the leader" said -e 'leader' -e 'closed the connection'
}

test_interrupt_ends_the_backup() {
    local status
    take_slowly || return 1
    kill -INT "$driver_pid"
    wait "$driver_pid"
    status=$?
    gave_up "$status" && expect "says so" said 'stopped by a signal'
}

test_sigterm_ends_the_backup() {
    local status
    take_slowly || return 1
    kill -TERM "$driver_pid"
    wait "$driver_pid"
    status=$?
    gave_up "$status" && expect "says so" said 'stopped by a signal'
}

test_damaged_page_ends_the_backup() {
    local file status
    sql $PORT -c "CREATE TABLE damaged AS SELECT generate_series(1, 1000)" -c "CHECKPOINT"
    file=$SCRATCH/source/$(sql $PORT -c "SELECT pg_relation_filepath('damaged')")
    # In the middle of the second page, among its rows.
    printf 'damage' | dd of="$file" bs=1 seek=$((8192 + 4096)) conv=notrunc status=none
    take -T "$(mapped)" -j 2
    status=$?
    sql $PORT -c "DROP TABLE damaged" -c "CHECKPOINT"
    gave_up "$status" \
        && expect "WARNING" said 'checksum verification failed in file "base/.*, block 1: ' \
        && expect "ERROR" said 'checksum verification failure during base backup'
}

test_no_directory_is_refused() {
    if (run_driver -c fast) >"$SCRATCH/out" 2>&1; then
        say "# accepted without -D"
        return 1
    fi
    expect "message" said '-D' || return 1
    # An empty name would mean the driver's working directory.
    if (run_driver -D '') >"$SCRATCH/out" 2>&1; then
        say "# accepted an empty -D"
        return 1
    fi
    expect "message" said '-D'
}

# Functions, operators and views with which an attacker could act as the role that takes the backup.
test_hostile_search_path_calls_nothing() {
    local status
    sql $PORT <<'SQL' || return 1
CREATE SCHEMA traps;
SET search_path = traps, pg_catalog;
CREATE TABLE called (query text);
CREATE FUNCTION spring() RETURNS text LANGUAGE sql
    AS 'INSERT INTO traps.called VALUES (current_query()) RETURNING query';
CREATE FUNCTION format(text, name) RETURNS text LANGUAGE sql AS 'SELECT traps.spring()';
CREATE FUNCTION format(text, text, bigint, bigint, bigint, bigint, integer) RETURNS text LANGUAGE sql
    AS 'SELECT traps.spring()';
CREATE FUNCTION current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT traps.spring()';
CREATE FUNCTION trap(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT traps.spring() IS NULL';
CREATE FUNCTION trap("char", text) RETURNS boolean LANGUAGE sql AS 'SELECT traps.spring() IS NULL';
CREATE FUNCTION trap(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT traps.spring() IS NULL';
CREATE FUNCTION trap(bigint, integer) RETURNS bigint LANGUAGE sql AS 'SELECT length(traps.spring())::bigint';
CREATE FUNCTION trap(integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT length(traps.spring())';
CREATE OPERATOR = (FUNCTION = trap, LEFTARG = name, RIGHTARG = text);
CREATE OPERATOR = (FUNCTION = trap, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR <> (FUNCTION = trap, LEFTARG = "char", RIGHTARG = text);
CREATE OPERATOR / (FUNCTION = trap, LEFTARG = bigint, RIGHTARG = integer);
CREATE OPERATOR / (FUNCTION = trap, LEFTARG = integer, RIGHTARG = integer);
CREATE VIEW pg_extension AS SELECT spring()::name AS extname, 0::oid AS extnamespace;
CREATE VIEW pg_namespace AS SELECT 0::oid AS oid, spring()::name AS nspname;
ALTER ROLE postgres SET search_path = traps, pg_catalog;
SQL
    # Slow enough to show its progress.
    take -T "$(mapped)" -j 2 -v -r 20000
    status=$?
    sql $PORT -c "SET search_path = pg_catalog" -c "ALTER ROLE postgres RESET search_path" \
        -c "SELECT '# called by: ' || query FROM traps.called" -c "DROP SCHEMA traps CASCADE" \
        >"$SCRATCH/called" 2>"$SCRATCH/dropped" || return 1
    cat "$SCRATCH/called"
    expect "exit status" test "$status" -eq 0 \
        && expect "progress" said 'streaming database files' \
        && expect "nothing was called" test ! -s "$SCRATCH/called"
}

test_database_without_extension_is_refused() {
    take -d "host=$SCRATCH/socket port=$PORT user=postgres dbname=template1"
    gave_up $? && expect "message" said 'CREATE EXTENSION pg_parallel_backup'
}

# ---- a hostile server --------------------------------------------------------------------------

# attacked ATTACK [OPTION...]: checks that a backup from such a server fails with a message, and that
# nothing outside the backup is written or executed.
attacked() {
    local attack=$1 socket=$SCRATCH/hostile status=0 hostile_pid
    shift
    rm -rf "$socket" "$SCRATCH/outside"
    mkdir "$socket" "$SCRATCH/outside" && echo precious >"$SCRATCH/outside/secret" || return 1
    "$ROOT/examples/hostile_server.py" "$socket/.s.PGSQL.$PORT" "$attack" "$SCRATCH/outside" \
        2>"$SCRATCH/hostile.log" &
    hostile_pid=$!
    until [[ -S $socket/.s.PGSQL.$PORT ]]; do
        kill -0 "$hostile_pid" || return 1
        sleep 0.05
    done
    # An executed command would leave its file here.
    (cd "$SCRATCH/outside" && driver -j 1 --no-sync \
        -d "host=$socket port=$PORT user=postgres dbname=postgres" "$@") >"$SCRATCH/out" 2>&1 \
        || status=$?
    kill "$hostile_pid"
    wait "$hostile_pid" 2>/dev/null
    expect "$attack: nothing outside" test "$(ls "$SCRATCH/outside")" = secret \
        && expect "$attack: the file outside" grep -qx precious "$SCRATCH/outside/secret" \
        && expect "$attack: the server did its part" test ! -s "$SCRATCH/hostile.log" \
        && gave_up "$status" \
        && expect "$attack: an error in words" said 'error: ' \
        && expect "$attack: nothing but words" not said -e Traceback -e ': line [0-9]'
}

not() {
    ! "$@"
}

# Without an attack, a backup from this server gets as far as pg_verifybackup.
test_hostile_server_as_such_is_left_to_pg_verifybackup() {
    attacked none && expect "message" said 'pg_verifybackup did not accept'
}

test_hostile_names_and_links_lead_nowhere() {
    local attack
    for attack in absolute_name name_with_parent name_with_parent_inside link_out name_below_link \
        name_below_relative_link name_below_link_of_before name_below_link_at_the_end \
        hard_link_out hard_link_to_parent tablespace_that_was_not_listed; do
        attacked "$attack" || return 1
    done
    attacked tablespace_led_elsewhere -T "/no/such/place=$SCRATCH/moved"
}

test_hostile_answers_are_refused() {
    attacked number_of_the_backup && expect "message" said 'invalid backup ID "1); DROP"' \
        && attacked no_backup \
        && attacked oid_of_a_tablespace -T "/no/such/place=$SCRATCH/moved" \
        && expect "message" said 'invalid tablespace OID "../../outside/written"' \
        && attacked place_of_a_tablespace -T "/no/such/\$(touch executed)=$SCRATCH/moved" \
        && attacked mode && expect "message" said 'invalid' \
        && attacked schema || return 1
    if [[ $language == sh ]]; then
        # The Python driver gets the version from the library, as a number.
        attacked version && expect "message" said 'invalid version'
    fi
}

# ---- all of them -------------------------------------------------------------------------------

run_test() {
    if "test_$1"; then
        passed=$((passed + 1))
        say "ok $((passed + failed)) - $language: ${1//_/ }"
    else
        failed=$((failed + 1))
        say "not ok $((passed + failed)) - $language: ${1//_/ }"
        sed 's/^/# /' "$SCRATCH/out"
    fi
    stop_cluster "$SCRATCH/backup" immediate
    rm -rf -- "$SCRATCH/backup" "$SCRATCH/moved" "$SCRATCH/backup".*
}

make_scratch pgpb-examples
if ! make_source; then
    say "the scratch cluster could not be made"
    say "0 passed, 1 failed"
    exit 1
fi
driver_python=''
python_with_psycopg || say "# psycopg could not be installed; the tests of the Python driver will fail"
for language in ${LANGUAGES:-sh py}; do
    for name in ${TESTS:-$(compgen -A function test_ | sed 's/^test_//')}; do
        run_test "$name"
    done
done
say "$passed passed, $failed failed"
((failed == 0))
