#!/usr/bin/env bash
# Demonstration: while pgbench writes to a cluster, the program backs it up with several workers. The
# backup is verified, started with its tablespace in another location, and checked.
#
# usage: scripts/demo.sh [SCALE [WORKERS]]    pgbench scale (default 50, about 750 MB), workers (4)
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
# shellcheck source=scripts/cluster.sh
. "$ROOT/scripts/cluster.sh"
require_postgres
export PATH=$PG_BIN:$PATH

readonly SCALE=${1:-50} WORKERS=${2:-4}
readonly PORT=54621 RESTORED_PORT=54622

step() {
    printf '\n== %s\n' "$*"
}

# Sums that every pgbench transaction changes by the same amount.
invariant() {
    sql "$1" -c "SELECT (SELECT sum(abalance) FROM pgbench_accounts),
        (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches),
        (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
}

# seconds_since BEGAN
seconds_since() {
    awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

history_rows() {
    sql "$1" -c "SELECT count(*) FROM pgbench_history"
}

make_scratch pgpb-demo
readonly SOURCE=$SCRATCH/source TABLESPACE=$SCRATCH/tablespace
readonly BACKUP=$SCRATCH/backup MOVED=$SCRATCH/moved

step "A cluster with data checksums and a tablespace outside of it, filled by pgbench (scale $SCALE)"
init_cluster "$SOURCE"
mkdir "$TABLESPACE"
give_to_server "$TABLESPACE"
start_cluster "$SOURCE" $PORT max_wal_size=4GB
sql $PORT -c "CREATE EXTENSION pg_parallel_backup" -c "CREATE TABLESPACE outside LOCATION '$TABLESPACE'"
"$PG_BIN/pgbench" -h "$SCRATCH/socket" -p $PORT -U postgres -i -q -s "$SCALE" --tablespace=outside \
    postgres >"$SCRATCH/pgbench.init" 2>&1 \
    || { cat "$SCRATCH/pgbench.init" >&2; exit 1; }
say "data directory $(du -sh "$SOURCE" | cut -f1), tablespace $(du -sh "$TABLESPACE" | cut -f1)"

step "pgbench goes on writing"
# A fixed rate, so that the amount of data to restore does not depend on the machine's speed.
"$PG_BIN/pgbench" -h "$SCRATCH/socket" -p $PORT -U postgres -n -c 2 -R 200 -T 3600 postgres \
    >"$SCRATCH/pgbench.run" 2>&1 &
writer=$!
until [[ $(history_rows $PORT) -gt 0 ]]; do
    kill -0 "$writer" || { cat "$SCRATCH/pgbench.run" >&2; exit 1; }
    sleep 0.1
done
before=$(history_rows $PORT)
say "$before transactions so far"

step "The backup: pg_parallel_backup with $WORKERS workers"
began=$EPOCHREALTIME
pg_parallel_backup -h "$SCRATCH/socket" -p $PORT -U postgres -D "$BACKUP" -T "$TABLESPACE=$MOVED" -j "$WORKERS" \
    -c fast -l demo -P -v
took=$(seconds_since "$began")
size=$(du -s -B 1000000 --total "$BACKUP" "$MOVED" | tail -n 1 | cut -f 1)
kill -0 "$writer" || { cat "$SCRATCH/pgbench.run" >&2; exit 1; }
after=$(history_rows $PORT)
# A background job of a script ignores SIGINT.
kill -TERM "$writer" 2>/dev/null || true
wait "$writer" 2>/dev/null || true
stop_cluster "$SOURCE"

step "pg_verifybackup reads it again"
"$PG_BIN/pg_verifybackup" "$BACKUP"

step "The restored cluster, with the tablespace in $MOVED"
rm -rf -- "$TABLESPACE"
give_to_server "$BACKUP" "$MOVED"
began=$EPOCHREALTIME
start_cluster "$BACKUP" $RESTORED_PORT
started_in=$(seconds_since "$began")
restored=$(history_rows $RESTORED_PORT)
IFS='|' read -r accounts tellers branches history <<<"$(invariant $RESTORED_PORT)"
say "$restored transactions are in it; pg_amcheck looks at every heap and index"
"$PG_BIN/pg_amcheck" -h "$SCRATCH/socket" -p $RESTORED_PORT -U postgres --install-missing postgres
place=$(sql $RESTORED_PORT -c "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'outside'")

held=yes
[[ $accounts == "$tellers" && $tellers == "$branches" && $branches == "$history" ]] || held=no
((restored >= before && restored <= after)) || held=no
[[ $place == "$MOVED" ]] || held=no

step "Summary"
say "  backup     $size MB in $took s with $WORKERS workers, on disk"
say "  verified   while it was written, and by pg_verifybackup"
say "  restored   recovered and started in $started_in s, tablespace in its new place"
say "  writes     $before transactions before the backup, $restored in it, $after when it had ended"
say "  invariant  accounts $accounts, tellers $tellers, branches $branches, history $history"
say "  amcheck    no corruption found"
if [[ $held != yes ]]; then
    die "the restored cluster is not what it should be"
fi
say ""
say "The restored cluster is whole. Nothing is left running."
