//! What a backup needs of its role and of the server's limits, looked at before it starts.

use anyhow::{Context as _, Error, Result, bail};

use crate::runtime::cancellation::Cancellation;
use crate::server::connection::{Row, Session};
use crate::server::extension::Extension;
use crate::server::opener::Opener;
use crate::server::row::{number, text, value};
use crate::server::session;
use crate::server::sql_text::array;

/// Functions that a backup with workers calls.
pub const OF_A_BACKUP: [&str; 5] = [
    "start_backup",
    "backup_tablespaces",
    "send_backup_files",
    "send_stop_backup",
    "abort_backup",
];
/// Function that a backup calls for its WAL while it runs.
pub const OF_A_WAL_STREAM: &str = "send_wal";
/// Function that a backup calls after the loss of a connection.
pub const AFTER_A_LOSS: &str = "backup_filelist";
/// Functions that a check cannot do without.
pub const OF_A_CHECK: [&str; 3] = ["start_backup", "backup_filelist", "send_backup_files"];

/// Checks that the role may execute functions of the extension.
///
/// # Errors
/// An error that names those it may not, and errors of the server.
pub fn check_functions(session: &Session, functions: &[&str]) -> Result<()> {
    let Some(missing) = missing(session, functions)? else {
        return Ok(());
    };
    bail!(
        "permission denied for function {}\nDETAIL:  {}\nHINT:  {}",
        missing.first,
        missing.detail,
        missing.hint
    );
}

/// What to say where the role may not execute one of the functions.
///
/// # Errors
/// Errors of the server.
pub fn lacks(session: &Session, function: &str) -> Result<Option<String>> {
    let missing = missing(session, &[function])?;
    Ok(missing.map(|missing| format!("{}\nHINT:  {}", missing.detail, missing.hint)))
}

struct Missing {
    first: String,
    detail: String,
    hint: String,
}

fn missing(session: &Session, functions: &[&str]) -> Result<Option<Missing>> {
    let names: Vec<_> = functions.iter().map(|name| name.as_bytes()).collect();
    let names = array(&names);
    let rows = session.rows(
        "SELECT proname, quote_ident(nspname) || '.' || quote_ident(proname),
                quote_ident(current_user), quote_ident(current_database())
         FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, place)
         JOIN pg_proc ON proname = name
         JOIN pg_namespace n ON n.oid = pronamespace
         JOIN pg_depend ON classid = 'pg_proc'::regclass AND objid = pg_proc.oid
              AND refclassid = 'pg_extension'::regclass AND deptype = 'e'
         JOIN pg_extension e ON e.oid = refobjid AND extname = 'pg_parallel_backup'
         WHERE NOT has_function_privilege(pg_proc.oid, 'EXECUTE')
         ORDER BY place",
        &[&names],
    )?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let column = |column| {
        let texts = rows.iter().map(|row| text(row, column));
        Ok::<_, Error>(texts.collect::<Result<Vec<_>>>()?.join(", "))
    };
    let (role, database) = (text(first, 2)?, text(first, 3)?);
    Ok(Some(Missing {
        first: text(first, 0)?,
        detail: format!("Role {role} lacks EXECUTE on {}.", column(0)?),
        hint: format!(
            "As a superuser run in database {database}: GRANT EXECUTE ON FUNCTION {} TO {role};",
            column(1)?
        ),
    }))
}

/// Has the start list files that the server cannot read, which versions of the extension do anyway
/// that have no such setting.
///
/// # Errors
/// Errors of the server.
pub fn list_unreadable_files(session: &Session, extension: &Extension) -> Result<()> {
    extension.load_library(session)?;
    session.rows(
        "SELECT set_config(name, 'on', false) FROM pg_settings
         WHERE name = 'pg_parallel_backup.list_unreadable_files'",
        &[],
    )?;
    Ok(())
}

/// Limits of the number of connections.
struct Limits {
    role: String,
    database: String,
    /// CONNECTION LIMIT of the role and of the database, where there is one that counts.
    of_role: Option<usize>,
    of_database: Option<usize>,
    max_connections: usize,
    /// Those that this role may not have.
    reserved: usize,
}

impl Limits {
    fn of(session: &Session) -> Result<Self> {
        // A superuser has no limit but max_connections. What is reserved for the members of a
        // predefined role exists from version 16 on.
        let rows = session.rows(
            "SELECT quote_ident(rolname), quote_ident(datname),
                    CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END,
                    CASE WHEN rolsuper THEN -1 ELSE datconnlimit END,
                    current_setting('max_connections'),
                    CASE WHEN rolsuper THEN 0
                         ELSE current_setting('superuser_reserved_connections')::int
                    END +
                    CASE WHEN rolsuper OR EXISTS (
                             SELECT FROM pg_roles p WHERE p.rolname = 'pg_use_reserved_connections'
                                 AND pg_has_role(session_user, p.oid, 'USAGE'))
                         THEN 0
                         ELSE coalesce(current_setting('reserved_connections', true), '0')::int
                    END
             FROM pg_roles r, pg_database WHERE r.rolname = session_user
                 AND datname = current_database()",
            &[],
        )?;
        let row = rows.first().context("the server does not know this role")?;
        // -1 is for no limit.
        let limit = |row: &Row, column| {
            value(row, column)?;
            Ok::<_, Error>(number::<i64>(row, column)?.try_into().ok())
        };
        Ok(Self {
            role: text(row, 0)?,
            database: text(row, 1)?,
            of_role: limit(row, 2)?,
            of_database: limit(row, 3)?,
            max_connections: number(row, 4)?,
            reserved: number(row, 5)?,
        })
    }

    /// The limits with their names.
    fn named(&self) -> Vec<(usize, String)> {
        let of_role = self.of_role.map(|limit| {
            let name = format!("CONNECTION LIMIT of role {} is {limit}", self.role);
            (limit, name)
        });
        let of_database = self.of_database.map(|limit| {
            let name = format!("CONNECTION LIMIT of database {} is {limit}", self.database);
            (limit, name)
        });
        let mut max = format!("max_connections is {}", self.max_connections);
        if self.reserved > 0 {
            max.push_str(&format!(", of which {} are reserved", self.reserved));
        }
        let of_all = (self.max_connections.saturating_sub(self.reserved), max);
        of_role
            .into_iter()
            .chain(of_database)
            .chain([of_all])
            .collect()
    }

    /// The error for connections that there is no room for.
    fn error(&self, wanted: Wanted, why: impl std::fmt::Display, limits: &str) -> Error {
        let wal = if wanted.wal { ", one is for WAL" } else { "" };
        anyhow::anyhow!(
            "{why}\n\
             DETAIL:  {} connections are wanted: one leads the backup{wal}, and {} are for files. {limits}.\n\
             HINT:  Raise the limit, or use fewer connections for files by -j.",
            wanted.count(),
            wanted.workers,
        )
    }
}

/// Connections of a backup beside the one that leads it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Number of connections for files.
    pub workers: usize,
    /// Whether there is one for WAL.
    pub wal: bool,
}

impl Wanted {
    /// Number of all connections, with the one that leads.
    fn count(self) -> usize {
        self.workers + usize::from(self.wal) + 1
    }
}

/// Opens the connections of all workers before anything is started, so that one that cannot connect is
/// an error of the start. That for WAL is the last.
///
/// # Errors
/// An error that names the limits of the server where they leave no room, and those of libpq.
pub fn open_workers(
    (opener, leader): (&Opener, &Session),
    wanted: Wanted,
    cancellation: &Cancellation,
) -> Result<Vec<Session>> {
    let limits = Limits::of(leader)?;
    for (limit, name) in limits.named() {
        if limit < wanted.count() {
            let why = "the server allows too few connections for the backup";
            return Err(limits.error(wanted, why, &name));
        }
    }
    let mut sessions = Vec::new();
    for number in 0..wanted.count() - 1 {
        cancellation.check()?;
        let session = session::open(opener).map_err(|error| {
            let whose = match number {
                number if number == wanted.workers => "for WAL".to_owned(),
                number => format!("of worker {number}"),
            };
            let why = format!("could not open the connection {whose}: {error:#}");
            let names: Vec<_> = limits.named().into_iter().map(|(_, name)| name).collect();
            limits.error(wanted, why, &names.join("; "))
        })?;
        sessions.push(session);
    }
    Ok(sessions)
}
