#!/usr/bin/env bash
# Checks that all files name the same version, that an upgrade leads to it from every released version,
# and that released scripts are unchanged. Servers have already run those scripts: a change would reach
# nobody, or create two different extensions with the same version.
#
# CHANGELOG.md lists the versions. A version with a date in place of "(unreleased)" has been released;
# lines in sql/released.sha256 freeze its scripts in sql/.
set -euo pipefail
cd "$(dirname "$0")/.."

problems=0

problem() {
    printf '%s\n' "$*" >&2
    problems=$((problems + 1))
}

mapfile -t versions < <(sed -n 's/^## \([0-9][0-9.]*\) (.*/\1/p' CHANGELOG.md)
mapfile -t unreleased < <(sed -n 's/^## \([0-9][0-9.]*\) (unreleased)$/\1/p' CHANGELOG.md)
readonly VERSION=${versions[0]}

# Only the newest version can be unreleased.
((${#unreleased[@]} == 0)) || [[ ${unreleased[*]} == "$VERSION" ]] \
    || problem "CHANGELOG.md: a version other than the first is unreleased: ${unreleased[*]}"
[[ $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml) == "$VERSION" ]] \
    || problem "Cargo.toml: the version is not $VERSION, as in CHANGELOG.md"
[[ $(python3 -c '
import json
meta = json.load(open("META.json"))
print(meta["version"], meta["provides"]["pg_parallel_backup"]["version"])') == "$VERSION $VERSION" ]] \
    || problem "META.json: a version is not $VERSION, as in CHANGELOG.md"
[[ $(<pg_parallel_backup.control) == *"default_version = '@CARGO_VERSION@'"* ]] \
    || problem "pg_parallel_backup.control: default_version is not the version of Cargo.toml"

(cd sql && sha256sum --check --quiet --strict released.sha256) \
    || problem "a script of a released version has changed: put it back, changes need a new version"

is_frozen() {
    grep -q "  ${1##*/}\$" sql/released.sha256
}

for ((i = 0; i < ${#versions[@]}; i++)); do
    version=${versions[i]}
    scripts=()
    [[ -z ${versions[i + 1]:-} ]] || scripts+=("sql/pg_parallel_backup--${versions[i + 1]}--$version.sql")
    [[ " ${unreleased[*]} " == *" $version "* ]] || scripts+=("sql/pg_parallel_backup--$version.sql")
    for script in "${scripts[@]}"; do
        if [[ ! -f $script ]]; then
            problem "$script does not exist, although CHANGELOG.md has version $version"
        elif [[ " ${unreleased[*]} " != *" $version "* ]] && ! is_frozen "$script"; then
            problem "$script has been released: add it to sql/released.sha256"
        fi
    done
done

for script in sql/pg_parallel_backup--*.sql; do
    target=${script##*--}
    [[ " ${versions[*]} " == *" ${target%.sql} "* ]] \
        || problem "$script leads to a version that is not in CHANGELOG.md"
done

# After a release, until the next version's first change, both scripts create the same functions.
if ((${#unreleased[@]} == 0)); then
    [[ $(<"sql/pg_parallel_backup--$VERSION.sql") == *"$(<sql/functions.sql)"* ]] \
        || problem "sql/functions.sql has changed since $VERSION was released: it needs a new version"
fi

((problems == 0))
