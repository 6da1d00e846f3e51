//! Rate limits of a stream: the backup's, shared by all its workers, and the stream's own.
//!
//! Waits as backup/basebackup_throttle.c does: in a loop over the elapsed time, because the latch
//! can be set for any reason.

use core::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::backup::worker::RunningCheck;
use crate::server::client;
use crate::server::clock;
use crate::server::interrupt::{self, WaitEvent};
use crate::server::report::Result;
use crate::server::settings::PAGE_SIZE;

use super::message::Message;
use super::rate::{self, Rate};
use super::sink::Sink;

/// Unused time that can be made up for, in microseconds: a late wake-up on a loaded machine.
const BURST_MICROS: u64 = 50_000;

/// Maximum time between two checks whether the backup still runs.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// A limit and the clock on which its senders reserve their time.
struct Limit<'a> {
    rate: Rate,
    clock: Clock<'a>,
}

enum Clock<'a> {
    Shared(&'a AtomicU64),
    Own(AtomicU64),
}

impl Clock<'_> {
    fn atomic(&self) -> &AtomicU64 {
        match self {
            Self::Shared(clock) => clock,
            Self::Own(clock) => clock,
        }
    }
}

/// The limits of a stream.
pub struct Throttle<'a> {
    limits: Vec<Limit<'a>>,
}

impl<'a> Throttle<'a> {
    /// `own` and `shared` are in kB/s; `clock` is the one in the backup's segment.
    #[must_use]
    pub fn new(own: Option<u32>, shared: Option<u32>, clock: &'a AtomicU64) -> Self {
        // The stream's own comes first: who waits for that has not yet taken time from others.
        let own = own.map(|rate| (rate, Clock::Own(AtomicU64::new(0))));
        let shared = shared.map(|rate| (rate, Clock::Shared(clock)));
        let limits = own
            .into_iter()
            .chain(shared)
            .map(|(rate, clock)| Limit {
                rate: Rate::from_kilobytes(rate),
                clock,
            })
            .collect();
        Self { limits }
    }

    /// Bytes to send at a time, at most `most`.
    #[must_use]
    pub fn chunk(&self, most: usize) -> usize {
        let chunks = self
            .limits
            .iter()
            .map(|limit| limit.rate.chunk(most, PAGE_SIZE));
        chunks.min().unwrap_or(most)
    }

    /// Waits until `bytes` may leave.
    ///
    /// # Errors
    /// Those of `check`, which is asked while it waits. A cancel raises.
    fn wait(&self, bytes: usize, check: RunningCheck<'_>) -> Result<()> {
        for limit in &self.limits {
            let cost = limit.rate.cost_micros(bytes as u64);
            let now = clock::monotonic_micros();
            let start = rate::reserve(limit.clock.atomic(), now, cost, BURST_MICROS);
            wait_until(start, check)?;
        }
        Ok(())
    }
}

/// The stage that delays messages by the limits.
pub struct ThrottleSink<'a> {
    throttle: Throttle<'a>,
    check: RunningCheck<'a>,
    next: Box<dyn Sink + 'a>,
}

impl<'a> ThrottleSink<'a> {
    /// Keeps the limits for what goes to `next`.
    #[must_use]
    pub fn new(throttle: Throttle<'a>, check: RunningCheck<'a>, next: Box<dyn Sink + 'a>) -> Self {
        Self {
            throttle,
            check,
            next,
        }
    }
}

impl Sink for ThrottleSink<'_> {
    fn send(&mut self, message: &mut Message) -> Result<()> {
        client::check_interrupts();
        self.check.check()?;
        self.throttle.wait(message.payload().len(), self.check)?;
        self.next.send(message)
    }

    fn finish(&mut self) -> Result<()> {
        self.next.finish()
    }
}

fn wait_until(time: u64, check: RunningCheck<'_>) -> Result<()> {
    loop {
        let left = time.saturating_sub(clock::monotonic_micros());
        if left == 0 {
            return Ok(());
        }
        interrupt::sleep(
            Duration::from_micros(left).min(LONGEST_WAIT),
            WaitEvent::Throttle,
        );
        client::check_interrupts();
        check.check()?;
    }
}
