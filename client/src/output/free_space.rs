//! Free space of the file systems that a backup goes to, compared with its size before anything is
//! copied.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use backup_format::compression::Method;

use crate::cli::configuration::{BackupConfig, Format, WalMethod};
use crate::console::progress::size;
use crate::server::extension::Started;
use crate::server::tablespace_sizes::TablespaceSizes;
use crate::stream::part::Tablespace;

/// Header of a member of an archive.
const MEMBER_HEADER: u64 = 512;

/// What one directory is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Demand {
    path: PathBuf,
    bytes: u64,
    /// Name of the content.
    what: String,
}

/// Checks that a backup fits where it is to go. What compression leaves of it, and what a command or
/// a reader of standard output does with it, is not known: there nothing is checked.
///
/// # Errors
/// An error with both numbers for a file system that is too small.
pub fn check(
    config: &BackupConfig,
    started: &Started,
    tablespaces: &[Tablespace],
    sizes: &TablespaceSizes,
) -> Result<()> {
    let mut file_systems: BTreeMap<u64, (u64, Vec<Demand>)> = BTreeMap::new();
    for demand in demands(config, started, tablespaces, sizes) {
        // What cannot be asked is for the backup to find out.
        if let Some((device, free)) = free_space(&demand.path) {
            let (_, demands) = file_systems.entry(device).or_insert((free, Vec::new()));
            demands.push(demand);
        }
    }
    for (free, demands) in file_systems.into_values() {
        let bytes: u64 = demands.iter().map(|demand| demand.bytes).sum();
        let Some(first) = demands.first().filter(|_| bytes > free) else {
            continue;
        };
        let parts: Vec<_> = demands
            .iter()
            .map(|Demand { path, bytes, what }| {
                format!("{} for {what} in \"{}\"", size(*bytes), path.display())
            })
            .collect();
        bail!(
            "not enough space for the backup on the file system of \"{}\": {} are needed, {} are free\n\
             DETAIL:  Needed are {} bytes ({}); {free} bytes are free.\n\
             HINT:  Make room there, or put parts of the backup elsewhere (-D, -T, --waldir). \
             --no-space-check leaves this check out.",
            first.path.display(),
            size(bytes),
            size(free),
            bytes,
            parts.join(", "),
        );
    }
    Ok(())
}

fn demands(
    config: &BackupConfig,
    started: &Started,
    tablespaces: &[Tablespace],
    sizes: &TablespaceSizes,
) -> Vec<Demand> {
    let has_directory = config.pipe.is_none() && !config.to_stdout;
    let wal = match (config.wal, config.format) {
        (WalMethod::None, _) => 0,
        // One that is in the archive, and one that is on its way there.
        (WalMethod::Stream, Format::Tar) => sizes.wal_segment * 2,
        (WalMethod::Fetch | WalMethod::Stream, _) => sizes.wal_segment,
    };
    match config.format {
        Format::Tar if has_directory && config.compress.compression.method == Method::None => {
            let headers = started.file_count.saturating_mul(MEMBER_HEADER);
            vec![Demand {
                path: config.target.clone(),
                bytes: started.total_bytes.saturating_add(headers + wal),
                what: "the archives".to_owned(),
            }]
        }
        Format::Tar => Vec::new(),
        Format::Plain => {
            let demand = |path: &Path, bytes, what: &str| Demand {
                path: path.to_owned(),
                bytes,
                what: what.to_owned(),
            };
            let mut demands = vec![demand(
                &config.target,
                sizes.data_directory,
                "the data directory",
            )];
            if wal > 0 {
                let path = config.waldir.as_ref().unwrap_or(&config.target);
                demands.push(demand(path, wal, "WAL"));
            }
            for Tablespace { oid, location } in tablespaces {
                let path = config.mapping.get(location).unwrap_or(location);
                let bytes = sizes.tablespaces.get(oid).copied().unwrap_or(0);
                demands.push(demand(path, bytes, &format!("tablespace {oid}")));
            }
            demands
        }
    }
}

/// Device and free bytes of the file system that a directory is on, or will be when it is made. Some
/// file systems do not tell their size.
fn free_space(path: &Path) -> Option<(u64, u64)> {
    let here = Path::new(".");
    let ancestors = path.ancestors().map(|path| match path.as_os_str().len() {
        0 => here,
        _ => path,
    });
    let existing = ancestors
        .filter(|path| path.exists())
        .find(|path| path.is_dir())?;
    let device = fs::metadata(existing).ok()?.dev();
    let status = rustix::fs::statvfs(existing).ok()?;
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    (status.f_blocks > 0).then_some((device, free))
}
