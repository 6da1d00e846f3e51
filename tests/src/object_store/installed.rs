//! Servers that scripts/object_stores.sh installs.

use std::path::Path;
use std::process::Command;

use crate::program::run;

/// What the script prints of a server. If it is not installed, the test cannot run. That is an error in CI, where
/// all is to be tested, and a message elsewhere.
pub(super) fn find(name: &str) -> Option<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/object_stores.sh");
    let output = run(Command::new(script).args(["--find", name]));
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        return Some(text.lines().map(str::to_owned).collect());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!is_ci, "{reason}");
    eprintln!("nothing to test: {reason}");
    None
}
