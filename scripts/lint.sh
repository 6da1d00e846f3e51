#!/usr/bin/env bash
# Static checks of the sources. Each check runs, even after a failed one.
set -uo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
require_postgres
cd "$ROOT" || exit 1

failed=()

check() {
    say "==> $*"
    "$@" || failed+=("$*")
}

mapfile -t shell_scripts < <(find scripts examples bench -name '*.sh' | sort)
mapfile -t python_scripts < <(find scripts examples bench -name '*.py' | sort)

check cargo fmt --all --check
check cargo clippy --quiet --workspace --all-targets --no-default-features \
    --features "pg$PG_MAJOR" -- -D warnings
# With object stores, which the line before leaves out.
check cargo clippy --quiet -p pg_parallel_backup_client --all-targets -- -D warnings
for major in $BUILDABLE_MAJORS; do
    clippy=(cargo clippy --quiet --lib --no-default-features --features "pg$major" -- -D warnings)
    if [[ $major == "$PG_MAJOR" ]]; then
        continue
    elif pg_config=$(installed_pg_config "$major"); then
        PGRX_PG_CONFIG_PATH=$pg_config check "${clippy[@]}"
    else
        DOCS_RS=1 RUSTC_WRAPPER=$ROOT/scripts/rustc_shipped_bindings.sh check "${clippy[@]}"
    fi
done
if command -v shellcheck >/dev/null; then
    check shellcheck -x .ci/run "${shell_scripts[@]}"
else
    say "shellcheck is not installed: shell scripts are not checked"
fi
check bash scripts/check_versions.sh
if command -v cargo-deny >/dev/null; then
    check cargo deny check --hide-inclusion-graph licenses bans sources
    # A separate step first, so that an unreachable network does not count as a finding.
    if timeout 120 cargo deny fetch db >/dev/null 2>&1; then
        check cargo deny --offline check --hide-inclusion-graph advisories
    else
        say "the database of security advisories cannot be fetched: crates are not looked up in it"
    fi
else
    say "cargo-deny is not installed: licences and sources of crates are not checked"
fi
# Without this, Python would leave byte code beside the sources.
export PYTHONPYCACHEPREFIX=${CARGO_TARGET_DIR:-$ROOT/target}/pycache
check python3 scripts/check_imports.py src client/src
check cargo build --quiet -p pg_parallel_backup_client
check python3 scripts/check_docs.py "${CARGO_TARGET_DIR:-$ROOT/target}/debug/pg_parallel_backup"
check python3 -m py_compile "${python_scripts[@]}"

if ((${#failed[@]})); then
    printf 'lint failed: %s\n' "${failed[@]}"
    exit 1
fi
say "lint passed"
