# shellcheck shell=bash
# Sourced after environment.sh by scripts that need temporary clusters: the demo, the benchmark and the
# tests of the examples. A cluster is identified by its data directory, listens only on a Unix-domain
# socket in a scratch folder, and belongs to SERVER_USER.
#
# make_scratch sets SCRATCH and removes it, with every server started in it, when the script ends.

SCRATCH=''
CLUSTERS=()

# A server that inherits this adds backtraces to the DETAIL of its errors.
unset RUST_BACKTRACE

# make_scratch NAME: creates a folder that both this account and SERVER_USER can write. Its path is
# short, because the path of a socket must fit into 107 bytes.
make_scratch() {
    SCRATCH=$(mktemp -d "/tmp/$1.XXXXXX")
    if [[ $(id -u) -eq 0 ]]; then
        chown "$SERVER_USER" "$SCRATCH"
    fi
    mkdir "$SCRATCH/socket"
    give_to_server "$SCRATCH/socket"
    trap remove_scratch EXIT
    # Without these traps a signal would end the script before the EXIT trap runs.
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

remove_scratch() {
    local data
    for data in "${CLUSTERS[@]}"; do
        stop_cluster "$data" immediate
    done
    if [[ -n $SCRATCH ]]; then
        rm -rf -- "$SCRATCH"
    fi
}

# give_to_server PATH...: makes SERVER_USER the owner of files that root has created.
give_to_server() {
    if [[ $(id -u) -eq 0 ]]; then
        chown -R "$SERVER_USER" -- "$@"
    fi
}

# init_cluster DATA: creates a cluster with data checksums and settings for a scratch cluster.
init_cluster() {
    as_server_user "$PG_BIN/initdb" -D "$1" -U postgres -A trust --data-checksums \
        --encoding UTF8 --locale C --no-sync >"$SCRATCH/initdb.log" 2>&1 \
        || { cat "$SCRATCH/initdb.log" >&2; return 1; }
}

# start_cluster DATA PORT [SETTING...]: each SETTING is name=value, passed on the command line, so that
# it is not part of a backup.
start_cluster() {
    local data=$1 port=$2 setting options
    shift 2
    options="-p $port -c listen_addresses='' -c unix_socket_directories='$SCRATCH/socket'"
    options+=" -c unix_socket_permissions=0700 -c logging_collector=off -c fsync=off"
    for setting in "$@"; do
        options+=" -c $setting"
    done
    CLUSTERS+=("$data")
    as_server_user "$PG_BIN/pg_ctl" start -w -t 120 -s -D "$data" -l "$data.log" -o "$options" \
        >"$data.start" 2>&1 || { cat "$data.start" "$data.log" >&2; return 1; }
}

# stop_cluster DATA [MODE]: no error if the cluster is not running.
stop_cluster() {
    if [[ -f $1/postmaster.pid ]]; then
        as_server_user "$PG_BIN/pg_ctl" stop -w -t 120 -s -D "$1" -m "${2:-fast}" >/dev/null 2>&1 || true
    fi
}

# sql PORT [psql option...]: psql as the superuser of a scratch cluster, unaligned, tuples only.
sql() {
    local port=$1
    shift
    "$PG_BIN/psql" -XAtq -v ON_ERROR_STOP=1 -h "$SCRATCH/socket" -p "$port" -U postgres "$@"
}
