# shellcheck shell=bash
# Sourced by the other scripts. It answers: where is the repository, which PostgreSQL is built
# for, where is cargo, and which account runs the servers.
#
# Afterwards these are set: ROOT, SUPPORTED_MAJORS, BUILDABLE_MAJORS, PG_CONFIG, PG_MAJOR, PG_BIN (the last three
# are empty while the machine has no PostgreSQL to build for), SERVER_USER.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The versions that all tests run on, in the order in which they are looked for and installed where
# any will do: 15 is the one that is tested most, the others go from the newest to the oldest.
SUPPORTED_MAJORS='15 18 17 '

# What a PG_CONFIG in the environment may be: Cargo.toml has a feature for each version that the
# code builds for.
BUILDABLE_MAJORS=$(sed -n 's/^pg\([0-9][0-9]*\) *=.*/\1/p' "$ROOT/Cargo.toml" | sort -rn | tr '\n' ' ')

# An installation by rustup need not be in the PATH of a shell that reads no profile.
if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
fi
case ":$PATH:" in
    *":${CARGO_HOME:-$HOME/.cargo}/bin:"*) ;;
    *) PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin ;;
esac
export PATH

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null
}

# The words of SUPPORTED_MAJORS for a message: "15" or "15, 16, 17".
supported_majors_text() {
    # shellcheck disable=SC2086 # one word for each version
    printf '%s\n' $SUPPORTED_MAJORS | sort -n | paste -sd, | sed 's/,/, /g'
}

# pg_config_major PROGRAM: the major version that a pg_config belongs to.
pg_config_major() {
    "$1" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9][0-9]*\).*/\1/p'
}

# usable_pg_config PROGRAM: whether an extension can be built and tested with it.
usable_pg_config() {
    local major
    [[ -x $1 ]] || return 1
    major=$(pg_config_major "$1")
    [[ -n $major && " $BUILDABLE_MAJORS" == *" $major "* ]] || return 1
    # libpq-dev has a pg_config of its own, without the server's headers and programs.
    [[ -f $("$1" --includedir-server)/postgres.h && -x $("$1" --bindir)/initdb ]]
}

# installed_pg_config MAJOR: prints the pg_config of a version's packages; where the environment has
# PG_CONFIG_<major>, that decides alone.
installed_pg_config() {
    local program named=PG_CONFIG_$1
    if [[ -n ${!named:-} ]]; then
        program=$(command -v "${!named}") && usable_pg_config "$program" \
            && [[ $(pg_config_major "$program") == "$1" ]] && say "$program"
        return
    fi
    for program in "/usr/lib/postgresql/$1/bin/pg_config" "/usr/pgsql-$1/bin/pg_config"; do
        usable_pg_config "$program" && say "$program" && return
    done
    return 1
}

# find_pg_config: prints the pg_config to build with, of the first of SUPPORTED_MAJORS that the
# machine has; a PG_CONFIG in the environment decides alone.
find_pg_config() {
    local major program
    if [[ -n ${PG_CONFIG:-} ]]; then
        program=$(command -v "$PG_CONFIG") && usable_pg_config "$program" && say "$program"
        return
    fi
    for major in $SUPPORTED_MAJORS; do
        installed_pg_config "$major" && return
    done
    program=$(command -v pg_config) && usable_pg_config "$program" || return 1
    major=$(pg_config_major "$program")
    [[ " $SUPPORTED_MAJORS" == *" $major "* ]] && say "$program"
}

# set_postgres: sets PG_CONFIG, PG_MAJOR and PG_BIN; fails when there is nothing to set.
set_postgres() {
    local program
    program=$(find_pg_config) || true
    PG_MAJOR='' PG_BIN=''
    [[ -n $program ]] || return 1
    PG_CONFIG=$program
    PG_MAJOR=$(pg_config_major "$PG_CONFIG")
    PG_BIN=$("$PG_CONFIG" --bindir)
    # pgrx takes this for what `cargo pgrx init` would have written to the home directory.
    export PGRX_PG_CONFIG_PATH=$PG_CONFIG
    export PG_CONFIG PG_MAJOR PG_BIN
}

# require_postgres: the same for scripts that cannot do without.
require_postgres() {
    set_postgres || die "no PostgreSQL $(supported_majors_text) with server headers found; scripts/setup.sh installs it"
}

# PostgreSQL refuses to run as root.
if [[ $(id -u) -eq 0 ]]; then
    SERVER_USER=postgres
else
    SERVER_USER=$(id -un)
fi

# as_server_user COMMAND...: runs it as the account that owns the scratch clusters, in a folder
# that this account can enter.
as_server_user() {
    if [[ $(id -u) -eq 0 ]]; then
        (cd / && exec runuser -u "$SERVER_USER" -- "$@")
    else
        "$@"
    fi
}

# as_root COMMAND...: for what an ordinary user may not write.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    else
        sudo "$@"
    fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}

set_postgres || true
