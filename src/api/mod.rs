//! The SQL functions: they check arguments, call, and convert results; nothing else.
//!
//! Their SQL definitions are in sql/functions.sql. What is `text` there is bytes here, in the
//! encoding of the database, which need not be UTF-8; a `pg_lsn` and a `timestamptz` are their
//! 64-bit values.

mod arguments;
mod leading;
mod listing;
mod progress;
mod streams;
