#!/usr/bin/env bash
# Builds the release version and puts it where CREATE EXTENSION looks. Cargo builds what changed
# and nothing else, files that are the same already are not copied, and only copying into folders
# that this account may not write uses sudo. DESTDIR goes before every target, for packagers.
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
require_postgres
cd "$ROOT"

readonly STAGE=${CARGO_TARGET_DIR:-$ROOT/target}/release/package-pg$PG_MAJOR

say "Building the release version for PostgreSQL $PG_MAJOR"
cargo pgrx package --pg-config "$PG_CONFIG" --out-dir "$STAGE"

say "Building the command line program and its man page"
cargo build --release -p pg_parallel_backup_client
readonly BUILT=${CARGO_TARGET_DIR:-$ROOT/target}/release
cargo run --quiet --release -p pg_parallel_backup_client --example man >"$BUILT/pg_parallel_backup.1"

# What an earlier build left in the staging folder must not be installed with this one.
extension_dir=$("$PG_CONFIG" --sharedir)/extension
VERSION=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" "$STAGE$extension_dir/pg_parallel_backup.control")
readonly VERSION
[[ -n $VERSION && -s $STAGE$extension_dir/pg_parallel_backup--$VERSION.sql ]] \
    || die "the build left no script for version ${VERSION:-(none)}"

# install_file MODE FILE DIRECTORY
install_file() {
    local target=${DESTDIR:-}$3/${2##*/} run=()
    if cmp -s "$2" "$target"; then
        return
    fi
    if [[ ! -w ${DESTDIR:-}$3 && -d ${DESTDIR:-}$3 ]]; then
        run=(as_root)
    fi
    # A new file takes the place of the old one: running servers have the old library mapped.
    "${run[@]}" install -D -m "$1" "$2" "$target.new"
    "${run[@]}" mv -f "$target.new" "$target"
    say "Installed $target"
}

library_dir=$("$PG_CONFIG" --pkglibdir)
install_file 755 "$STAGE$library_dir/pg_parallel_backup.so" "$library_dir"
for file in sql/pg_parallel_backup--*.sql; do
    install_file 644 "$file" "$extension_dir"
done
# What has been released is installed as it was then.
if [[ ! -e sql/pg_parallel_backup--$VERSION.sql ]]; then
    install_file 644 "$STAGE$extension_dir/pg_parallel_backup--$VERSION.sql" "$extension_dir"
fi
install_file 644 "$STAGE$extension_dir/pg_parallel_backup.control" "$extension_dir"
install_file 755 "$BUILT/pg_parallel_backup" "$("$PG_CONFIG" --bindir)"
install_file 644 "$BUILT/pg_parallel_backup.1" "$("$PG_CONFIG" --mandir)/man1"
say "pg_parallel_backup $VERSION is installed for PostgreSQL $PG_MAJOR"
