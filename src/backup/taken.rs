//! Ranges of slots that the workers of this process have taken, of files and of parts.
//!
//! Slots of a worker are searched only in its ranges: a statement that takes nothing searches
//! nothing, however large the backup is.

use core::cell::RefCell;
use core::ops::Range;

/// The slots of one worker.
struct Taken {
    /// Of the backup.
    nonce: u32,
    worker: u32,
    slots: Range<usize>,
    parts: Range<usize>,
}

impl Taken {
    fn is_of(&self, nonce: u32, worker: u32) -> bool {
        (self.nonce, self.worker) == (nonce, worker)
    }
}

thread_local! {
    static TAKEN: RefCell<Vec<Taken>> = const { RefCell::new(Vec::new()) };
}

/// The range in which a worker has taken slots of files.
pub fn slots(nonce: u32, worker: u32) -> Range<usize> {
    find(nonce, worker, |taken| taken.slots.clone())
}

/// The range in which a worker has taken slots of parts.
pub fn parts(nonce: u32, worker: u32) -> Range<usize> {
    find(nonce, worker, |taken| taken.parts.clone())
}

/// Remembers that a worker has taken slots of files in a range.
pub fn remember(nonce: u32, worker: u32, slots: Range<usize>) {
    extend(nonce, worker, slots, |taken| &mut taken.slots);
}

/// Remembers that a worker has taken slots of parts in a range.
pub fn remember_parts(nonce: u32, worker: u32, parts: Range<usize>) {
    extend(nonce, worker, parts, |taken| &mut taken.parts);
}

fn find(nonce: u32, worker: u32, range: impl Fn(&Taken) -> Range<usize>) -> Range<usize> {
    TAKEN.with_borrow(|all| {
        let taken = all.iter().find(|taken| taken.is_of(nonce, worker));
        taken.map_or(0..0, range)
    })
}

fn extend(
    nonce: u32,
    worker: u32,
    by: Range<usize>,
    range: impl Fn(&mut Taken) -> &mut Range<usize>,
) {
    TAKEN.with_borrow_mut(|all| {
        let known = all.iter().position(|taken| taken.is_of(nonce, worker));
        let index = known.unwrap_or_else(|| {
            all.push(Taken {
                nonce,
                worker,
                slots: 0..0,
                parts: 0..0,
            });
            all.len() - 1
        });
        let range = range(&mut all[index]);
        *range = match range.start >= range.end {
            true => by,
            false => range.start.min(by.start)..range.end.max(by.end),
        };
    });
}

/// Forgets a worker that has gone.
pub fn forget(nonce: u32, worker: u32) {
    TAKEN.with_borrow_mut(|all| all.retain(|taken| !taken.is_of(nonce, worker)));
}
