#!/usr/bin/env bash
# Runs valgrind's memcheck on the tests of crates/format, and on every process of a scratch cluster
# during a whole backup: two workers, all page checks, each compression method, an interrupted stream,
# the closing tar with WAL. Exits with 1 if an error or a leak has a frame of our code. valgrind sees the
# server's memory contexts as single blocks, but tracks each allocation of Rust code.
#
# It uses the installed version and takes some minutes. It installs valgrind with apt if it is missing.
#
# usage: scripts/valgrind.sh [FOLDER]    folder for the logs; by default they are removed on success
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
# shellcheck source=scripts/cluster.sh
. "$ROOT/scripts/cluster.sh"
require_postgres
cd "$ROOT"

readonly PORT=54631
# Few cases, because valgrind makes each fifty times slower.
readonly CASES=8

if ! command -v valgrind >/dev/null; then
    command -v apt-get >/dev/null || die "valgrind is not installed"
    say "Installing valgrind with apt"
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends valgrind >/dev/null
fi

memcheck=(valgrind --quiet --error-limit=no --num-callers=40
    --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite)

say "==> The tests of crates/format, $CASES cases of each property"
mapfile -t programs < <(cargo test -p backup_format --lib --tests --no-run 2>&1 \
    | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
((${#programs[@]})) || die "cargo built no tests"
for program in "${programs[@]}"; do
    program=$(realpath "$program")
    (cd crates/format && PROPTEST_CASES=$CASES "${memcheck[@]}" --error-exitcode=1 "$program" --quiet)
done

make_scratch pgpb-valgrind
readonly DATA=$SCRATCH/data LOGS=$SCRATCH/logs BACKUP=$SCRATCH/backup
mkdir "$LOGS" "$BACKUP"
give_to_server "$LOGS"
init_cluster "$DATA"

say "==> A cluster, each process under valgrind"
CLUSTERS+=("$DATA")
as_server_user "${memcheck[@]}" --trace-children=yes --log-file="$LOGS/%p" \
    "$PG_BIN/pg_ctl" start -w -t 600 -s -D "$DATA" -l "$DATA.log" -o "-p $PORT -c listen_addresses='' \
    -c unix_socket_directories='$SCRATCH/socket' -c shared_buffers=16MB -c max_connections=20 -c fsync=off" \
    || { cat "$DATA.log" >&2; exit 1; }
sql $PORT -c "CREATE EXTENSION pg_parallel_backup" -c "CREATE TABLE filled AS
    SELECT i, repeat('x', 900) AS filler FROM generate_series(1, 8000) AS i"

# stream CALL: writes a tar archive to standard output.
stream() {
    sql $PORT -c "COPY (SELECT $1) TO STDOUT"
}

say "==> A backup"
coproc leader { sql $PORT 2>&1; }
# lead STATEMENT: runs it in the leader's session and prints the last line of its output.
lead() {
    local line said=''
    printf '%s\n\\echo done\n' "$1" >&"${leader[1]}"
    while read -r -t 600 line <&"${leader[0]}"; do
        [[ $line != "done" ]] || { say "$said"; return; }
        said=$line
    done
    die "the leader says: $said"
}
id=$(lead "SELECT backup_id FROM start_backup(fast => true, retain_wal => true, manifest_checksums => 'SHA256');")
sql $PORT -c "SELECT count(*) FROM backup_filelist($id)" -c "SELECT count(*) FROM backup_tablespaces($id)" >"$SCRATCH/counts"
stream "send_backup_files($id, ARRAY(SELECT path FROM backup_filelist($id) WHERE type <> 'f'))" | tar -x -C "$BACKUP"
for compression in gzip lz4 zstd; do
    stream "send_backup_files($id, ARRAY(SELECT path FROM backup_filelist($id) WHERE size > 100000),
        compression => '$compression')" | "$compression" -d | tar -x -C "$BACKUP"
done
# A client that disconnects, and a statement that is cancelled.
timeout --signal=KILL 3 "$PG_BIN/psql" -X -h "$SCRATCH/socket" -p $PORT -U postgres \
    -c "COPY (SELECT send_backup_files($id, max_rate => 32)) TO STDOUT" >"$SCRATCH/broken" || true
sql $PORT -c "SET statement_timeout = '1s'" -c "SELECT send_backup_files($id, max_rate => 32, target => 'blackhole')" \
    >"$SCRATCH/cancelled" 2>&1 || true
sql $PORT -c "SELECT send_backup_files($id, target => 'blackhole')" >"$SCRATCH/nothing"
workers=()
for _ in 1 2; do
    stream "send_backup_files($id)" | tar -x --skip-old-files -C "$BACKUP" & workers+=($!)
done
for worker in "${workers[@]}"; do
    wait "$worker"
done
sql $PORT -c "SELECT * FROM backup_progress()" >"$SCRATCH/progress"
lead "COPY (SELECT send_stop_backup(wal => true)) TO STDOUT \\g $SCRATCH/closing.tar" >"$SCRATCH/stopped"
tar -x -f "$SCRATCH/closing.tar" -C "$BACKUP"
"$PG_BIN/pg_verifybackup" -q "$BACKUP"
lead "SELECT start_backup(fast => true);" >"$SCRATCH/started"
lead "SELECT stop_backup(allow_incomplete => true);" >"$SCRATCH/row"
stream "base_backup(fast => true)" | tar -t >"$SCRATCH/members"
printf '%s\n' '\q' >&"${leader[1]}"
stop_cluster "$DATA"

cat "$LOGS"/* >"$SCRATCH/report"
if (($# > 0)); then
    mkdir -p "$1"
    cp "$LOGS"/* "$1"
fi
if grep -E 'terminated by signal|PANIC' "$DATA.log" >&2; then
    die "the server crashed"
fi
# An error is a paragraph. A frame of our code has the name of the library or of a Rust file.
paragraphs() {
    sed 's/^==[0-9]*== *//' "$SCRATCH/report" \
        | awk -v wanted="$1" 'BEGIN { RS = "" } ((/\.rs:[0-9]+\)|pg_parallel_backup\.so/) ? "ours" : "other") == wanted { print $0 "\n" }'
}
say "$(find "$LOGS" -type f | wc -l) processes; reports of the server's own code alone: $(paragraphs other | grep -c '^at ' || true)"
ours=$(paragraphs ours)
if [[ -n $ours ]]; then
    say "$ours" >&2
    die "valgrind reports errors in pg_parallel_backup.so"
fi
say "valgrind reports nothing about pg_parallel_backup.so"
