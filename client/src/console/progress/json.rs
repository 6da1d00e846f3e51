//! Progress as JSON, as documented in docs/program-reference.md.

use serde::Serialize;

use super::view::{View, WorkerView};
use super::{Activity, Phase};

#[derive(Serialize)]
struct Progress<'a> {
    r#type: &'static str,
    phase: Phase,
    elapsed: f64,
    bytes: u64,
    bytes_total: Option<u64>,
    files: u64,
    files_total: Option<u64>,
    percent: Option<f64>,
    rate: u64,
    eta: Option<f64>,
    workers: Vec<Worker<'a>>,
    wal: Option<Stream<'a>>,
}

#[derive(Serialize)]
struct Worker<'a> {
    worker: usize,
    #[serde(flatten)]
    stream: Stream<'a>,
}

#[derive(Serialize)]
struct Stream<'a> {
    state: &'static str,
    file: Option<&'a str>,
    bytes: u64,
    rate: u64,
}

/// One line.
pub fn line(view: &View) -> serde_json::Result<String> {
    let tenths = |number: f64| (number * 10.0).round() / 10.0;
    serde_json::to_string(&Progress {
        r#type: "progress",
        phase: view.phase,
        elapsed: tenths(view.elapsed.as_secs_f64()),
        bytes: view.bytes,
        bytes_total: view.expected.map(|expected| expected.bytes),
        files: view.files,
        files_total: view.expected.map(|expected| expected.files),
        percent: view.percent().map(tenths),
        rate: view.rate as u64,
        eta: view.left().map(|left| tenths(left.as_secs_f64())),
        workers: view.workers.iter().enumerate().map(worker).collect(),
        wal: view.wal.as_ref().map(stream),
    })
}

fn worker((number, worker): (usize, &WorkerView)) -> Worker<'_> {
    Worker {
        worker: number,
        stream: stream(worker),
    }
}

fn stream(worker: &WorkerView) -> Stream<'_> {
    let (state, file) = match &worker.doing {
        Activity::Connecting => ("connecting", None),
        Activity::Waiting => ("waiting", None),
        Activity::Receiving(file) => ("receiving", Some(file.as_str())),
        Activity::Lost => ("lost", None),
        Activity::Ended => ("done", None),
    };
    Stream {
        state,
        file,
        bytes: worker.bytes,
        rate: worker.rate as u64,
    }
}
