#!/usr/bin/env bash
# Provides servers of object stores for the tests, of other makers than the one that the tests build themselves:
# moto from PyPI, which is like S3, and Azurite from the npm registry, which is like Azure. Without a name it
# provides both, and prints nothing. With a name it prints the program that runs the server's script in
# tests/servers/, and what that script needs to find the server.
#
# Exits with 2 and a reason if a server is not available.
#
# usage: scripts/object_stores.sh [--find NAME]    NAME: moto or azurite. --find: fetch nothing
#
# environment: SERVERS_FOLDER    folder for servers, by default /var/tmp/pg_parallel_backup-<uid>
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
# shellcheck source=scripts/kept.sh
. "$ROOT/scripts/kept.sh"

readonly AZURITE_VERSION=3.35.0
# The versions of moto and of all that it needs.
readonly REQUIREMENTS=$ROOT/tests/servers/moto.txt
MOTO_VERSION=$(sed -n 's/^moto==//p' "$REQUIREMENTS")
readonly MOTO_VERSION
readonly MOTO=$FOLDER/moto-$MOTO_VERSION
readonly AZURITE=$FOLDER/azurite-$AZURITE_VERSION
readonly AZURITE_MAIN=$AZURITE/node_modules/azurite/dist/src/blob/main.js

unavailable() {
    note "not available: $*"
    exit 2
}

# The Python that the folder was made with may have gone.
has_moto() {
    is_safe "$FOLDER" && is_safe "$MOTO" && [[ -x $MOTO/bin/python ]]
}

has_azurite() {
    have node && is_safe "$FOLDER" && is_safe "$AZURITE" && [[ -r $AZURITE_MAIN ]]
}

fetch_moto() (
    python3 -c 'import venv, ensurepip' 2>/dev/null \
        || unavailable "moto $MOTO_VERSION, which needs python3 with the venv module"
    require_folder
    work=$(mktemp -d "$FOLDER/build.XXXXXX") || exit 1
    trap 'rm -rf -- "$work"' EXIT
    note "Fetching moto $MOTO_VERSION from PyPI"
    { python3 -m venv "$work/moto" \
        && "$work/moto/bin/python" -m pip --disable-pip-version-check --quiet install \
            --requirement "$REQUIREMENTS"; } >&2 \
        || unavailable "moto $MOTO_VERSION: pip could not install it"
    place "$work/moto" "$MOTO"
)

fetch_azurite() (
    { have node && have npm; } || unavailable "Azurite $AZURITE_VERSION, which needs node and npm"
    require_folder
    work=$(mktemp -d "$FOLDER/build.XXXXXX") || exit 1
    trap 'rm -rf -- "$work"' EXIT
    note "Fetching Azurite $AZURITE_VERSION from the npm registry"
    mkdir "$work/azurite"
    npm install --silent --no-audit --no-fund --no-save --ignore-scripts --omit=dev --omit=optional \
        --prefix "$work/azurite" "azurite@$AZURITE_VERSION" >&2 \
        || unavailable "Azurite $AZURITE_VERSION: npm could not install it"
    place "$work/azurite" "$AZURITE"
)

case ${1:-} in
    --find)
        case ${2:-} in
            moto)
                has_moto || unavailable "moto $MOTO_VERSION; scripts/setup.sh installs it"
                say "$MOTO/bin/python"
                ;;
            azurite)
                has_azurite || unavailable "Azurite $AZURITE_VERSION; scripts/setup.sh installs it"
                command -v node
                say "$AZURITE_MAIN"
                ;;
            *) die "which server?" ;;
        esac
        ;;
    '')
        status=0
        has_moto || fetch_moto || status=$?
        has_azurite || fetch_azurite || status=$?
        exit "$status"
        ;;
    *) die "usage: scripts/object_stores.sh [--find NAME]" ;;
esac
