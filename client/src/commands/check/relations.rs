//! Database and relation of a damaged file.
//!
//! The relations of a database can only be looked up in a session of that database. Where there can
//! be none, or the catalogs themselves are damaged, a file is reported without them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use backup_format::relation_file::{self, Fork, RelationFile};

use super::damage::{Damage, Findings};
use crate::console::escape;
use crate::console::messages;
use crate::runtime::cancellation::Cancellation;
use crate::server::connection::{Row, Session};
use crate::server::opener::Opener;
use crate::server::row::{number, value};
use crate::server::session;
use crate::server::workers::is_lost;

/// OID of the tablespace `pg_default`.
const DEFAULT_TABLESPACE: u32 = 1663;
/// OID of the tablespace `pg_global`.
const GLOBAL_TABLESPACE: u32 = 1664;

/// Damaged file with its database and relation, as far as known.
#[derive(Clone, Debug)]
pub struct Named {
    path: Vec<u8>,
    database: Option<String>,
    relation: Option<Relation>,
    /// An error that names the defect.
    pub damage: Damage,
}

#[derive(Clone, Debug)]
struct Relation {
    name: String,
    kind: String,
}

/// The columns are separated by tabs, of which names have none as they are shown.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = escape::name(&self.path);
        let database = self.database.as_deref().unwrap_or("-");
        let (name, kind) = match &self.relation {
            Some(relation) => (relation.name.as_str(), relation.kind.as_str()),
            None => ("-", "-"),
        };
        write!(f, "{path}\t{database}\t{name}\t{kind}\t{}", self.damage)
    }
}

impl Named {
    /// With nothing but its path.
    pub fn without_name((path, damage): (Vec<u8>, Damage)) -> Self {
        Self {
            path,
            database: None,
            relation: None,
            damage,
        }
    }
}

/// Looks up databases and relations of damaged files.
///
/// # Errors
/// Where it is to stop.
pub fn name(
    findings: Findings,
    opener: &Opener,
    leader: &Session,
    cancellation: &Cancellation,
) -> Result<Vec<Named>> {
    let mut named: Vec<_> = findings.into_iter().map(Named::without_name).collect();
    let mut by_database: BTreeMap<u32, Vec<&mut Named>> = BTreeMap::new();
    for file in &mut named {
        let database = relation_file::database_of(&file.path);
        by_database.entry(database).or_default().push(file);
    }
    if by_database.is_empty() {
        return Ok(named);
    }
    if let Some(shared) = by_database.remove(&0) {
        name_relations(leader, shared);
    }
    let databases = databases(leader).unwrap_or_else(|error| {
        messages::warn(format_args!("could not look up databases: {error:#}"));
        BTreeMap::new()
    });
    for (oid, mut files) in by_database {
        cancellation.check()?;
        let Some(database) = databases.get(&oid) else {
            messages::warn(format_args!("there is no database with OID {oid}"));
            continue;
        };
        let name = escape::name(&database.name);
        for file in &mut files {
            file.database = Some(name.clone());
        }
        match database.open(opener) {
            Ok(session) => name_relations(&session, files),
            Err(error) => messages::warn(format_args!(
                "relations of database \"{name}\" cannot be named: {error:#}"
            )),
        }
    }
    Ok(named)
}

struct Database {
    name: Vec<u8>,
    allows_connections: bool,
}

/// The databases by their OIDs. The server compares names with the bytes that it has, which may be of any encoding,
/// so these are not converted.
fn databases(session: &Session) -> Result<BTreeMap<u32, Database>> {
    session::take_text_as_it_is(session)?;
    let rows = session.rows("SELECT oid, datname, datallowconn FROM pg_database", &[])?;
    rows.iter()
        .map(|row| {
            let database = Database {
                name: value(row, 1)?.to_vec(),
                allows_connections: value(row, 2)? == b"t",
            };
            Ok((number(row, 0)?, database))
        })
        .collect()
}

impl Database {
    fn open(&self, opener: &Opener) -> Result<Session> {
        anyhow::ensure!(self.allows_connections, "it does not allow connections");
        let name = std::str::from_utf8(&self.name).context("its name is not in UTF-8")?;
        session::open(&opener.of_database(name))
    }
}

fn name_relations(session: &Session, files: Vec<&mut Named>) {
    for file in files {
        let Some((tablespace, relation_file)) = parse(&file.path) else {
            continue;
        };
        let found = find(session, tablespace, relation_file).or_else(|error| {
            if is_lost(&error) {
                return Err(error);
            }
            // A name that has no equivalent.
            session::take_text_as_it_is(session)?;
            find(session, tablespace, relation_file)
        });
        match found {
            Ok(relation) => file.relation = relation,
            Err(error) => messages::warn(format_args!(
                "the relation of file \"{}\" cannot be named: {error:#}",
                escape::name(&file.path)
            )),
        }
    }
}

/// The tablespace of a relation's file, and its name.
fn parse(path: &[u8]) -> Option<(u32, RelationFile)> {
    if !relation_file::is_relation(path) {
        return None;
    }
    let mut parts = path.split(|&byte| byte == b'/');
    let tablespace = match parts.next()? {
        b"global" => GLOBAL_TABLESPACE,
        b"base" => DEFAULT_TABLESPACE,
        _ => std::str::from_utf8(parts.next()?).ok()?.parse().ok()?,
    };
    Some((tablespace, RelationFile::parse(parts.next_back()?)?))
}

/// An index has a table, a TOAST table has an owner, and an index of a TOAST table has both.
const RELATION: &str = "
    SELECT r.relkind, quote_ident(rn.nspname) || '.' || quote_ident(r.relname),
        t.relkind, quote_ident(tn.nspname) || '.' || quote_ident(t.relname),
        quote_ident(o_n.nspname) || '.' || quote_ident(o.relname)
    FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
        LEFT JOIN pg_index i ON i.indexrelid = r.oid
        LEFT JOIN pg_class t ON t.oid = i.indrelid
        LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
        LEFT JOIN pg_class o ON o.reltoastrelid =
            CASE 't' WHEN r.relkind THEN r.oid WHEN t.relkind THEN t.oid END
        LEFT JOIN pg_namespace o_n ON o_n.oid = o.relnamespace
    WHERE r.oid = pg_filenode_relation($1::oid, $2::oid)";

fn find(session: &Session, tablespace: u32, file: RelationFile) -> Result<Option<Relation>> {
    let values = [tablespace, file.relfilenode].map(|oid| oid.to_string());
    let values = values.each_ref().map(|value| value.as_bytes());
    let rows = session.rows(RELATION, &values)?;
    rows.first().map(|row| describe(row, file.fork)).transpose()
}

fn describe(row: &Row, fork: Fork) -> Result<Relation> {
    let text = |column: usize| row.get(column).and_then(Option::as_deref).map(escape::name);
    let (table, owner) = (text(3).unwrap_or_default(), text(4));
    let mut kind = match (value(row, 0)?, text(2).as_deref(), owner) {
        (b"t", _, Some(owner)) => format!("TOAST table of {owner}"),
        (b"i", Some("t"), Some(owner)) => format!("index of the TOAST table of {owner}"),
        (b"i", ..) => format!("index of {table}"),
        (kind, ..) => kind_of(kind).to_owned(),
    };
    kind.push_str(match fork {
        Fork::Main => "",
        Fork::FreeSpaceMap => ", free space map",
        Fork::VisibilityMap => ", visibility map",
        Fork::Init => ", initial state",
    });
    Ok(Relation {
        name: escape::name(value(row, 1)?),
        kind,
    })
}

fn kind_of(relkind: &[u8]) -> &'static str {
    match relkind {
        b"r" => "table",
        b"t" => "TOAST table",
        b"S" => "sequence",
        b"m" => "materialized view",
        _ => "relation",
    }
}
