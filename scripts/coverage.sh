#!/usr/bin/env bash
# Runs the tests with builds that count how often each line runs, and says which lines of src/, client/src/ and
# crates/ no test runs. The extension counts in the processes of the servers too, also in those that are killed.
#
# The tests use a copy of PostgreSQL 17, or of the version in COVERAGE_MAJOR, so that no installation gets the
# slower build. Lines for other versions are not compiled and do not count. The folder coverage-report of the builds
# gets table.txt, uncovered.txt with the lines themselves, and counts.lcov for other programs. Exits with 1 if a
# test failed.
#
# usage: scripts/coverage.sh [PART...]    parts of scripts/test.sh, all by default
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
cd "$ROOT"

BUILDS=${CARGO_TARGET_DIR:-$ROOT/target}
REPORTS=$BUILDS/coverage-report
export CARGO_TARGET_DIR=$BUILDS/coverage
# As much optimization as the release version has makes the builds take three times as long.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16

# The tools have to be of the same LLVM as the compiler.
tools=$(rustc --print target-libdir)/../bin
if [[ ! -x $tools/llvm-profdata || ! -x $tools/llvm-cov ]]; then
    have rustup || die "llvm-profdata and llvm-cov of this compiler are missing: rustup has them as llvm-tools"
    say "Installing llvm-tools with rustup"
    rustup --quiet component add llvm-tools
fi

scratch=$(mktemp -d /tmp/pgpb-coverage.XXXXXX)
trap 'rm -rf -- "$scratch"' EXIT
chmod 0755 "$scratch"
# Servers write here as another user.
mkdir -m 1777 "$scratch/counters"

# PostgreSQL finds its files relative to its programs, so a copy of the whole tree works anywhere.
major=${COVERAGE_MAJOR:-17}
original=$(scripts/servers.sh "$major")
mkdir "$scratch/server"
for folder in --bindir --pkglibdir --sharedir --includedir-server --pkgincludedir; do
    folder=$(realpath -- "$("$original" "$folder")")
    # A folder of one that is copied may be named too.
    [[ -e $scratch/server$folder ]] || (cd "$scratch/server" && cp -a --parents -- "$folder" .)
done
# cp gives the folders above to nobody else.
chmod -R go+rX "$scratch/server"
PG_CONFIG=$scratch/server$(realpath -- "$("$original" --bindir)")/pg_config
[[ $("$PG_CONFIG" --pkglibdir) == "$scratch"/* ]] || die "a copy of PostgreSQL $major names folders of the original"
export PG_CONFIG

# Builds of earlier sources have other counters.
for package in pg_parallel_backup pg_parallel_backup_client backup_format backup_compression backup_mutation; do
    cargo clean --quiet --package "$package"
    cargo clean --quiet --release --package "$package"
done

# pgrx gives its server this variable by sudo, and quotes the value, although no shell reads it.
counters=$scratch/counters/%m%c.profraw
mkdir "$scratch/bin"
cat >"$scratch/bin/sudo" <<EOF
#!/usr/bin/env bash
for argument; do
    shift
    [[ \$argument != LLVM_PROFILE_FILE=* ]] || argument=LLVM_PROFILE_FILE=$counters
    set -- "\$@" "\$argument"
done
exec $(command -v sudo || echo sudo) "\$@"
EOF
chmod +x "$scratch/bin/sudo"

status=0
PATH=$scratch/bin:$PATH RUSTC_WORKSPACE_WRAPPER=$ROOT/scripts/rustc_for_coverage.sh LLVM_PROFILE_FILE=$counters \
    scripts/test.sh "$@" || status=$?

# llvm-cov reads from each program which lines its counters are for.
programs=()
while read -r program; do
    programs+=(--object "$program")
done < <(find "$CARGO_TARGET_DIR"/{debug,release}/deps -maxdepth 1 -type f -executable \
    \( ! -name 'lib*' -o -name 'libpg_parallel_backup*.so' \) ! -name 'outside-*' ! -name 's3_server-*')
mkdir -p "$REPORTS"
"$tools/llvm-profdata" merge --sparse --output "$scratch/all.profdata" "$scratch"/counters/*.profraw
"$tools/llvm-cov" export --format=lcov --instr-profile "$scratch/all.profdata" "${programs[@]}" >"$REPORTS/counts.lcov"
python3 scripts/coverage_table.py "$REPORTS/counts.lcov" "$REPORTS/uncovered.txt" | tee "$REPORTS/table.txt"
say "PostgreSQL $major. Lines that no test runs: $REPORTS/uncovered.txt"
exit "$status"
