//! Memory use of the command line program: small, whatever the size of the cluster.

use std::fs::{self, File};

use backup_tests::client::{backup_of, new_target, verify};
use backup_tests::program::{command, give_to_owner, succeed};
use backup_tests::server::Cluster;

/// Runs the command given as arguments and prints its peak memory in kB.
const MEASURE: &str = "import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

const AT_MOST_KB: u64 = 64 * 1024;

#[test]
fn a_large_cluster_takes_little_memory() {
    let cluster = Cluster::new();
    // Zeros are pages that have not been used yet.
    let base = cluster.data_dir().join("base/1");
    let add = |name: u32, size: u64| {
        let path = base.join(name.to_string());
        let file = File::create(&path).expect("a file");
        file.set_len(size).expect("its size");
        give_to_owner(&path);
    };
    for name in 0..20_000 {
        add(1_000_000 + name, 0);
    }
    for name in 0..8 {
        add(2_000_000 + name, 32 << 20);
    }
    for format in ["-Fp", "-Ft"] {
        let (_folder, target) = new_target();
        let mut backup = backup_of(&cluster);
        backup.args([format, "-j", "4", "-D"]).arg(&target);
        let mut measure = command("python3");
        measure.args(["-c", MEASURE]).arg(backup.get_program());
        let printed = succeed(measure.args(backup.get_args()));
        println!("{format}: {printed}");
        let memory: u64 = printed.trim().parse().expect("a number");
        // A value smaller than any real program's would be a failed measurement.
        assert!(
            (1024..AT_MOST_KB).contains(&memory),
            "{memory} kB in {format}"
        );
        if format == "-Fp" {
            verify(&target, &[]);
        }
        fs::remove_dir_all(&target).expect("remove a backup");
    }
}
