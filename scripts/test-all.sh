#!/usr/bin/env bash
# Runs all tests on every supported version, beginning with that of the machine's packages.
# scripts/servers.sh provides the others. The last line is the total: "N passed, N failed". Exits with 1
# if anything failed.
#
# usage: scripts/test-all.sh [--others-within MINUTES]
#
# With --others-within it leaves out the first version, and of the others those tests that are not expected
# to finish in time, judging by the first version's times. The commit decides which version is the first of
# the others, and with which file its outside tests begin if not all of them fit: so each version gets all
# its tests in the course of some commits. An unavailable version is then no failure.
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

# A number that the commit decides.
commit=$(git rev-parse HEAD 2>/dev/null) || commit=0
readonly TURN=$((16#${commit:0:7}))

# turned WORD...: prints the words, beginning with another one at another commit.
turned() {
    local begin=$((TURN % $#))
    echo "${@:begin + 1}" "${@:1:begin}"
}

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
        fits $((SERVER_BUILD + $(least_expected outside "$1"))) || return 3
        scripts/servers.sh "$1"
    fi
}

# build_time PART MAJOR: expected duration of what is built for a part, in seconds.
build_time() {
    local trace=$TARGET/release/package-pg$2
    # The in-server tests need a separate debug build.
    [[ $1 != server ]] || trace=$TARGET/test-logs/pg$2/server.log
    [[ -e $trace ]] && echo 0 || echo "$EXTENSION_BUILD"
}

# test_time PART: expected duration of the tests of a part, in seconds.
test_time() {
    local time=0
    { read -r time <"$TARGET/test-logs/pg$FIRST/$1.seconds"; } 2>/dev/null || true
    echo $((time * 11 / 10))
}

# least_expected PART MAJOR: expected duration of as much of a part as is worth the build.
least_expected() {
    local tests
    tests=$(test_time "$1")
    [[ $1 != outside ]] || tests=$((tests / 5))
    echo $(($(build_time "$1" "$2") + tests))
}

# files_that_fit MAJOR: prints the files of the outside tests that are expected to finish in time; nothing
# if all are.
files_that_fit() {
    local tests left files
    [[ -n $limit ]] || return 0
    tests=$(test_time outside)
    left=$((limit - SECONDS - $(build_time outside "$1")))
    ((left < tests)) || return 0
    mapfile -t files < <(sed -n 's/^mod \(.*\);/\1/p' tests/tests/outside.rs)
    read -ra files < <(turned "${files[@]}")
    echo "${files[@]:0:${#files[@]} * left / tests}"
}

version_of() {
    "$1" --version | awk '{ print $2 }'
}

test_version() {
    local major=$1 pg_config part parts=(outside server examples) files left_out=()
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
        if [[ $major == "$FIRST" ]] || fits "$(least_expected "$part" "$major")"; then
            files=''
            if [[ $part == outside ]]; then
                files=$(files_that_fit "$major")
                [[ -z $files ]] || left_out+=("a part of outside")
            fi
            add_total env PG_CONFIG="$pg_config" OUTSIDE_FILES="$files" scripts/test.sh "$part"
        else
            say "No time is left for the part: $part"
            left_out+=("$part")
        fi
    done
    summary+=("$(printf 'PostgreSQL %-5s %5d passed, %d failed%s' "$(version_of "$pg_config")" \
        $((passed - passed_before)) $((failed - failed_before)) "${left_out[*]:+, no time left for: ${left_out[*]}}")")
}

[[ -n $limit ]] || test_version "$FIRST"
others=()
for major in $MAJORS; do
    [[ $major == "$FIRST" ]] || others+=("$major")
done
for major in $(turned "${others[@]}"); do
    test_version "$major"
done

say ""
for line in "${summary[@]}"; do
    say "$line"
done
say "$passed passed, $failed failed"
((failed == 0))
