//! What the program says, on standard error. That nobody reads it is no reason to fail.

use std::fmt::Display;
use std::io::Write as _;

/// Writes one message, with the name of the program before it.
pub fn say(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "pg_parallel_backup: {text}");
}

/// Writes a warning.
pub fn warn(text: impl Display) {
    say(format_args!("warning: {text}"));
}

/// Writes what the program failed by.
pub fn error(text: impl Display) {
    say(format_args!("error: {text}"));
}
