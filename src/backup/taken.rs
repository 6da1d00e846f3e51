//! Ranges of slots that the workers of this process have taken.
//!
//! Slots of a worker are searched only in its range: a statement that takes nothing searches
//! nothing, however large the backup is.

use core::cell::RefCell;
use core::ops::Range;

/// The slots of one worker.
struct Taken {
    /// Of the backup.
    nonce: u32,
    worker: u32,
    slots: Range<usize>,
}

impl Taken {
    fn is_of(&self, nonce: u32, worker: u32) -> bool {
        (self.nonce, self.worker) == (nonce, worker)
    }
}

thread_local! {
    static TAKEN: RefCell<Vec<Taken>> = const { RefCell::new(Vec::new()) };
}

/// The range in which a worker has taken slots.
pub fn slots(nonce: u32, worker: u32) -> Range<usize> {
    TAKEN.with_borrow(|all| {
        let taken = all.iter().find(|taken| taken.is_of(nonce, worker));
        taken.map_or(0..0, |taken| taken.slots.clone())
    })
}

/// Remembers that a worker has taken slots of a range.
pub fn remember(nonce: u32, worker: u32, slots: Range<usize>) {
    TAKEN.with_borrow_mut(
        |all| match all.iter_mut().find(|taken| taken.is_of(nonce, worker)) {
            Some(Taken { slots: known, .. }) => {
                *known = known.start.min(slots.start)..known.end.max(slots.end);
            }
            None => all.push(Taken {
                nonce,
                worker,
                slots,
            }),
        },
    );
}

/// Forgets a worker that has gone.
pub fn forget(nonce: u32, worker: u32) {
    TAKEN.with_borrow_mut(|all| all.retain(|taken| !taken.is_of(nonce, worker)));
}
