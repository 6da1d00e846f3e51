//! Power cuts: the system calls of a program are recorded and replayed up to any of them, onto a disk that
//! loses what was not synchronized.
//!
//! `strace` records, because the program makes a part of its calls without the C library, where a preloaded
//! library would not see them. `trace` reads what it has written, `disk` replays it, `cut` says what is lost,
//! and `judgement` looks at what is left.
//!
//! What POSIX promises: a file's bytes survive once the file was synchronized, and a name once its directory
//! was. Everything else may survive or not, each by itself. File systems promise more, and differ in that.
//! Modes and owners are not modelled.

pub mod cut;
pub mod disk;
pub mod judgement;
pub mod trace;
