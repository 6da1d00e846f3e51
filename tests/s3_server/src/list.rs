//! List of the objects of a bucket.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

use s3s::dto::{CommonPrefix, Object, Timestamp};

use crate::files::tag_of;

/// Part of a list.
#[derive(Default)]
pub struct Listed {
    /// Objects, sorted by name.
    pub objects: Vec<Object>,
    /// Prefixes of more objects, sorted.
    pub prefixes: Vec<CommonPrefix>,
    /// The last name, if there are more after it.
    pub next: Option<String>,
}

/// Lists at most `most` objects and prefixes that come after a name.
///
/// # Errors
/// Errors of the file system.
pub fn list(
    bucket: &Path,
    prefix: &str,
    delimiter: Option<&str>,
    after: &str,
    most: usize,
) -> io::Result<Listed> {
    let mut found = BTreeMap::new();
    find(bucket, "", prefix, &mut found)?;
    let mut listed = Listed::default();
    let mut last = after.to_owned();
    for (key, metadata) in found {
        let rest = &key[prefix.len()..];
        let end = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
        let name = end.map_or(key.as_str(), |end| &key[..prefix.len() + end]);
        if name <= last.as_str() {
            continue;
        }
        if listed.objects.len() + listed.prefixes.len() == most {
            listed.next = Some(last);
            break;
        }
        name.clone_into(&mut last);
        if end.is_some() {
            let prefix = Some(last.clone());
            listed.prefixes.push(CommonPrefix { prefix });
        } else {
            listed.objects.push(Object {
                e_tag: Some(tag_of(&metadata)),
                last_modified: Some(Timestamp::from(metadata.modified()?)),
                size: Some(metadata.len().cast_signed()),
                key: Some(key),
                ..Object::default()
            });
        }
    }
    Ok(listed)
}

/// Finds the objects in a folder whose names begin so. `folder` is empty, or ends with a slash.
fn find(
    bucket: &Path,
    folder: &str,
    prefix: &str,
    found: &mut BTreeMap<String, Metadata>,
) -> io::Result<()> {
    for entry in fs::read_dir(bucket.join(folder))? {
        let entry = entry?;
        let name = format!("{folder}{}", entry.file_name().to_string_lossy());
        // Objects are removed meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            let name = format!("{name}/");
            if name.starts_with(prefix) || prefix.starts_with(&name) {
                find(bucket, &name, prefix, found)?;
            }
        } else if name.starts_with(prefix) {
            found.insert(name, metadata);
        }
    }
    Ok(())
}
