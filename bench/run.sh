#!/usr/bin/env bash
# Measures the extension beside pg_basebackup on one cluster, in one run. Needs the release version
# to be installed; `make bench` sees to that.
#
# usage: bench/run.sh [GIGABYTES [REPEATS]]    size of the cluster (default 3), runs of each (5)
#
# The cluster's data is in the page cache, connections use the Unix-domain socket, the archives go
# to /dev/null, page checks and CRC32C are on. The ways take turns, so that whatever else the
# machine does falls on all of them; the table shows medians.
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/../scripts/environment.sh"
# shellcheck source=scripts/cluster.sh
. "$ROOT/scripts/cluster.sh"
require_postgres

readonly GIGABYTES=${1:-${SIZE:-3}} REPEATS=${2:-${REPEATS:-5}}
readonly PORT=54631
# A unit of pgbench's scale is about 15 MB, of which a seventh is the index.
readonly SCALE=$((GIGABYTES * 67))

make_scratch pgpb-bench
say "Filling a cluster of about $GIGABYTES GB"
init_cluster "$SCRATCH/source"
start_cluster "$SCRATCH/source" $PORT max_wal_size=8GB autovacuum=off wal_level=replica
sql $PORT -c "CREATE EXTENSION pg_parallel_backup"
"$PG_BIN/pgbench" -h "$SCRATCH/socket" -p $PORT -U postgres -i -q -s "$SCALE" postgres \
    >"$SCRATCH/pgbench.out" 2>&1 || { cat "$SCRATCH/pgbench.out" >&2; exit 1; }
sql $PORT -c "CREATE DATABASE many" -c "CHECKPOINT"
sql $PORT -d many -c "CREATE EXTENSION pg_parallel_backup"
many=$(sql $PORT -c "SELECT oid FROM pg_database WHERE datname = 'many'")

python3 "$ROOT/bench/measure.py" \
    --bin "$PG_BIN" --socket "$SCRATCH/socket" --port $PORT --repeats "$REPEATS" \
    --data "$SCRATCH/source" --many "$SCRATCH/source/base/$many" --owner "$SERVER_USER" \
    --commit "$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)" \
    --results "$ROOT/bench/results"
