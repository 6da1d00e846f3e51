//! Hand-made archives and manifests, including some that no server would produce.

use std::fs;
use std::path::Path;

use tar::{Archive, EntryType, Header};

use crate::program::{command, run_with_input};

/// Header of a member, with the mode of a file.
pub fn header(kind: EntryType, name: &str, target: &str, size: u64) -> Vec<u8> {
    member_header(kind, 0o644, name, target, size)
}

/// Header of a member.
pub fn member_header(kind: EntryType, mode: u32, name: &str, target: &str, size: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    // Written as bytes, because the tar crate rejects the invalid values under test.
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A file.
pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut member = header(EntryType::Regular, name, "", content.len() as u64);
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

/// Part of a file: a member that continues from another volume, in the words of GNU tar.
pub fn part(name: &str, offset: u64, file_size: u64, content: &[u8]) -> Vec<u8> {
    let member = header(EntryType::Regular, name, "", content.len() as u64);
    let mut header = Header::from_byte_slice(&member).clone();
    header.set_entry_type(EntryType::new(b'M'));
    let fields = header.as_mut_bytes();
    fields[257..265].copy_from_slice(b"ustar  \0");
    fields[369..381].copy_from_slice(format!("{offset:011o}\0").as_bytes());
    fields[483..495].copy_from_slice(format!("{file_size:011o}\0").as_bytes());
    header.set_cksum();
    let mut member = header.as_bytes().to_vec();
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

/// A symbolic link.
pub fn link(name: &str, target: &str) -> Vec<u8> {
    header(EntryType::Symlink, name, target, 0)
}

/// A directory.
pub fn directory(name: &str) -> Vec<u8> {
    member_header(EntryType::Directory, 0o700, name, "", 0)
}

/// Archive of these members, with its end marker.
pub fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Manifest of these files, with a correct checksum of its own.
pub fn manifest(files: &str) -> Vec<u8> {
    versioned_manifest("1", files)
}

/// Manifest in the format of PostgreSQL 17 and later, with a system identifier.
pub fn manifest_of_cluster(system_identifier: u64, files: &str) -> Vec<u8> {
    let version = format!("2,\n\"System-Identifier\": {system_identifier}");
    versioned_manifest(&version, files)
}

fn versioned_manifest(version: &str, files: &str) -> Vec<u8> {
    let head = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n\"Files\": [{files}],\n\
         \"WAL-Ranges\": [],\n"
    );
    let sum = run_with_input(&mut command("sha256sum"), head.as_bytes()).stdout;
    let sum = String::from_utf8_lossy(&sum);
    let sum = sum.split_whitespace().next().expect("a checksum");
    format!("{head}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
}

/// Manifest entry of a file, without a checksum.
pub fn entry(path: &str, size: usize) -> String {
    format!(
        "{{ \"Path\": \"{path}\", \"Size\": {size}, \"Last-Modified\": \"2026-01-01 00:00:00 GMT\" }}"
    )
}

/// Rewrites an archive: removes one file, if present, and adds another.
#[track_caller]
pub fn edit(path: &Path, without: Option<&str>, with: Option<(&str, &[u8])>) {
    let added = with.map(|(name, content)| file(name, content));
    rewrite(path, without, added.as_slice());
}

/// Adds a member to the end of an archive.
#[track_caller]
pub fn add(path: &Path, member: Vec<u8>) {
    rewrite(path, None, &[member]);
}

#[track_caller]
fn rewrite(path: &Path, without: Option<&str>, added: &[Vec<u8>]) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut members = Vec::new();
    let mut archive = Archive::new(&bytes[..]);
    for entry in archive.entries().expect("an archive") {
        let entry = entry.expect("a member");
        if without.map(str::as_bytes) != Some(&*entry.path_bytes()) {
            let begin = entry.raw_header_position() as usize;
            let end = entry.raw_file_position() + entry.size().next_multiple_of(512);
            members.push(bytes[begin..end as usize].to_vec());
        }
    }
    members.extend_from_slice(added);
    fs::write(path, self::archive(&members)).expect("write the archive");
}
