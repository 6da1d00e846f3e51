//! Progress as text: a line for the whole backup, and one for each worker.

use std::time::Duration;

use super::units::{duration, rate, size};
use super::view::{View, WorkerView};
use super::{Activity, Phase};

/// A file is named where so many columns are left for it; the rate goes before that.
const ROOM_FOR_FILE: usize = 16;
/// Columns that are left beside the bar: most of the time all numbers fit there.
const ROOM_FOR_NUMBERS: usize = 56;
/// The shortest bar and the longest.
const BAR: (usize, usize) = (10, 40);
/// A terminal of fewer columns has no room for a bar and the time that is left.
const LEAST_WITH_BAR: usize = 36;

/// What is added to the time that is left, so that it is never 0 s.
const ROUNDED_UP: Duration = Duration::from_millis(999);

/// Line for a log.
pub fn plain(view: &View) -> String {
    let working = |worker: &&WorkerView| worker.doing != Activity::Ended;
    let workers = view.workers.iter().filter(working).count();
    let workers = (view.phase == Phase::Copying && !view.workers.is_empty())
        .then(|| format!("{workers} workers"));
    let share = view.percent().map(percent);
    join([share, amount(view), speed(view), workers, remainder(view)])
}

/// Lines for a terminal, the first of them for the whole. None is longer than it is wide, and they
/// leave a row of it for messages.
pub fn lines(view: &View, columns: usize, rows: usize) -> Vec<String> {
    let mut lines = vec![whole(view, columns)];
    if view.phase == Phase::Copying {
        let room = rows.saturating_sub(2);
        let for_wal = usize::from(view.wal.is_some() && room > view.workers.len());
        lines.extend(workers(&view.workers, columns, room - for_wal));
        let wal = view.wal.iter().take(for_wal);
        lines.extend(wal.map(|wal| stream_line(["WAL", "WAL"], wal, columns)));
    }
    lines
}

/// The longest form that fits.
fn whole(view: &View, columns: usize) -> String {
    let (amount, speed, remainder) = (amount(view), speed(view), remainder(view));
    let (head, share) = match view.percent() {
        Some(share) if columns >= LEAST_WITH_BAR => (share_and_bar(share, columns), None),
        share => (String::new(), share.map(percent)),
    };
    let brief = match &share {
        None if head.is_empty() => amount.clone(),
        _ => share.clone(),
    };
    let forms = [
        join([share, amount, speed.clone(), remainder.clone()]),
        join([brief.clone(), speed, remainder.clone()]),
        join([brief.clone(), remainder.clone()]),
        brief.or(remainder).unwrap_or_default(),
    ];
    let room = columns.saturating_sub(head.len());
    let fits = |form: &&String| form.len() <= room;
    let form = forms.iter().find(fits).unwrap_or(&forms[3]);
    let line = head.chars().chain(form.chars()).take(columns);
    line.collect::<String>().trim_end().to_owned()
}

/// As wide at each moment of a backup, so that nothing jumps.
fn share_and_bar(share: f64, columns: usize) -> String {
    let width = columns.saturating_sub(ROOM_FOR_NUMBERS);
    let bar = bar(share, width.clamp(BAR.0, BAR.1));
    format!("{:>5} [{bar}] ", percent(share))
}

/// What is filled of it is rounded down: a full one is complete.
fn bar(share: f64, width: usize) -> String {
    let filled = (share / 100.0 * width as f64) as usize;
    let (filled, head) = match filled.min(width) {
        filled if filled == width => (filled, ""),
        filled => (filled, ">"),
    };
    let filled = format!("{}{head}", "=".repeat(filled));
    format!("{filled:width$}")
}

/// The lines of the workers, or of some of them, those first that have something to do.
fn workers(workers: &[WorkerView], columns: usize, room: usize) -> Vec<String> {
    let mut order: Vec<_> = workers.iter().enumerate().collect();
    let mut named = order.len();
    if named > room {
        order.sort_by_key(|(_, worker)| worker.doing == Activity::Ended);
        // The last line tells of the others, where it is not the only one.
        named = if room > 1 { room - 1 } else { room };
    }
    let digits = workers.len().saturating_sub(1).to_string().len();
    let mut lines: Vec<_> = order[..named]
        .iter()
        .map(|(number, worker)| worker_line(&format!("{number:digits$}"), worker, columns))
        .collect();
    if room > 1 && named < workers.len() {
        let more = format!("and {} more workers", workers.len() - named);
        lines.push(more.chars().take(columns).collect());
    }
    lines
}

fn worker_line(number: &str, worker: &WorkerView, columns: usize) -> String {
    stream_line([&format!("worker {number}"), number], worker, columns)
}

/// The line of a connection with a name, which has a short form.
fn stream_line([name, short]: [&str; 2], worker: &WorkerView, columns: usize) -> String {
    let says = |text: &str| {
        let line = format!("{name}: {text}");
        line.chars().take(columns).collect()
    };
    match &worker.doing {
        Activity::Connecting => says("connecting"),
        Activity::Waiting => says("waiting"),
        Activity::Lost => says("lost its connection"),
        Activity::Ended => says("done"),
        Activity::Receiving(file) => {
            let forms = [
                format!("{name}: {:>9}  ", rate(worker.rate)),
                format!("{name}: "),
                format!("{short}: "),
            ];
            let has_room = |form: &&String| form.len() + ROOM_FOR_FILE <= columns;
            let form = forms.iter().find(has_room).unwrap_or(&forms[2]);
            let line = format!("{form}{}", tail(file, columns.saturating_sub(form.len())));
            line.chars().take(columns).collect()
        }
    }
}

/// The end of a file's name, which says more than its beginning. What a terminal would not show as
/// one column, or obey, is a question mark.
fn tail(name: &str, columns: usize) -> String {
    let printable = |letter: char| {
        if matches!(letter, ' '..='~') {
            letter
        } else {
            '?'
        }
    };
    let letters: Vec<_> = name.chars().map(printable).collect();
    if letters.len() <= columns {
        return letters.into_iter().collect();
    }
    let dots = "...".get(..columns.min(3)).unwrap_or_default();
    let kept = columns - dots.len();
    dots.chars()
        .chain(letters[letters.len() - kept..].iter().copied())
        .collect()
}

/// Bytes received. Files sent at the end exceed the expectation.
fn amount(view: &View) -> Option<String> {
    match view.expected {
        Some(expected) => Some(format!("{} of {}", size(view.bytes), size(expected.bytes))),
        None if view.phase == Phase::Starting => None,
        None => Some(size(view.bytes)),
    }
}

fn percent(share: f64) -> String {
    format!("{} %", share as u64)
}

fn speed(view: &View) -> Option<String> {
    let arrives = match view.phase {
        Phase::Copying | Phase::Done => true,
        Phase::Ending => !view.waits_for_archive,
        _ => false,
    };
    // Nothing is known of it at first.
    (arrives && view.rate > 0.0).then(|| rate(view.rate))
}

/// Remaining time, or what the backup waits for.
fn remainder(view: &View) -> Option<String> {
    match view.phase {
        Phase::Starting => Some("waiting for checkpoint".to_owned()),
        Phase::Copying => view
            .left()
            .map(|left| format!("{} left", duration(left.saturating_add(ROUNDED_UP)))),
        Phase::Ending if view.waits_for_archive => {
            Some("waiting for the server to archive WAL".to_owned())
        }
        Phase::Ending => Some("ending the backup".to_owned()),
        Phase::Comparing => Some("comparing with the manifest".to_owned()),
        Phase::Syncing => Some("syncing data to disk".to_owned()),
        Phase::Done => Some(format!("in {}", duration(view.elapsed))),
        Phase::Failed => None,
    }
}

fn join<const N: usize>(parts: [Option<String>; N]) -> String {
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Expected;
    use super::*;

    fn worker(doing: Activity) -> WorkerView {
        WorkerView {
            doing,
            bytes: 0,
            rate: 5e6,
        }
    }

    fn receiving(file: &str) -> WorkerView {
        worker(Activity::Receiving(file.to_owned()))
    }

    fn view(phase: Phase, bytes: u64, workers: Vec<WorkerView>) -> View {
        View {
            phase,
            elapsed: Duration::from_secs(40),
            bytes: bytes << 20,
            files: 0,
            expected: (bytes > 0).then_some(Expected {
                bytes: 400 << 20,
                files: 0,
            }),
            rate: f64::from(10 << 20),
            waits_for_archive: false,
            workers,
            wal: None,
        }
    }

    #[test]
    fn a_line_says_how_much_how_fast_and_how_long() {
        let line = |phase, bytes, workers| plain(&view(phase, bytes, workers));
        assert_eq!(line(Phase::Starting, 0, vec![]), "waiting for checkpoint");
        assert_eq!(line(Phase::Copying, 0, vec![]), "0 kB, 10.0 MB/s");
        let mut first = view(Phase::Copying, 1, vec![]);
        first.rate = 0.0;
        assert_eq!(plain(&first), "0 %, 1.0 MB of 400 MB");
        assert_eq!(
            line(
                Phase::Copying,
                100,
                vec![
                    receiving("a"),
                    worker(Activity::Ended),
                    worker(Activity::Lost)
                ]
            ),
            "25 %, 100 MB of 400 MB, 10.0 MB/s, 2 workers, 30 s left"
        );
        assert_eq!(
            line(Phase::Copying, 399, vec![]),
            "99 %, 399 MB of 400 MB, 10.0 MB/s, 1 s left"
        );
        assert_eq!(
            line(Phase::Syncing, 400, vec![worker(Activity::Ended)]),
            "100 %, 400 MB of 400 MB, syncing data to disk"
        );
        assert_eq!(
            line(Phase::Done, 400, vec![]),
            "100 %, 400 MB of 400 MB, 10.0 MB/s, in 40 s"
        );
    }

    #[test]
    fn a_line_says_what_the_end_waits_for() {
        let mut view = view(Phase::Ending, 400, vec![]);
        assert_eq!(
            plain(&view),
            "100 %, 400 MB of 400 MB, 10.0 MB/s, ending the backup"
        );
        view.waits_for_archive = true;
        assert_eq!(
            plain(&view),
            "100 %, 400 MB of 400 MB, waiting for the server to archive WAL"
        );
        assert_eq!(
            lines(&view, 77, 24),
            ["100 % [=====================] waiting for the server to archive WAL"]
        );
    }

    #[test]
    fn what_does_not_fit_into_a_narrow_terminal_is_left_out() {
        let view = view(Phase::Copying, 100, vec![]);
        for (columns, expected) in [
            (
                96,
                " 25 % [==========>                             ] 100 MB of 400 MB, 10.0 MB/s, 30 s left",
            ),
            (
                77,
                " 25 % [=====>               ] 100 MB of 400 MB, 10.0 MB/s, 30 s left",
            ),
            (
                57,
                " 25 % [==>       ] 100 MB of 400 MB, 10.0 MB/s, 30 s left",
            ),
            (56, " 25 % [==>       ] 10.0 MB/s, 30 s left"),
            (39, " 25 % [==>       ] 10.0 MB/s, 30 s left"),
            (38, " 25 % [==>       ] 30 s left"),
            (36, " 25 % [==>       ] 30 s left"),
            (35, "25 %, 10.0 MB/s, 30 s left"),
            (25, "25 %, 30 s left"),
            (14, "25 %"),
            (2, "25"),
        ] {
            assert_eq!(lines(&view, columns, 24), [expected]);
        }
        let unknown = |phase, columns| lines(&self::view(phase, 0, vec![]), columns, 24);
        assert_eq!(unknown(Phase::Copying, 77), ["0 kB, 10.0 MB/s"]);
        assert_eq!(unknown(Phase::Copying, 14), ["0 kB"]);
        assert_eq!(unknown(Phase::Starting, 77), ["waiting for checkpoint"]);
        assert_eq!(unknown(Phase::Starting, 11), ["waiting for"]);
    }

    #[test]
    fn a_bar_is_full_when_all_is_there() {
        for (share, expected) in [
            (0.0, "[>         ]"),
            (9.9, "[>         ]"),
            (56.0, "[=====>    ]"),
            (99.9, "[=========>]"),
            (100.0, "[==========]"),
        ] {
            assert_eq!(format!("[{}]", bar(share, 10)), expected);
        }
    }

    #[test]
    fn a_worker_shows_its_file_or_what_it_does() {
        let file = "pg_tblspc/16400/PG_15_202209061/5/16394";
        let doing = [
            receiving(file),
            worker(Activity::Lost),
            worker(Activity::Waiting),
        ];
        let lines = |columns| lines(&view(Phase::Copying, 100, doing.to_vec()), columns, 24);
        assert_eq!(
            lines(80)[1..],
            [
                "worker 0:  4.7 MB/s  pg_tblspc/16400/PG_15_202209061/5/16394",
                "worker 1: lost its connection",
                "worker 2: waiting"
            ]
        );
        let mut with_wal = view(Phase::Copying, 100, vec![]);
        with_wal.wal = Some(receiving("pg_wal/000000010000000000000001"));
        assert_eq!(
            super::lines(&with_wal, 80, 24)[1],
            "WAL:  4.7 MB/s  pg_wal/000000010000000000000001"
        );
        assert_eq!(super::lines(&with_wal, 80, 2).len(), 1);
        assert_eq!(lines(40)[1], "worker 0:  4.7 MB/s  ...02209061/5/16394");
        assert_eq!(lines(30)[1], "worker 0: ...202209061/5/16394");
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        let many: Vec<_> = (0..12)
            .map(|_| receiving("base/5/1 \u{1b}[2J\n世"))
            .collect();
        for phase in [
            Phase::Starting,
            Phase::Copying,
            Phase::Ending,
            Phase::Syncing,
        ] {
            let view = view(phase, 100, many.clone());
            for columns in 0..100 {
                for line in lines(&view, columns, 50) {
                    assert!(line.len() <= columns && line.is_ascii(), "{line}");
                    assert!(!line.contains(char::is_control), "{line}");
                }
            }
        }
    }

    #[test]
    fn a_low_terminal_shows_the_workers_that_work() {
        let mut many: Vec<_> = (0..9).map(|_| receiving("x")).collect();
        many[0] = worker(Activity::Ended);
        let view = view(Phase::Copying, 100, many);
        let lines = |rows| lines(&view, 80, rows);
        assert_eq!(lines(11).len(), 10);
        assert_eq!(lines(5).len(), 4);
        assert!(lines(5)[1].starts_with("worker 1: "));
        assert_eq!(lines(5)[3], "and 7 more workers");
        assert_eq!(lines(3).len(), 2);
        for rows in [0, 1, 2] {
            assert_eq!(lines(rows).len(), 1);
        }
    }
}
