#!/usr/bin/env bash
# Runs all tests on every supported version, that of the machine's packages first, and ends with
# one line over all of them: "N passed, N failed". Exits with 1 when anything failed. The others are
# brought by scripts/servers.sh.
#
# usage: scripts/test-all.sh [--others-within MINUTES]
#
# With --others-within it leaves out the first version, and of the others what is not expected to end
# in that time, going by what the first has taken. A version that cannot be had here is no failure
# then.
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
readonly TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

# Seconds that building takes on two cores: a server, and what the first part of a version needs
# beyond the time that the same part took before.
readonly SERVER_BUILD=270 EXTENSION_BUILD=240

passed=0
failed=0
summary=()

# fits SECONDS: whether something that is expected to take so long may still begin.
fits() {
    [[ -z $limit ]] || ((SECONDS + $1 <= limit))
}

# bring MAJOR: prints the pg_config, with the status of scripts/servers.sh; 3 where there is no time.
bring() {
    if [[ $1 == "$FIRST" ]]; then
        say "$FIRST_PG_CONFIG"
    else
        scripts/servers.sh --find "$1" 2>/dev/null && return
        fits $((SERVER_BUILD + $(expected outside "$1"))) || return 3
        scripts/servers.sh "$1"
    fi
}

# expected PART MAJOR: the seconds that a part is expected to take.
expected() {
    local time=0 trace=$TARGET/release/package-pg$2
    { read -r time <"$TARGET/test-logs/pg$FIRST/$1.seconds"; } 2>/dev/null || true
    time=$((time * 11 / 10))
    # The tests inside a server have a debug version of their own.
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
    # These know no version.
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
for other in $SUPPORTED_MAJORS; do
    [[ $other == "$FIRST" ]] || test_version "$other"
done

say ""
for line in "${summary[@]}"; do
    say "$line"
done
say "$passed passed, $failed failed"
((failed == 0))
