#!/usr/bin/env bash
# Builds the release version and installs it for CREATE EXTENSION. Cargo builds only changed code, and
# identical files are not copied. sudo is used only to copy into folders that this account may not
# write. DESTDIR is prepended to every target, for packagers.
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
require_postgres
cd "$ROOT"

readonly STAGE=${CARGO_TARGET_DIR:-$ROOT/target}/release/package-pg$PG_MAJOR

say "Building the release version for PostgreSQL $PG_MAJOR"
cargo pgrx package --pg-config "$PG_CONFIG" --out-dir "$STAGE"

say "Building the command line program, its man page and its completion"
cargo build --release -p pg_parallel_backup_client
readonly BUILT=${CARGO_TARGET_DIR:-$ROOT/target}/release
# generate KIND FILE: generates a file from the program's options.
generate() {
    cargo run --quiet --release -p pg_parallel_backup_client --example generate -- "$1" >"$2"
}
generate man "$BUILT/pg_parallel_backup.1"
# Shells find completions by these names.
mkdir -p "$BUILT"/completion/{bash,zsh,fish}
generate bash "$BUILT/completion/bash/pg_parallel_backup"
generate zsh "$BUILT/completion/zsh/_pg_parallel_backup"
generate fish "$BUILT/completion/fish/pg_parallel_backup.fish"

# Files of an earlier build in the staging folder must not be installed.
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
    # A new file replaces the old one: running servers have the old library mapped.
    "${run[@]}" install -D -m "$1" "$2" "$target.new"
    "${run[@]}" mv -f "$target.new" "$target"
    say "Installed $target"
}

library_dir=$("$PG_CONFIG" --pkglibdir)
install_file 755 "$STAGE$library_dir/pg_parallel_backup.so" "$library_dir"
for file in sql/pg_parallel_backup--*.sql; do
    install_file 644 "$file" "$extension_dir"
done
# Released scripts are installed unchanged.
if [[ ! -e sql/pg_parallel_backup--$VERSION.sql ]]; then
    install_file 644 "$STAGE$extension_dir/pg_parallel_backup--$VERSION.sql" "$extension_dir"
fi
install_file 644 "$STAGE$extension_dir/pg_parallel_backup.control" "$extension_dir"
install_file 755 "$BUILT/pg_parallel_backup" "$("$PG_CONFIG" --bindir)"
install_file 644 "$BUILT/pg_parallel_backup.1" "$("$PG_CONFIG" --mandir)/man1"
# Folders of the completions: below /usr/share with a PostgreSQL of Debian's packages, otherwise beside
# the program's folder, so that nothing is written outside that PostgreSQL.
bin_dir=$("$PG_CONFIG" --bindir)
case $bin_dir in
    /usr/bin | /usr/lib/*) share_dir=/usr/share zsh_dir=vendor-completions ;;
    *) share_dir=${bin_dir%/*}/share zsh_dir=site-functions ;;
esac
install_file 644 "$BUILT/completion/bash/pg_parallel_backup" "$share_dir/bash-completion/completions"
install_file 644 "$BUILT/completion/zsh/_pg_parallel_backup" "$share_dir/zsh/$zsh_dir"
install_file 644 "$BUILT/completion/fish/pg_parallel_backup.fish" "$share_dir/fish/vendor_completions.d"
say "pg_parallel_backup $VERSION is installed for PostgreSQL $PG_MAJOR"
