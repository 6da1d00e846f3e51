//! List of the backups of a repository.

use std::io::Write as _;

use anyhow::{Context, Result};
use chrono::SecondsFormat;
use serde::Serialize;

use crate::cli::configuration::ListConfig;
use crate::console::escape;
use crate::console::progress::size;
use crate::repository::catalog::{self, Entry, State};
use crate::storage::folder::Folder;

/// Headings of the columns.
const HEADINGS: [&str; 8] = [
    "NAME", "KIND", "STATE", "START", "DURATION", "SIZE", "STORED", "PARENT",
];

/// A backup for programs.
#[derive(Serialize)]
struct Row {
    name: String,
    kind: Option<String>,
    /// `complete`, `unfinished` or `unreadable`.
    state: &'static str,
    /// Why nothing can be said.
    reason: Option<String>,
    start_time: Option<String>,
    /// Seconds.
    duration: Option<f64>,
    bytes: Option<u64>,
    stored_bytes: u64,
    /// Name of the backup that this one was made from.
    parent: Option<String>,
    /// Whether all backups are there that this one needs.
    chain_complete: bool,
    start_lsn: Option<String>,
    system_identifier: Option<String>,
    label: Option<String>,
}

/// Prints the list.
///
/// # Errors
/// Where the repository cannot be read.
pub fn run(config: &ListConfig) -> Result<()> {
    let repository = Folder::open(&config.repository, &config.access)?;
    let entries = catalog::list(&repository)?;
    let rows: Vec<_> = entries.iter().map(|entry| row(&entries, entry)).collect();
    let text = match config.json {
        true => format!("{}\n", serde_json::to_string_pretty(&rows)?),
        false => table(&rows),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("could not write to standard output")
}

fn row(entries: &[Entry], entry: &Entry) -> Row {
    let facts = entry.facts.as_ref();
    let time =
        |time: chrono::DateTime<chrono::Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let parent = catalog::parent_of(entries, entry);
    Row {
        name: entry.name.clone(),
        kind: facts.map(|facts| facts.kind.to_string()),
        state: match entry.state {
            State::Complete => "complete",
            State::Unfinished => "unfinished",
            State::Unreadable(_) => "unreadable",
        },
        reason: match &entry.state {
            State::Unreadable(reason) => Some(reason.clone()),
            State::Complete | State::Unfinished => None,
        },
        start_time: facts.and_then(|facts| facts.start_time).map(time),
        duration: facts.and_then(|facts| {
            let duration = facts.stop_time? - facts.start_time?;
            Some(duration.as_seconds_f64())
        }),
        bytes: facts.map(|facts| facts.bytes),
        stored_bytes: (facts.and_then(|facts| facts.stored_bytes))
            .filter(|&stored| stored > 0)
            .unwrap_or(entry.stored),
        parent: match parent {
            Some(parent) => Some(parent.name.clone()),
            None => facts.and_then(|facts| facts.parent.clone()),
        },
        chain_complete: catalog::chain(entries, &entry.name).is_ok(),
        start_lsn: facts.and_then(|facts| facts.start_lsn.clone()),
        system_identifier: facts.and_then(|facts| facts.system_identifier.clone()),
        label: facts
            .and_then(|facts| facts.info.as_ref())
            .map(|info| info.label.clone()),
    }
}

fn table(rows: &[Row]) -> String {
    let mut lines: Vec<[String; 8]> = vec![HEADINGS.map(str::to_owned)];
    for row in rows {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let state = match (row.state, row.chain_complete) {
            ("complete", false) => "chain broken".to_owned(),
            (state, _) => state.to_owned(),
        };
        lines.push([
            escape::name(row.name.as_bytes()),
            or_dash(row.kind.clone()),
            state,
            or_dash(row.start_time.clone()),
            or_dash(row.duration.map(|seconds| format!("{seconds:.0} s"))),
            or_dash(row.bytes.map(size)),
            size(row.stored_bytes),
            or_dash(
                row.parent
                    .as_ref()
                    .map(|name| escape::name(name.as_bytes())),
            ),
        ]);
    }
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..HEADINGS.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths);
        let cells = cells.map(|(cell, &width)| format!("{cell:<width$}"));
        let line: Vec<_> = cells.collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}
