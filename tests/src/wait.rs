//! Waiting for a condition, never for a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a loaded machine may take for something that normally takes less than a second.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `condition` holds; after `deadline` the test fails and names `what` it waited for.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(
            begin.elapsed() < deadline,
            "waited {} seconds in vain for: {what}",
            deadline.as_secs()
        );
        sleep(POLL_INTERVAL);
    }
}
