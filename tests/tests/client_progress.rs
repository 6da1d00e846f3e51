//! Progress display of the command line program on a terminal and in a log.

use std::path::Path;
use std::process::Command;

use backup_tests::client::{backup_of, expect_failure, names_in, new_target, terminate_a_worker};
use backup_tests::leftover;
use backup_tests::page::corrupt_cluster;
use backup_tests::program::{account, run};
use backup_tests::server::Cluster;
use backup_tests::terminal::Terminal;

const USUAL: (u16, u16) = (80, 24);

/// Backup that takes a while: the cluster has more than 22 MB.
fn slow_backup(cluster: &Cluster, jobs: &str, rate: &str, target: &Path) -> Command {
    let mut program = backup_of(cluster);
    program
        .args(["-P", "-j", jobs, "-r", rate, "-D"])
        .arg(target);
    program
}

/// Whether a row is the total line, with its amounts.
fn is_whole(row: &str) -> bool {
    let share = row.split(" %").next().unwrap_or_default().trim_start();
    share.parse::<u8>().is_ok() && row.contains("B of ")
}

/// Whether a row has a bar between the percentage and the numbers.
fn has_bar(row: &str) -> bool {
    row.contains(" % [") && row.contains("] ")
}

fn is_message(row: &str) -> bool {
    row.starts_with("pg_parallel_backup: ")
}

/// Whether the rows consist of messages, the total line, one line per worker and one for WAL.
fn is_block(rows: &[String], workers: usize) -> bool {
    let messages = rows.iter().take_while(|row| is_message(row)).count();
    let block = &rows[messages..];
    block.len() == workers + 2
        && is_whole(&block[0])
        && has_bar(&block[0])
        && block[workers + 1].starts_with("WAL: ")
        && block[1..=workers]
            .iter()
            .enumerate()
            .all(|(number, row)| row.starts_with(&format!("worker {number}: ")))
}

fn receives(row: &str) -> bool {
    row.contains("B/s  ") && row.contains('/')
}

#[test]
fn a_terminal_shows_the_whole_and_each_worker() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    let mut backup = slow_backup(&cluster, "2", "6M", &target);
    let terminal = Terminal::start(backup.arg("-v"), (120, 24));
    terminal.wait_for("line for the whole and each worker", |rows| {
        is_block(rows, 2)
            && rows.iter().any(|row| row.ends_with(" left"))
            && rows.iter().filter(|row| receives(row)).count() == 2
    });
    // A message appears above the progress lines.
    terminate_a_worker(&cluster);
    terminal.wait_for("message above them", |rows| {
        let text = rows.join("\n");
        let lost = text.find("lost its connection and gets another");
        let whole = rows.iter().position(|row| is_whole(row));
        lost.is_some() && whole.is_some_and(|at| rows.len() == at + 4)
    });
    let (status, rows, raw) = terminal.end();
    assert_eq!(status, Some(0), "{rows:?}");
    let whole: Vec<_> = rows.iter().filter(|row| is_whole(row)).collect();
    assert_eq!(whole.len(), 1, "{rows:?}");
    assert!(
        whole[0].starts_with("100 %, ") && whole[0].contains("/s, in "),
        "{rows:?}"
    );
    assert_eq!(whole[0], rows.last().expect("the last line"));
    assert!(
        !rows.iter().any(|row| row.starts_with("worker ")),
        "{rows:?}"
    );
    for words in [
        "waiting for checkpoint",
        "all files received",
        "base backup completed",
    ] {
        assert!(raw.contains(words), "{raw}");
    }
    assert!(raw.ends_with("\r\n"), "{raw:?}");
}

#[test]
fn a_terminal_may_be_narrow_low_and_change() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let mut terminal = Terminal::start(&slow_backup(&cluster, "4", "400k", &target), (24, 4));
    terminal.wait_for("line for the whole and two for the workers", |rows| {
        rows.len() == 3
            && rows[0].contains("%, ")
            && rows[0].ends_with(" left")
            && rows[1].starts_with("0: ")
            && rows[2] == "and 3 more workers"
    });
    let before = terminal.rows();
    assert!(before.iter().all(|row| row.len() <= 21), "{before:?}");
    terminal.resize(USUAL.0, USUAL.1);
    terminal.wait_for("line for each worker", |rows| is_block(rows, 4));
    terminal.resize(40, 6);
    terminal.wait_for(
        "bar and fewer numbers, and a line for each worker",
        |rows| {
            rows.len() == 5
                && has_bar(&rows[0])
                && !rows[0].contains(" of ")
                && rows[1..].iter().all(|row| row.starts_with("worker "))
        },
    );
    terminal.resize(80, 2);
    terminal.wait_for("line for the whole alone", |rows| {
        rows.len() == 1 && is_whole(&rows[0])
    });
    terminal.type_keys("\u{3}");
    let (status, rows, _) = terminal.end();
    assert_eq!(status, Some(1), "{rows:?}");
    // The progress display is gone.
    assert_eq!(
        rows,
        ["pg_parallel_backup: error: received SIGINT, and ended the backup"]
    );
    assert!(names_in(&folder).is_empty());
    leftover::assert_none(&cluster);
}

#[test]
fn a_failure_leaves_a_terminal_clean() {
    let cluster = corrupt_cluster();
    let (_folder, target) = new_target();
    let terminal = Terminal::start(&slow_backup(&cluster, "2", "6M", &target), (200, 24));
    terminal.wait_for("line for each worker", |rows| {
        rows.iter().any(|row| is_whole(row)) && rows.iter().any(|row| row.starts_with("worker 1: "))
    });
    let (status, rows, _) = terminal.end();
    assert_eq!(status, Some(1), "{rows:?}");
    let progress = |row: &String| is_whole(row) || row.starts_with("worker ");
    assert!(!rows.iter().any(progress), "{rows:?}");
    assert!(
        rows.iter()
            .any(|row| row.starts_with("pg_parallel_backup: error: worker ")),
        "{rows:?}"
    );
    // The server's warning is also there, on a line of its own.
    assert!(
        rows.iter().any(|row| row.starts_with("WARNING:  ")),
        "{rows:?}"
    );
}

#[test]
fn without_a_terminal_there_are_plain_lines() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let mut backup = slow_backup(&cluster, "2", "8M", &target);
    let output = run(&mut backup);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_plain(&said);
    // A terminal that cannot move its cursor gets no progress display either.
    let dumb = folder.join("dumb");
    let mut backup = slow_backup(&cluster, "2", "500M", &dumb);
    let (status, _, raw) = Terminal::start(backup.env("TERM", "dumb"), USUAL).end();
    assert_eq!(status, Some(0), "{raw}");
    assert_plain(&raw.replace("\r\n", "\n"));
}

#[track_caller]
fn assert_plain(said: &str) {
    assert!(said.ends_with('\n'), "{said:?}");
    assert!(!said.contains(['\u{1b}', '\r']), "{said:?}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "waiting for checkpoint", "{said}");
    assert!(
        lines[1..]
            .iter()
            .all(|line| !has_bar(line) && (is_whole(line) || line.starts_with("100 %, "))),
        "{said}"
    );
    let last = lines.last().expect("a line");
    assert!(
        last.starts_with("100 %, ") && last.contains("B/s, in "),
        "{said}"
    );
}

#[test]
fn the_end_of_a_backup_says_that_it_waits_for_the_archive() {
    const WAITS: &str = "waiting for the server to archive WAL";
    let cluster = Cluster::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .start();
    let (folder, _) = new_target();
    let start = |name: &str, terminal: &str| {
        let mut backup = backup_of(&cluster);
        backup
            .args(["-X", "none", "-P", "-D"])
            .arg(folder.join(name));
        Terminal::start(backup.env("TERM", terminal), USUAL)
    };
    let drawn = start("drawn", "xterm");
    drawn.wait_for("bar of a backup that waits", |rows| {
        rows.len() == 1 && has_bar(&rows[0]) && rows[0].ends_with(WAITS)
    });
    let logged = start("logged", "dumb");
    logged.wait_for("line of a backup that waits", |rows| {
        rows.iter().any(|row| !has_bar(row) && row.ends_with(WAITS))
    });
    cluster.execute("ALTER SYSTEM SET archive_command = 'true'");
    cluster.execute("SELECT pg_reload_conf()");
    for terminal in [drawn, logged] {
        let (status, rows, _) = terminal.end();
        assert_eq!(status, Some(0), "{rows:?}");
    }
}

#[test]
fn the_option_takes_no_word_that_follows() {
    let cluster = Cluster::new();
    let (folder, _) = new_target();
    for (number, args) in [
        &["-Pv"][..],
        &["-P", "-v"],
        &["--progress", "-v"],
        &["--progress=text", "-v"],
    ]
    .into_iter()
    .enumerate()
    {
        let mut backup = backup_of(&cluster);
        backup
            .args(args)
            .arg("-D")
            .arg(folder.join(number.to_string()));
        let output = run(&mut backup);
        let said = account(&backup, &output);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("B/s, in ") && said.contains("completed"),
            "{said}"
        );
    }
    let mut backup = backup_of(&cluster);
    let said = expect_failure(
        backup
            .args(["--progress", "json", "-D"])
            .arg(folder.join("none")),
    );
    assert!(said.contains("'json'"), "{said}");
    let mut backup = backup_of(&cluster);
    let said = expect_failure(
        backup
            .args(["--progress=xml", "-D"])
            .arg(folder.join("none")),
    );
    assert!(said.contains("'xml'"), "{said}");
}
