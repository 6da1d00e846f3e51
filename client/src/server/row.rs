//! Values of result rows.

use anyhow::{Context, Result};

use crate::server::connection::Row;

/// Value of a column that is never NULL.
///
/// # Errors
/// An error if it is NULL.
pub fn value(row: &Row, column: usize) -> Result<&[u8]> {
    row.get(column)
        .and_then(Option::as_deref)
        .context("the server returned an unexpected NULL")
}

/// Text of a column that is never NULL.
///
/// # Errors
/// An error if it is NULL.
pub fn text(row: &Row, column: usize) -> Result<String> {
    Ok(String::from_utf8_lossy(value(row, column)?).into_owned())
}

/// Number in a column that is never NULL.
///
/// # Errors
/// An error if it is NULL or no number.
pub fn number<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T> {
    let text = text(row, column)?;
    text.parse()
        .ok()
        .with_context(|| format!("the server returned \"{text}\" where a number must be"))
}
