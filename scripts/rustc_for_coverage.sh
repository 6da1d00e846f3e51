#!/bin/sh
# A RUSTC_WORKSPACE_WRAPPER for scripts/coverage.sh: the extension, the program and their crates count how often
# each region of their code runs. Crates of others and the tests from outside do not. A process keeps the
# counters in a mapped file, for which the compiler has to address them relatively: those of a process that is
# killed are not lost.
case " $* " in
    *" --crate-name build_script_"* | *" --crate-name outside "* | *" --crate-name backup_tests "* \
        | *" --crate-name s3_server "*) exec "$@" ;;
esac
exec "$@" -Cinstrument-coverage -Cllvm-args=-runtime-counter-relocation
