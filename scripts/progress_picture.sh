#!/usr/bin/env bash
# Draws docs/progress.svg: terminal output of a real backup of a scratch cluster, taken with the program
# that scripts/install.sh has installed.
#
# usage: scripts/progress_picture.sh
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
require_postgres
cd "$ROOT"
# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh

readonly PORT=54633
PG_BIN=${PG_BIN:-$("$PG_CONFIG" --bindir)}

make_scratch pgpb-picture
say "Filling a cluster"
init_cluster "$SCRATCH/data"
start_cluster "$SCRATCH/data" "$PORT" wal_level=minimal max_wal_senders=0 max_wal_size=4GB
sql "$PORT" -c "CREATE EXTENSION pg_parallel_backup" >/dev/null
# Tables of several sizes, so that the workers finish their files at different times. Each row has 1 kB.
sizes=(210 150 120 95 90 70 60 45 35 20 10)
for number in "${!sizes[@]}"; do
    sql "$PORT" -c "BEGIN" -c "CREATE TABLE t$number (a text)" \
        -c "ALTER TABLE t$number ALTER a SET STORAGE PLAIN" \
        -c "INSERT INTO t$number SELECT repeat(md5(a::text), 31) FROM generate_series(1, ${sizes[number]} * 896) AS a" \
        -c "COMMIT"
done
stop_cluster "$SCRATCH/data"
# Restart with the default settings, which a backup needs.
start_cluster "$SCRATCH/data" "$PORT"

say "Recording a backup"
picture=$ROOT/docs/progress.svg
export PGHOST=$SCRATCH/socket PGPORT=$PORT PGUSER=postgres
cd "$SCRATCH"
PATH=$PG_BIN:$PATH python3 "$ROOT/scripts/progress_picture.py" "$picture" \
    pg_parallel_backup -D monday -j 4 -r 120M -c fast -P -v
say "Drew $picture"
