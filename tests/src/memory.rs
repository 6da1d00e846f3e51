//! Peak memory of a program.

use std::process::Command;

use crate::program::{add_program, command, run};

/// Runs the command given as arguments, prints its status and its peak memory in kB, and passes its errors on.
const MEASURE: &str = "import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(ended.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

/// What became of a program.
#[derive(Debug)]
pub struct Measured {
    /// Exit status; negative for a signal.
    pub status: i32,
    /// Peak memory in kB.
    pub peak_kb: u64,
    /// What it wrote to standard error.
    pub said: String,
}

/// Runs a program and measures it.
#[track_caller]
pub fn measure(program: &Command) -> Measured {
    let mut measure = command("python3");
    measure.args(["-c", MEASURE]);
    add_program(&mut measure, program);
    let output = run(&mut measure);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8_lossy(&output.stdout);
    let printed: Vec<_> = printed.split_whitespace().collect();
    let [status, peak] = printed[..] else {
        panic!("no measurement: {said}");
    };
    let measured = Measured {
        status: status.parse().expect("a status"),
        peak_kb: peak.parse().expect("a number"),
        said,
    };
    // A value smaller than any real program's would be a failed measurement.
    assert!(measured.peak_kb > 1024, "{measured:?}");
    measured
}
