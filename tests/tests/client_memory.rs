//! Memory use of the command line program: small, whatever the size of the cluster.

use std::fs::{self, File};

use backup_tests::client::{backup_of, new_target, program, verify};
use backup_tests::encrypted::Encrypted;
use backup_tests::program::{command, give_to_owner, succeed};
use backup_tests::server::Cluster;

/// Runs the command given as arguments and prints its peak memory in kB.
const MEASURE: &str = "import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

const AT_MOST_KB: u64 = 64 * 1024;

/// Takes 1 MB at a time, more slowly than a server sends it.
const SLOW: &str = ": %f; python3 -c 'import sys, time
while sys.stdin.buffer.read(1048576): time.sleep(0.01)'";

/// libpq used to buffer what the server sent, as fast as it came.
#[test]
fn eight_encrypted_connections_into_a_slow_target_take_little_memory() {
    let encrypted = Encrypted::start();
    let cluster = &encrypted.cluster;
    for name in 0..8 {
        let path = cluster
            .data_dir()
            .join(format!("base/1/{}", 2_000_000 + name));
        let file = File::create(&path).expect("a file");
        file.set_len(64 << 20).expect("its size");
        give_to_owner(&path);
    }
    let root = format!(
        "sslmode=verify-full sslrootcert={}",
        encrypted.file("root.crt")
    );
    let string = encrypted.string(
        "certified",
        &format!("{root} {}", encrypted.certificate("certified")),
    );
    let backup = program();
    let mut measure = command("python3");
    measure.args(["-c", MEASURE]).arg(backup.get_program());
    measure
        .args(backup.get_args())
        .args(["-d", &string, "-c", "fast", "-j", "8", "--pipe", SLOW]);
    let printed = succeed(&mut measure);
    println!("{printed}");
    let memory: u64 = printed.trim().parse().expect("a number");
    assert!((1024..100 * 1024).contains(&memory), "{memory} kB");
}

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
