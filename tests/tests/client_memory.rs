//! Memory use of the command line program: small, whatever the size of the cluster.

use std::fs::{self, File};
use std::process::Command;

use backup_tests::client::{backup_of, new_target, program, restore_of, verify};
use backup_tests::encrypted::Encrypted;
use backup_tests::planted;
use backup_tests::program::{command, give_to_owner, succeed, words};
use backup_tests::server::Cluster;

/// Runs the command given as arguments and prints its peak memory in kB.
const MEASURE: &str = "import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

const AT_MOST_KB: u64 = 64 * 1024;

/// Takes 1 MB at a time, more slowly than a server sends it.
const SLOW: &str = ": %f; python3 -c 'import sys, time
while sys.stdin.buffer.read(1048576): time.sleep(0.01)'";

/// libpq used to buffer what the server sent, as fast as it came.
#[test]
fn eight_encrypted_connections_into_a_slow_target_take_little_memory() {
    let Some(encrypted) = Encrypted::start() else {
        return;
    };
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
    measure.args(["-c", MEASURE]).args(words(&backup));
    measure.args(["-d", &string, "-c", "fast", "-j", "8", "--pipe", SLOW]);
    let printed = succeed(&mut measure);
    println!("{printed}");
    let memory: u64 = printed.trim().parse().expect("a number");
    assert!((1024..100 * 1024).contains(&memory), "{memory} kB");
}

/// With a million files this is 114 MB, beside what the program takes for anything else.
const AT_MOST_BYTES_A_FILE: u64 = 120;

/// Peak memory of a program in kB.
#[track_caller]
fn peak_of(program: &Command) -> u64 {
    let mut measure = command("python3");
    let printed = succeed(measure.args(["-c", MEASURE]).args(words(program)));
    let memory = printed.trim().parse().expect("a number");
    // A value smaller than any real program's would be a failed measurement.
    assert!(memory >= 1024, "{memory} kB of {program:?}");
    memory
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
        let memory = peak_of(&backup);
        println!("{format}: {memory}");
        assert!(memory < AT_MOST_KB, "{memory} kB in {format}");
        if format == "-Fp" {
            verify(&target, &[]);
        }
        fs::remove_dir_all(&target).expect("remove a backup");
    }
}

/// What is kept of a file until the end is its path, its size and its checksum.
#[test]
fn a_file_takes_little_memory() {
    const FILES: u32 = 60_000;
    let cluster = Cluster::new();
    let few = peaks(&cluster);
    planted::database(&cluster, 90_001, FILES);
    let many = peaks(&cluster);
    let growth = few.into_iter().zip(many).map(|((work, few), (_, many))| {
        let bytes = many.saturating_sub(few) * 1024 / u64::from(FILES);
        println!("{work}: {few} kB, {many} kB with {FILES} files more: {bytes} bytes a file");
        (work, bytes)
    });
    for (work, bytes) in growth.collect::<Vec<_>>() {
        assert!(bytes < AT_MOST_BYTES_A_FILE, "{work}: {bytes} bytes a file");
    }
}

/// Peak memory in kB of each kind of work.
fn peaks(cluster: &Cluster) -> Vec<(&'static str, u64)> {
    let (folder, plain) = new_target();
    let (tar, restored) = (folder.join("tar"), folder.join("restored"));
    let backup = |args: &[&str]| {
        let mut backup = backup_of(cluster);
        backup.args(args);
        backup
    };
    let verification = |args: &[&str]| {
        let mut verification = program();
        verification.arg("verify").args(args);
        verification
    };
    let synced = |args: &[&str]| {
        let mut synced = program();
        synced.args(cluster.connection_args("postgres"));
        synced.args(["-c", "fast"]).args(args);
        synced
    };
    let [plain, tar, restored] = [&plain, &tar, &restored].map(|path| path.to_str().expect("text"));
    let peaks = vec![
        ("plain", peak_of(&synced(&["-D", plain]))),
        ("verification", peak_of(&verification(&["-n", plain]))),
        ("tar", peak_of(&backup(&["-Ft", "-D", tar]))),
        ("verification of tar", peak_of(&verification(&["-n", tar]))),
        (
            "restore",
            peak_of(&restore_of(tar.as_ref(), restored.as_ref(), &[])),
        ),
        (
            "command",
            peak_of(&backup(&["--pipe", "cat >/dev/null # %f"])),
        ),
        (
            "standard output",
            peak_of(&backup(&["-Ft", "-X", "fetch", "-D", "-"])),
        ),
    ];
    for path in [plain, tar, restored] {
        fs::remove_dir_all(path).expect("remove a backup");
    }
    peaks
}
