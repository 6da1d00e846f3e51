//! Reading of the small files of a repository, each of which has the number of its format.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use crate::storage::folder::Folder;

/// Reads a file of less than `largest` bytes; [`None`] where there is none.
///
/// # Errors
/// Where it cannot be read, or is of another format.
pub fn read<T: DeserializeOwned>(
    folder: &Folder,
    name: &str,
    (format, largest): (u32, u64),
) -> Result<Option<T>> {
    let Some(content) = folder.read(name, largest)? else {
        return Ok(None);
    };
    parse(&content, format, || format!("\"{folder}/{name}\"")).map(Some)
}

fn parse<T: DeserializeOwned>(
    content: &[u8],
    format: u32,
    place: impl Fn() -> String,
) -> Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let found: Format = serde_json::from_slice(content).with_context(&place)?;
    ensure!(
        found.format == format,
        "{} has format {}, and this program knows format {format}",
        place(),
        found.format
    );
    serde_json::from_slice(content).with_context(place)
}

#[cfg(test)]
mod properties;
