#!/usr/bin/env bash
# Runs all tests. A failed part does not stop the later ones. The last line is the total: "N passed, N
# failed". Exits with 1 if anything failed.
#
# usage: scripts/test.sh [PART...]    parts: format client server outside examples (all by default)
#
# OUTSIDE_FILES names files of tests/tests, without their endings: the outside tests are then only those.
set -uo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
require_postgres
cd "$ROOT" || exit 1
export CARGO_TERM_COLOR=never

readonly LOGS=${CARGO_TARGET_DIR:-$ROOT/target}/test-logs/pg$PG_MAJOR
mkdir -p "$LOGS"
passed=0
failed=0
summary=()

# run_part NAME COMMAND...: runs it, shows its output and counts its tests, from the closing lines of
# cargo's test runner and of our own scripts. A command that fails without a failed test (it was not
# built, it crashed) counts as one failure, and so does a command without tests.
run_part() {
    local name=$1 log=$LOGS/$1.log status part_passed part_failed began=$SECONDS
    shift
    say "==> Tests: $name, PostgreSQL $PG_MAJOR"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r part_passed part_failed < <(awk '
        /test result: .* passed; [0-9]+ failed/ {
            for (i = 2; i <= NF; i++) {
                if ($i == "passed;") p += $(i - 1)
                if ($i == "failed;") f += $(i - 1)
            }
        }
        /^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
        END { print p + 0, f + 0 }' "$log")
    if ((status != 0 && part_failed == 0)); then
        say "$name: exit status $status although no test reported a failure"
        part_failed=1
    elif ((part_passed + part_failed == 0)); then
        say "$name: no test ran"
        part_failed=1
    fi
    passed=$((passed + part_passed))
    failed=$((failed + part_failed))
    # scripts/test-all.sh estimates the duration of the same part of another version from this.
    echo $((SECONDS - began)) >"$LOGS/$name.seconds"
    summary+=("$(printf '%-10s %4d passed, %d failed' "$name" "$part_passed" "$part_failed")")
}

# The in-server tests: pgrx builds a debug version that contains the tests, installs it and starts its
# own cluster. If the installation folders belong to root, it uses sudo.
server_tests() {
    local data status run_as=()
    data=$(mktemp -d /tmp/pgrx-test.XXXXXX)
    if [[ $(id -u) -eq 0 || ! -w $("$PG_CONFIG" --pkglibdir) ]]; then
        run_as=(--runas "$SERVER_USER")
    fi
    [[ $(id -u) -ne 0 ]] || chown "$SERVER_USER" "$data"
    USER=${USER:-$(id -un)} cargo pgrx test "pg$PG_MAJOR" "${run_as[@]}" --pgdata "$data"
    status=$?
    rm -rf "$data"
    return "$status"
}

# folder_in_memory: prints a folder for the outside tests where one in memory is large enough. They make and
# remove hundreds of clusters, and ext4 creates files slowly for some minutes after many were removed.
folder_in_memory() {
    local options free
    options=$(findmnt -no OPTIONS -t tmpfs /dev/shm | tail -n 1)
    [[ -n $options && ,$options, != *,noexec,* && -w /dev/shm ]] || return 0
    for free in "$(df --output=avail -k /dev/shm | tail -n 1)" \
        "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)"; do
        ((free >= 12 * 1024 * 1024)) || return 0
    done
    say /dev/shm
}

# The other tests use the release version, which replaces the one that contains the tests. It is
# installed once; that also builds the command line program.
install_release() {
    [[ -z ${release_installed:-} ]] || return 0
    release_installed=yes
    say "==> Installing the release version"
    scripts/install.sh || {
        say "the release version could not be installed"
        failed=$((failed + 1))
    }
}

# The outside tests are one program. Those that wait leave the processors to others, so more than one runs
# for each.
outside_tests() {
    local files
    read -ra files <<<"${OUTSIDE_FILES:-}"
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))} \
        cargo test --no-fail-fast -p backup_tests -- "${files[@]/%/::}"
}

parts=("$@")
((${#parts[@]})) || parts=(format client server outside examples)
for part in "${parts[@]}"; do
    case $part in
        format) run_part format cargo test --no-fail-fast -p backup_format ;;
        client) run_part client cargo test --no-fail-fast -p pg_parallel_backup_client ;;
        server) run_part server server_tests ;;
        outside)
            install_release
            # The program may have been built even if the installation failed.
            if ! { cargo build --release -p pg_parallel_backup_client && cargo build -p s3_server; }; then
                say "the program or the S3 server could not be built"
                failed=$((failed + 1))
            fi
            TESTS_FOLDER=${TESTS_FOLDER-$(folder_in_memory)}
            export TESTS_FOLDER
            run_part outside outside_tests
            ;;
        examples)
            install_release
            run_part examples examples/test_examples.sh
            ;;
        *) die "no such part: $part" ;;
    esac
done
# Leave the version without tests installed, whichever part ran last.
install_release

say ""
for line in "${summary[@]}"; do
    say "$line"
done
say "$passed passed, $failed failed"
((failed == 0))
