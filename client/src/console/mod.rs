//! Standard error: messages, the lines of a terminal, progress.
//!
//! Imports: `cli`.

pub mod escape;
pub mod messages;
pub mod progress;
pub mod stderr;
pub mod terminal_lines;
