//! Replication slot that a standby is to use (`-S`, `-C`). It holds the WAL that the standby needs first.
//!
//! The backup's own WAL is held by the server apart from it.

use anyhow::{Result, bail};

use crate::cli::configuration::SlotConfig;
use crate::console::messages;
use crate::server::connection::Session;
use crate::server::opener::Opener;
use crate::server::row::value;

/// Slot that this program has created, to be dropped if the backup fails.
#[derive(Clone, Debug)]
pub struct CreatedSlot(String);

impl CreatedSlot {
    /// Creates a slot that holds WAL from now on, or checks that it exists if it is not to be created.
    ///
    /// # Errors
    /// Errors of the server, in its words.
    pub fn prepare(session: &Session, slot: &SlotConfig) -> Result<Option<Self>> {
        let SlotConfig { name, create } = slot;
        if *create {
            session.rows(
                "SELECT pg_create_physical_replication_slot($1, true)",
                &[name.as_bytes()],
            )?;
            return Ok(Some(Self(name.clone())));
        }
        let rows = session.rows(
            "SELECT slot_type = 'physical' FROM pg_replication_slots WHERE slot_name = $1",
            &[name.as_bytes()],
        )?;
        match rows.first().map(|row| value(row, 0)).transpose()? {
            None => bail!("replication slot \"{name}\" does not exist"),
            Some(b"t") => Ok(None),
            Some(_) => bail!("cannot use a logical replication slot for physical replication"),
        }
    }

    /// Drops the slot after a failure, in a session of its own: that of the backup may be lost.
    pub fn drop_after_failure(&self, opener: &Opener) {
        let Self(name) = self;
        let dropped = opener.open_aside().and_then(|other| {
            other.rows(
                "SELECT pg_catalog.pg_drop_replication_slot($1)",
                &[name.as_bytes()],
            )
        });
        if let Err(error) = dropped {
            messages::warn(format_args!(
                "could not drop replication slot \"{name}\": {error:#}"
            ));
        }
    }
}
