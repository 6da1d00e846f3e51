#!/usr/bin/env bash
# Takes backups under load, one after another, with SQL statements and with the program, and injects
# faults: in a worker, the leader, the WAL stream, the connections, the disks, the files, the server, the
# program, the object store. Each run prints the seed that determines it.
#
# usage: scripts/soak.sh [MINUTES [SEED]]    duration in minutes (30); seed of a single run to repeat
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
require_postgres
cd "$ROOT"

# A server that inherits this adds backtraces to the DETAIL of its errors.
unset RUST_BACKTRACE

cargo build --quiet --release -p pg_parallel_backup_client
cargo build --quiet -p s3_server

if [[ -n ${2:-} ]]; then
    exec cargo run --quiet -p backup_tests --bin soak -- --seed "$2"
fi
exec cargo run --quiet -p backup_tests --bin soak -- --minutes "${1:-30}"
