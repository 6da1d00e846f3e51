#!/usr/bin/env bash
# Installs missing dependencies for building, testing and demonstrating the extension: packages with apt
# on Debian and Ubuntu, and cargo-pgrx with cargo. If nothing is missing, it does nothing, prints nothing
# and needs no network. On other systems it lists the missing dependencies.
#
# usage: scripts/setup.sh [lint | test]    lint: also installs cargo-deny, which takes some more minutes
#                                          test: also installs servers of object stores, unless there is no npm
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"

readonly CARGO_PGRX_VERSION=0.18.1
readonly CARGO_DENY_VERSION=0.20.2
RUST_VERSION=$(sed -n 's/^rust-version *= *"\([0-9.]*\)"/\1/p' "$ROOT/Cargo.toml")
readonly RUST_VERSION
readonly for_what=${1:-}

# Prints missing dependencies, one word a line; packages_for() has a case for each word.
missing_system_parts() {
    local major=$PG_MAJOR
    { have cc && have make && have pkg-config; } || echo compiler
    has_libclang || echo libclang
    [[ -n $major ]] || echo postgresql
    if [[ -n $major && ! -e $("$PG_CONFIG" --sharedir)/extension/amcheck.control ]]; then
        echo contrib
    fi
    # The in-server tests install as root and run the server as another user: pgrx calls sudo.
    have sudo || echo sudo
    { [[ $(id -u) -ne 0 ]] || have runuser; } || echo runuser
    [[ $(tar --version 2>/dev/null) == *"GNU tar"* ]] || echo tar
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python
    have shellcheck || echo shellcheck
    { have gzip && have lz4 && have zstd; } || echo compressors
    # One test uses it, and is skipped where there is no such package.
    { have age || ! have apt-cache || ! apt_has age; } || echo age
    have fincore || echo fincore
    [[ $for_what != test ]] || have strace || echo strace
    { have openssl && pkg-config --exists openssl 2>/dev/null; } || echo openssl
    rust_is_new_enough || echo rust
}

# bindgen loads libclang to read the server's headers.
has_libclang() {
    [[ -n ${LIBCLANG_PATH:-} ]] && return
    have clang || return 1
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib*/libclang*.so*' >/dev/null
}

rust_is_new_enough() {
    local version
    have cargo && have rustc || return 1
    version=$(cd "$ROOT" && rustc --version 2>/dev/null | awk '{print $2}')
    [[ -n $version ]] || return 1
    [[ $(printf '%s\n' "$RUST_VERSION" "${version%%-*}" | sort -V | head -n 1) == "$RUST_VERSION" ]]
}

# packages_for PART: the Debian packages that provide it.
packages_for() {
    case $1 in
        compiler) echo build-essential pkg-config ;;
        libclang) echo clang libclang-dev ;;
        postgresql) echo "postgresql-$apt_major" "postgresql-server-dev-$apt_major" ;;
        contrib) echo "postgresql-$PG_MAJOR" ;;
        sudo) echo sudo ;;
        runuser) echo util-linux ;;
        tar) echo tar ;;
        python) echo python3 python3-venv ;;
        shellcheck) echo shellcheck ;;
        compressors) echo gzip lz4 zstd ;;
        age) echo age ;;
        fincore) echo util-linux-extra ;;
        strace) echo strace ;;
        openssl) echo openssl libssl-dev ;;
        rust) echo rustup ;;
    esac
}

# describe PART: a description for users of other systems.
describe() {
    case $1 in
        compiler) echo "a C compiler, make and pkg-config" ;;
        libclang) echo "clang and libclang with its headers (or LIBCLANG_PATH set)" ;;
        postgresql) echo "PostgreSQL $(supported_majors_text): server, contrib modules and server headers (PG_CONFIG names its pg_config)" ;;
        contrib) echo "the contrib modules of PostgreSQL $PG_MAJOR (amcheck)" ;;
        sudo) echo "sudo" ;;
        runuser) echo "runuser (util-linux)" ;;
        tar) echo "GNU tar" ;;
        python) echo "python3 with the venv module" ;;
        shellcheck) echo "shellcheck" ;;
        compressors) echo "gzip, lz4 and zstd" ;;
        age) echo "age" ;;
        fincore) echo "fincore (util-linux)" ;;
        strace) echo "strace" ;;
        openssl) echo "openssl with its headers" ;;
        rust) echo "Rust $RUST_VERSION or later with cargo, from https://rustup.rs" ;;
    esac
}

# The first supported major version that apt can install, in order of preference.
apt_postgresql_major() {
    local major
    for major in $SUPPORTED_MAJORS; do
        apt_has "postgresql-server-dev-$major" && apt_has "postgresql-$major" && echo "$major" && return
    done
    return 1
}

apt_has() {
    # Read all output before searching it: in a pipe, grep -q would end apt-cache with SIGPIPE.
    local policy
    policy=$(apt-cache policy "$1" 2>/dev/null)
    grep -q '^ *Candidate: [0-9]' <<<"$policy"
}

# Debian creates and starts a cluster on port 5432 when the server is installed. This is switched off
# during the installation only.
install_postgresql_without_cluster() {
    local switch=/etc/postgresql-common/createcluster.d/zz-pg_parallel_backup.conf
    apt_get install -y --no-install-recommends postgresql-common >/dev/null
    as_root mkdir -p "${switch%/*}"
    echo 'create_main_cluster = false' | as_root tee "$switch" >/dev/null
    # shellcheck disable=SC2064 # the name is meant as it is now
    trap "as_root rm -f '$switch'" EXIT
    apt_get install -y --no-install-recommends "$@" >/dev/null
    as_root rm -f "$switch"
    trap - EXIT
}

install_with_apt() {
    local part part_packages packages=() postgresql_packages=() distribution_major
    if [[ $(id -u) -ne 0 ]] && ! have sudo; then
        die "installing packages needs root or sudo"
    fi
    say "Installing what is missing with apt: $*"
    apt_get update
    apt_major=''
    for part in "$@"; do
        if [[ $part == postgresql ]]; then
            apt_major=$(apt_postgresql_major) || {
                distribution_major=$(apt-cache depends postgresql 2>/dev/null \
                    | sed -n 's/.*Depends: postgresql-\([0-9]*\).*/\1/p' | head -n 1)
                die "this system packages PostgreSQL ${distribution_major:-(none)};" \
                    "pg_parallel_backup supports $(supported_majors_text) so far." \
                    "Packages of other versions are at https://apt.postgresql.org"
            }
            read -ra postgresql_packages < <(packages_for postgresql)
        elif [[ $part == rust ]] && ! apt_has rustup; then
            die "missing: $(describe rust)"
        else
            read -ra part_packages < <(packages_for "$part")
            packages+=("${part_packages[@]}")
        fi
    done
    if ((${#packages[@]})); then
        apt_get install -y --no-install-recommends "${packages[@]}" >/dev/null
    fi
    if ((${#postgresql_packages[@]})); then
        install_postgresql_without_cluster "${postgresql_packages[@]}"
    fi
    if [[ " $* " == *" rust "* ]]; then
        rustup default stable
    fi
    set_postgres || true
}

install_cargo_pgrx() {
    [[ $(cargo pgrx --version 2>/dev/null) == "cargo-pgrx $CARGO_PGRX_VERSION" ]] && return
    say "Installing cargo-pgrx $CARGO_PGRX_VERSION (some minutes)"
    cargo install --quiet cargo-pgrx --version "=$CARGO_PGRX_VERSION" --locked
}

install_cargo_deny() {
    [[ $(cargo deny --version 2>/dev/null) == "cargo-deny $CARGO_DENY_VERSION" ]] && return
    say "Installing cargo-deny $CARGO_DENY_VERSION (some minutes)"
    cargo install --quiet cargo-deny --version "=$CARGO_DENY_VERSION" --locked
}

mapfile -t missing < <(missing_system_parts)
if ((${#missing[@]})); then
    if have apt-get && have apt-cache; then
        install_with_apt "${missing[@]}"
        mapfile -t missing < <(missing_system_parts)
    fi
    if ((${#missing[@]})); then
        {
            say "This machine lacks:"
            for part in "${missing[@]}"; do
                say "  - $(describe "$part")"
            done
        } >&2
        exit 1
    fi
fi
install_cargo_pgrx
case $for_what in
    lint) install_cargo_deny ;;
    # The tests that need a server that is not available are skipped, except in CI.
    test) "$ROOT/scripts/object_stores.sh" || say "Its tests will be skipped" ;;
esac
