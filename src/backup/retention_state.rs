//! State of WAL retention in a backup's segment.

use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};

use crate::server::encoding;
use crate::server::process;
use crate::server::segment::FromBytes;

const MESSAGE_SIZE: usize = 256;

/// State of the retention worker. There is none while it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Its slot holds the WAL.
    Holding = 1,
    /// It could not create its slot.
    Failed = 2,
    /// The leader lets it end.
    Released = 3,
}

/// The worker's part of the backup's segment.
#[derive(FromBytes)]
#[repr(C)]
pub struct Retention {
    /// A [`State`], or 0 for none.
    state: AtomicU32,
    /// 0 where there is no worker.
    worker_pid: AtomicI32,
    message_length: AtomicU32,
    message: [AtomicU8; MESSAGE_SIZE],
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(0),
            worker_pid: AtomicI32::new(0),
            message_length: AtomicU32::new(0),
            message: [const { AtomicU8::new(0) }; MESSAGE_SIZE],
        }
    }
}

impl Retention {
    /// Wakes the worker. Does not raise, and may run at process exit.
    pub fn wake_worker(&self) {
        process::wake(self.worker_pid.load(Ordering::Acquire));
    }

    /// Notes the worker's process; 0 for none.
    pub fn set_worker(&self, pid: i32) {
        self.worker_pid.store(pid, Ordering::Release);
    }

    /// The worker's state.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        let code = self.state.load(Ordering::Acquire);
        [State::Holding, State::Failed, State::Released]
            .into_iter()
            .find(|state| *state as u32 == code)
    }

    /// Sets the worker's state.
    pub fn set(&self, state: State) {
        self.state.store(state as u32, Ordering::Release);
    }

    /// Notes why the worker could not create its slot. A long message is truncated.
    pub fn fail(&self, message: &str) {
        let bytes = message.as_bytes();
        let length = bytes.len().min(MESSAGE_SIZE);
        for (place, byte) in self.message.iter().zip(bytes) {
            place.store(*byte, Ordering::Relaxed);
        }
        self.message_length.store(length as u32, Ordering::Relaxed);
        self.set(State::Failed);
    }

    /// Why the worker could not create its slot.
    #[must_use]
    pub fn message(&self) -> String {
        let length = self.message_length.load(Ordering::Relaxed) as usize;
        let bytes: Vec<u8> = self
            .message
            .iter()
            .take(length)
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        encoding::display(&bytes).into_owned()
    }
}
