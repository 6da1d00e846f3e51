#!/usr/bin/env bash
# Measures the extension beside pg_basebackup, pgBackRest, tar and cp on one cluster, in one run.
# Needs the release version to be installed; `make bench` sees to that.
#
# usage: bench/run.sh [GIGABYTES [REPEATS [PART...]]]
#        make bench [SIZE=…] [REPEATS=…] [PARTS="…"] …
#
#   GIGABYTES, SIZE   size of the cluster (default 3; fractions such as 0.2 are possible). Twice as
#                     much is needed in FOLDER, a little more than that with pgBackRest
#   REPEATS           measured runs of each case (default 5); slow cases have fewer, see below
#   PART, PARTS       what to measure, any of these words (default: all, in this order)
#       nowhere       workers, pg_basebackup and tar, with output to /dev/null
#       manifest      one worker by checksum algorithm of the manifest
#       stages        where one stream spends its time
#       memory        how far a worker grows
#       compression   gzip, lz4, zstd at level 1 (gzip, lz4: at most 3 runs)
#       directory     into a directory on disk, beside pg_basebackup, pgBackRest and cp. ext4 makes
#                     files slowly for some minutes after many have been removed: measured alone,
#                     this should not follow tests, or another benchmark, at once
#       cold          with an empty page cache, at most 3 runs. Root or sudo empties it, for the
#                     whole machine
#       files         listing, backing up and checking 100,000 files
#       million       listing, backing up and checking 1,000,000 files, at most 3 runs
#       load          what a write-heavy pgbench has left beside a backup: transactions per second
#                     and 99th percentile of latency beside none, pg_basebackup, 1, 2 and 4 workers,
#                     with and without a rate limit, at most 3 runs. The cluster runs with
#                     fsync=off, as in all parts, so that no transaction waits for the disk. Comes
#                     last, because it changes the tables; less than four minutes
#
# Also from the environment:
#   PGBACKREST=no     do not measure pgBackRest, and do not install its package, which happens
#                     otherwise where it is missing and apt is there to be used (root or sudo)
#   LOAD_SECONDS      how long each run of "load" lasts (default 9)
#   FOLDER            where the cluster and the backups go, in a folder that is removed at the end
#                     (default: a scratch folder in /tmp). To be short, and open to the account
#                     that runs the server (postgres, where this runs as root)
#   RESULTS           where the results go (default bench/results)
#
# Examples: PARTS=nowhere takes two minutes, with SIZE=1 less than one. A run without "directory",
# or with PGBACKREST=no, installs nothing.
#
# The cluster has data checksums, two tables in several segments, 1,000 small ones, and a
# tablespace. Half of its data compresses well. Its files are in the page cache (but for "cold"),
# and it listens on a socket in the scratch folder only. The cases of a part take turns, so that
# whatever else the machine does falls on all of them. Tables show median, minimum and maximum of
# wall time and of CPU seconds; these are of all processes of the server and of the clients.
#
# Results: RESULTS/latest.md (also on standard output), latest.json, latest.svg, and the same with
# the date as name. Progress is on standard error.
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/../scripts/environment.sh"
# shellcheck source=scripts/cluster.sh
. "$ROOT/scripts/cluster.sh"
require_postgres

readonly SIZE=${1:-${SIZE:-3}} REPEATS=${2:-${REPEATS:-5}}
readonly ALL_PARTS='nowhere manifest stages memory compression directory cold files million load'
readonly LOAD_SECONDS=${LOAD_SECONDS:-9}
if (($# > 2)); then
    parts=("${@:3}")
else
    read -ra parts <<<"${PARTS:-$ALL_PARTS}"
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

# run_job COMMAND...: in a process group of its own, for which this shell waits in such a way that
# it can act on a signal at once. An interrupt from the keyboard reaches this shell alone, which
# then ends the job in order.
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
    # What measures ends its clients first, and they may have to remove what they wrote.
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

# ---- what is measured beside us ----------------------------------------------------------------

apt_get() {
    local as_root=()
    # No question for a password: nobody may be there to answer.
    [[ $(id -u) -eq 0 ]] || as_root=(sudo -n)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}

apt_install() {
    apt_get install -y --no-install-recommends pgbackrest
}

# find_pgbackrest: sets pgbackrest to the program, or says why there is none.
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
        # The lists of packages may be missing, or too old.
        { apt_install || { apt_get update && apt_install; }; } >"$log" 2>&1 || true
        pgbackrest=$(command -v pgbackrest) \
            || pgbackrest_note="it is missing and could not be installed: $(tail -n 1 "$log")"
    fi
}

# ---- the cluster -------------------------------------------------------------------------------

# part_of_size FACTOR: a whole number that grows with SIZE, 1 at least. System tables and the small
# ones take 0.07 GB.
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

# A table that does not compress so well, a part of it once more in a tablespace, small tables.
# The repetition inside a table is too far apart for any of the compression methods to see it.
# What is made and filled in one transaction needs no WAL, as wal_level is minimal.
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

build_cluster() {
    mkdir "$place/tablespace"
    give_to_server "$place"
    init_cluster "$source"
    start_cluster "$source" $PORT autovacuum=off wal_level=minimal max_wal_senders=0 \
        max_wal_size=8GB maintenance_work_mem=256MB
    run_job fill_cluster
    sql $PORT -c CHECKPOINT
    stop_cluster "$source"
    # Little WAL, since tar and cp do not know that it is no part of a backup. No checkpoint but
    # those that are asked for.
    start_cluster "$source" $PORT autovacuum=off wal_level=replica max_wal_size=256MB \
        min_wal_size=32MB checkpoint_timeout=1h
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
progress "Filling a cluster of about $SIZE GB in $place"
build_cluster

PYTHONDONTWRITEBYTECODE=1 run_job python3 "$ROOT/bench/measure.py" \
    --bin "$PG_BIN" --socket "$SCRATCH/socket" --port $PORT --data "$source" \
    --tablespace "$place/tablespace" --owner "$SERVER_USER" --target "$place/target" \
    --trash "$place/trash" --driver "$ROOT/examples/parallel_backup.sh" \
    --pgbackrest "$pgbackrest" --pgbackrest-note "$pgbackrest_note" \
    --commit "$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)" \
    --results "${RESULTS:-$ROOT/bench/results}" --size "$SIZE" \
    --repeats "$REPEATS" --load-seconds "$LOAD_SECONDS" --load "$load" --parts "${parts[@]}"
