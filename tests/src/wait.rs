//! Waits for a condition, never for a fixed time.
//!
//! `TESTS_PATIENCE` in the environment is a factor for all time limits, for tests that others leave little time of the
//! processors.

use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time limit for operations that normally take less than a second, generous enough for a loaded
/// machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `condition` holds. After `deadline` the test fails with the name `what`.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    let deadline = deadline * factor();
    while !condition() {
        assert!(
            begin.elapsed() < deadline,
            "waited {} seconds in vain for: {what}",
            deadline.as_secs()
        );
        sleep(POLL_INTERVAL);
    }
}

fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let factor = std::env::var("TESTS_PATIENCE").ok();
        factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
    })
}
