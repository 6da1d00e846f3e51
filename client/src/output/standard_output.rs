//! Backup as one archive on standard output.
//!
//! The archive is ended after the comparison with the manifest. Without its last two blocks, or the
//! end of its compressed frame, it is recognizably incomplete.

use std::fs::File;
use std::io::{IsTerminal as _, stdout};
use std::os::fd::AsFd as _;

use anyhow::{Context, Result, ensure};

use crate::cli::configuration::{BackupConfig, Compress, Side};
use crate::console::progress::{Counters, Phase};
use crate::manifest::backup_path::CONTROL_FILE;
use crate::manifest::comparison::compare;
use crate::manifest::manifest_file::ManifestFile;
use crate::manifest::received_files::ReceivedFiles;
use crate::output::archive_writer::{Destination, Writer};
use crate::output::withheld_end::WithheldEnd;
use crate::output::write_behind::WriteBehind;
use crate::runtime::cancellation::Cancellation;
use crate::server::connection::Session;
use crate::server::extension;
use crate::stream::input::Input;
use crate::stream::member_check::Check;

/// Writes a whole backup to standard output, and returns the number of its files.
///
/// # Errors
/// Errors of the server and of standard output, and differences from the manifest.
pub fn pass_on(
    session: &Session,
    statement: &str,
    config: &BackupConfig,
    cancellation: &Cancellation,
    counters: &Counters,
) -> Result<usize> {
    // What the server has compressed is passed on as it is.
    let (compress, as_it_is) = match config.compress.side {
        Side::Client => (config.compress, false),
        Side::Server => (Compress::NONE, true),
    };
    let mut writer = Writer::new(open()?, &compress)?;
    let received = ReceivedFiles::new(extension::algorithm(config));
    let mut check = Check::with_manifest(&received, counters.leader(), ManifestFile::temporary);
    let mut input = Input::new(config.compress.of_streams().method)?;
    let mut held_back = WithheldEnd::default();
    let mut begun = false;
    session.copy(statement, |bytes| {
        cancellation.check()?;
        if !std::mem::replace(&mut begun, true) {
            counters.enter(Phase::Copying);
        }
        let mut pass =
            |bytes: &[u8]| held_back.push(bytes, |bytes| writer.write(bytes, cancellation));
        input.push(bytes, |reader, plain| {
            reader.push(plain, &mut check)?;
            if as_it_is { Ok(()) } else { pass(plain) }
        })?;
        if as_it_is { pass(bytes) } else { Ok(()) }
    })?;
    input.finish()?;
    counters.enter(Phase::Comparing);
    let manifest = check.finish()?;
    let files = received.into_files()?;
    ensure!(
        files.contains(CONTROL_FILE),
        "the server did not send global/pg_control"
    );
    let count = match config.manifest {
        Some(algorithm) => {
            // An empty one is refused.
            let manifest = manifest.map_or_else(ManifestFile::temporary, Ok)?;
            compare(manifest.reader()?, files, algorithm, |_| false)?.1
        }
        None => files.count(),
    };
    writer.write(&held_back.into_inner(), cancellation)?;
    writer.finish(cancellation)?;
    Ok(count)
}

fn open() -> Result<Destination> {
    let output = stdout();
    ensure!(
        !output.is_terminal(),
        "standard output is a terminal, where an archive is of no use"
    );
    // As a file it gets large writes as they are.
    let file = output.as_fd().try_clone_to_owned();
    let file = file.context("could not open standard output")?;
    Ok(Destination::File(
        File::from(file),
        "to standard output".to_owned(),
        WriteBehind::from(0, false),
    ))
}
