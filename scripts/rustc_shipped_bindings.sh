#!/bin/sh
# A RUSTC_WRAPPER that makes pgrx-pg-sys use its shipped bindings, as in its documentation build. A
# PostgreSQL version can then be checked without its headers. DOCS_RS=1 must be set as well. Other crates
# must not see the option: they would require a nightly compiler.
case " $* " in
    *" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs ;;
esac
exec "$@"
