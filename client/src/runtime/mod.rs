//! Threads, signals and cancellation.
//!
//! Imports: `console`, `cli`.

pub mod cancellation;
pub mod parallel;
pub mod signals;
pub mod supervisor;
