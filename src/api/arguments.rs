//! Common parts of the functions: the check for NULL arguments, and the COPY that a stream needs.

use crate::server::copy_query::{self, Call};
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::snapshot;

/// Checks that an argument is not NULL. All such arguments have defaults.
///
/// # Errors
/// `null_value_not_allowed`.
pub fn required<T>(name: &str, argument: Option<T>) -> Result<T> {
    argument.ok_or_else(|| {
        Error::new(
            Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("argument \"{name}\" cannot be null"),
        )
        .hint("Leave the argument out to have its default.")
    })
}

/// Checks that the running statement is `COPY (SELECT function(…)) TO STDOUT`, and releases its
/// snapshot, which is not needed any more.
///
/// # Errors
/// `feature_not_supported`, with the statement to use.
pub fn begin_stream(function: &str, call: &Call<'_>) -> Result<()> {
    let checked = copy_query::check(call).map_err(|obstacle| {
        Error::new(
            Sqlstate::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{function}() can only be used in COPY (SELECT ...) TO STDOUT"),
        )
        .detail(obstacle.detail())
        .hint(format!(
            "Use COPY (SELECT {function}(...)) TO STDOUT, in text format and without other options."
        ))
    });
    checked.inspect(|()| snapshot::clear_snapshot_xmin())
}
