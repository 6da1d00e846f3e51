#!/usr/bin/env bash
# Runs the tests of pages with a server whose pages have another size than 8 kB, which no package has:
# scripts/servers.sh builds it. The extension is built for it, and installed beside it.
#
# usage: scripts/test-pages.sh [KB [MAJOR]]    size of a page (32), major version of PostgreSQL (17)
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
cd "$ROOT"

PG_CONFIG=$(BLOCK_SIZE=${1:-32} scripts/servers.sh "${2:-17}")
export PG_CONFIG
scripts/install.sh
PGRX_PG_CONFIG_PATH=$PG_CONFIG cargo test -p backup_tests --test page_size
