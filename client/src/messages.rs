//! What the program says, on standard error. That nobody reads it is no reason to fail.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the cursor stands behind the line of the progress.
static BEHIND_LINE: AtomicBool = AtomicBool::new(false);
/// As wide as that line, which fits into every terminal.
const WIDTH: usize = 78;

/// Writes one message, with the name of the program before it.
pub fn say(text: impl Display) {
    let mut stderr = std::io::stderr().lock();
    if BEHIND_LINE.swap(false, Ordering::Relaxed) {
        let _ = write!(stderr, "\r{:WIDTH$}\r", "");
    }
    let _ = writeln!(stderr, "pg_parallel_backup: {text}");
}

/// Writes the line of the progress over the last one; the next message takes its place.
pub fn show_line(text: &str) {
    let mut stderr = std::io::stderr().lock();
    BEHIND_LINE.store(true, Ordering::Relaxed);
    let _ = write!(stderr, "\r{text:<WIDTH$}").and_then(|()| stderr.flush());
}

/// Leaves the line of the progress where it is.
pub fn leave_line() {
    if BEHIND_LINE.swap(false, Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr().lock());
    }
}

/// Why the operating system did not do something, without the number, as PostgreSQL says it.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// Writes a warning.
pub fn warn(text: impl Display) {
    say(format_args!("warning: {text}"));
}

/// Writes what the program failed by.
pub fn error(text: impl Display) {
    say(format_args!("error: {text}"));
}
