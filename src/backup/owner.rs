//! Owners of files and of parts of files: what the owner of a slot can be.

use core::sync::atomic::{AtomicU32, Ordering};

/// Owner of what waits to be taken.
pub const FREE: u32 = 0;
/// Owner of what a stream has sent that has ended well.
pub const SETTLED: u32 = 1;
/// Owner of a file that has been read and verified, and sent nowhere.
pub const DISCARDED: u32 = 2;
/// Owner of a file whose parts have owners of their own.
pub const DIVIDED: u32 = 3;
/// The first number that a worker can have.
pub const FIRST_WORKER: u32 = 4;

/// Changes an owner, unless another has changed it.
///
/// Sequentially consistent: who takes a part looks at the owner of its file afterwards, and who takes a divided
/// file looks at the owners of its parts. One of the two sees the other.
pub fn exchange(owner: &AtomicU32, from: u32, to: u32) -> bool {
    owner
        .compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed)
        .is_ok()
}
