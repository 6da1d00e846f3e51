#!/usr/bin/env bash
# Runs all tests on every supported version, beginning with that of the machine's packages.
# scripts/servers.sh provides the others. The last line is the total: "N passed, N failed". Exits with 1
# if anything failed.
#
# usage: scripts/test-all.sh [--others-within MINUTES]
#
# With --others-within it leaves out the first version, and those tests of the others that are not
# expected to finish in time, judging by the first version's times. An unavailable version is then no
# failure.
set -uo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
# shellcheck source=scripts/totals.sh
. "$ROOT/scripts/totals.sh"
require_postgres
cd "$ROOT" || exit 1

limit=''
if [[ ${1:-} == --others-within ]]; then
    limit=$((${2:?how many minutes?} * 60))
fi
readonly limit FIRST=$PG_MAJOR FIRST_PG_CONFIG=$PG_CONFIG
# Nobody packages the extension for 16 here, but a server for the tests can be had.
readonly MAJORS="$SUPPORTED_MAJORS 16"
readonly TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

# Seconds of building on two cores: of a server, and of the additional time of a version's first part
# compared with the same part of the first version.
readonly SERVER_BUILD=270 EXTENSION_BUILD=240

passed=0
failed=0
summary=()

# fits SECONDS: whether a task with this expected duration may still begin.
fits() {
    [[ -z $limit ]] || ((SECONDS + $1 <= limit))
}

# bring MAJOR: prints the pg_config, with the status of scripts/servers.sh; 3 if there is no time left.
bring() {
    if [[ $1 == "$FIRST" ]]; then
        say "$FIRST_PG_CONFIG"
    else
        scripts/servers.sh --find "$1" 2>/dev/null && return
        fits $((SERVER_BUILD + $(expected outside "$1"))) || return 3
        scripts/servers.sh "$1"
    fi
}

# expected PART MAJOR: expected duration of a part in seconds.
expected() {
    local time=0 trace=$TARGET/release/package-pg$2
    { read -r time <"$TARGET/test-logs/pg$FIRST/$1.seconds"; } 2>/dev/null || true
    time=$((time * 11 / 10))
    # The in-server tests need a separate debug build.
    [[ $1 != server ]] || trace=$TARGET/test-logs/pg$2/server.log
    [[ -e $trace ]] || ((time += EXTENSION_BUILD))
    echo "$time"
}

version_of() {
    "$1" --version | awk '{ print $2 }'
}

test_version() {
    local major=$1 pg_config part parts=(outside server examples) left_out=()
    local passed_before=$passed failed_before=$failed
    say ""
    say "==> PostgreSQL $major"
    pg_config=$(bring "$major")
    case $? in
        0) ;;
        3)
            summary+=("PostgreSQL $major: not tested, there was no time left to build it")
            return
            ;;
        2)
            if [[ -n $limit ]]; then
                summary+=("PostgreSQL $major: not tested, it cannot be had here")
                return
            fi
            ;&
        *)
            summary+=("PostgreSQL $major: not tested, it could not be brought, which counts as failed")
            ((failed += 1))
            return
            ;;
    esac
    # These do not depend on the version.
    [[ $major != "$FIRST" ]] || parts=(format client "${parts[@]}")
    for part in "${parts[@]}"; do
        if [[ $major == "$FIRST" ]] || fits "$(expected "$part" "$major")"; then
            add_total env PG_CONFIG="$pg_config" scripts/test.sh "$part"
        else
            say "No time is left for the part: $part"
            left_out+=("$part")
        fi
    done
    summary+=("$(printf 'PostgreSQL %-5s %5d passed, %d failed%s' "$(version_of "$pg_config")" \
        $((passed - passed_before)) $((failed - failed_before)) "${left_out[*]:+, no time left for: ${left_out[*]}}")")
}

[[ -n $limit ]] || test_version "$FIRST"
for other in $MAJORS; do
    [[ $other == "$FIRST" ]] || test_version "$other"
done

say ""
for line in "${summary[@]}"; do
    say "$line"
done
say "$passed passed, $failed failed"
((failed == 0))
