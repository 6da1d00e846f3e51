# shellcheck shell=bash
# Sourced by the other scripts. It determines the repository's path, the PostgreSQL to build for, the
# path of cargo, and the account that runs the servers.
#
# It sets ROOT, SUPPORTED_MAJORS, BUILDABLE_MAJORS, SERVER_USER, PG_CONFIG, PG_MAJOR and PG_BIN. The last
# three are empty if the machine has no PostgreSQL to build for.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The versions that all tests run on, in order of preference for searching and installing: 15 is tested
# most, the others go from newest to oldest.
SUPPORTED_MAJORS='15 18 17 '

# The versions that PG_CONFIG in the environment may have: Cargo.toml has a feature for each version that
# the code builds for.
BUILDABLE_MAJORS=$(sed -n 's/^pg\([0-9][0-9]*\) *=.*/\1/p' "$ROOT/Cargo.toml" | sort -rn | tr '\n' ' ')

# A rustup installation may be missing from the PATH of a shell that reads no profile.
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

# SUPPORTED_MAJORS as text for a message: "15" or "15, 16, 17".
supported_majors_text() {
    # shellcheck disable=SC2086 # one word for each version
    printf '%s\n' $SUPPORTED_MAJORS | sort -n | paste -sd, | sed 's/,/, /g'
}

# pg_config_major PROGRAM: the major version of a pg_config.
pg_config_major() {
    "$1" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9][0-9]*\).*/\1/p'
}

# usable_pg_config PROGRAM: whether an extension can be built and tested with it.
usable_pg_config() {
    local major
    [[ -x $1 ]] || return 1
    major=$(pg_config_major "$1")
    [[ -n $major && " $BUILDABLE_MAJORS" == *" $major "* ]] || return 1
    # libpq-dev has its own pg_config, without the server's headers and programs.
    [[ -f $("$1" --includedir-server)/postgres.h && -x $("$1" --bindir)/initdb ]]
}

# installed_pg_config MAJOR: prints the pg_config of a version's packages. PG_CONFIG_<major> in the
# environment takes precedence.
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

# find_pg_config: prints the pg_config to build with, of the first of SUPPORTED_MAJORS that is
# installed. PG_CONFIG in the environment takes precedence.
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

# set_postgres: sets PG_CONFIG, PG_MAJOR and PG_BIN; fails if there is no PostgreSQL.
set_postgres() {
    local program
    program=$(find_pg_config) || true
    PG_MAJOR='' PG_BIN=''
    [[ -n $program ]] || return 1
    PG_CONFIG=$program
    PG_MAJOR=$(pg_config_major "$PG_CONFIG")
    PG_BIN=$("$PG_CONFIG" --bindir)
    # pgrx uses this in place of the configuration that `cargo pgrx init` writes to the home directory.
    export PGRX_PG_CONFIG_PATH=$PG_CONFIG
    export PG_CONFIG PG_MAJOR PG_BIN
}

# require_postgres: the same for scripts that need PostgreSQL; exits with a message if there is none.
require_postgres() {
    set_postgres || die "no PostgreSQL $(supported_majors_text) with server headers found; scripts/setup.sh installs it"
}

# PostgreSQL refuses to run as root.
if [[ $(id -u) -eq 0 ]]; then
    SERVER_USER=postgres
else
    SERVER_USER=$(id -un)
fi

# as_server_user COMMAND...: runs it as the account that owns the scratch clusters, in a folder that the
# account can enter.
as_server_user() {
    if [[ $(id -u) -eq 0 ]]; then
        (cd / && exec runuser -u "$SERVER_USER" -- "$@")
    else
        "$@"
    fi
}

# as_root COMMAND...: runs it as root, for files that an ordinary user may not write.
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
