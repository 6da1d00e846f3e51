#!/usr/bin/env bash
# Builds Debian packages of the release version: one of the extension for each tested PostgreSQL
# version, and one of the program, which does not depend on the version. Each extension package is
# tested together with the program in a clean Debian: scripts/package_in_chroot.sh. The packages are
# left in target/packages.
#
# The pg_config of a version is that of PG_CONFIG_<major> in the environment, or of Debian's packages, or
# of scripts/servers.sh. In any case, the files of the package are in Debian's locations.
#
# usage: scripts/package.sh [MAJOR...]    major versions of PostgreSQL (all tested ones by default)
#
# environment: DEBFULLNAME, DEBEMAIL    maintainer of the packages
#              SOURCE_DATE_EPOCH        time of their files, by default that of the last commit
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
cd "$ROOT"

readonly PACKAGES=${CARGO_TARGET_DIR:-$ROOT/target}/packages
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

for program in dpkg dpkg-deb dpkg-shlibdeps strip; do
    command -v "$program" >/dev/null || die "missing: $program (Debian's packages dpkg-dev and binutils)"
done

VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# A package of an unreleased version sorts before the package of the release.
if grep -q "^## $VERSION (unreleased)" CHANGELOG.md; then
    VERSION+="~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M)"
fi
VERSION+=-1
ARCHITECTURE=$(dpkg --print-architecture)
readonly VERSION ARCHITECTURE
readonly MAINTAINER="${DEBFULLNAME:-The pg_parallel_backup developers} <${DEBEMAIL:-root@localhost}>"

# pg_config_of MAJOR: prints it; fails if there is none.
pg_config_of() {
    local named=PG_CONFIG_$1 program
    program=${!named:-/usr/lib/postgresql/$1/bin/pg_config}
    if usable_pg_config "$program" && [[ $(pg_config_major "$program") == "$1" ]]; then
        say "$program"
    elif [[ -z ${!named:-} && -x scripts/servers.sh ]]; then
        scripts/servers.sh "$1"
    else
        return 1
    fi
}

# The packages of the shared libraries that a library or program needs, with versions.
dependencies_of() {
    local built=$1 folder
    folder=$(mktemp -d "$WORK/shlibdeps.XXXXXX")
    mkdir "$folder/debian"
    printf 'Source: pg-parallel-backup\n\nPackage: pg-parallel-backup\nArchitecture: any\n' >"$folder/debian/control"
    # The server defines the symbols that no library defines.
    (cd "$folder" && dpkg-shlibdeps -O "$built" 2>"$folder/warnings") \
        | sed -n 's/^shlibs:Depends=//p' || { cat "$folder/warnings" >&2; return 1; }
}

# finish_package NAME BUILT CRATE [FEATURE] <FIELDS: adds the files that every package has to the folder
# $WORK/NAME, builds the package and sets PACKAGE. BUILT is the library or program in the package.
# Standard input contains the fields of its control file.
finish_package() {
    local name=$1 built=$2 root=$WORK/$1 doc
    shift 2
    strip --strip-unneeded "$built"
    doc=$root/usr/share/doc/$name
    install -d "$doc" "$root/DEBIAN"
    install -m 644 README.md CHANGELOG.md "$doc"
    scripts/package_licences.py "$@" >"$doc/copyright"
    gzip -9n >"$doc/changelog.Debian.gz" <<CHANGELOG
$name ($VERSION) unstable; urgency=medium

  * Version ${VERSION%%[-~]*}: CHANGELOG.md in this folder says what has changed.

 -- $MAINTAINER  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
    {
        cat <<CONTROL
Package: $name
Version: $VERSION
Architecture: $ARCHITECTURE
Maintainer: $MAINTAINER
Installed-Size: $(du -k -s --apparent-size "$root/usr" | cut -f1)
Section: database
Priority: optional
CONTROL
        cat
    } >"$root/DEBIAN/control"
    (cd "$root" && find usr -type f -printf '%P\0' | sort -z | sed -z 's,^,usr/,' | xargs -0 md5sum) \
        >"$root/DEBIAN/md5sums"
    chmod -R u=rwX,go=rX "$root"
    chmod 755 "$built"
    PACKAGE=$PACKAGES/${name}_${VERSION}_$ARCHITECTURE.deb
    dpkg-deb --build --root-owner-group -Zxz "$root" "$PACKAGE" >/dev/null
    say "Built $PACKAGE"
}

# build_extension MAJOR PG_CONFIG: builds the package and sets PACKAGE.
build_extension() {
    local major=$1 pg_config=$2 name=postgresql-$1-pg-parallel-backup
    local stage=$WORK/stage-$1 root=$WORK/$name library extension doc depends
    DESTDIR=$stage PG_CONFIG=$pg_config scripts/install.sh

    library=$root/usr/lib/postgresql/$major/lib/pg_parallel_backup.so
    install -D -m 644 "$stage$("$pg_config" --pkglibdir)/pg_parallel_backup.so" "$library"
    extension=$root/usr/share/postgresql/$major/extension
    install -d "$extension"
    install -m 644 "$stage$("$pg_config" --sharedir)"/extension/pg_parallel_backup* "$extension"
    doc=$root/usr/share/doc/$name
    install -d "$doc/docs" "$doc/examples"
    install -m 644 docs/*.md docs/*.svg "$doc/docs"
    install -m 644 examples/requirements.txt "$doc/examples"
    install -m 755 examples/parallel_backup.sh examples/parallel_backup.py "$doc/examples"
    depends=$(dependencies_of "$library")
    finish_package "$name" "$library" pg_parallel_backup "pg$major" <<CONTROL
Depends: postgresql-$major, $depends
Suggests: pg-parallel-backup, python3-psycopg
Description: parallel physical base backups through plain SQL
 An extension of PostgreSQL $major that takes a physical base backup of the whole
 cluster from as many ordinary sessions at once as the caller likes. One of them
 starts and stops the backup, the others stream its files as tar archives through
 COPY. Page checksums are verified meanwhile, and a backup manifest is written.
 No replication protocol and no shared_preload_libraries are needed.
CONTROL
}

# install_completion FILE FOLDER: scripts/install.sh has generated FILE.
install_completion() {
    install -d "$2"
    install -m 644 "${CARGO_TARGET_DIR:-$ROOT/target}/release/completion/$1" "$2"
}

# build_program PG_CONFIG: builds the package and sets PACKAGE. Any version of PostgreSQL will do.
build_program() {
    local name=pg-parallel-backup stage=$WORK/stage-program root=$WORK/pg-parallel-backup program depends
    DESTDIR=$stage PG_CONFIG=$1 scripts/install.sh
    program=$root/usr/bin/pg_parallel_backup
    install -D -m 755 "$stage$("$1" --bindir)/pg_parallel_backup" "$program"
    install -d "$root/usr/share/man/man1"
    gzip -9n <"$stage$("$1" --mandir)/man1/pg_parallel_backup.1" >"$root/usr/share/man/man1/pg_parallel_backup.1.gz"
    install_completion bash/pg_parallel_backup "$root/usr/share/bash-completion/completions"
    install_completion zsh/_pg_parallel_backup "$root/usr/share/zsh/vendor-completions"
    install_completion fish/pg_parallel_backup.fish "$root/usr/share/fish/vendor_completions.d"
    depends=$(dependencies_of "$program")
    finish_package "$name" "$program" pg_parallel_backup_client <<CONTROL
Depends: $depends
Description: base backups of PostgreSQL by several connections at once
 A program with the options of pg_basebackup that takes a base backup of a
 PostgreSQL server through ordinary connections, in parallel, and verifies it
 while it is written. The server needs the extension of the same name, which is in
 the packages postgresql-NN-pg-parallel-backup.
CONTROL
}

umask 022
mkdir -p "$PACKAGES"
WORK=$(mktemp -d "$PACKAGES/work.XXXXXX")
trap 'rm -rf -- "$WORK"' EXIT
readonly WORK

majors=("$@")
((${#majors[@]})) || read -ra majors <<<"$SUPPORTED_MAJORS"
summary=()
failed=no
program=''
for major in "${majors[@]}"; do
    say "==> Package for PostgreSQL $major"
    if ! pg_config=$(pg_config_of "$major"); then
        summary+=("PostgreSQL $major: not built, its server headers are not on this machine (PG_CONFIG_$major names its pg_config)")
        continue
    fi
    # Not in a condition, where set -e has no effect.
    if [[ -z $program ]]; then
        build_program "$pg_config"
        program=$PACKAGE
    fi
    build_extension "$major" "$pg_config"
    if [[ $(id -u) -ne 0 ]] && ! command -v sudo >/dev/null; then
        summary+=("${PACKAGE##*/}: built, but not tried: that needs root or sudo")
        continue
    fi
    status=0
    as_root scripts/package_in_chroot.sh "$major" "$PACKAGE" "$program" || status=$?
    case $status in
        0) summary+=("${PACKAGE##*/}: installed in a clean Debian, which took a backup and started it") ;;
        2) summary+=("${PACKAGE##*/}: built, but not tried: see above") ;;
        *)
            summary+=("${PACKAGE##*/}: FAILED in a clean Debian")
            failed=yes
            ;;
    esac
done

say ""
printf '%s\n' "${summary[@]}"
[[ $failed == no ]]
