//! Report of a check: a line for each damaged file on standard output, and the total.

use std::io::{Write as _, stdout};

use anyhow::{Context, Result, bail};

use super::Checked;
use super::damage::Findings;
use super::relations::Named;
use crate::console::messages;

/// Reports a complete check.
///
/// # Errors
/// Where something is damaged.
pub fn conclude(checked: &Checked) -> Result<()> {
    write(&checked.damaged)?;
    let kilobytes = checked.bytes / 1024;
    let looked = format!("{} files checked ({kilobytes} kB)", checked.files);
    if checked.damaged.is_empty() {
        messages::say(format_args!("{looked}, no damage found"));
        return Ok(());
    }
    messages::say(looked);
    let damages = || checked.damaged.iter().map(|named| &named.damage);
    let pages = damages().map(|damage| damage.pages());
    let pages = pages.fold(0, u64::saturating_add);
    let files = damages().filter(|damage| damage.pages() > 0).count();
    let unreadable = damages()
        .filter(|damage| damage.unreadable.is_some())
        .count();
    let mut found = Vec::new();
    if files > 0 {
        let pages = counted(pages, "page is damaged", "pages are damaged");
        found.push(format!(
            "{pages} in {}",
            counted(files as u64, "file", "files")
        ));
    }
    if unreadable > 0 {
        found.push(counted(
            unreadable as u64,
            "file could not be checked to its end",
            "files could not be checked to their ends",
        ));
    }
    bail!("{}", found.join(", and "));
}

/// Reports the damage found before a check failed.
pub fn leave_off(findings: Findings) {
    if findings.is_empty() {
        return;
    }
    messages::say("damage found before the error:");
    let damaged: Vec<_> = findings.into_iter().map(Named::without_name).collect();
    if let Err(error) = write(&damaged) {
        messages::warn(format_args!("{error:#}"));
    }
}

fn write(damaged: &[Named]) -> Result<()> {
    let mut output = stdout().lock();
    damaged
        .iter()
        .try_for_each(|named| writeln!(output, "{named}"))
        .and_then(|()| output.flush())
        .context("could not write to standard output")
}

fn counted(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}
