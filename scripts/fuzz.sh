#!/usr/bin/env bash
# Gives the readers of backups changed inputs: archives, manifests, indexes, descriptions, incremental headers
# and compressed frames. Sixteen properties have a million cases each, unless CASES says otherwise.
#
# usage: scripts/fuzz.sh
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"

cd "$ROOT"
export PROPTEST_CASES=${CASES:-1000000}
say "==> $PROPTEST_CASES cases of each property"
export CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
cargo test --release -p backup_format --lib --test incremental -- or_sound
cargo test --release -p pg_parallel_backup_client -- or_sound wrong_checksum comes_out
