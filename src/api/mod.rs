//! The SQL functions: they check arguments, call, and convert results; nothing else.
//!
//! Their SQL definitions are in sql/functions.sql. What is `text` there is bytes here, in the
//! encoding of the database, which need not be UTF-8; a `pg_lsn` and a `timestamptz` are their
//! 64-bit values.

// pgrx reads the columns of a result from the signature, where they have to be spelt out.
#![allow(clippy::type_complexity)]

mod arguments;
mod leading;
mod listing;
mod progress;
mod streams;
