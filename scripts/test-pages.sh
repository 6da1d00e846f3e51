#!/usr/bin/env bash
# Runs the page tests with a server whose page size is not 8 kB. No package has such a server, so
# scripts/servers.sh builds it. The extension is built for it and installed into it.
#
# usage: scripts/test-pages.sh [KB [MAJOR]]    page size (32), major version of PostgreSQL (17)
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
cd "$ROOT"

PG_CONFIG=$(BLOCK_SIZE=${1:-32} scripts/servers.sh "${2:-17}")
export PG_CONFIG
scripts/install.sh
PGRX_PG_CONFIG_PATH=$PG_CONFIG cargo test -p backup_tests page_size::
