#!/bin/sh
# A RUSTC_WRAPPER with which pgrx-pg-sys takes the bindings that it ships, as it does where its
# documentation is built, so that a version is checked whose headers are not there. DOCS_RS=1 has to
# be set as well. Other crates must not see the option: it would make them ask for a nightly compiler.
case " $* " in
    *" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs ;;
esac
exec "$@"
