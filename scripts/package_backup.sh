#!/usr/bin/env bash
# Runs as postgres in the clean Debian of scripts/package_in_chroot.sh, which contains only the packages
# of the extension and the program. Takes backups with the driver of the extension's package and with
# the program, and starts servers from them.
#
# usage: package_backup.sh MAJOR
set -euo pipefail

readonly MAJOR=$1
readonly BIN=/usr/lib/postgresql/$MAJOR/bin
readonly EXAMPLES=/usr/share/doc/postgresql-$MAJOR-pg-parallel-backup/examples
readonly PORT=54631
WORK=$(mktemp -d /tmp/try.XXXXXX)
readonly WORK
cd "$WORK"

start_server() {
    "$BIN/pg_ctl" start -w -s -D "$1" -l "$1.log" \
        -o "-c listen_addresses='' -c unix_socket_directories='$WORK' -c port=$PORT" >/dev/null \
        || { cat "$1.log" >&2; return 1; }
}

stop_server() {
    "$BIN/pg_ctl" stop -w -s -D "$1" -m fast
}

sql() {
    local database=$1
    shift
    "$BIN/psql" -XAtq -v ON_ERROR_STOP=1 -h "$WORK" -p "$PORT" -U postgres -d "$database" "$@"
}

"$BIN/initdb" -D source -U postgres -A trust --data-checksums --no-sync >initdb.log \
    || { cat initdb.log >&2; exit 1; }
mkdir tablespace
start_server source
sql postgres -c "CREATE EXTENSION pg_parallel_backup" \
    -c "CREATE TABLESPACE outside LOCATION '$WORK/tablespace'" \
    -c "CREATE TABLE t TABLESPACE outside AS SELECT a, md5(a::text) AS b FROM generate_series(1, 200000) AS a" \
    -c "CREATE INDEX ON t (b)"

# The package also contains the scripts of earlier versions.
sql postgres -c "CREATE DATABASE upgraded"
sql upgraded -c "CREATE EXTENSION pg_parallel_backup VERSION '0.1.0'" -c "ALTER EXTENSION pg_parallel_backup UPDATE"
[[ $(sql upgraded -c "SELECT extversion = default_version FROM pg_extension
        JOIN pg_available_extensions ON name = extname WHERE extname = 'pg_parallel_backup'") == t ]]

readonly QUERY="SELECT count(*), md5(string_agg(b, '' ORDER BY a)) FROM t"
expected=$(sql postgres -c "$QUERY")
for taker in "$EXAMPLES/parallel_backup.sh" pg_parallel_backup; do
    name=${taker##*/}
    "$taker" -d "host=$WORK port=$PORT user=postgres dbname=postgres" -D "$WORK/$name" \
        -T "$WORK/tablespace=$WORK/$name.moved" -j 2 -c fast
    "$BIN/pg_verifybackup" -q "$name"
done
stop_server source
rm -rf tablespace

for backup in parallel_backup.sh pg_parallel_backup; do
    start_server "$backup"
    restored=$(sql postgres -c "$QUERY")
    "$BIN/pg_amcheck" -h "$WORK" -p "$PORT" -U postgres --install-missing --all
    stop_server "$backup"
    [[ $restored == "$expected" ]] || { echo "the table is not what it was: $restored, not $expected" >&2; exit 1; }
done
[[ -s /usr/share/man/man1/pg_parallel_backup.1.gz ]]
for file in zsh/vendor-completions/_pg_parallel_backup fish/vendor_completions.d/pg_parallel_backup.fish; do
    [[ -s /usr/share/$file ]]
done
# Load it as bash-completion does.
# shellcheck source=/dev/null
(. /usr/share/bash-completion/completions/pg_parallel_backup && complete -p pg_parallel_backup) >/dev/null
rm -rf "$WORK"
echo "Both backups have started, and their tables and indexes are whole."
