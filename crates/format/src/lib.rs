//! Base backup formats.
