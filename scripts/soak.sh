#!/usr/bin/env bash
# Backups under load that something goes wrong with, one after another: a worker, the leader, the
# connections, the disk, the files, the server. Each run follows from a number that is printed.
#
# usage: scripts/soak.sh [MINUTES [SEED]]    minutes (30); the number of one run, to run it alone
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
require_postgres
cd "$ROOT"

# A server that inherited this would put backtraces into the DETAIL of its errors.
unset RUST_BACKTRACE

if [[ -n ${2:-} ]]; then
    exec cargo run --quiet -p backup_tests --bin soak -- --seed "$2"
fi
exec cargo run --quiet -p backup_tests --bin soak -- --minutes "${1:-30}"
