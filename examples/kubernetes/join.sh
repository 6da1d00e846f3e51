#!/bin/sh
# Joins the backup that another pod leads: waits until the server shows a running backup with the label,
# and has the program join it by its number.
#
# Environment: BACKUP_LABEL, REPOSITORY, and the variables of libpq (PGHOST …) and of the object store.
# JOBS is the number of connections (default 8), WAIT the seconds until a backup has to run (default 600).
# More options of "pg_parallel_backup join" are arguments of this script.
set -eu

: "${BACKUP_LABEL:?}" "${REPOSITORY:?}"
jobs=${JOBS:-8}
deadline=$(($(date +%s) + ${WAIT:-600}))

say() {
    printf 'join: %s\n' "$*" >&2
}

# One value, without the user's psqlrc. psql sets no variables with -c.
value() {
    printf '%s\n' "$1" | psql -XAtq -v ON_ERROR_STOP=1 -v label="$BACKUP_LABEL" -d "${PGDATABASE:-postgres}"
}

# Number of the running backup with the label, empty where there is none.
backup_id() {
    value "SELECT backup_id FROM $schema.backup_progress() WHERE label = :'label'"
}

schema=$(value "SELECT format('%I', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                WHERE e.extname = 'pg_parallel_backup'")
[ -n "$schema" ] || { say "the database does not have the extension"; exit 1; }

# The server shows a backup before its leader has written what others need, so the first attempts may fail.
joined=no
while :; do
    id=$(backup_id)
    if [ -n "$id" ]; then
        joined=yes
        if pg_parallel_backup join --backup-id "$id" -D "$REPOSITORY" -j "$jobs" -v "$@"; then
            exit 0
        fi
        say "could not join backup $id yet"
    elif [ "$joined" = yes ]; then
        say "the backup has ended"
        exit 0
    fi
    [ "$(date +%s)" -lt "$deadline" ] || { say "no backup \"$BACKUP_LABEL\" to join"; exit 1; }
    sleep 2
done
