//! Limits the number of tests in a process that run servers at the same time.
//!
//! A turn belongs to the thread of a test, not to a cluster. A test with three servers takes one
//! turn, so it cannot wait for itself.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

const TURNS: usize = 4;

static FREE: Mutex<usize> = Mutex::new(TURNS);
static RETURNED: Condvar = Condvar::new();

thread_local! {
    static MINE: RefCell<Weak<Turn>> = const { RefCell::new(Weak::new()) };
}

/// Turn held by every cluster of one test. It ends when the last of them is dropped.
#[derive(Debug)]
pub struct Turn(());

/// Returns the turn of the calling thread. Waits for one if the thread has none yet.
pub fn take() -> Arc<Turn> {
    MINE.with_borrow_mut(|mine| {
        if let Some(turn) = mine.upgrade() {
            return turn;
        }
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = RETURNED.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        let turn = Arc::new(Turn(()));
        *mine = Arc::downgrade(&turn);
        turn
    })
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        RETURNED.notify_one();
    }
}
