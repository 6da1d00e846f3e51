//! Tablespaces: outside and inside the data directory, as links or as a map, in a common stream or
//! one of their own, and at paths that need quoting.

use std::fs;
use std::path::{Path, PathBuf};

use backup_tests::archive;
use backup_tests::backup::Backup;
use backup_tests::member;
use backup_tests::page::{PAGE_SIZE, quiet_table};
use backup_tests::program::{command, major_version, make_dir, succeed};
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::stepwise::{Entry, Stepwise, listing};

/// Row of `backup_tablespaces`.
type Row = (Option<u32>, Option<String>, i64);

fn tablespaces(taken: &mut Stepwise) -> Vec<Row> {
    let query = "SELECT spcoid, spclocation, size FROM backup_tablespaces()";
    let rows = taken
        .leader
        .query(query, &[])
        .expect("backup_tablespaces()");
    let rows = rows.iter();
    rows.map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

fn bytes_of(entries: &[Entry]) -> i64 {
    entries.iter().map(|entry| entry.size).sum()
}

#[track_caller]
fn assert_rows(cluster: &Cluster, table: &str, rows: i64) {
    let row = cluster
        .connect()
        .query_one(&format!("SELECT count(*) FROM {table}"), &[])
        .expect("the table");
    assert_eq!(row.get::<_, i64>(0), rows, "{table}");
}

/// Creates a tablespace in an existing directory.
fn create_tablespace_at(cluster: &Cluster, name: &str, location: &Path) -> u32 {
    let location = location.to_str().expect("the location is UTF-8");
    let mut client = cluster.connect();
    client
        .batch_execute(&format!("CREATE TABLESPACE {name} LOCATION '{location}'"))
        .expect("CREATE TABLESPACE");
    client
        .query_one("SELECT oid FROM pg_tablespace WHERE spcname = $1", &[&name])
        .expect("the new tablespace")
        .get(0)
}

#[test]
fn the_map_names_the_place_and_another_place_is_as_good() {
    let cluster = Cluster::new();
    let (oid, location) = cluster.create_tablespace("outside");
    let path = quiet_table(&mut cluster.connect(), "t", 3, "TABLESPACE outside");
    let mut taken = Stepwise::start(&cluster, "");
    let map = format!("{oid} {}\n", location.display());
    assert_eq!(taken.started.tablespace_map, map);
    let stream = taken.send_files();
    assert_eq!(member::expect(&stream, &path).content.len(), 3 * PAGE_SIZE);
    // The client that unpacks the stream creates the link itself.
    assert_eq!(member::find(&stream, &format!("pg_tblspc/{oid}")), None);
    let closing = taken.stop();
    assert_eq!(archive::content(&closing, "tablespace_map"), map.as_bytes());
    taken.backup.verify();
    assert_rows(&taken.backup.restore(), "t", 21);
}

#[test]
fn a_tablespace_inside_the_data_directory_is_sent_once() {
    let cluster = Cluster::new();
    let inside = cluster.data_dir().join("inner");
    make_dir(&inside);
    make_dir(&inside.join("space"));
    let oid = create_tablespace_at(&cluster, "inside", &inside.join("space"));
    let path = quiet_table(&mut cluster.connect(), "t", 3, "TABLESPACE inside");

    let mut taken = Stepwise::start(&cluster, "");
    let listed: Vec<_> = taken
        .listing()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    assert!(listed.contains(&"inner/space".to_owned()));
    assert!(!listed.iter().any(|path| path.starts_with("inner/space/")));
    let size = tablespaces(&mut taken)[0].2;
    assert!(size >= 3 * PAGE_SIZE as i64);
    assert!(path.starts_with(&format!("pg_tblspc/{oid}/")));

    let stream = taken.send_files();
    let members = member::members(&stream);
    let table = path.rsplit('/').next().expect("a path has a last part");
    let found = members
        .iter()
        .filter(|member| member.name().ends_with(&format!("/{table}")));
    assert_eq!(found.count(), 1);
    taken.stop();
    taken.backup.verify();
    assert_rows(&taken.backup.restore(), "t", 21);
}

#[test]
fn without_a_map_the_links_are_members() {
    let cluster = Cluster::new();
    // Longer than the 100 bytes that a tar header has for a link target.
    let long = cluster.make_dir(&"long".repeat(40));
    let oid = create_tablespace_at(&cluster, "outside", &long);
    quiet_table(&mut cluster.connect(), "t", 3, "TABLESPACE outside");
    let link = format!("pg_tblspc/{oid}");

    let mut taken = Stepwise::start(&cluster, "tablespace_map => false");
    assert_eq!(taken.started.tablespace_map, "");
    let entry = taken.listing().into_iter().find(|entry| entry.path == link);
    assert_eq!(entry.expect("the link is listed").kind, 'l');

    // The link and the data directory come in one stream, the tablespace in another, because GNU
    // tar does not unpack through a link that it has just created.
    let base = taken.stream("send_backup_files(tablespace => 0)");
    let place = member::expect(&base, &link);
    assert_eq!(place.kind, 'l');
    let target = place.target.expect("a link has a target");
    assert_eq!(String::from_utf8_lossy(&target), long.to_string_lossy());
    let space = taken.stream(&format!("send_backup_files(tablespace => {oid})"));
    let closing = taken.closing_tar();
    assert_eq!(member::find(&closing, "tablespace_map"), None);

    let backup = unpack_apart(&cluster, oid, &base, &space, &closing);
    assert_eq!(
        fs::read_link(backup.data_dir().join(&link)).ok(),
        Some(long)
    );
    relink(&backup, oid);
    backup.verify();
    assert_rows(&backup.restore(), "t", 21);
}

#[test]
fn each_tablespace_can_have_a_stream_of_its_own() {
    let cluster = Cluster::new();
    let (oid, _) = cluster.create_tablespace("outside");
    let path = quiet_table(&mut cluster.connect(), "t", 3, "TABLESPACE outside");
    let inside = path
        .strip_prefix(&format!("pg_tblspc/{oid}/"))
        .expect("the table is in the tablespace");

    let mut taken = Stepwise::start(&cluster, "");
    let space = taken.stream(&format!("send_backup_files(tablespace => {oid})"));
    member::expect(&space, inside);
    for member in member::members(&space) {
        let version = format!("PG_{}_", major_version());
        assert!(member.name().starts_with(&version), "{}", member.name());
    }
    let base = taken.stream("send_backup_files(tablespace => 0)");
    for member in member::members(&base) {
        let name = member.name();
        assert!(!name.starts_with("pg_tblspc/"), "{name}");
    }
    // The two streams together are complete.
    let closing = taken.closing_tar();
    let backup = unpack_apart(&cluster, oid, &base, &space, &closing);
    backup.verify();
    assert_rows(&backup.restore(), "t", 21);
}

/// Unpacks a tablespace beside the data directory, as intended for `<oid>.tar` of `pg_basebackup`.
fn unpack_apart(cluster: &Cluster, oid: u32, base: &[u8], space: &[u8], closing: &[u8]) -> Backup {
    let backup = Backup::folder(cluster);
    archive::unpack(space, place_of(&backup, oid));
    for stream in [base, closing] {
        archive::unpack(stream, &backup.data_dir());
    }
    backup
}

fn place_of(backup: &Backup, oid: u32) -> &Path {
    let mut places = backup.tablespaces().iter();
    let place = places.find(|(place, _)| *place == oid);
    &place.expect("the tablespace has a place").1
}

fn relink(backup: &Backup, oid: u32) {
    succeed(
        command("ln")
            .args(["-sfn", "--"])
            .arg(place_of(backup, oid))
            .arg(backup.data_dir().join(format!("pg_tblspc/{oid}"))),
    );
}

#[test]
fn names_that_need_care_survive_the_map() {
    let mut cluster = Cluster::new();
    let places = [
        ("spaces", "a place with spaces "),
        ("quotes", "\"quoted\" = $x `y`"),
        ("slashes", "back\\slash\\n"),
        ("lines", "two\nlines"),
    ];
    let mut locations: Vec<(u32, PathBuf)> = Vec::new();
    for (name, place) in places {
        let location = cluster.make_dir(place);
        let oid = create_tablespace_at(&cluster, name, &location);
        let clause = format!("TABLESPACE {name}");
        quiet_table(&mut cluster.connect(), &format!("in_{name}"), 3, &clause);
        locations.push((oid, location));
    }
    let mut taken = Stepwise::start(&cluster, "");
    for (oid, location) in &locations {
        let location = location.to_str().map(str::to_owned);
        let found = tablespaces(&mut taken)
            .into_iter()
            .any(|(row, place, _)| row == Some(*oid) && place == location);
        assert!(found, "{oid} is not in {location:?}");
    }
    taken.send_files();
    let map = archive::content(&taken.stop(), "tablespace_map");
    taken.backup.verify();

    // The unmodified map points to the locations of the original cluster, which are cleared first.
    cluster.stop(Shutdown::Immediate);
    for (oid, location) in &locations {
        fs::remove_dir_all(location).expect("could not remove a tablespace");
        let mut mv = command("mv");
        succeed(
            mv.arg("-T")
                .arg(place_of(&taken.backup, *oid))
                .arg(location),
        );
    }
    let mut restored = taken.backup.into_cluster();
    restored.write_file("tablespace_map", &map);
    restored.start();
    for (name, _) in places {
        assert_rows(&restored, &format!("in_{name}"), 21);
    }
}

#[test]
fn long_file_names_stay_readable() {
    let cluster = Cluster::new();
    // Around the 100 bytes of a header, beyond the 255 that a prefix allows, and far beyond.
    let mut names: Vec<String> = [98, 99, 100, 101, 155, 156, 255]
        .map(|length| "f".repeat(length))
        .into();
    let mut dir = String::new();
    for part in 0..4 {
        let separator = if part == 0 { "" } else { "/" };
        dir.push_str(&format!("{separator}{}", "d".repeat(90)));
        make_dir(&cluster.data_dir().join(&dir));
        names.push(format!("{dir}/short"));
        names.push(format!("{dir}/{}", "l".repeat(120)));
    }
    for name in &names {
        cluster.write_file(name, name.as_bytes());
    }
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    taken.stop();
    for name in &names {
        let content = fs::read_to_string(taken.backup.data_dir().join(name));
        assert_eq!(content.ok().as_ref(), Some(name), "{name}");
    }
    taken.backup.verify();
}

#[test]
fn sizes_are_those_of_the_listing() {
    let cluster = Cluster::new();
    let (small, _) = cluster.create_tablespace("small");
    let (big, location) = cluster.create_tablespace("big");
    cluster.create_tablespace("unused");
    quiet_table(&mut cluster.connect(), "s", 3, "TABLESPACE small");
    quiet_table(&mut cluster.connect(), "b", 300, "TABLESPACE big");

    let mut taken = Stepwise::start(&cluster, "");
    let rows = tablespaces(&mut taken);
    assert_eq!(rows.len(), 4);
    let (last_oid, last_location, _) = &rows[3];
    assert_eq!((last_oid, last_location), (&None, &None));
    let row = rows.iter().find(|(oid, ..)| *oid == Some(big));
    let (_, place, size) = row.expect("a row for each tablespace");
    assert_eq!(place.as_deref(), location.to_str());
    assert!(*size >= 300 * PAGE_SIZE as i64, "{size}");

    for (oid, _, size) in &rows {
        let argument = format!("tablespace => {}", oid.unwrap_or(0));
        let entries = listing(&mut taken.leader, &argument);
        assert_eq!(bytes_of(&entries), *size, "{argument}");
    }
    let total: i64 = rows.iter().map(|(.., size)| size).sum();
    assert_eq!(total, taken.started.total_bytes);
    let entries = taken.listing();
    assert_eq!(total, bytes_of(&entries));
    assert_eq!(entries.len() as i64, taken.started.file_count);
    assert!(entries.iter().map(|entry| &entry.path).is_sorted());
    assert!(rows.iter().any(|(oid, ..)| *oid == Some(small)));
}

#[test]
fn without_a_backup_the_listing_is_that_of_one_taken_now() {
    let cluster = Cluster::new();
    let (oid, _) = cluster.create_tablespace("outside");
    quiet_table(&mut cluster.connect(), "t", 3, "TABLESPACE outside");
    let mut client = cluster.connect();
    let before = listing(&mut client, "");
    let of_tablespace = listing(&mut client, &format!("tablespace => {oid}"));
    let sizes = "SELECT spcoid FROM backup_tablespaces() WHERE size > 0";
    assert_eq!(
        client
            .query(sizes, &[])
            .expect("backup_tablespaces()")
            .len(),
        2
    );
    let running = client.query("SELECT FROM backup_progress()", &[]);
    assert_eq!(running.expect("backup_progress()").len(), 0);

    let mut taken = Stepwise::start(&cluster, "");
    let paths = |entries: Vec<Entry>| -> Vec<(String, char)> {
        let entries = entries.into_iter();
        entries.map(|entry| (entry.path, entry.kind)).collect()
    };
    assert_eq!(paths(before), paths(taken.listing()));
    let argument = format!("tablespace => {oid}");
    let in_backup = listing(&mut taken.leader, &argument);
    assert_eq!(paths(of_tablespace), paths(in_backup));
}
