#!/usr/bin/env bash
# Tests the Debian packages of the extension and the program in a clean Debian of the release that has
# this version of PostgreSQL. debootstrap creates it in a temporary folder. apt installs the packages
# with their dependencies, scripts/package_backup.sh takes backups and starts them, and apt removes the
# packages. No service is started. Needs root.
#
# Everything runs in separate namespaces: mounts and processes end with the script, however it ends, and
# are invisible from outside.
#
# Exits with 2 and a reason if the machine cannot run the test, with 1 if a package failed.
#
# usage: scripts/package_in_chroot.sh MAJOR EXTENSION PROGRAM    two packages
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

SCRIPTS=$(cd "$(dirname "$0")" && pwd)
readonly SCRIPTS
# shellcheck source=scripts/debian.sh
. "$SCRIPTS/debian.sh"

say() {
    printf '%s\n' "$*"
}

not_here() {
    say "The packages cannot be tried here: $*" >&2
    exit 2
}

# logged COMMAND...: shows its output only if it fails.
logged() {
    "$@" >"$FOLDER/log" 2>&1 || { tail -n 40 "$FOLDER/log" >&2; return 1; }
}

in_chroot() {
    chroot "$FOLDER/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive ${http_proxy:+"http_proxy=$http_proxy"} "$@"
}

# Runs in the namespaces.
try_packages() {
    local root=$FOLDER/root suite script
    local http_proxy_of_apt='' check_valid_until=''
    suite=$(suite_of "$MAJOR")
    eval "$(apt-config shell http_proxy_of_apt Acquire::http::Proxy)"
    if [[ -n $http_proxy_of_apt ]]; then
        export http_proxy=$http_proxy_of_apt
    fi
    # A debootstrap older than the release has no script for it; all scripts are the same.
    script=/usr/share/debootstrap/scripts/$suite
    [[ -e $script ]] || script=/usr/share/debootstrap/scripts/sid

    say "Making a clean Debian ($suite)"
    logged debootstrap --variant=minbase "$suite" "$root" "$MIRROR" "$script"
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    mkdir -p "$root/dev/shm"
    mountpoint -q "$root/dev/shm" || mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    mkdir -p "$root/etc/postgresql-common/createcluster.d"
    say 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.d/none.conf"

    # If this machine's mirror is outdated, its apt configuration allows for that.
    eval "$(apt-config shell check_valid_until Acquire::Check-Valid-Until)"
    if [[ -n $check_valid_until ]]; then
        say "Acquire::Check-Valid-Until \"$check_valid_until\";" >"$root/etc/apt/apt.conf.d/50as-outside"
    fi

    say "Installing ${EXTENSION##*/} and ${PROGRAM##*/} there"
    install -m 644 "$EXTENSION" "$PROGRAM" "$root/tmp"
    logged in_chroot apt-get -q update
    logged in_chroot apt-get -q install -y --no-install-recommends "/tmp/${EXTENSION##*/}" "/tmp/${PROGRAM##*/}"

    install -m 755 "$SCRIPTS/package_backup.sh" "$root/tmp/package_backup.sh"
    in_chroot runuser -u postgres -- /tmp/package_backup.sh "$MAJOR"

    logged in_chroot apt-get -q purge -y "postgresql-$MAJOR-pg-parallel-backup" pg-parallel-backup
    if find "$root/usr" -name '*pg?parallel?backup*' | grep .; then
        say "The packages have left these files behind." >&2
        return 1
    fi
}

if [[ ${1:-} == --in-namespaces ]]; then
    readonly MAJOR=$2 EXTENSION=$3 PROGRAM=$4 MIRROR=$5 FOLDER=$6
    try_packages
    exit
fi

readonly MAJOR=${1:?which major version of PostgreSQL?}
readonly EXTENSION=${2:?which package of the extension?} PROGRAM=${3:?which package of the program?}
[[ $(id -u) -eq 0 ]] || not_here "it needs root"
suite_of "$MAJOR" >/dev/null || not_here "no Debian release has PostgreSQL $MAJOR"
command -v apt-get >/dev/null || not_here "it needs apt"
read -r MIRROR < <(debian_mirrors) || { apt-get -qq update && read -r MIRROR < <(debian_mirrors); } || MIRROR=''
[[ -n $MIRROR ]] || not_here "apt's sources on this machine lead to no mirror of Debian"
command -v debootstrap >/dev/null \
    || apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends debootstrap >/dev/null \
    || not_here "debootstrap is missing"
unshare --mount --pid --ipc --fork --kill-child true 2>/dev/null \
    || not_here "this system allows no namespaces"

FOLDER=$(mktemp -d "${TMPDIR:-/tmp}/pgpb-chroot.XXXXXX")
readonly FOLDER
chmod 755 "$FOLDER"
namespaces=''

remove_folder() {
    local first=''
    if [[ -n $namespaces ]]; then
        # When the first process of the namespace ends, all others end.
        read -r first 2>/dev/null <"/proc/$namespaces/task/$namespaces/children" || true
        [[ -z $first ]] || kill -KILL "$first" 2>/dev/null || true
        wait "$namespaces" 2>/dev/null || true
    fi
    if awk -v folder="$FOLDER" 'index($5, folder "/") == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo; then
        say "Something is mounted below $FOLDER: it is left there." >&2
    else
        rm -rf --one-file-system -- "$FOLDER"
    fi
}
trap remove_folder EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# In the background, so that a signal is handled at once.
unshare --mount --propagation private --pid --ipc --fork --kill-child --mount-proc \
    "$0" --in-namespaces "$MAJOR" "$EXTENSION" "$PROGRAM" "$MIRROR" "$FOLDER" &
namespaces=$!
wait "$namespaces" || exit 1
namespaces=''
