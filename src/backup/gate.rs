//! Gate between a stop and the owners of sent files.
//!
//! A stop counts settled files and reads their sizes and checksums into the manifest. Two
//! operations would change what it counts: a worker takes a settled file by name, to send it again,
//! or a worker settles its files. Both pass the gate, and neither waits nor serves interrupts
//! inside. A stop closes the gate, waits until it is empty, and then counts. A worker that finds
//! the gate closed fails, even if the stop is refused afterwards and the gate opens again. When the
//! backup stops, the gate stays closed. So a settled slot belongs to the manifest from the count
//! on, and a stop never sees a slot that is about to be given back.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::server::segment::FromBytes;

/// Bit that a stop sets. The other bits count the workers inside.
const CLOSED: u32 = 1 << 31;

/// The gate, in shared memory.
#[derive(Debug, FromBytes)]
#[repr(transparent)]
pub struct Gate(AtomicU32);

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn open() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Enters the gate; `None` if a stop has closed it.
    #[must_use]
    pub fn enter(&self) -> Option<Passage<'_>> {
        let mut before = self.0.load(Ordering::Relaxed);
        while before & CLOSED == 0 {
            let entered = self.0.compare_exchange_weak(
                before,
                before + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            match entered {
                Ok(_) => return Some(Passage(self)),
                Err(changed) => before = changed,
            }
        }
        None
    }

    /// Closes the gate for a stop, of which there is one at a time.
    #[must_use]
    pub fn close(&self) -> ClosedGate<'_> {
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
        ClosedGate(self)
    }
}

/// Passage of a worker, which leaves the gate on drop.
#[derive(Debug)]
pub struct Passage<'a>(&'a Gate);

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        // Release: whoever finds the gate empty sees what was done inside.
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

/// Closed gate. It opens again on drop, unless it is kept closed.
#[derive(Debug)]
pub struct ClosedGate<'a>(&'a Gate);

impl ClosedGate<'_> {
    /// Whether no worker is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.0.load(Ordering::Acquire) & !CLOSED == 0
    }

    /// Keeps the gate closed for good.
    pub fn keep_closed(self) {
        core::mem::forget(self);
    }
}

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_and(!CLOSED, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_closed_gate_lets_those_inside_leave_and_nobody_enter() {
        let gate = Gate::open();
        let (first, second) = (gate.enter().unwrap(), gate.enter().unwrap());
        let closed = gate.close();
        assert!(!closed.is_empty());
        assert!(gate.enter().is_none());
        drop(first);
        assert!(!closed.is_empty());
        drop(second);
        assert!(closed.is_empty());
        assert!(gate.enter().is_none());
        drop(closed);
        assert!(gate.enter().is_some());
        gate.close().keep_closed();
        assert!(gate.enter().is_none());
    }

    /// A stop that counts sees nothing half done, whatever workers do beside it.
    #[test]
    fn nothing_changes_while_the_gate_is_closed_and_empty() {
        const ROUNDS: u32 = 20_000;
        let gate = Gate::open();
        // Two values that are the same but for a moment inside the gate.
        let values = [AtomicU32::new(0), AtomicU32::new(0)];
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        if let Some(_passage) = gate.enter() {
                            values[0].fetch_add(1, Ordering::Relaxed);
                            values[1].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            for _ in 0..ROUNDS {
                let closed = gate.close();
                while !closed.is_empty() {
                    std::thread::yield_now();
                }
                let read = || values.each_ref().map(|value| value.load(Ordering::Relaxed));
                let [first, second] = read();
                assert_eq!(first, second);
                assert_eq!(read(), [first, second]);
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
