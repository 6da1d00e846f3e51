# shellcheck shell=bash
# Sourced by scripts that provide servers for the tests, and a program for the benchmark. The folder FOLDER keeps
# what they built or fetched, so that later runs find it. A script defines unavailable(), which exits with a reason.
#
# environment: SERVERS_FOLDER    the folder, by default /var/tmp/pg_parallel_backup-<uid>

readonly FOLDER=${SERVERS_FOLDER:-/var/tmp/pg_parallel_backup-$(id -u)}

note() {
    printf '%s\n' "$*" >&2
}

# Programs in the folder are executed, so nobody else may have write access.
is_safe() {
    local mode owner
    [[ -d $1 && ! -L $1 ]] || return 1
    read -r mode owner < <(stat -c '%a %u' -- "$1")
    [[ $owner == "$(id -u)" ]] && ((!(8#$mode & 8#022)))
}

# require_folder: makes the folder.
require_folder() {
    # If this is root, servers run as postgres and must be able to read the folder.
    umask 022
    mkdir -m 0755 -- "$FOLDER" 2>/dev/null || true
    is_safe "$FOLDER" || unavailable "$FOLDER is no folder, belongs to somebody else, or can be" \
        "written by others: remove it, or name another one in SERVERS_FOLDER"
}

# place WORK TARGET: the rename is atomic; another run may have been faster.
place() {
    chmod -R u+rwX,go+rX,go-w -- "$1"
    rm -rf -- "$2"
    mv -T -- "$1" "$2" 2>/dev/null || true
}
