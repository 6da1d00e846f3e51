#!/usr/bin/env bash
# Tests with the preview of the next PostgreSQL, which is 19. The last line is the total.
#
# pgrx 0.19 has bindings for it and declares a later Rust than this project requires, although it compiles with
# that. So the tests run in a copy of the sources that takes this pgrx, and the sources themselves stay as they are.
#
# usage: scripts/test-preview.sh [PART...]    parts: as of scripts/test.sh, by default those that need a server
set -euo pipefail

# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
cd "$ROOT"

# The Rust is the oldest that this pgrx is known to compile with.
readonly MAJOR=19 PGRX_VERSION=0.19.3 RUST_VERSION=1.95
readonly FOLDER=${CARGO_TARGET_DIR:-$ROOT/target}/preview-$MAJOR
readonly TREE=$FOLDER/tree TOOLS=$FOLDER/tools

rust=$(rustc --version | awk '{print $2}')
printf '%s\n' "$RUST_VERSION" "$rust" | sort --version-sort --check=quiet \
    || die "PostgreSQL $MAJOR is tested with Rust $RUST_VERSION or later, and this is $rust"

# Files keep their times, so that cargo builds only what has changed.
rm -rf -- "$TREE"
mkdir -p "$TREE" "$TOOLS/bin"
git ls-files -z | tar --create --null --files-from - --ignore-failed-read | tar --extract --directory "$TREE"

sed -i -e "s/^\(pgrx.* = \)\"=.*\"/\1\"=$PGRX_VERSION\"/" \
    -e "s|^pg18 = .*|&\npg$MAJOR = [\"pgrx/pg$MAJOR\", \"pgrx-tests/pg$MAJOR\"]|" "$TREE/Cargo.toml"
if [[ $FOLDER/Cargo.lock -nt $ROOT/Cargo.lock ]]; then
    cp "$FOLDER/Cargo.lock" "$TREE"
fi

if [[ $("$TOOLS/bin/cargo-pgrx" pgrx --version 2>/dev/null) != "cargo-pgrx $PGRX_VERSION" ]]; then
    say "Installing cargo-pgrx $PGRX_VERSION into $TOOLS (some minutes)"
    cargo install --quiet cargo-pgrx --version "=$PGRX_VERSION" --locked --ignore-rust-version --root "$TOOLS"
fi
# The cargo of the tests: it ignores the Rust that crates declare.
cat >"$TOOLS/bin/cargo" <<END
#!/bin/bash
for place in \$(seq \$#); do
    case \${!place} in
        pgrx) exec env -u CARGO "$TOOLS/bin/cargo-pgrx" "\$@" ;;
        build | rustc | test | check | run)
            exec "$(command -v cargo)" "\${@:1:place}" --ignore-rust-version "\${@:place + 1}"
            ;;
        --) break ;;
    esac
done
exec "$(command -v cargo)" "\$@"
END
chmod +x "$TOOLS/bin/cargo"

export PATH=$TOOLS/bin:$PATH CARGO_TARGET_DIR=$FOLDER/target
PG_CONFIG=$("$TREE/scripts/servers.sh" "$MAJOR")
export PG_CONFIG
say "Testing with $("$PG_CONFIG" --version)"
parts=("$@")
((${#parts[@]})) || parts=(outside server examples)
status=0
"$TREE/scripts/test.sh" "${parts[@]}" || status=$?
cp "$TREE/Cargo.lock" "$FOLDER"
exit "$status"
