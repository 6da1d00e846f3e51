#!/usr/bin/env bash
# Takes a base backup with several workers, using only psql and GNU tar.
#
# One psql, the leader, starts and stops the backup and stays connected in between. Each worker is a
# pipe: psql requests files until none is left, tar unpacks them. All unpack into one directory, which
# then is a data directory. This script creates the links of tablespaces before anything is unpacked
# below them, so that a tablespace can be relocated.
#
# After any error, and after Ctrl-C, the script stops the workers, ends the backup on the server (it ends
# with the leader's session) and removes what it has created.
set -euo pipefail
export LC_ALL=C

readonly PROGRAM=${0##*/}
readonly END_OF_ANSWER='-- end of answer --'
# Seconds without a word after which a connection counts as dropped: firewalls and gateways drop silent
# ones without telling either side.
readonly SILENCE=120

usage() {
    cat <<USAGE
$PROGRAM takes a parallel base backup of a PostgreSQL server.

Usage: $PROGRAM -D DIRECTORY [OPTION]...

  -D, --directory DIR       target directory; must be empty or not exist
  -d, --dbname CONNINFO     connection string, or name of a database that has the extension
  -j, --jobs N              number of workers (default 4)
  -T, --tablespace-mapping OLD=NEW
                            relocate the tablespace at OLD to NEW; write \\= for = in a path
      --wal, --no-wal       include the WAL that the backup needs (default), or not
  -c, --checkpoint fast|spread
                            (default spread)
  -r, --max-rate RATE       kB/s for all workers together, 32 to 1048576
  -l, --label LABEL         label of the backup (default "parallel_backup")
      --no-verify-checksums do not verify the checksums of pages
      --no-verify           do not run pg_verifybackup on the result
      --no-sync             do not wait for the files to reach the disk
      --heartbeat SECONDS   interval of statements in the leader's session (default 30, 0 for none)
  -v, --verbose             show the progress once a second
  -h, --help                show this help

The program never prompts for a password: use a password file or PGPASSWORD.
USAGE
}

# ---- messages and the end ----------------------------------------------------------------------

say() {
    printf '%s\n' "$*"
}

fail() {
    printf '%s: error: %s\n' "$PROGRAM" "$*" >&2
    exit 1
}

work=''            # scratch folder: pipes, and output of the programs
tablespaces=()     # locations of the backup's tablespaces
made=()            # files and directories to remove after an error
emptied=()         # existing directories, to be emptied again after an error
jobs_started=()    # process groups of all started programs
leader_in=''
leader_out=''
answer_limit=()    # limit of the wait for the leader, as options of read
complete=no

# Every job runs in its own process group (set -m): killing the group ends both psql and tar. A Ctrl-C
# reaches only this script, which then ends the jobs in order.
stop_jobs() {
    local group signal deadline
    if [[ -n $leader_in ]]; then
        exec {leader_in}>&- || true
    fi
    # On SIGINT psql cancels its statement. The other signals end programs that ignore SIGINT.
    for signal in INT TERM KILL; do
        for group in "${jobs_started[@]}"; do
            kill "-$signal" -- "-$group" 2>/dev/null || true
        done
        deadline=$((SECONDS + 3))
        while jobs_run; do
            ((SECONDS < deadline)) || continue 2
            sleep 0.05
        done
        return
    done
}

jobs_run() {
    local group
    for group in "${jobs_started[@]}"; do
        if kill -0 -- "-$group" 2>/dev/null; then
            return 0
        fi
    done
    return 1
}

at_exit() {
    local status=$? directory
    trap '' HUP INT TERM
    set +e
    stop_jobs 2>/dev/null
    if [[ $complete != yes ]]; then
        for directory in "${made[@]}"; do
            rm -rf -- "$directory"
        done
        for directory in "${emptied[@]}"; do
            find "$directory" -mindepth 1 -delete
        done
        ((${#made[@]} + ${#emptied[@]} == 0)) || say "$PROGRAM: removed what had been written" >&2
    fi
    [[ -z $work ]] || rm -rf -- "$work"
    exit "$status"
}

# ---- arguments ---------------------------------------------------------------------------------

conninfo=''
directory=''
workers=4
declare -A mapping=()
wal=true
fast=false
max_rate=NULL
label=parallel_backup
verify_checksums=true
verify=yes
sync=yes
verbose=no
heartbeat=30

# add_mapping OLD=NEW: follows the rules of pg_basebackup.
add_mapping() {
    local text=$1 sides=('') side=0 i
    for ((i = 0; i < ${#text}; i++)); do
        if [[ ${text:i:2} == '\=' ]]; then
            sides[side]+='='
            i=$((i + 1))
        elif [[ ${text:i:1} == '=' ]]; then
            side=$((side + 1))
            sides[side]=''
        else
            sides[side]+=${text:i:1}
        fi
    done
    [[ $side == 1 && -n ${sides[0]} && -n ${sides[1]} ]] \
        || fail "invalid tablespace mapping \"$text\", must be \"OLD=NEW\""
    [[ ${sides[0]} == /* ]] || fail "old directory is not an absolute path in tablespace mapping: ${sides[0]}"
    [[ ${sides[1]} == /* ]] || fail "new directory is not an absolute path in tablespace mapping: ${sides[1]}"
    mapping[${sides[0]%/}]=${sides[1]%/}
}

parse_arguments() {
    local argument
    while (($#)); do
        argument=$1
        shift
        case $argument in
            -D | --directory | -d | --dbname | -j | --jobs | -T | --tablespace-mapping | \
                -c | --checkpoint | -r | --max-rate | -l | --label | --heartbeat)
                (($#)) || fail "option $argument needs a value"
                ;;&
            -D | --directory) directory=$1 && shift ;;
            -d | --dbname) conninfo=$1 && shift ;;
            -j | --jobs) workers=$1 && shift ;;
            -T | --tablespace-mapping) add_mapping "$1" && shift ;;
            -c | --checkpoint)
                case $1 in
                    fast) fast=true ;;
                    spread) fast=false ;;
                    *) fail "invalid checkpoint argument \"$1\", must be \"fast\" or \"spread\"" ;;
                esac
                shift
                ;;
            -r | --max-rate) max_rate=$1 && shift ;;
            -l | --label) label=$1 && shift ;;
            --heartbeat) heartbeat=$1 && shift ;;
            --wal) wal=true ;;
            --no-wal) wal=false ;;
            --no-verify-checksums) verify_checksums=false ;;
            --no-verify) verify=no ;;
            --no-sync) sync=no ;;
            -v | --verbose) verbose=yes ;;
            -h | --help) usage && exit 0 ;;
            *) fail "unknown argument \"$argument\"; --help shows what there is" ;;
        esac
    done
    [[ -n $directory ]] || fail "no target directory specified (-D)"
    [[ $workers =~ ^[1-9][0-9]{0,3}$ ]] || fail "invalid number of workers \"$workers\""
    [[ $max_rate =~ ^([1-9][0-9]{0,8}|NULL)$ ]] || fail "invalid transfer rate \"$max_rate\""
    [[ $heartbeat =~ ^[0-9]{1,6}$ ]] || fail "invalid interval \"$heartbeat\""
    [[ $directory == /* ]] || directory=$PWD/$directory
    [[ $directory == / ]] || directory=${directory%/}
}

# with_keepalives CONNINFO: adds parameters by which libpq notices a dropped connection, unless they are
# set there. Only libpq reads service files, so what they set is not known.
with_keepalives() {
    local info=$1 parameter name
    if [[ $info == *service=* || -n ${PGSERVICE:-} ]]; then
        printf '%s' "$info"
        return
    fi
    if [[ -n $info && $info != *[=]* && $info != postgres*://* ]]; then
        info=${info//\\/\\\\}
        info="dbname='${info//\'/\\\'}'"
    fi
    for parameter in "keepalives_idle=$((SILENCE / 2))" "keepalives_interval=$((SILENCE / 12))" \
        keepalives_count=6 "tcp_user_timeout=${SILENCE}000"; do
        name=${parameter%%=*}
        case $info in
            *"$name"*) ;;
            postgres*://*\?*) info+="&$parameter" ;;
            postgres*://*) info+="?$parameter" ;;
            *) info+=" $parameter" ;;
        esac
    done
    printf '%s' "$info"
}

# ---- directories -------------------------------------------------------------------------------

# claim_directory DIR: creates it, or uses an empty one, and records how to undo that.
claim_directory() {
    local missing=$1
    if [[ -e $1 || -L $1 ]]; then
        [[ -d $1 ]] || fail "\"$1\" exists but is not a directory"
        [[ -z $(ls -A -- "$1") ]] || fail "directory \"$1\" exists but is not empty"
        emptied+=("$1")
    else
        while [[ ! -e ${missing%/*} && -n ${missing%/*} ]]; do
            missing=${missing%/*}
        done
        made+=("$missing")
        mkdir -p -- "$1" || fail "could not create directory \"$1\""
    fi
    chmod "$directory_mode" -- "$1"
}

# prepare_tablespaces: creates a new location for each tablespace, and the link to it in the backup.
prepare_tablespaces() {
    local row oid location target old
    declare -A used=()
    leader "SELECT spcoid, spclocation FROM $schema.backup_tablespaces($backup_id) WHERE spcoid IS NOT NULL;"
    claim_directory "$directory"
    for row in "${rows[@]}"; do
        oid=${row%%|*}
        location=${row#*|}
        # An in-place tablespace is part of the data directory.
        [[ $location == /* ]] || continue
        [[ $oid =~ ^[0-9]+$ ]] || fail "the server sent an invalid tablespace OID \"$oid\""
        target=${mapping[$location]:-$location}
        # "unset" would evaluate the subscript, which comes from the server and must not be executed.
        used[$location]=yes
        claim_directory "$target"
        tablespaces+=("$target")
        mkdir -p -- "$directory/pg_tblspc"
        ln -s -- "$target" "$directory/pg_tblspc/$oid"
    done
    for old in "${!mapping[@]}"; do
        [[ -n ${used[$old]:-} ]] || fail "there is no tablespace at \"$old\", which -T maps"
    done
}

# ---- the leader --------------------------------------------------------------------------------

start_leader() {
    mkfifo "$work/leader.in" "$work/leader.out"
    PGAPPNAME="$PROGRAM leader" "${psql[@]}" -v label="$label" \
        <"$work/leader.in" >"$work/leader.out" 2>"$work/leader.err" &
    leader_pid=$!
    jobs_started+=("$leader_pid")
    exec {leader_in}>"$work/leader.in" {leader_out}<"$work/leader.out"
}

# leader STATEMENT: runs it in the leader's session; returns the rows in the array of that name.
leader() {
    local line status=0
    rows=()
    printf '%s\n' "$1" "\\echo $END_OF_ANSWER" >&"$leader_in" || leader_failed
    while IFS= read -r "${answer_limit[@]}" line <&"$leader_out" || status=$?; ((status == 0)); do
        [[ $line != "$END_OF_ANSWER" ]] || return 0
        rows+=("$line")
    done
    # The status of a read that has waited too long.
    ((status <= 128)) || fail "leader: no answer for $SILENCE s; a firewall may have dropped its connection"
    leader_failed
}

# send_heartbeat: says something in the leader's session, so that nothing on the way takes it for dead.
send_heartbeat() {
    local answer_limit=(-t "$SILENCE")
    leader 'SELECT;'
}

leader_failed() {
    fail "leader: $(said leader.err)"
}

# said FILE...: standard error of programs.
said() {
    local text
    text=$(cd "$work" && cat -- "$@" 2>/dev/null)
    printf '%s' "${text:-connection lost}"
}

# Settings of the role that could end a session or delay it. transaction_timeout exists from 17 on. The
# server notices when this side has gone, unless its own settings say how.
readonly settings="SET search_path = pg_catalog; SET statement_timeout = 0; SET lock_timeout = 0;
    SET idle_session_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET exit_on_error = off;
    SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off;
    DO \$\$ BEGIN PERFORM set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'; END \$\$;
    DO \$\$ BEGIN PERFORM set_config(name, value, false)
        FROM (VALUES ('tcp_keepalives_idle', '$((SILENCE / 2))'), ('tcp_keepalives_interval', '$((SILENCE / 12))'),
            ('tcp_keepalives_count', '6'), ('tcp_user_timeout', '${SILENCE}000')) AS limits (name, value)
        JOIN pg_settings USING (name) WHERE source = 'default'; END \$\$;"

start_backup() {
    leader "$settings"
    leader "SELECT format('%I', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_parallel_backup';"
    ((${#rows[@]} == 1)) \
        || fail "this database has no extension pg_parallel_backup (CREATE EXTENSION pg_parallel_backup)"
    schema=${rows[0]}
    # It becomes part of statements for psql, which would execute a backslash command.
    [[ $schema =~ ^([a-z_][a-z0-9_]*|\"([^\"]|\"\")+\")$ ]] || fail "the server sent an invalid schema name \"$schema\""
    leader "SELECT current_setting('server_version_num')::integer / 10000, current_setting('data_directory_mode');"
    IFS='|' read -r server_major directory_mode <<<"${rows[0]:-}"
    [[ $server_major =~ ^[0-9]+$ ]] || fail "the server sent an invalid version \"$server_major\""
    [[ $directory_mode =~ ^[0-7]{3,4}$ ]] || fail "the server sent an invalid mode \"$directory_mode\""
    umask "$(printf '%04o' $((0777 & ~0$directory_mode)))"

    say "starting the backup, waiting for its checkpoint"
    leader "SELECT backup_id, file_count, total_bytes, start_lsn, timeline
        FROM $schema.start_backup(:'label', fast => $fast, tablespace_map => false, max_rate => $max_rate,
            verify_checksums => $verify_checksums, retain_wal => $wal);"
    IFS='|' read -r backup_id file_count total_bytes start_lsn timeline <<<"${rows[0]:-}"
    [[ $backup_id =~ ^-?[0-9]+$ ]] || fail "the server sent an invalid backup ID \"$backup_id\""
    [[ $file_count =~ ^[0-9]+$ && $total_bytes =~ ^[0-9]+$ ]] \
        || fail "the server sent an invalid size \"$file_count, $total_bytes\""
}

# ---- streams -----------------------------------------------------------------------------------

# Unpacks an archive. A server must not write outside the backup: tar refuses absolute names and "..",
# and a new link gets a target that does not exist. The links of the tablespaces already exist and
# are not replaced. Large records, because tar reads and writes 10 kB at a time by default.
untar=(tar -x -f - --blocking-factor=512 --same-permissions --no-same-owner --numeric-owner --skip-old-files
    --transform='s,.*,/nonexistent,sRH' --totals)

# unpack_from_leader NAME CALL: unpacks the archive that a function sends in the leader's session.
unpack_from_leader() {
    local pipe=$work/$1.pipe unpacker
    mkfifo "$pipe"
    "${untar[@]}" -C "$directory" <"$pipe" 2>"$work/$1.tar" {leader_in}>&- {leader_out}<&- &
    unpacker=$!
    jobs_started+=("$unpacker")
    leader "\\o '${pipe//\'/\'\'}'
COPY (SELECT $2) TO STDOUT;
\\o"
    wait "$unpacker" || fail "$1 archive: tar: $(said "$1.tar")"
}

# Directories are unpacked before the workers begin: two tars that create the same directory at the same
# time can fail.
make_directories() {
    unpack_from_leader directories "$schema.send_backup_files($backup_id,
        ARRAY(SELECT path FROM $schema.backup_filelist($backup_id) WHERE type <> 'f'))"
}

run_worker() {
    local status started=$EPOCHREALTIME
    set +e
    exec {leader_in}>&- {leader_out}<&-
    PGAPPNAME="$PROGRAM worker $1" "${psql[@]}" -c "$settings" \
        -c "COPY (SELECT $schema.send_backup_files($backup_id)) TO STDOUT" 2>"$work/$1.psql" \
        | "${untar[@]}" -C "$directory" 2>"$work/$1.tar"
    status=("${PIPESTATUS[@]}")
    printf '%s\n' "${status[*]} $started $EPOCHREALTIME" >"$work/$1.status"
}

# check_worker N: checks a worker whose process has ended.
check_worker() {
    local sender unpacker started ended
    [[ -s $work/$1.status ]] || fail "worker $1: its process was killed"
    read -r sender unpacker started ended <"$work/$1.status"
    if ((sender != 0 || unpacker != 0)); then
        fail "worker $1: psql ended with status $sender, tar with $unpacker: $(said "$1.psql" "$1.tar")"
    fi
    cat -- "$work/$1.psql" >&2
    report+=("$(rate_line "worker $1" "$(unpacked_bytes "$1.tar")" "$started" "$ended")")
}

run_workers() {
    local n pid=() running=$workers ticker_group limit
    say "streaming $file_count files, $(megabytes "$total_bytes") MB, with $workers workers"
    for ((n = 1; n <= workers; n++)); do
        run_worker "$n" &
        pid[n]=$!
        jobs_started+=("$!")
    done
    if [[ $verbose == yes ]]; then
        show_progress &
        jobs_started+=("$!")
    fi
    if ((heartbeat)); then
        # Behind a gateway that keeps a connection open nothing else tells the server.
        limit=$((heartbeat * 3 > SILENCE ? heartbeat * 3 : SILENCE))
        leader "SET idle_session_timeout = '$limit s';"
        ticker_group=${#jobs_started[@]}
        start_ticker
    fi
    while ((running)); do
        # Returns when any of our programs has ended, including the leader and the ticker.
        wait -n 2>/dev/null || true
        kill -0 "$leader_pid" 2>/dev/null || leader_failed
        if ((heartbeat)) && ! kill -0 "$ticker" 2>/dev/null; then
            send_heartbeat
            start_ticker
        fi
        for n in "${!pid[@]}"; do
            if ! kill -0 "${pid[n]}" 2>/dev/null; then
                check_worker "$n"
                unset "pid[n]"
                running=$((running - 1))
            fi
        done
    done
}

# start_ticker: a program that ends when a heartbeat is due.
start_ticker() {
    sleep "$heartbeat" {leader_in}>&- {leader_out}<&- &
    ticker=$!
    jobs_started[ticker_group]=$ticker
}

show_progress() {
    exec {leader_in}>&- {leader_out}<&-
    while sleep 1; do
        "${psql[@]}" -c "SET search_path = pg_catalog" -c "SELECT format('%s: %s of %s files, %s of %s MB, %s workers', phase, files_sent,
            files_total, bytes_sent / 1000000, bytes_total / 1000000, workers)
            FROM $schema.backup_progress() WHERE backup_id = $backup_id" 2>/dev/null || return 0
    done
}

# ---- the end of the backup ---------------------------------------------------------------------

stop_backup() {
    say "stopping the backup"
    unpack_from_leader closing "$schema.send_stop_backup(wal => $wal)"
    [[ -f $directory/backup_label && -f $directory/backup_manifest ]] \
        || fail "the closing archive was not complete"
    cat -- "$work/leader.err" >&2
}

# Checks that the backup contains only the links that this script has created.
check_links() {
    local link
    while IFS= read -r -d '' link; do
        [[ $(readlink -- "$link") != /nonexistent ]] || fail "the server sent an unexpected link \"$link\""
    done < <(find "$directory" -type l -print0)
}

verify_backup() {
    local program options=(-q)
    [[ $wal == true ]] || options+=(-n)
    for program in "$(command -v pg_verifybackup)" "/usr/lib/postgresql/$server_major/bin/pg_verifybackup" \
        "$(pg_config --bindir 2>/dev/null)/pg_verifybackup"; do
        if [[ -x $program ]]; then
            "$program" "${options[@]}" "$directory" || fail "pg_verifybackup did not accept the backup"
            say "verified by pg_verifybackup"
            return
        fi
    done
    say "not verified: there is no pg_verifybackup here"
}

# ---- figures -----------------------------------------------------------------------------------

megabytes() {
    awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 1e6 }'
}

unpacked_bytes() {
    sed -n 's/^Total bytes read: \([0-9]*\).*/\1/p' "$work/$1"
}

# rate_line NAME BYTES STARTED ENDED
rate_line() {
    awk -v name="$1" -v bytes="$2" -v started="$3" -v ended="$4" 'BEGIN {
        seconds = ended - started
        printf "  %-10s %9.1f MB  %6.1f s  %8.1f MB/s", name, bytes / 1e6, seconds, bytes / 1e6 / (seconds > 0 ? seconds : 1e-6)
    }'
}

# ---- the whole ---------------------------------------------------------------------------------

((BASH_VERSINFO[0] >= 5)) || fail "bash 5 or later is needed"
parse_arguments "$@"
[[ $(tar --version 2>/dev/null) == *"GNU tar"* ]] || fail "GNU tar is needed"

report=()
set -m
trap at_exit EXIT
trap 'fail "stopped by a signal"' HUP INT TERM
# A missing answer shows that the leader has ended.
trap : PIPE
work=$(mktemp -d)
psql=(psql -XAtqw -v ON_ERROR_STOP=1 -d "$(with_keepalives "$conninfo")")

# Check before the server does anything; claim_directory checks again.
[[ ! -d $directory || -z $(ls -A -- "$directory") ]] || fail "directory \"$directory\" exists but is not empty"

began=$EPOCHREALTIME
start_leader
start_backup
prepare_tablespaces
make_directories
run_workers
stop_backup
check_links
if [[ $sync == yes ]]; then
    sync -f "$directory" "${tablespaces[@]}"
fi
ended=$EPOCHREALTIME
if [[ $verify == yes ]]; then
    verify_backup
fi
complete=yes

total=0
for file in "$work"/*.tar; do
    total=$((total + $(unpacked_bytes "${file##*/}")))
done
say "backup from $start_lsn on timeline $timeline is complete in \"$directory\""
printf '%s\n' "${report[@]}"
rate_line "in total" "$total" "$began" "$ended"
say ""
